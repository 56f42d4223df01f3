"""Shares and percentiles of a comparison, for many texts and numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.compare import (
    DurationHistogram,
    falls_in,
)


@given(st.lists(st.text(min_size=1), min_size=1, max_size=4), st.floats(0.01, 1.0))
def test_the_same_texts_are_always_on_the_same_side(texts: list[str], share: float) -> None:
    assert falls_in(texts, "canary", share) == falls_in(list(texts), "canary", share)


@given(
    st.lists(st.text(min_size=1), min_size=1, max_size=4),
    st.floats(0.01, 1.0),
    st.floats(0.01, 1.0),
)
def test_a_larger_share_keeps_whoever_was_in_a_smaller_one(
    texts: list[str], one: float, other: float
) -> None:
    small, large = sorted((one, other))
    assert falls_in(texts, "shadow", small) <= falls_in(texts, "shadow", large)


@given(st.lists(st.floats(1e-4, 100.0), min_size=1, max_size=200), st.floats(1.0, 100.0))
def test_percentiles_are_within_a_bucket_of_the_true_ones(
    seconds: list[float], percent: float
) -> None:
    times = DurationHistogram()
    for each in seconds:
        times.add(each)

    true = float(np.percentile(seconds, percent, method="inverted_cdf"))
    assert times.percentile(percent) == pytest.approx(true, rel=0.026)
