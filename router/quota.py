"""Requests and tokens per minute of each key, kept together by routers that share nothing but a
short report twice a second.

A limit is one token bucket for the whole service: it holds a minute's worth and fills at limit / 60
a second. Every router keeps

    level       its view of that bucket: filled by the clock, less what it spent, less what the
                others reported
    allowance   the part of the level that it may spend by itself until it hears of the others again
    demand      what was asked of it lately, admitted or not (halves every 2 seconds)

In an exchange a router hears what the others spent and what they may still spend. Its share is a
tenth divided evenly and nine tenths by demand, and its new allowance is that share of the level,
but never more than the level less what the others may still spend. So all allowances together are
at most the level, and the limit holds while routers exchange, however the requests are spread. Two
things bend it:
- Two routers that exchange at the same moment with demand that moves may disagree about shares for
  that one exchange.
- What a router spent and did not report is unknown to the others when it dies, and a router that
  starts has its even share of a full bucket until it first hears: at most limit / routers, once for
  each.
Of a router that is not heard it is assumed that it spends what it was last known to have and an
even share of the refill, so routers that are cut off from each other fall back to limit / routers
each: neither open nor closed.

Pure: `now` is seconds on any clock that only rises; reports hold no times.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

DEMAND_HALF_LIFE_S = 2.0
EVEN_PART = 0.1  # of all shares, so that a router that was idle answers its first requests at once
EXCHANGE_S = 0.5
SILENT_S = 3 * EXCHANGE_S  # without a report, after which a router counts as not heard
# after which a router that was not heard is gone for good: its id is not used again
FORGET_S = 600.0
ROUNDING = 1e-9
LEAST_FILL_S = 1e-3  # a bucket is asked five times for one request, and filled once

Kind = Literal["requests", "tokens"]


class Limit(NamedTuple):
    """Which bucket: a limit that changes is another one, full."""

    key: str  # the key's name
    kind: Kind
    per_minute: int


class Report(NamedTuple):
    """What one router tells the others of one bucket."""

    used: float  # since it started, less refunds
    allowance: float
    demand: float
    level: float
    age_s: float  # of the bucket


@dataclass(slots=True)
class _Heard:
    used: float
    allowance: float
    demand: float
    at_s: float


@dataclass(slots=True)
class Bucket:
    """One limit as one router knows it."""

    per_minute: int
    at_s: float
    routers: int = 1
    level: float = 0.0
    allowance: float = 0.0
    share: float = 1.0
    present: float = 1.0  # part of all routers that was heard, this one included
    used: float = 0.0
    demand: float = 0.0
    per_s: float = field(init=False)  # how fast the whole bucket fills
    born_s: float = field(init=False)
    _heard: dict[str, _Heard] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.per_s, self.born_s = self.per_minute / 60.0, self.at_s
        self.level = float(self.per_minute)
        self.share = self.present = 1.0 / self.routers
        self.allowance = self.share * self.level

    def advance(self, now: float) -> None:
        """Fill for the time since the last call, once that is a millisecond."""
        passed_s = now - self.at_s
        if passed_s >= LEAST_FILL_S:
            self.at_s = now
            self.level = min(
                float(self.per_minute), self.level + passed_s * self.present * self.per_s
            )
            self.allowance = min(
                self.share * self.per_minute, self.allowance + passed_s * self.share * self.per_s
            )
            self.demand *= 0.5 ** (passed_s / DEMAND_HALF_LIFE_S)

    def take(self, cost: int, now: float, again: bool = False) -> bool:
        """Spend `cost` if this router may; a refusal counts as demand, `again` the same one."""
        self.advance(now)
        if not again:
            self.demand += cost
        if cost > self.allowance + ROUNDING:
            return False
        self._spend(cost)
        return True

    def settle(self, difference: int, now: float) -> None:
        """Correct what was taken once it is known better; a refund is below 0, a debt makes others
        wait.
        """
        self.advance(now)
        self._spend(difference)
        self.level = min(float(self.per_minute), self.level)

    def wait_s(self, cost: int, now: float) -> float:
        """When `cost` may be asked for again: the bucket has to fill, or only the shares have to
        move.
        """
        self.advance(now)
        return max(EXCHANGE_S, (cost - self.level) / self.per_s)

    def spent(self, now: float) -> bool:
        """Whether not even one more may be taken, anywhere."""
        self.advance(now)
        return self.level < 1.0

    def elsewhere(self, cost: int) -> bool:
        """Whether an exchange could help one that was refused: the bucket holds `cost`, and other
        routers may spend it.
        """
        return self.level >= cost > self.allowance

    def left(self, now: float) -> tuple[int, float]:
        """What is left of the whole limit, as far as this router knows, and the seconds until it is
        full again.
        """
        self.advance(now)
        return int(max(0.0, self.level) + ROUNDING), (self.per_minute - self.level) / self.per_s

    def report(self, now: float) -> Report:
        """What the others shall know."""
        self.advance(now)
        return Report(self.used, self.allowance, self.demand, self.level, now - self.born_s)

    def heard(self, router: str, report: Report, now: float, knows_me: bool) -> None:
        """Take in what another router reports; `knows_me` when its level holds what this one has
        spent.
        """
        self.advance(now)
        before = self._heard.get(router)
        if before is not None:
            self.level -= report.used - before.used
        elif report.age_s < now - self.born_s:
            self.level -= report.used
        else:  # the older one has seen what was spent before this one was there
            self.level = min(self.level, report.level - (0.0 if knows_me else self.used))
        # Whatever routers tell that meet again: a minute's debt at most.
        self.level = max(self.level, -float(self.per_minute))
        self._heard[router] = _Heard(report.used, report.allowance, report.demand, now)

    def share_out(self, routers: int, now: float, shrink_only: bool = False) -> None:
        """Take the share that follows from demand; `shrink_only` for a router that answers
        another's exchange.

        `routers` is how many there are, this one included.
        """
        self.advance(now)
        self._heard = {name: one for name, one in self._heard.items() if now - one.at_s <= FORGET_S}
        others = [one for one in self._heard.values() if now - one.at_s <= SILENT_S]
        silent = sorted(
            (max(0.0, one.allowance) for one in self._heard.values() if now - one.at_s > SILENT_S),
            reverse=True,
        )
        present = len(others) + 1
        self.routers = max(routers, present)
        self.present = present / self.routers
        missing = self.routers - present
        unknown = max(0, missing - len(silent)) * self.per_minute / self.routers
        demand = self.demand + sum(one.demand for one in others)
        by_demand = self.demand / demand if demand > 0 else 1.0 / present
        self.share = self.present * (EVEN_PART / present + (1.0 - EVEN_PART) * by_demand)
        promised = sum(max(0.0, one.allowance) for one in others) + sum(silent[:missing]) + unknown
        fair = min(self.share * self.level, self.level - promised)
        # A debt stays a debt: it is in the level, which the share is of.
        self.allowance = min(self.allowance, fair) if shrink_only else fair

    def _spend(self, cost: float) -> None:
        self.level -= cost
        self.allowance -= cost
        self.used += cost


class Quotas:
    """All buckets of one router."""

    def __init__(self) -> None:
        self.routers = 1
        self._buckets: dict[Limit, Bucket] = {}

    def bucket(self, limit: Limit, now: float) -> Bucket:
        """That of a limit, full where there was none."""
        bucket = self._buckets.get(limit)
        if bucket is None:
            bucket = self._buckets[limit] = Bucket(limit.per_minute, now, self.routers)
        return bucket

    def reports(self, now: float) -> dict[Limit, Report]:
        """What an exchange starts with: the buckets that are not full and idle."""
        return {
            limit: report
            for limit, bucket in self._buckets.items()
            if (report := bucket.report(now)).level < limit.per_minute or report.demand >= 1.0
        }

    def answer(
        self, router: str, reports: Mapping[Limit, Report], now: float
    ) -> dict[Limit, Report]:
        """What this router replies to another one's exchange, having taken it in and given up what
        it leaves.
        """
        replies = {}
        for limit, report in reports.items():
            bucket = self.bucket(limit, now)
            bucket.heard(router, report, now, knows_me=False)
            bucket.share_out(self.routers, now, shrink_only=True)
            replies[limit] = bucket.report(now)
        return replies

    def exchanged(self, replies: Mapping[str, Mapping[Limit, Report]], now: float) -> None:
        """Take in the replies of all others that answered, and take the share that follows."""
        for router, reports in replies.items():
            for limit, report in reports.items():
                self.bucket(limit, now).heard(router, report, now, knows_me=True)
        for bucket in self._buckets.values():
            bucket.share_out(self.routers, now)

    def keep(self, limits: Iterable[Limit]) -> None:
        """Forget every other bucket: its limit is not in the config any more."""
        wanted = set(limits)
        self._buckets = {
            limit: bucket for limit, bucket in self._buckets.items() if limit in wanted
        }
