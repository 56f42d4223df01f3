"""Names of spaces read back, and a cut vector keeps its direction."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from router.space import Space, fit


@given(st.text(min_size=1), st.integers(1, 10**9 - 1))
def test_every_space_reads_back(model: str, dimensions: int) -> None:
    assert Space.parse(str(Space(model, dimensions))) == Space(model, dimensions)


unit_rows = st.integers(0, 2**32 - 1).map(
    lambda seed: (lambda rows: rows / np.linalg.norm(rows, axis=1, keepdims=True))(
        np.random.default_rng(seed).standard_normal((5, 96), dtype=np.float32)
    )
)


@given(unit_rows, st.integers(1, 96))
def test_a_cut_vector_keeps_its_direction_and_has_length_one(rows: Any, dimensions: int) -> None:
    cut = fit(rows, dimensions)
    assert cut.shape == (5, dimensions)
    assert cut.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(cut, axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(
        cut * np.linalg.norm(rows[:, :dimensions], axis=1, keepdims=True),
        rows[:, :dimensions],
        atol=1e-6,
    )


@given(unit_rows, st.integers(1, 96))
def test_a_row_is_cut_to_the_same_bits_alone_and_among_others(rows: Any, dimensions: int) -> None:
    alone = np.concatenate([fit(rows[i : i + 1].copy(), dimensions) for i in range(len(rows))])
    assert fit(rows, dimensions).tobytes() == alone.tobytes()
