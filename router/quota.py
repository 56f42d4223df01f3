"""Requests and tokens per minute of each key, limited jointly by routers that share nothing but a
short report twice a second.

A limit is one token bucket for the whole service. Every router keeps

    level       its view of that bucket: filled by the clock, less what it spent, less what the
                others reported
    allowance   the part of the level that it can spend by itself until the next exchange
    demand      what was requested of it recently, admitted or not

All allowances together are at most the level, so the limit holds for any distribution of requests;
docs/internals.md shows why, and names the two exceptions.

Pure: `now` is seconds on any clock that only rises; reports hold no times.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

DEMAND_HALF_LIFE_S = 2.0
EVEN_PART = 0.1  # of all shares, so that an idle router answers its first requests at once
EXCHANGE_S = 0.5
SILENT_S = 3 * EXCHANGE_S  # without a report, after which a router counts as silent
# after which a silent router is gone for good: its id is not used again
FORGET_S = 600.0
ROUNDING = 1e-9
MIN_FILL_S = 1e-3  # one request reads a bucket five times, and fills it once

LimitKind = Literal["requests", "tokens"]


class Limit(NamedTuple):
    """The identity of a bucket: a changed limit gets another bucket, which is full."""

    key: str  # the key's name
    kind: LimitKind
    per_minute: int


class BucketReport(NamedTuple):
    """The report of one router to the others about one bucket."""

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
    """One limit as seen by one router."""

    per_minute: int
    at_s: float
    routers: int = 1
    level: float = 0.0
    allowance: float = 0.0
    share: float = 1.0
    present: float = 1.0  # share of all routers that is not silent, this one included
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
        """Fill for the time since the last call, if that is at least a millisecond."""
        passed_s = now - self.at_s
        if passed_s >= MIN_FILL_S:
            self.at_s = now
            self.level = min(
                float(self.per_minute), self.level + passed_s * self.present * self.per_s
            )
            self.allowance = min(
                self.share * self.per_minute, self.allowance + passed_s * self.share * self.per_s
            )
            self.demand *= 0.5 ** (passed_s / DEMAND_HALF_LIFE_S)

    def take(self, cost: int, now: float, again: bool = False) -> bool:
        """Spend `cost` if the allowance covers it; counts as demand, unless it is tried `again`."""
        self.advance(now)
        if not again:
            self.demand += cost
        if cost > self.allowance + ROUNDING:
            return False
        self._spend(cost)
        return True

    def settle(self, difference: int, now: float) -> None:
        """Correct what was taken once the cost is known; a refund is below 0, a debt makes others
        wait.
        """
        self.advance(now)
        self._spend(difference)
        self.level = min(float(self.per_minute), self.level)

    def wait_s(self, cost: int, now: float) -> float:
        """Seconds until `cost` can be tried again: the bucket must fill, or only the shares must
        move.
        """
        self.advance(now)
        return max(EXCHANGE_S, (cost - self.level) / self.per_s)

    def spent(self, now: float) -> bool:
        """Whether no router can take even one more."""
        self.advance(now)
        return self.level < 1.0

    def elsewhere(self, cost: int) -> bool:
        """Whether an exchange could help a request that was refused: the bucket holds `cost`, and
        other routers can spend it.
        """
        return self.level >= cost > self.allowance

    def left(self, now: float) -> tuple[int, float]:
        """This router's estimate of the remaining limit, and the seconds until it is full."""
        self.advance(now)
        return int(max(0.0, self.level) + ROUNDING), (self.per_minute - self.level) / self.per_s

    def report(self, now: float) -> BucketReport:
        """The report for the other routers."""
        self.advance(now)
        return BucketReport(self.used, self.allowance, self.demand, self.level, now - self.born_s)

    def heard(self, router: str, report: BucketReport, now: float, counts_own: bool) -> None:
        """Take in the report of another router; `counts_own` if its level includes what this router
        spent.
        """
        self.advance(now)
        before = self._heard.get(router)
        if before is not None:
            self.level -= report.used - before.used
        elif report.age_s < now - self.born_s:
            self.level -= report.used
        else:  # the older router has seen what was spent before this one started
            self.level = min(self.level, report.level - (0.0 if counts_own else self.used))
        # When separated routers meet again, the debt is a minute's worth at most.
        self.level = max(self.level, -float(self.per_minute))
        self._heard[router] = _Heard(report.used, report.allowance, report.demand, now)

    def share_out(self, routers: int, now: float, shrink_only: bool = False) -> None:
        """Take the share that follows from demand; `shrink_only` for a router that answers an
        exchange.

        `routers` is the number of routers, this one included.
        """
        self.advance(now)
        self._heard = {
            name: report for name, report in self._heard.items() if now - report.at_s <= FORGET_S
        }
        others = [report for report in self._heard.values() if now - report.at_s <= SILENT_S]
        silent = sorted(
            (
                max(0.0, report.allowance)
                for report in self._heard.values()
                if now - report.at_s > SILENT_S
            ),
            reverse=True,
        )
        present = len(others) + 1
        self.routers = max(routers, present)
        self.present = present / self.routers
        missing = self.routers - present
        unknown = max(0, missing - len(silent)) * self.per_minute / self.routers
        demand = self.demand + sum(other.demand for other in others)
        by_demand = self.demand / demand if demand > 0 else 1.0 / present
        self.share = self.present * (EVEN_PART / present + (1.0 - EVEN_PART) * by_demand)
        promised = (
            sum(max(0.0, other.allowance) for other in others) + sum(silent[:missing]) + unknown
        )
        fair = min(self.share * self.level, self.level - promised)
        # A debt remains a debt: it is part of the level that the share is taken of.
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
        """The bucket of a limit; a new bucket is full."""
        bucket = self._buckets.get(limit)
        if bucket is None:
            bucket = self._buckets[limit] = Bucket(limit.per_minute, now, self.routers)
        return bucket

    def reports(self, now: float) -> dict[Limit, BucketReport]:
        """The reports that start an exchange: of the buckets that are not both full and idle."""
        return {
            limit: report
            for limit, bucket in self._buckets.items()
            if (report := bucket.report(now)).level < limit.per_minute or report.demand >= 1.0
        }

    def answer(
        self, router: str, reports: Mapping[Limit, BucketReport], now: float
    ) -> dict[Limit, BucketReport]:
        """Take in the exchange of another router, give up the allowance that it leaves, and return
        the replies.
        """
        replies = {}
        for limit, report in reports.items():
            bucket = self.bucket(limit, now)
            bucket.heard(router, report, now, counts_own=False)
            bucket.share_out(self.routers, now, shrink_only=True)
            replies[limit] = bucket.report(now)
        return replies

    def exchanged(self, replies: Mapping[str, Mapping[Limit, BucketReport]], now: float) -> None:
        """Take in the replies of all routers that answered, and take the share that follows."""
        for router, reports in replies.items():
            for limit, report in reports.items():
                self.bucket(limit, now).heard(router, report, now, counts_own=True)
        for bucket in self._buckets.values():
            bucket.share_out(self.routers, now)

    def keep(self, limits: Iterable[Limit]) -> None:
        """Forget every other bucket: its limit is no longer in the config."""
        wanted = set(limits)
        self._buckets = {
            limit: bucket for limit, bucket in self._buckets.items() if limit in wanted
        }
