"""A model's capacity and demand, and the number of replicas that follows.

    rate      tokens per second that one replica serves while it is busy. To compute replicas it is
              the rate with full batches: with little work a replica is busy too, but slow.
    offered   tokens per second of the requests that are sent to the model
    shadow    tokens per second of requests that wanted this model and were sent to a smaller one.
              Otherwise a model that all requests are degraded from would look idle and never grow.

Pure: times are arguments. Only the standard library is imported: Serve's controller can lack
this project installed and runs the autoscaling policy from a copy of this module.
"""

import math
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple


class ServiceRate:
    """Tokens per second served while busy, averaged over about the last `window_s` busy seconds;
    initially `tokens_per_s`.
    """

    __slots__ = ("_seconds", "_tokens", "window_s")

    def __init__(self, tokens_per_s: float, window_s: float = 30.0) -> None:
        self.window_s = window_s
        self._seconds = 1.0  # the weight of the first guess
        self._tokens = tokens_per_s

    def served(self, tokens: float, busy_s: float) -> None:
        """Count `tokens` tokens that a replica served in `busy_s` seconds of work."""
        if busy_s > 0.0:
            kept = math.exp(-busy_s / self.window_s)
            self._tokens = kept * self._tokens + tokens
            self._seconds = kept * self._seconds + busy_s

    @property
    def tokens_per_s(self) -> float:
        """The average now."""
        return self._tokens / self._seconds


class Demand:
    """Requested tokens per second, averaged over about the last `window_s` seconds, idle ones
    included.
    """

    __slots__ = ("_rate", "_since_s", "window_s")

    def __init__(self, now: float, window_s: float = 10.0) -> None:
        self.window_s = window_s
        self._rate = 0.0
        self._since_s = now

    def add(self, tokens: int, now: float) -> None:
        """Count `tokens` tokens that were requested at `now`."""
        age_s = now - self._since_s
        if age_s > 0.0:
            self._rate *= math.exp(-age_s / self.window_s)
            self._since_s = now
        self._rate += tokens / self.window_s

    def recent_tokens_per_s(self, now: float) -> float:
        """The average at `now`; 0 after three windows without requests, so that a model can scale
        to zero.
        """
        return self.tokens_per_s(now) if now - self._since_s <= 3.0 * self.window_s else 0.0

    def tokens_per_s(self, now: float) -> float:
        """The average at `now`; a clock that goes back counts as stopped."""
        age_s = now - self._since_s
        return self._rate * math.exp(-age_s / self.window_s) if age_s > 0.0 else self._rate


class DemandReport(NamedTuple):
    """The demand for one model, from one router or from all of them."""

    offered: float  # tokens per second
    shadow: float  # tokens per second
    backlog_tokens: float  # queued and in flight
    tokens_per_s: float  # of one replica whose batches are full
    devices: float = 1.0  # occupied by one replica
    start_s: float | None = None  # from the decision to a ready replica, if the config gives it
    started_s: float | None = None  # the last replica's start, from its process to ready


def learned(report: DemandReport, start: Mapping[str, float] | None) -> DemandReport:
    """Add the start time of the model's last replica, the sum of its phases, to a report."""
    return report._replace(started_s=sum(start.values())) if start else report


def combined(reports: list[DemandReport]) -> DemandReport:
    """Combine the reports of all routers for one model.

    Demand and backlog are added; the replicas' rate is averaged, weighted by each router's share of
    them. Raises ValueError for an empty list.
    """
    if not reports:
        raise ValueError("there are no reports to combine")
    weights = [one.offered + one.shadow + one.backlog_tokens + 1e-9 for one in reports]
    weighted = sum(w * one.tokens_per_s for w, one in zip(weights, reports, strict=True))
    return reports[0]._replace(
        offered=sum(one.offered for one in reports),
        shadow=sum(one.shadow for one in reports),
        backlog_tokens=sum(one.backlog_tokens for one in reports),
        tokens_per_s=weighted / sum(weights),
        started_s=max(
            (one.started_s for one in reports if one.started_s is not None), default=None
        ),
    )


def needed_replicas(
    ask: DemandReport, ready: int, rho: float, drain_s: float, start_s: float
) -> float:
    """Replicas that serve the demand at utilisation `rho`, or at full speed while they drain late
    work.

    Late work is the backlog that the `ready` replicas cannot serve, beside new requests, in the
    `start_s` seconds until another replica is ready. It must be drained in `drain_s` seconds after
    that. Raises ValueError if the rate, `rho` or `drain_s` is not above 0.
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
    """Whole replicas for `needed` where there are `now`.

    Scales up if `now` is not enough, and down only to a number that has slack at `peak`, the
    highest recent need. A peak starts no replica: it can be over before the replica is ready.
    Without slack, a need near a whole number would alternately start and stop a replica.
    """
    return max(math.ceil(needed), min(now, math.ceil(max(needed, peak) / (1.0 - slack))))


class Peak:
    """The highest value of the last `window_s` seconds."""

    __slots__ = ("_falling", "window_s")

    def __init__(self, window_s: float) -> None:
        self.window_s = window_s
        self._falling: deque[tuple[float, float]] = deque()  # (time, value): later ones are lower

    def seen(self, value: float, now: float) -> float:
        """Add a value; returns the highest since `now - window_s`."""
        falling = self._falling
        while falling and falling[-1][1] <= value:
            falling.pop()
        falling.append((now, value))
        while falling[0][0] < now - self.window_s:
            falling.popleft()
        return falling[0][1]


class Want(NamedTuple):
    """One model's claim on a budget of devices."""

    replicas: int  # at least `least`
    # the highest recent need, not rounded: the model with the largest shortage comes first, and
    # keeps its place for a while
    needed: float
    least: int  # guaranteed
    devices: float  # of one replica
    held: int  # replicas that run now


class Autoscaler:
    """Computes the replicas of each model from the demand of all routers, in tokens."""

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
        """The claim of a model with `ready` replicas.

        `target` also counts starting replicas; `least` and `most` are the limits.
        """
        start_s = self._start_s if ask.start_s is None else ask.start_s
        # A new node can add to a start, so a measured start is only a lower bound.
        start_s = max(start_s, ask.started_s or 0.0)
        needed = needed_replicas(ask, ready, self._utilisation, self._drain_s, start_s)
        peak = self._peaks.get(name)
        if peak is None:
            # A policy that has just started has seen no peak, but the running replicas may be
            # there because of one.
            peak = self._peaks[name] = Peak(self._hold_s)
            peak.seen(target * (1.0 - self._slack), now)
        highest = peak.seen(needed, now)
        replicas = max(least, min(most, next_replicas(needed, target, self._slack, highest)))
        return Want(replicas, highest, least, ask.devices, ready)


def share_devices(wants: Mapping[str, Want], devices: float) -> dict[str, int]:
    """Distribute at most `devices` over the models, or more if all `least` replicas need it.

    Replicas are assigned one by one, each to the model with the most work per replica, so that in
    the end all models lack about the same share. A device is not assigned again before its replica
    has been stopped.
    """
    given = {name: want.least for name, want in wants.items()}

    def short(name: str) -> tuple[float, float]:
        """Work per replica, infinite for a model without one; then all of its work."""
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
        running = max(want.held, want.least)
        if given[name] > running:
            growth = min(given[name] - running, max(0, math.floor(free / want.devices + 1e-9)))
            given[name] = running + growth
            free -= growth * want.devices
    return given
