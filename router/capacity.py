"""How much work a model can take, how much it is asked for, and what follows: its replicas.

    rate      tokens per second one replica serves while it is busy; with full batches where
              replicas are counted by it, because a replica with little to do is busy too, and slow
    offered   tokens per second that requests bring to the model they are sent to
    shadow    tokens per second that wanted this model and were sent to a smaller one: without it a
              model that everybody is degraded away from would look idle and never grow

Pure: times are arguments.
Nothing is imported but the standard library: Serve's controller, which may not have this project
installed, runs the autoscaling policy from a copy of this module.
"""

import math
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple


class Rate:
    """Tokens per second served while busy, averaged over about the last `window_s` busy seconds;
    `tokens_per_s` at first.
    """

    __slots__ = ("_seconds", "_tokens", "window_s")

    def __init__(self, tokens_per_s: float, window_s: float = 30.0) -> None:
        self.window_s = window_s
        self._seconds = 1.0  # what the first guess counts for
        self._tokens = tokens_per_s

    def served(self, tokens: float, busy_s: float) -> None:
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
    """Tokens per second asked for, averaged over about the last `window_s` seconds, idle ones
    included.
    """

    __slots__ = ("_rate", "_since_s", "window_s")

    def __init__(self, now: float, window_s: float = 10.0) -> None:
        self.window_s = window_s
        self._rate = 0.0
        self._since_s = now

    def add(self, tokens: int, now: float) -> None:
        """`tokens` tokens were asked for at `now`."""
        self._rate = self.tokens_per_s(now) + tokens / self.window_s
        self._since_s = max(now, self._since_s)

    def asked(self, now: float) -> float:
        """The average at `now`, and none when nobody has asked for three windows: only this lets a
        model go to sleep.
        """
        return self.tokens_per_s(now) if now - self._since_s <= 3.0 * self.window_s else 0.0

    def tokens_per_s(self, now: float) -> float:
        """The average at `now`; a clock that runs back counts as standing still."""
        return self._rate * math.exp(-max(0.0, now - self._since_s) / self.window_s)


class DemandReport(NamedTuple):
    """What one model is asked for, by one router or by all of them together."""

    offered: float  # tokens per second
    shadow: float  # tokens per second
    backlog_tokens: float  # queued and in flight
    tokens_per_s: float  # of one replica whose batches are full
    devices: float = 1.0  # that one replica occupies
    start_s: float | None = None  # from the decision to a ready replica, where the config says it
    started_s: float | None = None  # what the last replica took, from its process to ready


def learned(report: DemandReport, start: Mapping[str, float] | None) -> DemandReport:
    """A report with what the model's last replica took to start, from its phases."""
    return report._replace(started_s=sum(start.values())) if start else report


def together(asks: list[DemandReport]) -> DemandReport:
    """What all routers ask of one model: demand and backlog add up, and who sends most knows the
    replicas' rate best.

    Raises ValueError for an empty list.
    """
    if not asks:
        raise ValueError("nobody asks")
    weights = [ask.offered + ask.shadow + ask.backlog_tokens + 1e-9 for ask in asks]
    rate = sum(weight * ask.tokens_per_s for weight, ask in zip(weights, asks, strict=True)) / sum(
        weights
    )
    return asks[0]._replace(
        offered=sum(ask.offered for ask in asks),
        shadow=sum(ask.shadow for ask in asks),
        backlog_tokens=sum(ask.backlog_tokens for ask in asks),
        tokens_per_s=rate,
        started_s=max((ask.started_s for ask in asks if ask.started_s is not None), default=None),
    )


def needed_replicas(
    ask: DemandReport, ready: int, rho: float, drain_s: float, start_s: float
) -> float:
    """Replicas that serve what is asked for at utilisation `rho`, or at full speed while they drain
    what is late.

    Late is the backlog that the `ready` replicas will not have served beside their new work in the
    `start_s` seconds until another could help them; it shall be gone `drain_s` seconds after that.
    Raises ValueError for what no replica can be.
    """
    offered, shadow, backlog, rate = ask.offered, ask.shadow, ask.backlog_tokens, ask.tokens_per_s
    if not (rate > 0.0 and rho > 0.0 and drain_s > 0.0):
        raise ValueError(
            f"a replica's rate, its utilisation and the time to drain are above 0, not {rate}, "
            f"{rho} and {drain_s}"
        )
    late = max(0.0, backlog - max(0.0, ready * rate - offered) * start_s)
    return max((offered + shadow) / (rate * rho), (offered + shadow + late / drain_s) / rate)


