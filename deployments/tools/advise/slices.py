"""Find where a larger model is measurably better: paired bootstrap over all units and slices.

Each resample draws the same units for all models, so what is hard for all cancels out. Intervals
are percentiles of 1,000 resamples, 95 %; p-values assume that the difference is normal with the
resamples' deviation. By chance about two of forty slices differ, so Holm's method raises the
p-values of all comparisons of the report together. Only what is then below 0.05 is called measured.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from deployments.tools.advise.inputs import MIN_UNITS
from deployments.tools.advise.quality import SEED, Task, Unit
from deployments.tools.advise.survey import AdvisePlan
from router.arrays import Floats, Indices

RESAMPLES, FEW_RESAMPLES = 1000, 200
ALPHA = 0.05
BANDS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)  # tokens
SHOWN_LANGUAGES = 12


class Difference(NamedTuple):
    """Points of a larger model over a smaller one on the same units."""

    smaller: str
    larger: str
    points: float
    low: float  # 95 % interval
    high: float
    p: float
    error: float  # standard error

    @property
    def is_measured(self) -> bool:
        """Whether the models differ measurably, either way.

        After `holm` this holds for all comparisons together.
        """
        return self.p < ALPHA


class Slice(NamedTuple):
    """Some units of a task, and every model's value on them.

    `differences` is empty if there are too few units to tell.
    """

    task: str
    dimension: str  # "all", "language", "tokens", ...
    value: str
    units: int
    values: Mapping[str, float]
    differences: tuple[Difference, ...]


def differences(
    task: Task, models: Sequence[str], rows: Indices, resamples: int = RESAMPLES
) -> tuple[Difference, ...]:
    """Compare every model with every smaller one on these units."""
    rng = np.random.default_rng(SEED)
    draws = rows[rng.integers(0, len(rows), (resamples, len(rows)))]
    drawn = task.resampled(draws)
    made = []
    for place, larger in enumerate(models):
        for smaller in models[:place]:
            points = task.value(task.scores[larger], rows) - task.value(task.scores[smaller], rows)
            made.append(difference(smaller, larger, points, drawn[larger] - drawn[smaller]))
    return tuple(made)


def gaps(task: Task, models: Sequence[str], rows: Indices) -> tuple[Difference, ...]:
    """Compare as `differences` does, but faster.

    The error of a mean needs no resamples, that of a correlation few.
    """
    if task.gold is not None:
        return differences(task, models, rows, FEW_RESAMPLES)
    made = []
    for place, larger in enumerate(models):
        for smaller in models[:place]:
            gap = 100.0 * (task.scores[larger][rows] - task.scores[smaller][rows])
            points, error = float(gap.mean()), float(gap.std(ddof=1)) / len(gap) ** 0.5
            made.append(
                Difference(
                    smaller,
                    larger,
                    points,
                    points - 1.96 * error,
                    points + 1.96 * error,
                    p_value(points, error),
                    error,
                )
            )
    return tuple(made)


def difference(smaller: str, larger: str, points: float, drawn: Floats) -> Difference:
    """Make a difference from its resamples."""
    error = float(drawn.std(ddof=1))
    low, high = (float(edge) for edge in np.quantile(drawn, (0.025, 0.975)))
    return Difference(smaller, larger, points, low, high, p_value(points, error), error)


def p_value(points: float, error: float) -> float:
    """Two-sided p-value of no difference."""
    if error <= 0.0:
        return 1.0 if points == 0.0 else 0.0
    return math.erfc(abs(points) / (error * math.sqrt(2.0)))


def slices(plan: AdvisePlan, task: Task) -> Iterator[Slice]:
    """Yield the whole task, then its slices.

    A dimension in which all units are alike is left out.
    """
    models = list(task.scores)
    everything = np.arange(len(task.units))
    yield _slice(task, models, "all", "all", everything)
    for dimension, name_of in dimensions(plan, task):
        names = [name_of(unit) for unit in task.units]
        counts = Counter(name for name in names if name is not None)
        if len(counts) < 2:
            continue
        for value in _ordered(dimension, counts):
            rows = np.array([row for row, name in enumerate(names) if name == value], np.int64)
            yield _slice(task, models, dimension, value, rows)


def dimensions(plan: AdvisePlan, task: Task) -> list[tuple[str, Callable[[Unit], str | None]]]:
    """List the dimensions that a task is sliced by, with the value of a unit in each."""
    largest = plan.candidates[-1].name
    languages = Counter(unit.features.language or "unknown" for unit in task.units)
    shown = {language for language, _ in languages.most_common(SHOWN_LANGUAGES)}

    def language(unit: Unit) -> str:
        own = unit.features.language or "unknown"
        return own if own in shown else "other"

    def tokens(unit: Unit) -> str:
        return band(plan.tokens[largest].of(len(unit.longest), unit.features.script))

    def answer(unit: Unit) -> str | None:
        return (
            band(plan.tokens[largest].of(unit.answer_characters, unit.features.script))
            if unit.answer_characters
            else None
        )

    return [
        ("language", language),
        ("script", lambda unit: unit.features.script or "none"),
        ("mixed", lambda unit: "mixed" if unit.features.mixed else "one language"),
        ("code", lambda unit: "code" if unit.features.code else "prose"),
        ("tokens", tokens),
        ("tokens of the right document", answer),
        ("side", lambda unit: unit.side),
    ]


def band(tokens: int) -> str:
    """Name the band that a length falls into."""
    edges = (0, *BANDS)
    place = max(index for index, edge in enumerate(edges) if tokens >= edge)
    if place == 0:
        return f"under {BANDS[0]}"
    return (
        f"{edges[place]} or more"
        if place == len(BANDS)
        else f"{edges[place]} to {edges[place + 1] - 1}"
    )


def holm(found: Sequence[Slice]) -> list[Slice]:
    """Raise p-values so that they hold for all comparisons together (Holm 1979)."""
    raw = [item.p for each in found for item in each.differences]
    order = sorted(range(len(raw)), key=raw.__getitem__)
    adjusted, highest = [0.0] * len(raw), 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, raw[index] * (len(raw) - place)))
        adjusted[index] = highest
    values = iter(adjusted)
    return [
        each._replace(differences=tuple(item._replace(p=next(values)) for item in each.differences))
        for each in found
    ]


def enough(
    found: Sequence[Difference], models: Sequence[str], min_gain: float, alpha: float = ALPHA
) -> str:
    """Find the smallest model that no larger one beats measurably by `min_gain` points or more."""
    for model in models:
        if not any(
            item.smaller == model and item.p < alpha and item.points >= min_gain for item in found
        ):
            return model
    return models[-1]


def doubt(found: Sequence[Difference], model: str, min_gain: float) -> Difference | None:
    """Return the difference to the larger model that can still be worth it; None without one.

    Its interval reaches `min_gain` points over this model.
    """
    open_still = [item for item in found if item.smaller == model and item.high >= min_gain]
    return max(open_still, key=lambda difference: difference.high, default=None)


def _slice(task: Task, models: Sequence[str], dimension: str, value: str, rows: Indices) -> Slice:
    values = {model: task.value(task.scores[model], rows) for model in models}
    measured = len(rows) >= MIN_UNITS and not np.isnan(list(values.values())).any()
    made = differences(task, models, rows) if measured else ()
    return Slice(task.name, dimension, value, len(rows), values, made)


def _ordered(dimension: str, counts: Mapping[str, int]) -> list[str]:
    if dimension.startswith("tokens"):
        order = [band(edge) for edge in (0, *BANDS)]
        return sorted(counts, key=order.index)
    return sorted(counts, key=lambda name: -counts[name])
