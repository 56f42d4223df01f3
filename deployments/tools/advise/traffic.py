"""Apply a routing to the user's texts: the router's own `decide`, text by text, without load.

Scores of two models are never ranked against each other. A retrieval query uses the index of its
own model, and a labelled text the neighbours of its own model. Pairs are correlated for each model
on its own, weighted by their number. This is what a service does that keeps an index per model, or
whose requests need no index.

Rules look better than they are on the texts that they were made from. So the figure is given a
second time, with rules that were made from the other half of the texts. Without enough texts in
each half there is no such figure.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from deployments.tools.advise.derived import Derived
from deployments.tools.advise.in_force import derive
from deployments.tools.advise.latency import Timing
from deployments.tools.advise.quality import SEED, Task, Unit
from deployments.tools.advise.survey import AdvisePlan
from router.arrays import Floats, Indices
from router.domain import Curve, Load, Model, Request, Tier, Work
from router.models import build_policy
from router.policy import decide
from router.routing_config import RoutingConfig

RESAMPLES = 300
ROUTED, CROSSED = "routed", "routed, rules from the other half"
MIN_PAIRS = 10  # of one model, to correlate
Assigned = Mapping[str, Sequence[str]]  # by task, the model of each unit


class PolicyOutcome(NamedTuple):
    """The result of a policy over all tasks, each with the same share of the traffic."""

    name: str
    quality: float  # points
    by_task: Mapping[str, float]
    models: Mapping[str, float]  # share of the texts
    device_s: float  # of a million requests
    price: float | None
    # points over always-best and always-fast, with a 95 % interval
    against: Mapping[str, tuple[float, float, float]]


def assign(plan: AdvisePlan, tasks: Sequence[Task], derived: Derived) -> dict[str, list[str]]:
    """Return the model that answers each unit of each task."""
    tiers: dict[Any, str] = {
        Tier(tier): candidate.name for candidate in plan.candidates for tier in candidate.tiers
    }
    policy = build_policy(RoutingConfig.model_validate(derived.routing(tiers)), tiers)
    # Without a deadline no decision depends on the curve, but predictions need one.
    curve = Curve(0.001, 0.0, 0.0, 0.0, 8192)
    models = {
        candidate.name: Model(candidate.name, rank, candidate.max_tokens, curve, {})
        for rank, candidate in enumerate(plan.candidates)
    }
    loads = dict.fromkeys(models, Load())

    def model_of(unit: Unit) -> str:
        tokens = {
            name: plan.tokens[name].of(len(unit.longest), unit.features.script) for name in models
        }
        work = {name: Work(count, count, count * count) for name, count in tokens.items()}
        side = None if unit.side == "symmetric" else unit.side
        return (
            decide(policy, Request(work, unit.features, input_type=side), models, loads, 0.0).model
            or derived.default_model
        )

    return {task.name: [model_of(unit) for unit in task.units] for task in tasks}


def outcomes(
    plan: AdvisePlan,
    tasks: Sequence[Task],
    derived: Derived,
    timing: Mapping[str, Timing],
    min_gain: float,
    gpu_hour: float | None,
) -> list[PolicyOutcome]:
    """Return the outcome of each model alone, and of the routing.

    The list is empty without tasks that measure quality, and without the routing if the default was
    not measured.
    """
    judged = [task for task in tasks if task.kind != "agreement"]
    if not judged:
        return []
    named: dict[str, Assigned] = {
        f"always {candidate.name}": {
            task.name: [candidate.name] * len(task.units) for task in judged
        }
        for candidate in plan.candidates
        if candidate.tiers
    }
    smallest, largest = next(iter(named)), list(named)[-1]
    if f"always {derived.default_model}" in named:
        named[ROUTED] = assign(plan, judged, derived)
    grouped = named.get(ROUTED, named[largest])
    if (crossed := _crossed(plan, judged, min_gain)) is not None:
        named[CROSSED] = crossed
    made = []
    for name, assigned in named.items():
        against = {
            other: _against(judged, assigned, named[other])
            for other in (largest, smallest)
            if name in (ROUTED, CROSSED)
        }
        by_task = {
            task.name: _value(task, assigned[task.name], grouped[task.name]) for task in judged
        }
        device_s = _device_s(plan, judged, assigned, timing)
        shares = {
            candidate.name: sum(
                Counter(assigned[task.name])[candidate.name] / len(task.units) for task in judged
            )
            / len(judged)
            for candidate in plan.candidates
        }
        made.append(
            PolicyOutcome(
                name,
                sum(by_task.values()) / len(by_task),
                by_task,
                {model: share for model, share in shares.items() if share},
                device_s,
                None if gpu_hour is None else device_s / 3600 * gpu_hour,
                against,
            )
        )
    return made


def _crossed(plan: AdvisePlan, tasks: Sequence[Task], min_gain: float) -> Assigned | None:
    """Assign each half of the texts by rules from the other half.

    Returns None if a half supports no choice at all.
    """
    halves = [
        {task.name: np.arange(start, len(task.units), 2) for task in tasks} for start in (0, 1)
    ]
    made = [derive(plan, tasks, min_gain, half) for half in halves]
    if any(derived.default_choice is None for derived in made):
        return None
    assigned = [assign(plan, tasks, derived) for derived in made]
    return {
        task.name: [assigned[1 - place % 2][task.name][place] for place in range(len(task.units))]
        for task in tasks
    }


def _groups(models: Sequence[str]) -> list[tuple[str, Indices]]:
    names = np.array(models)
    return [(model, np.flatnonzero(names == model)) for model in dict.fromkeys(models)]


def _value(task: Task, models: Sequence[str], grouped_by: Sequence[str]) -> float:
    """Return the task's metric under an assignment.

    Pairs are correlated within the groups of the routed assignment, for all assignments alike.
    """
    if task.gold is None:
        return 100.0 * float(_chosen(task, models).mean())
    own, total, weight = np.array(models), 0.0, 0
    for _, rows in _groups(grouped_by):
        for model in dict.fromkeys(own[rows].tolist()):
            some = rows[own[rows] == model]
            value = task.value(task.scores[model], some)
            if len(some) >= MIN_PAIRS and not math.isnan(value):
                total, weight = total + value * len(some), weight + len(some)
    return total / weight if weight else math.nan


def _chosen(task: Task, models: Sequence[str]) -> Floats:
    return np.array([task.scores[model][row] for row, model in enumerate(models)])


def _against(tasks: Sequence[Task], one: Assigned, other: Assigned) -> tuple[float, float, float]:
    """Mean difference of two assignments in points, with its 95 % interval."""
    points, variance = 0.0, 0.0
    for task in tasks:
        mine, theirs = one[task.name], other[task.name]
        if task.gold is None:
            gap = 100.0 * (_chosen(task, mine) - _chosen(task, theirs))
            points += float(gap.mean())
            variance += float(gap.var(ddof=1)) / len(gap)
            continue
        rng = np.random.default_rng(SEED)
        drawn, weight, value = np.zeros(RESAMPLES), 0, 0.0
        for (model, base), rows in _both(mine, theirs):
            if len(rows) < MIN_PAIRS:
                continue
            between = task.value(task.scores[model], rows) - task.value(task.scores[base], rows)
            if math.isnan(between):
                continue
            made = task.resampled(rows[rng.integers(0, len(rows), (RESAMPLES, len(rows)))])
            drawn += len(rows) * (made[model] - made[base])
            value, weight = value + len(rows) * between, weight + len(rows)
        if weight:
            points += value / weight
            variance += float((drawn / weight).var(ddof=1))
    points, error = points / len(tasks), math.sqrt(variance) / len(tasks)
    return points, points - 1.96 * error, points + 1.96 * error


def _both(mine: Sequence[str], theirs: Sequence[str]) -> list[tuple[tuple[str, str], Indices]]:
    pairs = list(zip(mine, theirs, strict=True))
    return [
        (both, np.array([row for row, pair in enumerate(pairs) if pair == both]))
        for both in dict.fromkeys(pairs)
    ]


def _device_s(
    plan: AdvisePlan, tasks: Sequence[Task], assigned: Assigned, timing: Mapping[str, Timing]
) -> float:
    """Device seconds of a million requests, by their tokens.

    A pair counts as twice its longer text.
    """
    total = 0.0
    for task in tasks:
        texts = 2 if task.kind == "pairs" else 1
        total += sum(
            texts
            * plan.tokens[model].of(len(unit.longest), unit.features.script)
            * timing[model].device_s_per_token
            for unit, model in zip(task.units, assigned[task.name], strict=True)
        ) / len(task.units)
    return 1e6 * total / len(tasks)
