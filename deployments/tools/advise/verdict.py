"""The verdict of a report in words: what a larger model brings and costs, and what routing does."""

from collections import Counter
from collections.abc import Mapping, Sequence

from deployments.tools.advise import slices as slicing
from deployments.tools.advise.derived import Choice, Derived, doubted
from deployments.tools.advise.inputs import MIN_UNITS
from deployments.tools.advise.languages import language, names_of
from deployments.tools.advise.latency import Timing
from deployments.tools.advise.quality import Task
from deployments.tools.advise.slices import Difference, Slice
from deployments.tools.advise.survey import AdvisePlan
from deployments.tools.advise.traffic import CROSSED, ROUTED, PolicyOutcome

ONE_LANGUAGE = 0.9  # share of a task's units that makes it a task of one language
MAX_LANGUAGES = 3  # named in a mixture


def verdict(
    plan: AdvisePlan,
    tasks: Sequence[Task],
    found: Sequence[Slice],
    derived: Derived,
    traffic: Sequence[PolicyOutcome],
    min_gain: float,
    timing: Mapping[str, Timing],
) -> tuple[str, list[str]]:
    """Return the headline, and the lines below it."""
    largest = [candidate for candidate in plan.candidates if candidate.tiers][-1].name
    if not traffic:
        task = tasks[0]
        shares = ", ".join(
            f"{model} {100 * scores.mean():.0f} %"
            for model, scores in task.scores.items()
            if model != largest
        )
        return (
            "Nothing here says which model is better: there are no judgements, pairs or labels.",
            [
                f"Of what {largest} finds the others find: {shares}. That is agreement, not "
                "quality: a better model would disagree as much as a worse one. Judge a few "
                "hundred queries or pairs, of the kind where they disagree most."
            ],
        )
    head = _headline(plan, largest, derived, timing, min_gain)
    whole = {item.task: item for item in found if item.dimension == "all"}
    more = [
        _task_verdict(task, whole[task.name], min_gain)
        for task in tasks
        if task.kind != "agreement"
    ]
    more += _worse(found, min_gain)
    routed, fair, always = _policies(traffic)
    if derived.undecided:
        default = _named(plan, derived.default_model)
        head += f". Not enough rows to tell: the default {default} stays"
    if routed is None:
        return head + ".", more
    top, low = always[largest], always[next(iter(always))]
    routing_line = (
        f"By routing.yaml these texts have {routed.quality:.1f} points at {_share(routed, top)} of "
        f"the device time of {top.name} ({top.quality:.1f})"
    )
    if fair is not None:
        routing_line += (
            f"; by rules made from half of them, the other half has {fair.quality:.1f}, "
            f"{_compared(fair, top)}"
        )
        own = (
            "Rules flatter the texts they were made from. The fair figure judges each half of the "
            "texts by rules made from the other half, which can differ from routing.yaml: "
            f"{_versus(fair, top)}, and {_versus(fair, low)}, at {_share(fair, top)} of the device "
            f"time of {top.name}."
        )
    else:
        own = (
            "That figure flatters: its rules were made from these very texts. There are too few "
            f"texts here to judge them fairly: that takes {2 * MIN_UNITS} of a task, half to "
            "make rules."
        )
    if derived.default_choice is None:
        return head + ".", [*more, own]
    return f"{head}. {routing_line}.", [*more, own]


def _share(outcome: PolicyOutcome, top: PolicyOutcome) -> str:
    """Format the device time of an outcome as a share of another's."""
    return f"{outcome.device_s / top.device_s if top.device_s else 1.0:.0%}"


def _policies(
    traffic: Sequence[PolicyOutcome],
) -> tuple[PolicyOutcome | None, PolicyOutcome | None, dict[str, PolicyOutcome]]:
    """Return outcomes: routed, routed by the other half's rules, and always each model.

    The first two are None if they were not measured.
    """
    return (
        next((item for item in traffic if item.name == ROUTED), None),
        next((item for item in traffic if item.name == CROSSED), None),
        {
            item.name.removeprefix("always "): item
            for item in traffic
            if item.name.startswith("always ")
        },
    )


