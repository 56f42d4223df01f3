"""The rules that choose a model among those in time, and the policy that holds them.

The target is chosen if it is in time and was named by the caller or a rule. Otherwise the model in
time with the most quality points for this text is chosen, or the larger one if a figure is missing
or equal.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from router.domain import (
    NO_WORK,
    Features,
    Model,
    OnMiss,
    Reason,
    Request,
    TextKind,
    Why,
)

MIN_SHARE, MAX_UNREAD = 0.2, 0.5

# The reason of a choice other than the target, by why the target was ruled out. The caller's own
# limits (a pinned space, the models of its key) are not listed: they leave the reason as it is.
INSTEAD = {
    Why.TOO_LONG: Reason.CONTEXT,
    Why.NOT_READY: Reason.UNAVAILABLE,
    Why.UNREAD: Reason.QUALITY,
}

# Looking up an enum member takes 0.1 us on Python 3.11, and every decision needs several.
AUTO, RULE, BUDGET, LATE = Reason.AUTO, Reason.RULE, Reason.BUDGET, Reason.LATE
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
    """The configured rules and limits of decisions."""

    default: str
    floors: tuple[Floor, ...] = ()
    min_share: float = MIN_SHARE  # of a list's texts, for which a rule raises the target
    max_unread: float = MAX_UNREAD  # `auto` skips models with a larger share of unknown tokens
    default_is_named: bool = False  # the default is taken as it is, as if a rule had raised it


def stand_ins(models: Mapping[str, Model], target: str, names: list[str], why: Why) -> list[str]:
    """The preferred replacements for an unavailable target: smaller models, or larger ones if the
    target cannot read the text; all of `names` if there are none.
    """
    limit = models[target].rank
    larger_first = why in (Why.TOO_LONG, Why.UNREAD)
    return [name for name in names if (models[name].rank > limit) == larger_first] or names


def by_rules(
    policy: Policy,
    request: Request,
    models: Mapping[str, Model],
    in_time: list[str],
    whys: dict[str, Why],
    target: str,
    reason: Reason,
) -> tuple[str, Reason]:
    """Choose among the models in time; returns the model and the reason."""
    if target not in in_time:
        if whys[target] is OVER_BUDGET:
            return best_of(request, models, in_time), BUDGET
        chosen = best_of(request, models, stand_ins(models, target, in_time, whys[target]))
        for name in in_time:
            if models[name].rank > max(models[chosen].rank, models[target].rank):
                whys[name] = ABOVE_TARGET
        return chosen, INSTEAD.get(whys[target], reason)
    if reason is AUTO and not policy.default_is_named:
        best = best_of(request, models, in_time)
        return best, reason if best == target else Reason.QUALITY
    points = models[target].quality_of(request.features, request.work[target])
    for name in in_time:
        if points is not None and name != target:
            more = models[name].quality_of(request.features, request.work[name])
            if more is not None and more > points:
                whys[name] = Why.NOT_NAMED
    return target, reason


def best_of(request: Request, models: Mapping[str, Model], names: list[str]) -> str:
    """The model with the most points for this text; a smaller one only if both figures are known
    and its own is higher.
    """
    if len(names) == 1:
        return names[0]
    features, work = request.features, request.work
    (_, best), *smaller = sorted([(models[name].rank, name) for name in names], reverse=True)
    best_points = models[best].quality_of(features, work.get(best, NO_WORK))
    for _, name in smaller:
        points = models[name].quality_of(features, work.get(name, NO_WORK))
        if points is not None and best_points is not None and points > best_points:
            best, best_points = name, points
    return best


def gain_over(request: Request, one: Model, other: Model) -> float:
    """Quality points of `one` for this text minus those of `other`; the difference of ranks if a
    figure is missing.
    """
    features, work = request.features, request.work
    points = one.quality_of(features, work.get(one.id, NO_WORK))
    others = other.quality_of(features, work.get(other.id, NO_WORK))
    return one.rank - other.rank if points is None or others is None else points - others


def late_choice(
    request: Request,
    models: Mapping[str, Model],
    target: str,
    late: list[str],
    tails: Mapping[str, float],
    whys: dict[str, Why],
) -> str:
    """The model that answers when none is in time."""
    if request.on_miss is SERVE:
        if target in late:
            return target
        return best_of(request, models, stand_ins(models, target, late, whys[target]))
    soonest = late[0]
    for name in late:
        if tails[name] < tails[soonest] or (
            tails[name] == tails[soonest] and models[name].rank > models[soonest].rank
        ):
            soonest = name
    return soonest
