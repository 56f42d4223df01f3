"""Slices of a report tell the gains that were measured, and none that chance makes."""

from collections.abc import Sequence

import numpy as np
import pytest

from deployments.tools.advise import slices, verdict
from deployments.tools.advise.quality import Task
from tests.support.advise_plan import MODELS, plan, task, unit


def test_of_forty_slices_of_chance_none_is_called_measured() -> None:
    units = [unit() for _ in range(40 * 60)]
    rng = np.random.default_rng(11)
    coins = {model: rng.integers(0, 2, len(units)).astype(float) for model in MODELS}
    one = Task("t", "labels", "accuracy", tuple(units), scores=coins)
    raw = [
        each
        for place in range(40)
        for each in slices.differences(one, MODELS, np.arange(60 * place, 60 * (place + 1)))
    ]
    assert any(each.p < 0.05 for each in raw)  # what one would fall for
    adjusted = slices.holm(
        [
            slices.Slice("t", "language", str(place), 60, {}, (each,))
            for place, each in enumerate(raw)
        ]
    )
    assert not any(row.differences[0].is_measured for row in adjusted)


def test_holm_is_the_step_down_of_the_book() -> None:
    def row(p: float) -> slices.Slice:
        return slices.Slice(
            "t", "d", "v", 99, {}, (slices.Difference("a", "b", 1.0, 0.0, 2.0, p, 1.0),)
        )

    adjusted = [
        each.differences[0].p for each in slices.holm([row(p) for p in (0.01, 0.04, 0.03, 0.005)])
    ]
    assert adjusted == pytest.approx([0.03, 0.06, 0.06, 0.02])


def gap(smaller: str, larger: str, points: float, p: float) -> slices.Difference:
    return slices.Difference(smaller, larger, points, points - 1.0, points + 1.0, p, 0.5)


@pytest.mark.parametrize(
    ("gaps", "said"),
    [
        (
            (
                ("small", "middle", 5.0, 0.0),
                ("small", "large", 5.0, 0.0),
                ("middle", "large", 0.0, 1.0),
            ),
            ("gain", "middle: +5.0"),
        ),
        (
            (
                ("small", "middle", 1.2, 0.3),
                ("small", "large", 2.5, 0.01),
                ("middle", "large", 1.3, 0.3),
            ),
            (
                "gain",
                "middle is enough, but small is not; large: +2.5",
            ),  # never +1.2, which nobody measured
        ),
        (
            (
                ("small", "middle", 1.2, 0.3),
                ("small", "large", 0.5, 0.6),
                ("middle", "large", -0.7, 0.5),
            ),
            ("none", "no meas"),
        ),
    ],
)
def test_a_slice_tells_only_gains_that_were_measured(
    gaps: Sequence[tuple], said: tuple[str, str]
) -> None:
    one = slices.Slice(
        "t", "language", "en", 99, dict.fromkeys(MODELS, 50.0), tuple(gap(*each) for each in gaps)
    )
    tone, sentence = verdict.slice_result(one, MODELS, 1.0)
    assert tone == said[0]
    assert sentence.startswith(said[1])


def test_a_small_slice_says_that_it_is_small() -> None:
    units = [unit("en")] * 100 + [unit("de")] * 29
    one = task("t", units, {model: [0.5] * 129 for model in MODELS})
    small = next(row for row in slices.slices(plan(), one) if row.value == "de")
    assert small.differences == ()


@pytest.mark.parametrize(
    ("tokens", "name"),
    [(1, "under 16"), (15, "under 16"), (16, "16 to 31"), (8192, "8192 or more")],
)
def test_bands_have_no_gaps(tokens: int, name: str) -> None:
    assert slices.band(tokens) == name
