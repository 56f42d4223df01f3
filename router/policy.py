"""The decision: which model answers this request, and why each other one does not.

    allowed   models that are permitted, produce what is pinned, can read the longest text, and are
              ready or have a known cold start. If no model is named, they also know most of the
              text's tokens. Encoders of a collection must also keep enough recall (encoders.py)
    target    the pinned model or the explicit tier's; else the highest floor of the rules that
              apply; else the default tier's
    in time   allowed, not above the target (`strict`: nor below it), predicted tail within the
              budget
    choice    the target if it is in time and was named by the caller or a rule; else the model in
              time with the most quality points for this text, or the larger one if a figure is
              missing or equal; else as on_budget_miss says

Pure: the same request, models, loads and `now` give the same decision, in any order of the models.
"""

import math
from collections.abc import Mapping

from router.domain import (
    Decision,
    Load,
    Model,
    Prediction,
    Reason,
    Request,
    Why,
    Work,
)
from router.rules import (
    ABOVE_TARGET,
    AUTO,
    BUDGET,
    CHOSEN,
    LATE,
    LESS_QUALITY,
    OVER_BUDGET,
    REJECT,
    RULE,
    Policy,
    by_rules,
    gain_over,
    late_choice,
)

_NOTHING = Prediction(0.0, 0.0)


def predict(model: Model, load: Load, work: Work) -> Prediction:
    """Predict latency in closed form: the rest of the steps in flight, full steps for the backlog
    and this work, and the step that ends it.

    Steps are filled to the last token, so the end of a text can fall into a step of its own. If
    every vector is in the cache, no text is sent and there is no wait. Replicas on one device share
    its time equally (processor sharing: Kleinrock, "Time-shared systems", 1967), so work is delayed
    by the shorter of itself and its neighbour's work.
    """
    if not work.texts:
        return _NOTHING
    curve = model.curve
    most = curve.batch_tokens
    if work.tokens > most and load.ready_replicas > 1:
        work = _largest_part(work, most, load.ready_replicas)
    waiting = load.ahead_tokens // most
    tokens = load.ahead_tokens - waiting * most + work.tokens
    full = (tokens - 1) // most if tokens > most else 0
    wait_s = load.running_rest_s
    own_s = curve.overhead_s + curve.step(tokens - full * most, work.tokens_sq, work.texts)
    if waiting or full:
        step_s = curve.step(most)
        wait_s += load.bias * waiting * step_s
        own_s += full * step_s
    if load.beside_s:
        work_s = wait_s + load.bias * (own_s - curve.overhead_s)
        wait_s += sum(min(work_s, beside_s) for beside_s in load.beside_s)
    if not load.ready_replicas and load.cold_start_s is not None:
        wait_s += load.cold_start_s
    return Prediction(wait_s + load.bias * own_s, wait_s)


def decide(
    policy: Policy,
    request: Request,
    models: Mapping[str, Model],
    loads: Mapping[str, Load],
    now: float,
) -> Decision:
    """Choose the model that serves `request`; `now` is seconds on the clock of
    `request.deadline_s`.

    `loads` must cover `models`, and `request.work` those that `permitted` and `candidates` allow.
    Raises nothing if they do.
    """
    target, reason, rule = _target(policy, request, models)
    fits, tails, whys = _allowed(policy, request, models, loads)
    budget_s = math.inf if request.deadline_s is None else request.deadline_s - now
    in_time, late = _in_reach(request, models, target, tails, budget_s, whys)
    if not in_time and not late:
        return _refusal(target, Reason.NO_MODEL, whys, fits)
    if not in_time and request.on_miss is REJECT:
        retry_after_s = _retry_after_s(request, models, loads, fits, late, budget_s)
        return _refusal(target, Reason.OVER_BUDGET, whys, fits, retry_after_s)
    if not in_time:
        chosen, reason = late_choice(request, models, target, late, tails, whys), LATE
    else:
        chosen, reason = by_rules(policy, request, models, in_time, whys, target, reason)
    whys[chosen] = CHOSEN
    gain = 0.0 if chosen == target else gain_over(request, models[chosen], models[target])
    return Decision(
        model=chosen,
        target=target,
        reason=reason,
        rule=rule if reason is RULE else None,
        predicted_s=fits[chosen].total_s,
        wait_s=fits[chosen].wait_s,
        degraded=gain < 0.0,
        whys=whys,
        predictions=fits,
        pushed_down=chosen != target and gain <= 0.0 and reason in (BUDGET, LATE),
    )


def idle_tail_s(model: Model, load: Load, work: Work) -> float:
    """The predicted tail for `model` with a ready replica and no other work."""
    idle = load._replace(
        ready_replicas=max(1, load.ready_replicas),
        ahead_tokens=0,
        running_rest_s=0.0,
        cold_start_s=None,
        beside_s=(),
    )
    return predict(model, idle, work).total_s * load.margin / load.crowding


