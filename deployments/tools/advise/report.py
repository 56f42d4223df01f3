"""Everything that was found as one dictionary, the sentence that says it, and the three files that
hold it.
"""

import datetime
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployments.tools.advise import quality, rules_yaml
from deployments.tools.advise import slices as slicing
from deployments.tools.advise.in_force import derive
from deployments.tools.advise.inputs import LEAST_UNITS, Inputs
from deployments.tools.advise.languages import language, names_of
from deployments.tools.advise.latency import AT_ONCE, Timing
from deployments.tools.advise.quality import Task
from deployments.tools.advise.rules import Choice, Derived
from deployments.tools.advise.run import Plan
from deployments.tools.advise.slices import Difference, Slice
from deployments.tools.advise.traffic import CROSSED, ROUTED, Outcome, outcomes
from deployments.tools.migrate import write_whole

FLOAT_BYTES = 4
MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Report:
    """What is written: the data, and the policy file's text."""

    data: Mapping[str, Any]
    routing: str


def make(
    plan: Plan,
    inputs: Inputs,
    output: Path,
    timing: Mapping[str, Timing],
    budget_ms: float | None,
    gpu_hour: float | None,
    min_gain: float,
) -> Report:
    """Measure what the kept vectors are worth, and put it together."""
    tasks = quality.tasks(plan, inputs, output)
    found = slicing.holm([one for task in tasks for one in slicing.slices(plan, task)])
    derived = derive(plan, tasks, min_gain)
    traffic = outcomes(plan, tasks, derived, timing, min_gain, gpu_hour)
    late = (
        {}
        if budget_ms is None
        else {name: 1.0 - (one.in_budget or 0.0) for name, one in timing.items()}
    )
    routing = rules_yaml.yaml(plan, derived, budget_ms, late, min_gain)
    judged = [task for task in tasks if task.kind != "agreement"]
    headline, more = verdict(plan, tasks, found, derived, traffic, min_gain)
    more += _about_rules(derived)
    data = {
        "made": datetime.date.today().isoformat(),
        "verdict": headline,
        "more": more,
        "notes": inputs.notes,
        "budget_ms": budget_ms,
        "gpu_hour": gpu_hour,
        "min_gain": min_gain,
        "at_once": AT_ONCE,
        "looks": sum(len(one.differences) for one in found),
        "least_units": LEAST_UNITS,
        "models": [_model(plan, place, judged, timing) for place in range(len(plan.candidates))],
        "tasks": [
            _task(plan, task, [one for one in found if one.task == task.name], min_gain)
            for task in tasks
        ],
        "dimensions": _dimensions(plan, judged),
        "routing": {
            "default_tier": derived.default,
            "default_model": derived.default_model,
            "why": derived.default_why,
            "rules": [
                {**one._asdict(), "when": dict(one.when), "choice": _choice(one.choice)}
                for one in derived.rules
            ],
            "languages": {name: _choice(choice) for name, choice in derived.languages.items()},
            "silent": derived.silent,
            "in_force_known": derived.tiers is not None,
            "dropped": [one._asdict() for one in derived.dropped],
        },
        "traffic": [one._asdict() for one in traffic],
        "collections": [_collection(plan, name, space) for name, space in plan.collections.items()],
    }
    return Report(_finite(data), routing)


def written(report: Report, output: Path) -> str:
    """Write the three files; returns what to print."""
    from deployments.tools.advise.page import draw

    texts = {
        "report.json": json.dumps(report.data, indent=1, ensure_ascii=False) + "\n",
        "routing.yaml": report.routing,
        "index.html": draw(report.data, report.routing),
    }
    for name, text in texts.items():
        write_whole(output / name, lambda path, text=text: path.write_text(text, encoding="utf-8"))  # type: ignore[misc]
    return "\n".join(
        [
            report.data["verdict"],
            *report.data["more"],
            "",
            f"to read: {output / 'index.html'}",
            f"the rules, with their evidence: {output / 'routing.yaml'}",
        ]
    )


