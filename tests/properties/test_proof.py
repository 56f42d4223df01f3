"""The laws of a proof: its intervals, and its folds."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from router.proof import FOLDS, folds, kept_of, left_out


def test_an_interval_covers_what_other_queries_would_have_shown() -> None:
    rng = np.random.default_rng(3)
    inside = 0
    for _ in range(60):  # of a population in which a search keeps 80 %
        hit = rng.random(400) < 0.8
        over = np.where(hit, 0, 1)[:, None]
        kept = kept_of(over, np.zeros((400, 1), np.int64), [{0}] * 400)
        inside += kept.recall_low <= 0.8 <= kept.recall_high
    assert inside >= 52


@given(st.lists(st.sets(st.integers(0, 400), min_size=1, max_size=3), min_size=10, max_size=60))
def test_each_query_is_in_one_fold_and_its_documents_are_left_out(relevant: list[set[int]]) -> None:
    split = folds(relevant, 401)
    assert len(split) >= FOLDS
    assert sorted(np.concatenate(split).tolist()) == list(range(len(relevant)))
    for rows in split:
        out = left_out(relevant, rows)
        assert all(relevant[row] <= out for row in rows.tolist())
        assert len(out) <= 401 / 2
