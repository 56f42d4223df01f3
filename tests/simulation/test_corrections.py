"""Corrections that learn only some of their factors, for ablations."""

from dataclasses import replace

import pytest

from router.latency import MARGIN_ETA, Correction, Quantile
from router.sim.routers import ALL, Corrections, PartialCorrection


def learned(kept: Corrections) -> PartialCorrection:
    """A correction after answers that were late, some of them joined, and a doubt."""
    correction = PartialCorrection(0.01, kept)
    for place in range(40):
        answer(correction, joined=place % 4 == 0)
    correction.doubt()
    return correction


def answer(correction: Correction, joined: bool) -> None:
    actual_s = 900.0 if joined else 3.0
    correction.observe(actual_s, 1.0, correction.bias, correction.margin, joined)


def factors(correction: Correction) -> tuple[float, float, float]:
    return correction.bias, correction.margin, correction.crowding


def test_all_corrections_together_are_those_that_serve() -> None:
    whole = Correction(0.01)
    for place in range(40):
        answer(whole, joined=place % 4 == 0)
    whole.doubt()
    assert factors(learned(ALL)) == factors(whole)


@pytest.mark.parametrize("name", ["bias", "margin", "crowding"])
def test_a_factor_that_is_left_out_stays_1_whatever_happens(name: str) -> None:
    assert all(factor != 1.0 for factor in factors(learned(ALL)))
    correction = learned(replace(ALL, **{name: False}))
    assert getattr(correction, name) == 1.0
    others = {"bias", "margin", "crowding"} - {name}
    assert all(getattr(correction, other) != 1.0 for other in others)


def test_without_the_outer_loop_the_margin_is_the_quantile_of_the_declared_share() -> None:
    correction = PartialCorrection(0.01, replace(ALL, bias=False, aim=False))
    whole = PartialCorrection(0.01, replace(ALL, bias=False))
    plain = Quantile(0.01, MARGIN_ETA, lowest=Correction.MIN_MARGIN)
    for _ in range(40):
        for one in (correction, whole):
            one.observe(3.0, 1.0, one.bias)
        plain.observe(3.0)
        assert correction.margin == pytest.approx(plain.value)
    assert whole.margin != pytest.approx(plain.value)


def test_without_doubts_a_doubt_changes_nothing() -> None:
    correction = learned(replace(ALL, doubt=False))
    before = factors(correction)
    correction.doubt()
    assert factors(correction) == before
