"""Decide the requests of a decision log again, under their own policy or another, and report what
would change.

Each request is decided on the loads that were logged with it. A policy that sends work elsewhere
would have changed those loads; a replay does not model that. Times are therefore predictions for
both policies; measured times are reported beside them. Not replayed: `require_space` and
`miss_share` (the margins are those of the log).
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from router.decision_log import ANSWERED, RERANK, DecisionContext, LogEntry, Logged
from router.domain import UNKNOWN_LANGUAGE, Decision, Features, Reason, Tier
from router.models import build_policy
from router.policy import decide
from router.routing_config import NamedTier, RoutingConfig

REFUSED = "refused"
MIN_FALL = 0.005  # points; smaller differences of means are rounding


class Other(NamedTuple):
    """The policy to decide by instead; `tiers` None keeps the log's tiers."""

    routing: RoutingConfig
    tiers: Mapping[Tier, str] | None = None

    def context(self, logged: DecisionContext) -> DecisionContext:
        """The log's context with this policy; raises ValueError for a tier that is missing, or
        whose model the log does not have.
        """
        tiers = logged.tiers if self.tiers is None else self.tiers
        for tier, model in tiers.items():
            if model not in logged.models:
                raise ValueError(
                    f"tiers.{tier} names {model!r}; the models of the log are "
                    f"{', '.join(logged.models)}"
                )
        wanted = {self.routing.default_tier, *(rule.floor for rule in self.routing.rules)}
        if missing := sorted(wanted - set(tiers)):
            raise ValueError(
                f"routing names tier {missing[0].value!r}; the tiers are {', '.join(tiers)}"
            )
        default_ms = self.routing.default_budget_ms
        return DecisionContext(
            logged.models,
            build_policy(self.routing, cast(Mapping[NamedTier, str], tiers)),
            tiers,
            self.routing.strict_tiers,
            None if default_ms is None else default_ms / 1000.0,
        )


class Side(NamedTuple):
    """The requests of a log under one policy; latencies are predictions for the answered requests,
    in seconds.
    """

    models: Mapping[str, int]  # requests by the model that answers, or REFUSED
    p50_s: float | None
    p95_s: float | None
    quality: float | None  # mean points over the answered
    degraded: int  # answered by a model with fewer points on the text than the target
    misses: int  # predicted tail exceeds the budget; includes refusals for that reason
    # mean share of the best search that answered queries keep, in collections with several
    # encoders, where it was measured; None if there are none
    expected_recall: float | None = None
    assumed_recall: int = 0  # answered queries whose share was assumed, which the mean leaves out


class LogSlice(NamedTuple):
    """Requests of a log with similar texts, under both policies.

    Qualities are mean points by the config's figures, over the requests that both policies answer
    with a model that has a figure.
    """

    dimension: str  # "language", "script" or "kind"
    value: str  # a code; for "kind" `mixed` or `code`
    requests: int
    moved: int  # to another model
    quality_before: float | None
    quality_after: float | None

    @property
    def falls(self) -> bool:
        """Whether the quality is lower under the other policy."""
        return (
            self.quality_before is not None
            and self.quality_after is not None
            and self.quality_before - self.quality_after > MIN_FALL
        )


class AnsweredFigures(NamedTuple):
    """Measurements of the answered requests."""

    p50_s: float | None
    p95_s: float | None
    misses: int  # answered after their budget


class Summary(NamedTuple):
    """The result of a replay."""

    requests: int
    budgets: int  # requests with a latency budget, under the policy of the log
    before: Side
    after: Side
    measured: AnsweredFigures
    moved: Mapping[tuple[str, str], Mapping[str, int]]  # (from, to) -> requests by the new reason
    changed: int  # decisions that differ from the logged one in any detail
    slices: tuple[LogSlice, ...]  # those with requests that moved, most moved first

    def as_dict(self) -> dict[str, Any]:
        """The summary for JSON."""
        moved = [
            {"from": old, "to": new, "requests": sum(reasons.values()), "reasons": dict(reasons)}
            for (old, new), reasons in self.moved.items()
        ]
        return {
            "requests": self.requests,
            "budgets": self.budgets,
            "before": self.before._asdict(),
            "after": self.after._asdict(),
            "measured": self.measured._asdict(),
            "moved": moved,
            "changed": self.changed,
            "slices": [{**item._asdict(), "falls": item.falls} for item in self.slices],
        }


def redecide(logged: Logged, other: DecisionContext | None = None) -> Decision:
    """Decide one request again, under its own context or under `other`."""
    context, entry = logged
    request = entry.request
    if other is not None:
        budget_s = other.default_budget_s
        if not entry.own_budget:
            request = request._replace(
                deadline_s=None if budget_s is None else entry.arrived_s + budget_s
            )
        if entry.tier is not None:
            target = other.tiers.get(entry.tier)
            request = request._replace(
                target=target, strict=target is not None and other.strict_tiers
            )
    return decide(
        (context if other is None else other).policy, request, entry.models, entry.loads, entry.now
    )


