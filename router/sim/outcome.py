"""Results of a simulated run, counted on the fly: their size is independent of the requests."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from router.domain import Decision
from router.sim.backlog import Backlog
from router.sim.traffic import Shape

GRAIN = 1.01  # a latency bucket is 1 % wide
MIN_S = 1e-5
_LOG = math.log(GRAIN)


class Latencies:
    """A histogram of seconds."""

    __slots__ = ("_counts", "_sum_s", "count")

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()  # by bucket
        self._sum_s = 0.0
        self.count = 0

    @property
    def mean_s(self) -> float:
        """Mean, 0 without values."""
        return self._sum_s / self.count if self.count else 0.0

    def add(self, seconds: float) -> None:
        """Count one latency."""
        self.count += 1
        self._sum_s += seconds
        self._counts[int(math.log(max(seconds, MIN_S) / MIN_S) / _LOG)] += 1

    def quantile(self, share: float) -> float | None:
        """The latency that `share` of the values do not exceed, to 1 %; None without values."""
        left = math.ceil(share * self.count)
        for bucket, count in sorted(self._counts.items()):
            left -= count
            if left <= 0:
                return MIN_S * math.pow(GRAIN, bucket + 0.5)
        return None


@dataclass(slots=True)
class OutcomeCounts:
    """Counts of requests of one kind, one tenant or one interval."""

    offered: int = 0
    on_time: int = 0
    late: int = 0  # answered after their budget
    refused: int = 0  # answered with an error
    degraded: int = 0
    unjudged: int = 0  # answered by a model whose quality is unknown; means leave them out
    quality: float = 0.0  # sum of points of answered requests
    effective: float = 0.0  # sum of points of requests on time
    tokens: int = 0  # of requests on time, by the tokenizer of the model that answered

    def add(
        self,
        count: int,
        points: float,
        tokens: int,
        answered: bool,
        on_time: bool,
        degraded: bool,
        unjudged: int = 0,
    ) -> None:
        """Count requests with the same outcome; `points` and `tokens` are sums over them."""
        self.offered += count
        if not answered:
            self.refused += count
            return
        self.quality += points
        self.unjudged += unjudged
        self.degraded += count * degraded
        if on_time:
            self.on_time += count
            self.effective += points
            self.tokens += tokens
        else:
            self.late += count

    @property
    def mean_quality(self) -> float | None:
        """Mean points of the answers whose points are known; None if there are none."""
        known = self.on_time + self.late - self.unjudged
        return self.quality / known if known else None

    @property
    def mean_effective(self) -> float:
        """Mean points of the offered requests, where late and refused ones have none; answers of
        unknown quality are left out.
        """
        return _share(self.effective, self.offered - self.unjudged)

    def as_dict(self) -> dict[str, Any]:
        """Return counts, shares and means for JSON."""
        return {
            "offered": self.offered,
            "on_time": self.on_time,
            "late": self.late,
            "refused": self.refused,
            "attainment": _share(self.on_time, self.offered),
            "degraded": _share(self.degraded, self.offered),
            "quality": self.mean_quality,
            "effective_quality": self.mean_effective,
        }


@dataclass(slots=True)
class Moment:
    """Counts of one interval."""

    tally: OutcomeCounts = field(default_factory=OutcomeCounts)
    models: Counter[str] = field(default_factory=Counter)


Group: TypeAlias = tuple[str, str, str]  # kind, tenant, language
# how requests of a group ended: interval, whether the warm-up was over, model, on time,
# degraded, reason or error, rule
_End: TypeAlias = tuple[Group, int, bool, str | None, bool, bool, str, str | None]


class Outcome:
    """The counts of one run."""

    def __init__(self, seconds: float, moments: int = 60, from_s: float = 0.0) -> None:
        """Requests before `from_s` are warm-up: only `moments` and `warm` count them."""
        self.every_s = max(seconds / moments, 1e-9)
        self.from_s, self.seconds = from_s, seconds
        self.total = OutcomeCounts()
        self.kinds: dict[str, OutcomeCounts] = {}
        self.tenants: dict[str, OutcomeCounts] = {}
        self.moments: dict[int, Moment] = {}
        self.latencies = Latencies()
        self._ends: dict[_End, list[float]] = {}
        self.models: Counter[str] = Counter()  # requests answered
        self.reasons: Counter[str] = Counter()
        self.why_degraded: Counter[tuple[str, str, str]] = Counter()  # tenant, language, reason
        self.errors: Counter[str] = Counter()
        self.device_s: dict[str, float] = {}  # device seconds that replicas existed, by model
        self.counted_device_s = 0.0  # device seconds after the warm-up
        self.busy_s: dict[str, float] = {}  # device seconds that replicas were busy, by model
        self.replicas: list[tuple[float, str, int]] = []  # since when, model, ready replicas
        self.served: Counter[str] = Counter()  # tokens by tenant, answered while requests arrived
        self.space_violations = 0  # answers by a model outside the request's space
        self.last_late_s = 0.0  # arrival of the last request that was not on time
        self.warm = OutcomeCounts()
        self.end_s = 0.0
        self.backlog: Backlog | None = None  # counts too, if it is set before the run

    def answered(self, shape: Shape, decision: Decision, arrived_s: float, actual_s: float) -> None:
        """Count a request that was answered after `actual_s`."""
        model, budget_s = decision.model, shape.budget_s
        assert model is not None
        if shape.candidates is not None and model not in shape.candidates:
            self.space_violations += 1
        on_time = budget_s is None or actual_s <= budget_s
        counted = arrived_s >= self.from_s
        place = int(arrived_s / self.every_s)
        end = (shape.group, place, counted, model, on_time, decision.degraded, decision.reason,
               decision.rule)  # fmt: skip
        sums = self._ends.get(end)
        if sums is None:
            sums = self._ends[end] = [0, 0.0, 0, 0]
        sums[0] += 1
        tokens = shape.work[model].tokens
        points = shape.points[model]
        if points is None:
            sums[3] += 1
        else:
            sums[1] += points
        sums[2] += tokens
        if self.backlog is not None:
            self.backlog.add(shape.kind, arrived_s, arrived_s + actual_s)
        if self.from_s <= arrived_s + actual_s <= self.seconds:
            self.served[shape.tenant] += tokens
        if counted:
            self.latencies.add(actual_s)
            if not on_time and arrived_s > self.last_late_s:
                self.last_late_s = arrived_s

    def refused(self, shape: Shape, arrived_s: float, code: str) -> None:
        """Count a request that got an error, which is a miss."""
        counted = arrived_s >= self.from_s
        end = (shape.group, int(arrived_s / self.every_s), counted, None, False, False, code, None)
        self._ends.setdefault(end, [0, 0.0, 0, 0])[0] += 1
        if counted and arrived_s > self.last_late_s:
            self.last_late_s = arrived_s

    def held(self, model: str, devices: float, since_s: float, until_s: float) -> None:
        """Count the devices that a replica had for this time."""
        held_s = self.device_s.get(model, 0.0)
        self.device_s[model] = held_s + devices * (until_s - since_s)
        self.counted_device_s += devices * max(0.0, until_s - max(since_s, self.from_s))

    def settle(self) -> None:
        """Add up the counts; call it once, when all requests have ended."""
        for end, (count, points, tokens, unjudged) in self._ends.items():
            (kind, tenant, language), place, counted, model, *_, reason, rule = end
            moment = self.moments.setdefault(place, Moment())
            tallies = [moment.tally]
            if counted:
                tallies += [
                    self.total,
                    self.kinds.setdefault(kind, OutcomeCounts()),
                    self.tenants.setdefault(tenant, OutcomeCounts()),
                ]
            else:
                tallies.append(self.warm)
            on_time, degraded = end[4:6]
            for tally in tallies:
                tally.add(
                    int(count), points, int(tokens), model is not None, on_time, degraded,
                    int(unjudged),
                )  # fmt: skip
            if model is not None:
                moment.models[model] += int(count)
            if counted and model is not None:
                self.models[model] += int(count)
                self.reasons[f"{reason}:{rule}" if rule is not None else str(reason)] += int(count)
                if degraded:
                    self.why_degraded[tenant, language, str(reason)] += int(count)
            elif counted:
                self.errors[reason] += int(count)
        self._ends.clear()

    @property
    def attainment(self) -> float:
        """Share of the offered requests that were answered on time."""
        return _share(self.total.on_time, self.total.offered)

    @property
    def effective_quality(self) -> float:
        """Mean points over the offered requests; late and refused ones have none."""
        return self.total.mean_effective

    def as_dict(self) -> dict[str, Any]:
        """Return the results for JSON."""
        total = self.total
        devices = sum(self.device_s.values())
        return total.as_dict() | {
            "p50_s": self.latencies.quantile(0.5),
            "p95_s": self.latencies.quantile(0.95),
            "p99_s": self.latencies.quantile(0.99),
            "models": dict(self.models.most_common()),
            "reasons": dict(self.reasons.most_common()),
            "errors": dict(self.errors.most_common()),
            "space_violations": self.space_violations,
            "device_hours": devices / 3600.0,
            "utilisation": _share(sum(self.busy_s.values()), devices),
            "on_time_tokens_per_device_s": _share(total.tokens, self.counted_device_s),
            "kinds": {name: tally.as_dict() for name, tally in self.kinds.items()},
            "tenants": {name: tally.as_dict() for name, tally in self.tenants.items()},
            "degraded_by": [
                {"tenant": tenant, "language": language, "reason": reason, "requests": count}
                for (tenant, language, reason), count in self.why_degraded.most_common(30)
            ],
            "replicas": [
                {"from_s": at_s, "model": model, "ready": ready}
                for at_s, model, ready in self.replicas
            ],
            "moments": [self._moment(place) for place in sorted(self.moments)],
        }

    def _moment(self, place: int) -> Mapping[str, Any]:
        moment = self.moments[place]
        tally = moment.tally.as_dict()
        return {
            "from_s": place * self.every_s,
            **{key: tally[key] for key in ("offered", "attainment", "degraded", "quality")},
            "models": dict(moment.models),
        }


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