def verdict(
    plan: Plan,
    tasks: Sequence[Task],
    found: Sequence[Slice],
    derived: Derived,
    traffic: Sequence[Outcome],
    min_gain: float,
) -> tuple[str, list[str]]:
    """The sentence, and what stands below it."""
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
    head = _headline(plan, largest, derived, min_gain)
    whole = {one.task: one for one in found if one.dimension == "all"}
    more = [
        _task_verdict(task, whole[task.name], min_gain)
        for task in tasks
        if task.kind != "agreement"
    ]
    routed = next(one for one in traffic if one.name == ROUTED)
    fair = next((one for one in traffic if one.name == CROSSED), None)
    always = {
        one.name.removeprefix("always "): one for one in traffic if one.name.startswith("always ")
    }
    top = always[largest]
    low = always[next(iter(always))]
    share = routed.device_s / top.device_s if top.device_s else 1.0
    more.append(
        f"Routed this way these texts have {routed.quality:.1f} points for {share:.0%} of the "
        f"device time of always {largest}. "
        "Rules flatter the texts they were made from; "
        + (
            f"there are too few texts here to judge them fairly: that takes {2 * LEAST_UNITS} of "
            "a task, half to make rules."
            if fair is None
            else f"with rules made from the other half of the texts it is {fair.quality:.1f}: "
            f"{_versus(fair, top)}, and "
            f"{_versus(fair, low)}."
        )
    )
    return head + ".", more


def _headline(plan: Plan, largest: str, derived: Derived, min_gain: float) -> str:
    """What is worth it, what is enough, and what these texts cannot tell: no measurable gain is not
    yet no gain.
    """
    if derived.languages:
        choices = {
            language(code): choice for code, choice in derived.languages.items() if choice.model
        }
    elif derived.default_choice:
        choices = {"these texts": derived.default_choice}
    else:
        return "There are too few judged texts to tell the models apart"
    worth, doubtful, is_enough = list[str](), list[str](), dict[str, list[str]]()
    for name, choice in choices.items():
        model = choice.model or largest
        if model == largest:
            worth.append(name)
        elif (one := slicing.doubt(choice.differences, model, min_gain)) is None:
            is_enough.setdefault(model, []).append(name)
        else:
            doubtful.append(
                f"for {name} {choice.units:,} texts cannot rule out {one.high:+.1f} points of "
                f"{_named(plan, one.larger)} over "
                f"{_named(plan, model)}"
            )
    rest = [
        f"for {names_of(names)} {_named(plan, model)} is enough"
        for model, names in is_enough.items()
    ]
    if worth:
        shown = [f"not shown to be so elsewhere: {doubtful[0]}", *doubtful[1:]] if doubtful else []
        return "; ".join(
            [f"{_named(plan, largest)} is worth its price for {names_of(worth)}", *rest, *shown]
        )
    verb = "is not shown to be worth its price here" if doubtful else "is not worth its price here"
    return f"{_named(plan, largest)} {verb}: " + "; ".join([*rest, *doubtful])


def _about_rules(derived: Derived) -> list[str]:
    """What pasting routing.yaml does to the rules in force."""
    if derived.tiers is None:
        return [
            "The rules in force are not known: routing.yaml replaces them, so compare it with them "
            "first. An admin key lets advise read them, or --policy names a file with them."
        ]
    kept = [rule.name for rule in derived.rules if rule.source == "kept"]
    lines = []
    if kept:
        lines.append(
            f"Of the rules in force routing.yaml keeps {', '.join(kept)}: these texts do not "
            "settle that a smaller model is enough there."
        )
    if derived.dropped:
        names = ", ".join(dict.fromkeys(one.name for one in derived.dropped))
        lines.append(f"It leaves out all or parts of {names}; its last lines say why.")
    return lines


def _versus(one: Outcome, other: Outcome) -> str:
    points, low, high = one.against[other.name]
    if low <= 0.0 <= high:
        return f"not measurably other than {other.name} ({other.quality:.1f})"
    return f"{points:+.1f} [{low:+.1f}, {high:+.1f}] against {other.name} ({other.quality:.1f})"


def _task_verdict(task: Task, whole: Slice, min_gain: float) -> str:
    """Of the whole task, by the differences that hold for all comparisons together."""
    models, found = list(task.scores), whole.differences
    model = slicing.enough(found, models, min_gain)
    spoken = Counter(
        unit.features.language for unit in task.units if unit.features.language
    ).most_common(1)
    about = (
        f"{task.name} ({language(spoken[0][0]) if spoken else 'language unknown'}, "
        f"{len(task.units)} {NOUNS[task.kind]})"
    )
    if not found:
        return f"{about}: too few, or too much alike, to tell the models apart."
    over = next((one for one in found if one.smaller == model and one.larger == models[-1]), None)
    if over is None:
        gap = next(one for one in found if one.smaller == models[-2] and one.larger == models[-1])
        return f"{about}: {model} is measurably better, {_interval(gap)} over {models[-2]}."
    if (one := slicing.doubt(found, model, min_gain)) is not None:
        return (
            f"{about}: nothing is shown to be worth more than {model}, nor ruled out; "
            f"{one.larger} has {_interval(one)}."
        )
    return f"{about}: {model} is enough; {models[-1]} has {_interval(over)}."


