"""The decision: which model answers this request, and why each other one does not.

    allowed   models that are permitted, produce what is pinned, read the longest text, and are
              ready or known to be soon; for requests that name no model, those that know most of
              the text's tokens
    target    the pinned model or the explicit tier's, else the highest floor that a rule raises,
              else the default tier's
    in time   allowed, not above the target (`strict`: nor below it), predicted tail within the
              budget
    choice    the target where it is in time and was named, by the caller or a rule; else the model
              in time with the most points of quality for this text, and the larger one where a
              figure is missing or equal; else what on_budget_miss says

`priced` takes the model whose points exceed its price by most, for requests that the rules (not the
caller) gave a target; while prices are low it may be larger than the target.

Pure: the same request, models, loads and `now` give the same decision, whatever order the models
come in.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from router.domain import (
    NO_WORK,
    Decision,
    Features,
    Load,
    Model,
    OnMiss,
    Prediction,
    Reason,
    Request,
    TextKind,
    Why,
    Work,
)

MIN_SHARE, MAX_UNREAD = 0.2, 0.5

# The reason of a choice other than the target, by why the target is out. The caller's own limits (a
# pinned space, what its key may use) are not among them: they move the target in silence.
_INSTEAD = {
    Why.TOO_LONG: Reason.CONTEXT,
    Why.NOT_READY: Reason.UNAVAILABLE,
    Why.UNREAD: Reason.QUALITY,
}

# A look-up of an enum's member takes 0.1 us on Python 3.11, and every decision needs several.
AUTO, RULE, BUDGET, LATE, LOAD = Reason.AUTO, Reason.RULE, Reason.BUDGET, Reason.LATE, Reason.LOAD
CHOSEN, LESS_QUALITY = Why.CHOSEN, Why.LESS_QUALITY
ABOVE_TARGET, OVER_BUDGET = Why.ABOVE_TARGET, Why.OVER_BUDGET
REJECT, SERVE = OnMiss.REJECT, OnMiss.SERVE


@dataclass(frozen=True, slots=True)
class Floor:
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

    def applies(
        self, features: Features, longest: int, input_type: str | None, min_share: float = MIN_SHARE
    ) -> bool:
        """Whether the conditions hold for a text, or for `min_share` of the texts of a list;
        `longest` is the tokens of the longest one.
        """
        if self.min_tokens is not None and longest < self.min_tokens:
            return False
        if self.max_tokens is not None and longest > self.max_tokens:
            return False
        if self.input_type is not None and input_type != self.input_type:
            return False
        if not features.kinds:
            return self._holds(features)
        return features.share(self._holds) >= min_share

    def _holds(self, text: Features | TextKind) -> bool:
        if self.languages is not None and text.language not in self.languages:
            return False
        if self.not_languages is not None and (
            text.language is None or text.language in self.not_languages
        ):
            return False
        if self.scripts is not None and text.script not in self.scripts:
            return False
        return (self.mixed is None or text.mixed == self.mixed) and (
            self.code is None or text.code == self.code
        )


@dataclass(frozen=True, slots=True)
class Policy:
    """What the config says about deciding."""

    default: str
    floors: tuple[Floor, ...] = ()
    kind: Literal["rules", "priced"] = "rules"
    quality_weight: float = 1.0
    min_share: float = MIN_SHARE  # of a list's texts, for which a rule raises the target
    max_unread: float = MAX_UNREAD  # share of unknown tokens above which a model is not `auto`'s
    default_is_named: bool = False  # the default is taken as it is, as if a rule had raised it


def predict(model: Model, load: Load, work: Work) -> Prediction:
    """Closed form: the rest of the running step, full steps for the backlog and this work, and the
    step that ends it.

    Steps are filled to the last token, so the end of a text may fall into a step of its own.
    """
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

    `loads` covers `models`; `request.work` covers those that `permitted` and `candidates` leave.
    Raises nothing then.
    """
    target, reason, rule = _target(policy, request, models)
    fits, tails, whys = _allowed(policy, request, models, loads)
    priced = policy.kind == "priced" and request.target is None
    budget_s = math.inf if request.deadline_s is None else request.deadline_s - now
    in_time, late = _in_reach(request, models, target, tails, budget_s, whys, priced)
    if not in_time and not late:
        return _refusal(target, Reason.NO_MODEL, whys, fits)
    if not in_time and request.on_miss is REJECT:
        retry_after_s = _retry_after_s(request, models, loads, fits, late, budget_s)
        return _refusal(target, Reason.OVER_BUDGET, whys, fits, retry_after_s)
    if not in_time:
        chosen, reason = _late(request, models, target, late, tails, whys), LATE
    elif priced:
        chosen, reason = _priced(policy, request, models, loads, in_time, whys, target, reason)
    else:
        chosen, reason = _by_rules(policy, request, models, in_time, whys, target, reason)
    whys[chosen] = CHOSEN
    gain = 0.0 if chosen == target else _gain(request, models[chosen], models[target])
    return Decision(
        chosen,
        target,
        reason,
        rule if reason is RULE else None,
        fits[chosen].total_s,
        fits[chosen].wait_s,
        gain < 0.0,
        whys,
        fits,
        None,
        chosen != target and gain <= 0.0 and reason in (BUDGET, LATE, LOAD),
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


def _largest_part(work: Work, most: int, replicas: int) -> Work:
    """Of work that is spread over replicas in pieces of a step, that of the replica with most."""
    share = max(most / work.tokens, 1.0 / replicas)
    return work._replace(
        tokens=math.ceil(work.tokens * share),
        tokens_sq=math.ceil(work.tokens_sq * share),
        texts=math.ceil(work.texts * share),
    )


def _allowed(
    policy: Policy, request: Request, models: Mapping[str, Model], loads: Mapping[str, Load]
) -> tuple[dict[str, Prediction], dict[str, float], dict[str, Why]]:
    """Predictions, the tails of those models that may serve the request, and why each other model
    may not.
    """
    fits: dict[str, Prediction] = {}
    tails: dict[str, float] = {}
    whys: dict[str, Why] = {}
    works, permitted, candidates = request.work, request.permitted, request.candidates
    for name, model in models.items():
        load = loads[name]
        if permitted is not None and name not in permitted:
            whys[name] = Why.NOT_PERMITTED
        elif candidates is not None and name not in candidates:
            whys[name] = Why.NOT_IN_SPACE
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
    """Leave out the models that do not know most of the text, or where none does, all but those
    that know most of it.
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
    """The model this request should have if time and load did not matter."""
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
    priced: bool,
) -> tuple[list[str], list[str]]:
    """The models that may take the target's place or are the target: in time, and late ones.

    None is larger than the target where that may serve, none smaller for `strict`.
    """
    limit = models[target].rank
    highest = limit if target in tails and not priced else math.inf
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


def _stand_ins(models: Mapping[str, Model], target: str, names: list[str], why: Why) -> list[str]:
    """Of the models that may stand in for a target that is out, those that do so first: smaller
    ones, or larger ones where the target cannot read the text; else the others.
    """
    limit = models[target].rank
    larger_first = why in (Why.TOO_LONG, Why.UNREAD)
    return [name for name in names if (models[name].rank > limit) == larger_first] or names


def _by_rules(
    policy: Policy,
    request: Request,
    models: Mapping[str, Model],
    in_time: list[str],
    whys: dict[str, Why],
    target: str,
    reason: Reason,
) -> tuple[str, Reason]:
    """The choice among the models in time, and its reason."""
    if target not in in_time:
        if whys[target] is OVER_BUDGET:
            return _best(request, models, in_time), BUDGET
        chosen = _best(request, models, _stand_ins(models, target, in_time, whys[target]))
        for name in in_time:
            if models[name].rank > max(models[chosen].rank, models[target].rank):
                whys[name] = ABOVE_TARGET
        return chosen, _INSTEAD.get(whys[target], reason)
    if reason is AUTO and not policy.default_is_named:
        best = _best(request, models, in_time)
        return best, reason if best == target else Reason.QUALITY
    points = models[target].quality_of(request.features, request.work[target])
    for name in in_time:
        if points is not None and name != target:
            more = models[name].quality_of(request.features, request.work[name])
            if more is not None and more > points:
                whys[name] = Why.NOT_NAMED
    return target, reason


def _best(request: Request, models: Mapping[str, Model], names: list[str]) -> str:
    """The model with the most points for this text; a smaller one only where both figures are known
    and its own is higher.
    """
    best, *smaller = sorted(names, key=lambda name: -models[name].rank)
    for name in smaller:
        if _gain(request, models[name], models[best]) > 0.0:
            best = name
    return best


def _gain(request: Request, one: Model, other: Model) -> float:
    """Points of `one` for this text over those of `other`; ranks, where a figure is missing."""
    features, work = request.features, request.work
    points = one.quality_of(features, work.get(one.id, NO_WORK))
    others = other.quality_of(features, work.get(other.id, NO_WORK))
    return one.rank - other.rank if points is None or others is None else points - others


def _refusal(
    target: str,
    reason: Reason,
    whys: dict[str, Why],
    fits: dict[str, Prediction],
    retry_after_s: float | None = None,
) -> Decision:
    return Decision(None, target, reason, None, None, None, False, whys, fits, retry_after_s)


def _late(
    request: Request,
    models: Mapping[str, Model],
    target: str,
    late: list[str],
    tails: Mapping[str, float],
    whys: dict[str, Why],
) -> str:
    """The model that answers although none is in time."""
    if request.on_miss is SERVE:
        if target in late:
            return target
        return _best(request, models, _stand_ins(models, target, late, whys[target]))
    soonest = late[0]
    for name in late:
        if tails[name] < tails[soonest] or (
            tails[name] == tails[soonest] and models[name].rank > models[soonest].rank
        ):
            soonest = name
    return soonest


def _retry_after_s(
    request: Request,
    models: Mapping[str, Model],
    loads: Mapping[str, Load],
    fits: Mapping[str, Prediction],
    late: list[str],
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


def _priced(
    policy: Policy,
    request: Request,
    models: Mapping[str, Model],
    loads: Mapping[str, Load],
    in_time: list[str],
    whys: dict[str, Why],
    target: str,
    reason: Reason,
) -> tuple[str, Reason]:
    """As `_by_rules`, for `priced`."""
    chosen = max(
        in_time,
        key=lambda name: (_worth(policy, request, models[name], loads[name]), models[name].rank),
    )
    for name in in_time:
        if models[name].rank > models[chosen].rank:
            whys[name] = Why.PRICE
    if chosen == target or whys[target] not in (LESS_QUALITY, OVER_BUDGET, Why.PRICE):
        return chosen, _INSTEAD.get(whys[target], reason)
    if models[chosen].rank > models[target].rank:
        instead = Reason.IDLE
    else:
        instead = BUDGET if whys[target] is OVER_BUDGET else LOAD
    return chosen, instead


def _worth(policy: Policy, request: Request, model: Model, load: Load) -> float:
    """Points of quality on this text, less the price of the device seconds it takes."""
    worth = policy.quality_weight * (
        model.quality_of(request.features, request.work[model.id]) or 0.0
    )
    if not load.price:
        return worth
    work = request.work[model.id]
    step_s = model.curve.step(work.tokens, work.tokens_sq, work.texts)
    return worth - load.price * step_s * model.devices