def next_replicas(needed: float, now: int, slack: float, peak: float = 0.0) -> int:
    """Whole replicas for `needed` where there are `now`: up when these do not suffice, down only to
    what has slack at `peak`.

    `peak` is the highest need of late, and starts nothing: what is over when another replica would
    come needs none. Without slack, a need around a whole number would start and stop a replica in
    turns.
    """
    return max(math.ceil(needed), min(now, math.ceil(max(needed, peak) / (1.0 - slack))))


class Peak:
    """The highest value of the last `window_s` seconds."""

    __slots__ = ("_falling", "window_s")

    def __init__(self, window_s: float) -> None:
        self.window_s = window_s
        self._falling: deque[tuple[float, float]] = deque()  # (time, value): later ones are lower

    def seen(self, value: float, now: float) -> float:
        """The highest value since `now - window_s`, this one included."""
        falling = self._falling
        while falling and falling[-1][1] <= value:
            falling.pop()
        falling.append((now, value))
        while falling[0][0] < now - self.window_s:
            falling.popleft()
        return falling[0][1]


class Want(NamedTuple):
    """What one model wants of a budget of devices."""

    replicas: int  # at least `least`
    # the highest of late before it was rounded: who is short of more comes first, and keeps that
    # for a while
    needed: float
    least: int  # that it gets in any case
    devices: float  # of one replica
    held: int  # replicas that run now


class Autoscaler:
    """Replicas by tokens: what each model wants, from what all routers ask of it."""

    def __init__(
        self, utilisation: float, drain_s: float, start_s: float, hold_s: float, slack: float
    ) -> None:
        self._utilisation, self._drain_s, self._start_s = utilisation, drain_s, start_s
        self._hold_s, self._slack = hold_s, slack
        self._peaks: dict[str, Peak] = {}

    def want(
        self, name: str, ask: DemandReport, ready: int, target: int, least: int, most: int,
        now: float,
    ) -> Want:  # fmt: skip
        """What a model wants that has `ready` replicas, `target` with those that start, and may
        have `least` to `most`.
        """
        start_s = self._start_s if ask.start_s is None else ask.start_s
        # a node comes on top of a start, so what was measured can only show that this is too little
        start_s = max(start_s, ask.started_s or 0.0)
        needed = needed_replicas(ask, ready, self._utilisation, self._drain_s, start_s)
        peak = self._peaks.get(name)
        if peak is None:
            # a policy that has just started has seen no peak; what runs may be there because of one
            peak = self._peaks[name] = Peak(self._hold_s)
            peak.seen(target * (1.0 - self._slack), now)
        highest = peak.seen(needed, now)
        replicas = max(least, min(most, next_replicas(needed, target, self._slack, highest)))
        return Want(replicas, highest, least, ask.devices, ready)


def share_devices(wants: Mapping[str, Want], devices: float) -> dict[str, int]:
    """Replicas for each model that together occupy at most `devices`, or what everybody's `least`
    occupies if that is more.

    One replica after the other goes to the model whose replicas would have to do most: in the end
    all are short by much the same share. A device of a replica that has not been told to stop yet
    is not given away before.
    """
    given = {name: want.least for name, want in wants.items()}

    def short(name: str) -> tuple[float, float]:
        """How much a replica has to do, and for models without one how much there is to do."""
        return (wants[name].needed / given[name] if given[name] else math.inf, wants[name].needed)

    left = devices - sum(want.least * want.devices for want in wants.values())
    while able := [
        name
        for name, want in wants.items()
        if given[name] < want.replicas and want.devices <= left + 1e-9
    ]:
        neediest = max(able, key=short)
        given[neediest] += 1
        left -= wants[neediest].devices
    free = devices - sum(max(want.held, want.least) * want.devices for want in wants.values())
    for name in sorted(given, key=short, reverse=True):
        want = wants[name]
        standing = max(want.held, want.least)
        if given[name] > standing:
            growth = min(given[name] - standing, max(0, math.floor(free / want.devices + 1e-9)))
            given[name] = standing + growth
            free -= growth * want.devices
    return given