def replay(log: Iterable[Logged], other: Other | None = None) -> Summary:
    """Decide a log again; raises ValueError if `other` does not fit the log's models."""
    settings: dict[
        int, tuple[DecisionContext, DecisionContext | None]
    ] = {}  # by identity: a log has few
    before, after, entries = list[Decision](), list[Decision](), list[LogEntry]()
    moved: dict[tuple[str, str], Counter[str]] = {}
    changed = 0
    for logged in log:
        context, entry = logged
        if other is not None and context.arm == RERANK:  # other rules do not decide these
            continue
        if id(context) not in settings:
            settings[id(context)] = (context, None if other is None else other.context(context))
        decision = redecide(logged, settings[id(context)][1])
        entries.append(entry)
        before.append(entry.decision)
        after.append(decision)
        changed += decision != entry.decision
        if decision.model != entry.decision.model:
            change = (entry.decision.model or REFUSED, decision.model or REFUSED)
            moved.setdefault(change, Counter())[decision.label] += 1
    changes = sorted(moved.items(), key=lambda change: -change[1].total())
    return Summary(
        requests=len(entries),
        budgets=sum(entry.request.deadline_s is not None for entry in entries),
        before=_side(entries, before),
        after=_side(entries, after),
        measured=_measured(entries),
        moved={change: dict(reasons.most_common()) for change, reasons in changes},
        changed=changed,
        slices=_slices(entries, before, after),
    )


def _slices(
    entries: Sequence[LogEntry], before: Sequence[Decision], after: Sequence[Decision]
) -> tuple[LogSlice, ...]:
    groups: dict[tuple[str, str], list[int]] = {}
    for place, entry in enumerate(entries):
        for key in _kinds(entry.request.features):
            groups.setdefault(key, []).append(place)
    made = [
        _slice(*key, [(entries[place], before[place], after[place]) for place in places])
        for key, places in groups.items()
        if any(before[place].model != after[place].model for place in places)
    ]
    return tuple(sorted(made, key=lambda item: -item.moved))


def _kinds(features: Features) -> Iterator[tuple[str, str]]:
    yield "language", features.language or UNKNOWN_LANGUAGE
    if features.script is not None:
        yield "script", features.script
    if features.mixed:
        yield "kind", "mixed"
    if features.code:
        yield "kind", "code"


def _slice(
    dimension: str, value: str, rows: Sequence[tuple[LogEntry, Decision, Decision]]
) -> LogSlice:
    both = [
        (old, new)
        for entry, before, after in rows
        if (old := _points(entry, before)) is not None
        and (new := _points(entry, after)) is not None
    ]
    means = tuple(map(float, np.mean(both, axis=0))) if both else (None, None)
    moved = sum(before.model != after.model for _, before, after in rows)
    return LogSlice(dimension, value, len(rows), moved, *means)


def _points(entry: LogEntry, decision: Decision) -> float | None:
    """Quality points of the model that answers, by the config's figures."""
    if decision.model is None:
        return None
    request = entry.request
    return entry.models[decision.model].quality_of(request.features, request.work[decision.model])


def _side(entries: Sequence[LogEntry], decisions: Sequence[Decision]) -> Side:
    models, predicted, quality = Counter[str](), list[float](), list[float]()
    degraded, misses, recalls, assumed = 0, 0, list[float](), 0
    for entry, decision in zip(entries, decisions, strict=True):
        models[decision.model or REFUSED] += 1
        degraded += decision.degraded
        misses += decision.reason in (Reason.LATE, Reason.OVER_BUDGET)
        if decision.model is not None and decision.predicted_s is not None:
            predicted.append(decision.predicted_s)
            quality.append(_points(entry, decision) or 0.0)
            if decision.model in entry.assumed:
                assumed += 1
            elif decision.model in entry.request.recalls:
                recalls.append(entry.request.recalls[decision.model])
    p50_s, p95_s = _percentiles(predicted)
    mean = float(np.mean(quality)) if quality else None
    kept = float(np.mean(recalls)) if recalls else None
    return Side(dict(models.most_common()), p50_s, p95_s, mean, degraded, misses, kept, assumed)


def _measured(entries: Sequence[LogEntry]) -> AnsweredFigures:
    answered = [
        (entry, entry.actual_s)
        for entry in entries
        if entry.outcome == ANSWERED and entry.actual_s is not None
    ]
    p50_s, p95_s = _percentiles([actual_s for _, actual_s in answered])
    misses = 0
    for entry, actual_s in answered:
        deadline_s = entry.request.deadline_s
        misses += deadline_s is not None and entry.arrived_s + actual_s > deadline_s
    return AnsweredFigures(p50_s, p95_s, misses)


def _percentiles(seconds: Sequence[float]) -> tuple[float | None, float | None]:
    if not seconds:
        return None, None
    p50, p95 = np.percentile(seconds, (50, 95))
    return float(p50), float(p95)
