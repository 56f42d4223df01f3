import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.retrieval import ndcg, nearest, overlap, recall


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 30), st.integers(1, 12))
def test_nearest_is_a_full_sort_cut_short(seed: int, documents: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    queries = rng.standard_normal((3, 8)).astype(np.float32)
    index = rng.standard_normal((documents, 8)).astype(np.float32)
    expected = np.argsort(-(queries @ index.T), axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(nearest(queries, index, k), expected)


def test_equal_documents_come_in_their_order() -> None:
    index = np.ones((6, 4), np.float32)
    assert nearest(np.ones((1, 4), np.float32), index, 3).tolist() == [[0, 1, 2]]


def test_more_queries_than_a_block_are_all_answered() -> None:
    index = np.eye(4, dtype=np.float32)
    found = nearest(np.tile(index, (700, 1)), index, 1)
    assert found[:, 0].tolist() == [0, 1, 2, 3] * 700


def test_recall_counts_what_could_be_found_at_all() -> None:
    found = np.array([[1, 2], [3, 4], [5, 6]])
    assert recall(found, [{1, 9}, {8}, {1, 2, 5, 6, 7}]).tolist() == [0.5, 0.0, 1.0]


def test_ndcg_prefers_relevant_documents_first() -> None:
    first, second = ndcg(np.array([[1, 2], [2, 1]]), [{1}, {1}])
    assert first == 1.0
    assert second == pytest.approx(1 / math.log2(3))


def test_overlap_ignores_the_order() -> None:
    assert overlap(np.array([[1, 2, 3], [4, 5, 6]]), np.array([[3, 2, 9], [7, 8, 9]])).tolist() == [
        2 / 3,
        0.0,
    ]
