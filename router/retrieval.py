"""Measures of search quality: exact nearest neighbours, and the scores that adapters and new
indexes are judged by.

Cosine between two vectors of the same text says little about a search: a map can raise every cosine
and still swap neighbours. So nothing here compares vectors of one text; all scores compare search
results.
"""

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from router.arrays import Vectors

Found = npt.NDArray[np.int64]  # (queries, k) rows of documents, best first
Scores = npt.NDArray[np.float64]  # (queries,)

TOP = 10
_BLOCK_SCORES = 2**24  # scored at a time: about 300 MB for any corpus


def nearest(queries: Vectors, documents: Vectors, k: int = TOP) -> Found:
    """The `k` documents with the largest dot product with each query, or all if there are fewer; of
    equal ones the first.
    """
    k = min(k, len(documents))
    found = np.empty((len(queries), k), np.int64)
    block = max(1, _BLOCK_SCORES // max(1, len(documents)))
    for start in range(0, len(queries), block):
        scores = queries[start : start + block] @ documents.T
        if k < len(documents):
            kept = np.sort(np.argpartition(-scores, k - 1, axis=1)[:, :k], axis=1)
        else:
            kept = np.broadcast_to(np.arange(k), scores.shape)
        order = np.argsort(-np.take_along_axis(scores, kept, axis=1), axis=1, kind="stable")
        found[start : start + block] = np.take_along_axis(kept, order, axis=1)
    return found


def recall(found: Found, relevant: Sequence[Collection[int]]) -> Scores:
    """Share of each query's relevant documents that were found; counts at most as many as there are
    results.
    """
    return np.array(
        [
            len(set(row) & set(wanted)) / min(len(wanted), len(row))
            for row, wanted in zip(found.tolist(), relevant, strict=True)
        ]
    )


def ndcg(found: Found, relevant: Sequence[Collection[int]]) -> Scores:
    """Normalised discounted cumulative gain of each query with binary relevance (Järvelin and
    Kekäläinen 2002).
    """
    discounts = 1.0 / np.log2(np.arange(2, found.shape[1] + 2))
    scores = np.empty(len(found))
    for row, (documents, wanted) in enumerate(zip(found.tolist(), relevant, strict=True)):
        hits = [document in wanted for document in documents]
        scores[row] = discounts[hits].sum() / discounts[: min(len(wanted), len(documents))].sum()
    return scores


def overlap(one: Found, other: Found) -> Scores:
    """Share of each query's results that two searches have in common."""
    return np.array(
        [
            len(set(a) & set(b)) / max(len(a), len(b))
            for a, b in zip(one.tolist(), other.tolist(), strict=True)
        ]
    )
