"""How much work a model can take, how much it is asked for, and what follows: its price and its replicas.

    rate      tokens per second one replica serves while it is busy
    offered   tokens per second that requests bring to the model they are sent to
    shadow    tokens per second that wanted this model and were sent to a smaller one: without it a model that everybody is
              degraded away from would look idle and never grow
    price     points of quality per device second; rises while a model is asked for more than `rho` of what it can do

The price is dual mirror descent on the capacity constraint (Balseiro, Lu and Mirrokni, "The best of many worlds: dual mirror
descent for online allocation problems", 2020). Pure: times are arguments.
"""

import math


class Rate:
    """Tokens per second served while busy, averaged over about the last `window_s` busy seconds; `tokens_per_s` at first."""

    __slots__ = ("_seconds", "_tokens", "window_s")

    def __init__(self, tokens_per_s: float, window_s: float = 30.0) -> None:
        self.window_s = window_s
        self._seconds = 1.0  # what the first guess counts for
        self._tokens = tokens_per_s

    def served(self, tokens: int, busy_s: float) -> None:
        """A replica served `tokens` tokens in `busy_s` seconds of work."""
        if busy_s > 0.0:
            kept = math.exp(-busy_s / self.window_s)
            self._tokens = kept * self._tokens + tokens
            self._seconds = kept * self._seconds + busy_s

    @property
    def tokens_per_s(self) -> float:
        """The average now."""
        return self._tokens / self._seconds


class Demand:
    """Tokens per second asked for, averaged over about the last `window_s` seconds, idle ones included."""

    __slots__ = ("_rate", "_since_s", "window_s")

    def __init__(self, now: float, window_s: float = 10.0) -> None:
        self.window_s = window_s
        self._rate = 0.0
        self._since_s = now

    def add(self, tokens: int, now: float) -> None:
        """`tokens` tokens were asked for at `now`."""
        self._rate = self.tokens_per_s(now) + tokens / self.window_s
        self._since_s = max(now, self._since_s)

    def tokens_per_s(self, now: float) -> float:
        """The average at `now`; a clock that runs back counts as standing still."""
        return self._rate * math.exp(-max(0.0, now - self._since_s) / self.window_s)


def next_price(price: float, offered: float, capacity: float, eta: float, rho: float) -> float:
    """The price 100 ms later: max(0, price + eta * (offered / capacity - rho)), both in tokens per second.

    Without capacity the price stays: a model that is not there is not chosen at any price.
    """
    return max(0.0, price + eta * (offered / capacity - rho)) if capacity > 0.0 else price


def desired_replicas(offered: float, shadow: float, tokens_per_s: float, rho: float) -> int:
    """Replicas that serve `offered + shadow` tokens per second at utilisation `rho`, each able to do `tokens_per_s`."""
    if not (tokens_per_s > 0.0 and rho > 0.0):
        raise ValueError(f"a replica's rate and utilisation are above 0, not {tokens_per_s} and {rho}")
    return math.ceil((offered + shadow) / (tokens_per_s * rho))