def _compared(one: PolicyOutcome, other: PolicyOutcome) -> str:
    points, low, high = one.against[other.name]
    how = (
        "not measurably other than"
        if low <= 0.0 <= high
        else f"measurably {'above' if points > 0 else 'below'}"
    )
    return f"{how} {other.name} ({other.quality:.1f})"


def _worse(found: Sequence[Slice], min_gain: float) -> list[str]:
    """List where a larger model is measurably worse than a smaller one by at least `min_gain`."""
    by_pair: dict[tuple[str, str], list[str]] = {}
    for item in found:
        if item.dimension != "language":
            continue
        for gap in item.differences:
            if gap.is_measured and gap.points <= -min_gain:
                by_pair.setdefault((gap.smaller, gap.larger), []).append(
                    f"{language(item.value)} in {item.task} {_interval(gap)}"
                )
    return [
        f"{larger} is measurably worse than the smaller {smaller}: {', '.join(where)}."
        for (smaller, larger), where in by_pair.items()
    ]


def _headline(
    plan: AdvisePlan, largest: str, derived: Derived, timing: Mapping[str, Timing], min_gain: float
) -> str:
    """Say what is worth it and what it costs, what is enough, and what these texts cannot tell.

    No measurable gain does not yet mean no gain.
    """
    if derived.languages:
        choices = {
            language(code): choice for code, choice in derived.languages.items() if choice.model
        }
    elif derived.default_choice:
        choices = {"these texts": derived.default_choice}
    else:
        return "There are too few judged texts to tell the models apart"
    worth, doubtful, is_enough = dict[str, Choice](), list[str](), dict[str, list[str]]()
    for name, choice in choices.items():
        model = choice.model or largest
        if model == largest:
            worth[name] = choice
        elif (one := slicing.doubt(choice.differences, model, min_gain)) is None:
            is_enough.setdefault(model, []).append(name)
        else:
            named = one._replace(larger=_named(plan, one.larger), smaller=_named(plan, one.smaller))
            doubtful.append(f"for {name} {doubted(choice, named)}")
    rest = [
        f"for {names_of(names)} {_named(plan, model)} is enough"
        for model, names in is_enough.items()
    ]
    if worth:
        shown = [f"not shown to be so elsewhere: {doubtful[0]}", *doubtful[1:]] if doubtful else []
        gains = _gains(largest, worth, derived, timing)
        return "; ".join([f"{_named(plan, largest)} is worth it{gains}", *rest, *shown])
    verb = "is not shown to be worth its cost here" if doubtful else "is not worth its cost here"
    return f"{_named(plan, largest)} {verb}: " + "; ".join([*rest, *doubtful])


def about_rules(derived: Derived) -> list[str]:
    """Explain what pasting routing.yaml does to the rules in force."""
    if derived.tiers is None:
        return [
            "The rules in force are not known: routing.yaml replaces them, so compare it with them "
            "first. An admin key lets advise read them, or --policy names a file with them."
        ]
    kept = [rule.name for rule in derived.rules if rule.source == "kept"]
    lines = []
    if derived.undecided or derived.default_choice is None:
        lines.append(f"The default {derived.default_model} is {derived.default_why}.")
    if kept:
        lines.append(
            f"Of the rules in force routing.yaml keeps {', '.join(kept)}: these texts do not "
            "settle that a smaller model is enough there."
        )
    if derived.dropped:
        names = ", ".join(dict.fromkeys(item.name for item in derived.dropped))
        lines.append(f"It leaves out all or parts of {names}; its last lines say why.")
    return lines


def _gains(
    largest: str, worth: Mapping[str, Choice], derived: Derived, timing: Mapping[str, Timing]
) -> str:
    """Say what the largest model gains for each language, and what that costs.

    It is compared with the model that would answer otherwise.
    """
    models = list(timing)
    base = derived.default_model
    if base not in models or base == largest:  # compare with the next smaller one
        base = models[models.index(largest) - 1]
    gains = []
    for name, choice in worth.items():
        gap = next(
            (g for g in choice.differences if (g.smaller, g.larger) == (base, largest)), None
        )
        gains.append(f"{name}" if gap is None else f"{gap.points:+.1f} points for {name}")
    one, other = timing[largest], timing[base]
    ratio = one.device_s_per_million / other.device_s_per_million
    price, dear, cheap = "", one.price_per_million, other.price_per_million
    if dear is not None and cheap is not None:
        price = f", {dear:.2f} instead of {cheap:.2f} per million texts"
    listed = gains[0] if len(gains) == 1 else f"{', '.join(gains[:-1])} and {gains[-1]}"
    return f": {listed} over {base} at {ratio:.1f} times the device time{price}"