NOUNS = {"retrieval": "queries", "pairs": "pairs", "labels": "texts", "agreement": "texts"}


def _all(task: Task) -> quality.Rows:
    import numpy as np

    return np.arange(len(task.units))


def _interval(one: Difference) -> str:
    return f"{one.points:+.1f} [{one.low:+.1f}, {one.high:+.1f}]"


def _named(plan: Plan, model: str) -> str:
    tiers = next(candidate.tiers for candidate in plan.candidates if candidate.name == model)
    return f"{model} ({', '.join(tiers)})" if tiers else model


def says(one: Slice, models: Sequence[str], min_gain: float) -> tuple[str, str]:
    """What a slice says of the larger models: a word for its colour, and the sentence."""
    if not one.differences:
        return "few", f"too few to tell ({one.units})"
    model = slicing.enough(one.differences, models, min_gain)
    if place := models.index(model):
        # Those that rule the smaller ones out: the chosen model's own where it has one.
        gains = [
            each
            for each in one.differences
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
        (each for each in one.differences if each.smaller == model), key=lambda each: each.points
    )
    if best.is_measured and best.points < 0:
        return "none", f"{model} is enough: the next best has {_interval(best)}"
    return "none", f"no measurable gain of {min_gain:g} points: {best.larger} has {_interval(best)}"


def _model(
    plan: Plan, place: int, tasks: Sequence[Task], timing: Mapping[str, Timing]
) -> dict[str, Any]:
    candidate = plan.candidates[place]
    by_task = {task.name: task.value(task.scores[candidate.name], _all(task)) for task in tasks}
    mean = sum(by_task.values()) / len(by_task) if by_task else None
    return {
        **candidate._asdict(),
        "quality": mean,
        "by_task": by_task,
        **timing[candidate.name]._asdict(),
    }


def _task(plan: Plan, task: Task, found: Sequence[Slice], min_gain: float) -> dict[str, Any]:
    models = list(task.scores)
    rows = []
    for one in found:
        tone, sentence = (
            says(one, models, min_gain)
            if task.kind != "agreement"
            else ("none", "agreement is not quality")
        )
        rows.append(
            {
                "dimension": one.dimension,
                "value": one.value,
                "units": one.units,
                "values": dict(one.values),
                "differences": [
                    {**each._asdict(), "measured": each.is_measured} for each in one.differences
                ],
                "tone": tone,
                "says": sentence,
            }
        )
    return {
        "name": task.name,
        "kind": task.kind,
        "metric": task.metric,
        "units": len(task.units),
        "noun": NOUNS[task.kind],
        "more": task.more,
        "slices": rows,
        "cut": dict(quality.read_whole(task, plan)),
    }


def _dimensions(plan: Plan, tasks: Sequence[Task]) -> list[dict[str, Any]]:
    """Quality by vector size, for models trained to be cut."""
    made = []
    for candidate in plan.candidates:
        if len(candidate.cuts) < 2 or not tasks:
            continue
        for size in candidate.cuts:
            by_task = {task.name: task.cuts[candidate.name][size] for task in tasks}
            made.append(
                {
                    "model": candidate.name,
                    "size": size,
                    "by_task": by_task,
                    "quality": sum(by_task.values()) / len(by_task),
                    "bytes_per_million": size * FLOAT_BYTES * MILLION,
                }
            )
    return made


def _collection(plan: Plan, name: str, space: str) -> dict[str, Any]:
    return {
        "name": name,
        "space": space,
        "measured": space.rpartition("/")[0] in {one.name for one in plan.candidates},
    }


def _choice(choice: Choice | None) -> dict[str, Any] | None:
    if choice is None:
        return None
    return {
        "model": choice.model,
        "units": choice.units,
        "evidence": [one._asdict() for one in choice.evidence],
        "differences": [one._asdict() for one in choice.differences],
    }


def _finite(data: Any) -> Any:
    """Plain data with numbers rounded to what they mean, and null where there is none."""
    if isinstance(data, float):
        return (
            None if data != data or data in (float("inf"), float("-inf")) else float(f"{data:.6g}")
        )
    if isinstance(data, Mapping):
        return {str(key): _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return data
