"""The laws of a fit, for any steps."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from router.curve_fit import Point, fit


@settings(deadline=None, max_examples=20)
@given(
    st.lists(
        st.tuples(st.integers(1, 5000), st.integers(1, 10**6), st.floats(1e-6, 1e3)),
        min_size=3,
        max_size=12,
    )
)
def test_no_coefficient_of_a_fit_is_negative(points: list[tuple[int, int, float]]) -> None:
    if len({tokens for tokens, _, _ in points}) < 3:
        return
    found = fit([Point(*point) for point in points], 8192)
    curve = found.curve
    values = (
        curve.fixed_s,
        curve.base_s,
        curve.s_per_token,
        curve.s_per_token_sq,
        found.knee_tokens,
    )
    assert all(value >= 0.0 and math.isfinite(value) for value in values)
