"""The decision: which model answers this request, and why each other one does not.

    allowed   models that are permitted, produce what is pinned, read the longest text, and are
              ready or known to be soon
    target    the pinned model or the explicit tier's, else the highest floor that a rule raises,
              else the default tier's
    feasible  allowed, not above the target (`strict`: nor below it), predicted tail within the
              budget
    choice    the best feasible one; else what on_budget_miss says

`rules` takes the largest feasible model: load never lowers a request that gave no budget. `priced`
takes the one whose quality on this text exceeds its price by most, for requests that the rules (not
the caller) gave a target; while prices are low it may be larger than the target.

Counting an answer that is predicted to be late as nothing, more budget never lowers quality and
more backlog never raises it. Pure: the same request, models, loads and `now` give the same
decision, whatever order the models come in.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from router.domain import (
    Decision,
    Features,
    Load,
    Model,
    OnMiss,
    Prediction,
    Reason,
    Request,
    Why,
    Work,
)

# A named field of a tuple, and an enum's member, cost a descriptor's call on Python 3.11: what is
# needed for every model of every request is unpacked at once, or named here.
_new = tuple.__new__  # NamedTuple's own is a Python function that calls it
ABOVE_TARGET, CHOSEN, LESS_QUALITY, OVER_BUDGET = (
    Why.ABOVE_TARGET,
    Why.CHOSEN,
    Why.LESS_QUALITY,
    Why.OVER_BUDGET,
)

# of a text's features, the tokens of the longest one, and the input type
Condition = Callable[[Features, int, str | None], bool]


class Floor(NamedTuple):
    """A rule in the form the decision uses: conditions that must all hold, and the model it raises
    the target to.
    """

    name: str
    model: str
    min_tokens: int | None = None
    max_tokens: int | None = None
    languages: frozenset[str] | None = None
    not_languages: frozenset[str] | None = None
    scripts: frozenset[str] | None = None
    mixed: bool | None = None
    code: bool | None = None
    input_type: str | None = None

    def condition(self) -> Condition:
        """Whether all that was given holds, as one function: of what was not given nothing is
        asked.
        """
        _, _, least, most, languages, not_languages, scripts, mixed, code, side = self
        given = list[Condition]()
        if least is not None:
            from_tokens = least
            given.append(lambda features, longest, input_type: longest >= from_tokens)
        if most is not None:
            to_tokens = most
            given.append(lambda features, longest, input_type: longest <= to_tokens)
        if languages is not None:
            wanted = languages
            given.append(lambda features, longest, input_type: features.language in wanted)
        if not_languages is not None:
            passed_over = not_languages | {None}
            given.append(lambda features, longest, input_type: features.language not in passed_over)
        if scripts is not None:
            written_in = scripts
            given.append(lambda features, longest, input_type: features.script in written_in)
        if mixed is not None:
            given.append(lambda features, longest, input_type: features.mixed == mixed)
        if code is not None:
            given.append(lambda features, longest, input_type: features.code == code)
        if side is not None:
            given.append(lambda features, longest, input_type: input_type == side)
        if len(given) == 1:
            return given[0]
        return lambda features, longest, input_type: all(
            each(features, longest, input_type) for each in given
        )


@dataclass(frozen=True, slots=True)
class Policy:
    """What the config says about deciding; `raises` is `floors` as they are asked: model, name, and
    when it applies.
    """

    default: str
    floors: tuple[Floor, ...] = ()
    kind: Literal["rules", "priced"] = "rules"
    quality_weight: float = 1.0
    raises: tuple[tuple[str, str, Condition], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(
            self,
            "raises",
            tuple((floor.model, floor.name, floor.condition()) for floor in self.floors),
        )


def predict(model: Model, load: Load, work: Work) -> Prediction:
    """Closed form: the rest of the running step, full steps for the backlog and this work, and the
    step that ends it.

    Steps are filled to the last token, so the end of a text may fall into a step of its own. Work
    larger than one step is spread over the replicas in pieces of a step; its time is that of the
    replica with most of them.
    """
    curve = model.curve
    ready, ahead, wait_s, _, _, cold_start_s, bias = load
    tokens, _, tokens_sq, texts = work
    most = curve.batch_tokens
    if tokens > most and ready > 1:
        share = max(most / tokens, 1.0 / ready)
        tokens, tokens_sq, texts = (
            math.ceil(tokens * share),
            math.ceil(tokens_sq * share),
            math.ceil(texts * share),
        )
    if ahead + tokens <= most:  # as Curve.step, whose call would be a fifth of a decision
        own_s = (
            curve.base_s
            + curve.s_per_token * (ahead + tokens)
            + curve.s_per_token_sq * tokens_sq
            + curve.s_per_text * texts
        )
        if own_s < curve.fixed_s:
            own_s = curve.fixed_s
    else:
        full, before_last = divmod(ahead + tokens - 1, most)  # so that the last step is never empty
        step_s = curve.step(most)
        waiting = ahead // most
        wait_s += bias * waiting * step_s
        own_s = (full - waiting) * step_s + curve.step(before_last + 1, tokens_sq, texts)
    if not ready and cold_start_s is not None:
        wait_s += cold_start_s
    return _new(Prediction, (wait_s + bias * (own_s + curve.overhead_s), wait_s))


def decide(
    policy: Policy,
    request: Request,
    models: Mapping[str, Model],
    loads: Mapping[str, Load],
    now: float,
) -> Decision:
    """Choose the model that serves `request`; `now` is seconds on the clock of
    `request.deadline_s`.

    `loads` covers `models`; `request.work` covers those that `permitted` and `candidates` leave.
    Raises nothing then.
    """
    out: dict[str, Why] = {}
    fits: dict[str, Prediction] = {}  # allowed models, in time or not
    able: list[tuple[str, Model, Load, float]] = []  # the same, with the tail of the prediction
    works, _, deadline_s, wanted, _, strict, candidates, permitted, on_miss, _ = request
    for name, model in models.items():
        load = loads[name]
        if permitted is not None and name not in permitted:
            out[name] = Why.NOT_PERMITTED
        elif candidates is not None and name not in candidates:
            out[name] = Why.NOT_IN_SPACE
        elif (work := works[name])[1] > model.max_tokens:
            out[name] = Why.TOO_LONG
        elif not load[0] and load.cold_start_s is None:
            out[name] = Why.NOT_READY
        else:
            fits[name] = predicted = predict(model, load, work)
            able.append((name, model, load, predicted[0] * load[3]))

    target, reason, rule = _target(policy, request, models)
    effective = target
    if target not in fits:
        # The caller's own limits (a pinned space, what its key may use) move the target in silence;
        # length and outage are said.
        if (why := out[target]) is Why.TOO_LONG:
            reason, rule = Reason.CONTEXT, None
        elif why is Why.NOT_READY:
            reason, rule = Reason.UNAVAILABLE, None
        nearest = _nearest(models, fits, models[target].rank, why is Why.TOO_LONG, strict)
        if nearest is None:
            return _refuse(
                target, Reason.NO_MODEL, out | dict.fromkeys(fits, Why.BELOW_TARGET), fits
            )
        effective = nearest

    priced = policy.kind == "priced" and wanted is None
    limit = models[effective].rank
    budget_s = math.inf if deadline_s is None else deadline_s - now
    chosen, best = None, 0.0
    soonest, soonest_s = effective, math.inf  # for when none is in time
    for name, model, load, tail_s in able:
        rank = model.rank
        if rank > limit and not priced:
            out[name] = ABOVE_TARGET
        elif strict and rank < limit:
            out[name] = Why.BELOW_TARGET
        elif tail_s <= budget_s:
            out[name] = LESS_QUALITY
            worth = _worth(policy, request, model, load) if priced else rank
            if chosen is None or worth > best or (worth == best and rank > models[chosen].rank):
                chosen, best = name, worth
        else:
            out[name] = OVER_BUDGET
            if tail_s < soonest_s or (tail_s == soonest_s and rank > models[soonest].rank):
                soonest, soonest_s = name, tail_s

    if chosen is None:
        if on_miss is OnMiss.REJECT:
            late = [name for name, why in out.items() if why is OVER_BUDGET]
            return _refuse(
                target,
                Reason.OVER_BUDGET,
                out,
                fits,
                _retry_after_s(request, models, loads, fits, late, budget_s),
            )
        chosen = effective if on_miss is OnMiss.SERVE else soonest
        reason, rule = Reason.LATE, None
    elif chosen != effective:
        if models[chosen].rank > limit:
            reason, rule = Reason.IDLE, None
        else:
            reason, rule = Reason.LOAD if out[effective] is LESS_QUALITY else Reason.BUDGET, None
    if priced:
        for name, why in out.items():
            if why is LESS_QUALITY and models[name].rank > models[chosen].rank:
                out[name] = Why.PRICE
    out[chosen] = CHOSEN
    total_s, wait_s = fits[chosen]
    degraded = models[chosen].rank < models[target].rank
    return _new(
        Decision, (chosen, target, reason, rule, total_s, wait_s, degraded, out, fits, None)
    )


def idle_tail_s(model: Model, load: Load, work: Work) -> float:
    """The tail of the prediction once `model` has a ready replica and nothing else to do."""
    idle = load._replace(
        ready_replicas=max(1, load.ready_replicas),
        ahead_tokens=0,
        running_rest_s=0.0,
        cold_start_s=None,
    )
    return predict(model, idle, work).total_s * load.margin


def _retry_after_s(
    request: Request,
    models: Mapping[str, Model],
    loads: Mapping[str, Load],
    fits: Mapping[str, Prediction],
    late: Iterable[str],
    budget_s: float,
) -> float | None:
    """When the backlog of one of the models that are too late has gone so far that it is in time;
    None where that is not all.
    """
    waits = [
        fits[name].total_s - budget_s / loads[name].margin
        for name in late
        if idle_tail_s(models[name], loads[name], request.work[name]) <= budget_s
    ]
    return min(waits, default=None)


def _target(
    policy: Policy, request: Request, models: Mapping[str, Model]
) -> tuple[str, Reason, str | None]:
    """The model this request should have if time and load did not matter."""
    target = request.target
    if target is not None:
        return target, Reason.PINNED if request.pinned else Reason.TIER, None
    target, rule = policy.default, None
    rank, works, features, input_type = (
        models[target].rank,
        request.work,
        request.features,
        request.input_type,
    )
    for raised, name, applies in policy.raises:
        above = models[raised].rank
        if above > rank and (work := works.get(raised)) and applies(features, work[1], input_type):
            target, rule, rank = raised, name, above
    if rule is None:
        return target, Reason.PINNED if request.pinned else Reason.AUTO, None
    return target, Reason.RULE, rule


def _nearest(
    models: Mapping[str, Model], fits: Iterable[str], rank: int, above_first: bool, strict: bool
) -> str | None:
    """The allowed model closest to a target that is not allowed: the next larger for a long text,
    else the next smaller.
    """
    above = min(
        (name for name in fits if models[name].rank > rank),
        key=lambda name: models[name].rank,
        default=None,
    )
    below = max(
        (name for name in fits if models[name].rank < rank),
        key=lambda name: models[name].rank,
        default=None,
    )
    return above if strict else above or below if above_first else below or above


def _worth(policy: Policy, request: Request, model: Model, load: Load) -> float:
    """Points of quality on this text, less the price of the device seconds it takes."""
    worth = policy.quality_weight * model.quality_of(request.features)
    if not load.price:
        return worth
    tokens, _, tokens_sq, texts = request.work[model.id]
    return worth - load.price * model.curve.step(tokens, tokens_sq, texts) * model.devices


def _refuse(
    target: str,
    reason: Reason,
    out: dict[str, Why],
    fits: dict[str, Prediction],
    retry_after_s: float | None = None,
) -> Decision:
    return Decision(None, target, reason, None, None, None, False, out, fits, retry_after_s)