def _largest_part(work: Work, most: int, replicas: int) -> Work:
    """The largest part of work that is spread over replicas in pieces of a step."""
    share = max(most / work.tokens, 1.0 / replicas)
    return work._replace(
        tokens=math.ceil(work.tokens * share),
        tokens_sq=math.ceil(work.tokens_sq * share),
        texts=math.ceil(work.texts * share),
    )


def _allowed(
    policy: Policy, request: Request, models: Mapping[str, Model], loads: Mapping[str, Load]
) -> tuple[dict[str, Prediction], dict[str, float], dict[str, Why]]:
    """Predictions, the tails of the allowed models, and why each other model is not allowed."""
    fits: dict[str, Prediction] = {}
    tails: dict[str, float] = {}
    whys: dict[str, Why] = {}
    works, permitted, candidates = request.work, request.permitted, request.candidates
    unfit = request.unfit
    for name, model in models.items():
        load = loads[name]
        if permitted is not None and name not in permitted:
            whys[name] = Why.NOT_PERMITTED
        elif candidates is not None and name not in candidates:
            whys[name] = Why.NOT_IN_SPACE
        elif name in unfit:
            whys[name] = unfit[name]
        elif (work := works[name]).longest > model.max_tokens:
            whys[name] = Why.TOO_LONG
        elif not load.ready_replicas and load.cold_start_s is None:
            whys[name] = Why.NOT_READY
        else:
            fits[name] = predicted = predict(model, load, work)
            tails[name] = predicted.total_s * load.margin
    if request.unread and request.target is None and not request.pinned:
        _leave_unread(policy, request, tails, whys)
    return fits, tails, whys


def _leave_unread(
    policy: Policy, request: Request, tails: dict[str, float], whys: dict[str, Why]
) -> None:
    """Remove the models that do not know enough of the text's tokens; if none does, keep those that
    know most of them.
    """
    unread = {name: request.unread.get(name, 0.0) for name in tails}
    most = max(policy.max_unread, min(unread.values(), default=0.0))
    for name, share in unread.items():
        if share > most:
            del tails[name]
            whys[name] = Why.UNREAD


def _target(
    policy: Policy, request: Request, models: Mapping[str, Model]
) -> tuple[str, Reason, str | None]:
    """The target of this request, regardless of time and load; with the reason, and the rule that
    applied.
    """
    if request.target is not None:
        return request.target, Reason.PINNED if request.pinned else Reason.TIER, None
    target, rule = policy.default, None
    rank, works, features = models[target].rank, request.work, request.features
    input_type, min_share = request.input_type, policy.min_share
    for floor in policy.floors:
        above = models[floor.model].rank
        work = works.get(floor.model) if above > rank else None
        if work and floor.applies(features, work.longest, input_type, min_share):
            target, rule, rank = floor.model, floor.name, above
    if rule is not None:
        return target, RULE, rule
    return target, Reason.PINNED if request.pinned else AUTO, None


def _in_reach(
    request: Request,
    models: Mapping[str, Model],
    target: str,
    tails: Mapping[str, float],
    budget_s: float,
    whys: dict[str, Why],
) -> tuple[list[str], list[str]]:
    """The target and the models that can replace it: those in time, and those too late.

    None is larger than an allowed target; with `strict`, none is smaller.
    """
    limit = models[target].rank
    highest = limit if target in tails else math.inf
    lowest = limit if request.strict else -math.inf
    in_time: list[str] = []
    late: list[str] = []
    for name, tail_s in tails.items():
        rank = models[name].rank
        if rank > highest:
            whys[name] = ABOVE_TARGET
        elif rank < lowest:
            whys[name] = Why.BELOW_TARGET
        elif tail_s <= budget_s:
            whys[name] = LESS_QUALITY
            in_time.append(name)
        else:
            whys[name] = OVER_BUDGET
            late.append(name)
    return in_time, late


def _refusal(
    target: str,
    reason: Reason,
    whys: dict[str, Why],
    fits: dict[str, Prediction],
    retry_after_s: float | None = None,
) -> Decision:
    return Decision(
        model=None,
        target=target,
        reason=reason,
        rule=None,
        predicted_s=None,
        wait_s=None,
        degraded=False,
        whys=whys,
        predictions=fits,
        retry_after_s=retry_after_s,
    )


def _retry_after_s(
    request: Request,
    models: Mapping[str, Model],
    loads: Mapping[str, Load],
    fits: Mapping[str, Prediction],
    late: list[str],
    budget_s: float,
) -> float | None:
    """Seconds until the backlog of a late model is short enough for it to be in time; None if
    waiting helps none of them.
    """
    waits = [
        fits[name].total_s - budget_s / loads[name].margin
        for name in late
        if idle_tail_s(models[name], loads[name], request.work[name]) <= budget_s
    ]
    return min(waits, default=None)
