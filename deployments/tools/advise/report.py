"""Everything that was found, as one dictionary and as three files."""

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployments.tools.advise import quality, rules_yaml
from deployments.tools.advise import slices as slicing
from deployments.tools.advise.derived import Choice
from deployments.tools.advise.in_force import derive
from deployments.tools.advise.inputs import MIN_UNITS, Inputs
from deployments.tools.advise.latency import AT_ONCE, Timing
from deployments.tools.advise.quality import Task
from deployments.tools.advise.slices import Slice
from deployments.tools.advise.survey import AdvisePlan
from deployments.tools.advise.traffic import outcomes
from deployments.tools.advise.verdict import NOUNS, about_rules, slice_result, verdict
from deployments.tools.migrate import write_whole
from router.arrays import Indices

FLOAT_BYTES = 4
MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class AdviseReport:
    """The contents of the report: its data, and the policy file's text."""

    data: Mapping[str, Any]
    routing: str


def make(
    plan: AdvisePlan,
    inputs: Inputs,
    output: Path,
    timing: Mapping[str, Timing],
    budget_ms: float | None,
    gpu_hour: float | None,
    min_gain: float,
) -> AdviseReport:
    """Measure quality with the kept vectors, and put the report together."""
    tasks = quality.tasks(plan, inputs, output)
    found = slicing.holm([item for task in tasks for item in slicing.slices(plan, task)])
    derived = derive(plan, tasks, min_gain)
    traffic = outcomes(plan, tasks, derived, timing, min_gain, gpu_hour)
    late = (
        {}
        if budget_ms is None
        else {name: 1.0 - (measured.in_budget or 0.0) for name, measured in timing.items()}
    )
    routing = rules_yaml.yaml(plan, derived, budget_ms, late, min_gain)
    judged = [task for task in tasks if task.kind != "agreement"]
    headline, more = verdict(plan, tasks, found, derived, traffic, min_gain, timing)
    more += about_rules(derived)
    data = {
        "made": datetime.date.today().isoformat(),
        "verdict": headline,
        "more": more,
        "notes": inputs.notes,
        "budget_ms": budget_ms,
        "gpu_hour": gpu_hour,
        "min_gain": min_gain,
        "at_once": AT_ONCE,
        "looks": sum(len(item.differences) for item in found),
        "least_units": MIN_UNITS,
        "models": [_model(plan, place, judged, timing) for place in range(len(plan.candidates))],
        "tasks": [
            _task(plan, task, [item for item in found if item.task == task.name], min_gain)
            for task in tasks
        ],
        "dimensions": _dimensions(plan, judged),
        "routing": {
            "default_tier": derived.default,
            "default_model": derived.default_model,
            "why": derived.default_why,
            "undecided": derived.undecided,
            "rules": [
                {**rule._asdict(), "when": dict(rule.when), "choice": _choice(rule.choice)}
                for rule in derived.rules
            ],
            "languages": {name: _choice(choice) for name, choice in derived.languages.items()},
            "silent": derived.silent,
            "in_force_known": derived.tiers is not None,
            "dropped": [item._asdict() for item in derived.dropped],
        },
        "traffic": [item._asdict() for item in traffic],
        "collections": [_collection(plan, name, space) for name, space in plan.collections.items()],
    }
    return AdviseReport(_finite(data), routing)


def written(report: AdviseReport, output: Path) -> str:
    """Write the three files; return what to print."""
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


def _all(task: Task) -> Indices:
    import numpy as np

    return np.arange(len(task.units))


def _model(
    plan: AdvisePlan, place: int, tasks: Sequence[Task], timing: Mapping[str, Timing]
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


def _task(plan: AdvisePlan, task: Task, found: Sequence[Slice], min_gain: float) -> dict[str, Any]:
    models = list(task.scores)
    rows = []
    for item in found:
        tone, sentence = (
            slice_result(item, models, min_gain)
            if task.kind != "agreement"
            else ("none", "agreement is not quality")
        )
        rows.append(
            {
                "dimension": item.dimension,
                "value": item.value,
                "units": item.units,
                "values": dict(item.values),
                "differences": [
                    {**each._asdict(), "measured": each.is_measured} for each in item.differences
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


def _dimensions(plan: AdvisePlan, tasks: Sequence[Task]) -> list[dict[str, Any]]:
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


def _collection(plan: AdvisePlan, name: str, space: str) -> dict[str, Any]:
    return {
        "name": name,
        "space": space,
        "measured": space.rpartition("/")[0] in {candidate.name for candidate in plan.candidates},
    }


def _choice(choice: Choice | None) -> dict[str, Any] | None:
    if choice is None:
        return None
    return {
        "model": choice.model,
        "units": choice.units,
        "evidence": [item._asdict() for item in choice.evidence],
        "differences": [difference._asdict() for difference in choice.differences],
    }


def _finite(data: Any) -> Any:
    """Convert to plain data; numbers have six digits, NaN and infinity become null."""
    if isinstance(data, float):
        return (
            None if data != data or data in (float("inf"), float("-inf")) else float(f"{data:.6g}")
        )
    if isinstance(data, Mapping):
        return {str(key): _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return data