def _versus(one: PolicyOutcome, other: PolicyOutcome) -> str:
    points, low, high = one.against[other.name]
    if low <= 0.0 <= high:
        return f"not measurably other than {other.name} ({other.quality:.1f})"
    return f"{points:+.1f} [{low:+.1f}, {high:+.1f}] against {other.name} ({other.quality:.1f})"


def _task_verdict(task: Task, whole: Slice, min_gain: float) -> str:
    """Sum up a task by the differences that hold for all comparisons together."""
    models, found = list(task.scores), whole.differences
    model = slicing.enough(found, models, min_gain)
    about = f"{task.name} ({_spoken(task)}, {len(task.units)} {NOUNS[task.kind]})"
    if not found:
        return f"{about}: too few, or too much alike, to tell the models apart."
    over = next(
        (item for item in found if item.smaller == model and item.larger == models[-1]), None
    )
    if over is None:
        gap = next(
            item for item in found if item.smaller == models[-2] and item.larger == models[-1]
        )
        return f"{about}: {model} is measurably better, {_interval(gap)} over {models[-2]}."
    if (one := slicing.doubt(found, model, min_gain)) is not None:
        return (
            f"{about}: nothing is shown to be worth more than {model}, nor ruled out; "
            f"{one.larger} has {_interval(one)}."
        )
    return f"{about}: {model} is enough; {models[-1]} has {_interval(over)}."


def _spoken(task: Task) -> str:
    """Name the language of a task, or the largest shares of its mixture."""
    counts = Counter(unit.features.language for unit in task.units if unit.features.language)
    if not counts:
        return "language unknown"
    (first, count), *others = counts.most_common(MAX_LANGUAGES)
    if count >= ONE_LANGUAGE * len(task.units):
        return language(first)
    shown = [(first, count), *others]
    shares = [f"{language(code)} {count / len(task.units):.0%}" for code, count in shown]
    rest = len(task.units) - sum(count for _, count in shown)
    return ", ".join([*shares, f"other {rest / len(task.units):.0%}"] if rest else shares)


NOUNS = {"retrieval": "queries", "pairs": "pairs", "labels": "texts", "agreement": "texts"}


def _interval(difference: Difference) -> str:
    return f"{difference.points:+.1f} [{difference.low:+.1f}, {difference.high:+.1f}]"


def _named(plan: AdvisePlan, model: str) -> str:
    tiers = next(candidate.tiers for candidate in plan.candidates if candidate.name == model)
    return f"{model} ({', '.join(tiers)})" if tiers else model


def slice_result(found: Slice, models: Sequence[str], min_gain: float) -> tuple[str, str]:
    """Sum up a slice: a word for its colour, and a sentence on the larger models."""
    if not found.differences:
        return "few", f"too few to tell ({found.units})"
    model = slicing.enough(found.differences, models, min_gain)
    if place := models.index(model):
        # Those that rule the smaller models out; the chosen model's own is preferred.
        gains = [
            each
            for each in found.differences
            if each.smaller in models[:place]
            and each.larger in models[place:]
            and each.is_measured
            and each.points >= min_gain
        ]
        gain = max(gains, key=lambda each: (each.larger == model, models.index(each.smaller)))
        own = (
            "" if gain.larger == model else f" is enough, but {gain.smaller} is not; {gain.larger}"
        )
        return "gain", f"{model}{own}: {_interval(gain)} over {gain.smaller}"
    best = max(
        (each for each in found.differences if each.smaller == model), key=lambda each: each.points
    )
    if best.is_measured and best.points < 0:
        return "none", f"{model} is enough: the next best has {_interval(best)}"
    return "none", f"no measurable gain of {min_gain:g} points: {best.larger} has {_interval(best)}"
