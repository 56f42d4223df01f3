"""The decision by enumeration: slow, and written from the rules alone; it shares no code with
router/policy.py.
"""

from collections.abc import Mapping
from typing import NamedTuple

from router.domain import Curve, Features, Load, Model, OnMiss, Request, Work
from router.rules import Floor, Policy


class Verdict(NamedTuple):
    """The oracle's decision."""

    model: str | None
    reason: str
    degraded: bool


def step_s(curve: Curve, tokens: float, tokens_sq: float, texts: float) -> float:
    """Seconds of one step."""
    line = curve.base_s + curve.s_per_token * tokens
    return max(curve.fixed_s, line + curve.s_per_token_sq * tokens_sq + curve.s_per_text * texts)


def total_s(curve: Curve, load: Load, work: Work) -> float:
    """The prediction, step by step, for one replica or for work that fits into a step."""
    if work.texts == 0:
        return 0.0
    size, seconds, ahead, left = curve.batch_tokens, load.running_rest_s, load.ahead_tokens, 0
    while ahead >= size:
        seconds += load.bias * step_s(curve, size, 0, 0)
        ahead -= size
    left = ahead + work.tokens
    while left > size:
        seconds += load.bias * step_s(curve, size, 0, 0)
        left -= size
    seconds += load.bias * step_s(curve, left, work.tokens_sq, work.texts)
    seconds += sum(seconds if beside_s > seconds else beside_s for beside_s in load.beside_s)
    if load.ready_replicas == 0:
        seconds += load.cold_start_s or 0.0
    return seconds + load.bias * curve.overhead_s


def points(model: Model, features: Features) -> float | None:
    """Points of one text."""
    names = [features.language or "default", "default"]
    if features.mixed:
        names.insert(0, "mixed")
    if features.code:
        names.insert(0, "code")
    return next((model.quality[name] for name in names if name in model.quality), None)


def holds(floor: Floor, features: Features, longest: int, side: str | None) -> bool:
    """Whether a rule matches one text."""
    said = [
        floor.min_tokens is None or longest >= floor.min_tokens,
        floor.max_tokens is None or longest <= floor.max_tokens,
        floor.languages is None or features.language in floor.languages,
        floor.not_languages is None
        or (features.language is not None and features.language not in floor.not_languages),
        floor.scripts is None or features.script in floor.scripts,
        floor.mixed in (None, features.mixed),
        floor.code in (None, features.code),
        floor.input_type in (None, side),
    ]
    return all(said)


def best(names: list[str], models: Mapping[str, Model], features: Features) -> str:
    """The largest, or the best of those known to be better."""
    by_rank = sorted(names, key=lambda name: models[name].rank)
    largest = points(models[by_rank[-1]], features)
    if largest is None:
        return by_rank[-1]
    known = {name: points(models[name], features) for name in by_rank}
    most = max(value for value in known.values() if value is not None)
    return [name for name in by_rank if known[name] == most][-1]


def fewer(one: Model, other: Model, features: Features) -> bool:
    """Whether one model has fewer points than another, or a lower rank if a figure is missing."""
    mine, theirs = points(one, features), points(other, features)
    return one.rank < other.rank if mine is None or theirs is None else mine < theirs


def verdict(
    policy: Policy,
    request: Request,
    models: Mapping[str, Model],
    loads: Mapping[str, Load],
    now: float,
) -> Verdict:
    """Decide one text under `rules`."""
    target, reason = request.target, "pinned" if request.pinned else "tier"
    if target is None:
        raised = [
            floor
            for floor in policy.floors
            if models[floor.model].rank > models[policy.default].rank
            and floor.model in request.work
            and holds(
                floor, request.features, request.work[floor.model].longest, request.input_type
            )
        ]
        highest = max((models[floor.model].rank for floor in raised), default=None)
        target, reason = policy.default, "pinned" if request.pinned else "auto"
        for floor in reversed(raised):
            if models[floor.model].rank == highest:
                target, reason = floor.model, f"rule:{floor.name}"
    out: dict[str, str] = {}
    for name, model in models.items():
        open_to = [each for each in (request.permitted, request.candidates) if each is not None]
        if not all(name in each for each in open_to):
            out[name] = reason
        elif request.work[name].longest > model.max_tokens:
            out[name] = "context"
        elif loads[name].ready_replicas == 0 and loads[name].cold_start_s is None:
            out[name] = "unavailable"
    allowed = [name for name in models if name not in out]
    if request.target is None and not request.pinned and allowed:
        least = min(request.unread.get(name, 0.0) for name in allowed)
        for name in allowed:
            if request.unread.get(name, 0.0) > max(policy.max_unread, least):
                out[name] = "quality"
    allowed = [name for name in models if name not in out]

    limit = models[target].rank
    smaller = [name for name in allowed if models[name].rank < limit and not request.strict]
    larger = [name for name in allowed if models[name].rank > limit]
    if target in allowed:
        order = [[target, *smaller]]
    elif out[target] in ("context", "quality"):
        order = [larger, smaller]
    else:
        order = [smaller, larger]
    reach = [name for side in order for name in side]
    if not reach:
        return Verdict(None, "no_model", False)
    tails = {
        name: total_s(models[name].curve, loads[name], request.work[name]) * loads[name].margin
        for name in reach
    }
    budget_s = None if request.deadline_s is None else request.deadline_s - now
    in_time = [name for name in reach if budget_s is None or tails[name] <= budget_s]
    if not in_time and request.on_miss is OnMiss.REJECT:
        return Verdict(None, "over_budget", False)
    first = next((s for side in order if (s := [n for n in side if n in in_time])), [])
    named = reason != "auto"
    if not in_time:
        answer, why = _late(request, models, target, order, tails), "late"
    elif target in out:
        answer, why = best(first, models, request.features), out[target]
    elif target in in_time:
        answer = target if named else best(first, models, request.features)
        why = reason if answer == target else "quality"
    else:
        answer, why = best(first, models, request.features), "budget"
    return Verdict(answer, why, fewer(models[answer], models[target], request.features))


def _late(
    request: Request,
    models: Mapping[str, Model],
    target: str,
    order: list[list[str]],
    tails: Mapping[str, float],
) -> str:
    if request.on_miss is OnMiss.SERVE:
        if target in order[0]:
            return target
        return best(next(side for side in order if side), models, request.features)
    soonest_s = min(tails.values())
    return max(
        (name for name in tails if tails[name] == soonest_s), key=lambda name: models[name].rank
    )
