"""Share of search quality that is kept when another model encodes the queries.

Only this figure admits an encoder that is not native into a space. It is measured twice: for
documents that the encoder was fitted on, and for documents that it never saw. The first holds for
an index that was wholly in the fit. The second holds for documents that are added later; it is the
one that counts unless a collection declares its documents fixed.

For the second figure the queries are split into folds. Each query is judged over the whole index,
by an encoder that saw none of its relevant documents. Intervals are 95 % of a bootstrap over
queries.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self, get_args

import numpy as np

from router.arrays import Indices
from router.retrieval import Found, Scores, ndcg, recall

Documents = Literal["growing", "fixed"]
Judged = Literal["judgements", "neighbours"]

RESAMPLES = 1000
INTERVAL = (2.5, 97.5)  # percentiles
FOLDS = 3
MAX_FOLDS = 40
MAX_LEFT_OUT = 0.5  # of the documents, in any fold
MAX_SHARE = 1000.0  # of the own model's recall, in a file
ROUNDING = 1e-6


class RetainedQuality(NamedTuple):
    """Recall and nDCG of a search, as shares of those with the space's own model."""

    queries: int
    recall: float  # recall@10
    recall_low: float
    recall_high: float
    ndcg: float  # nDCG@10
    ndcg_low: float
    ndcg_high: float
    own_recall: float  # of the space's own model, not a share
    own_ndcg: float


@dataclass(frozen=True, slots=True)
class Proof:
    """The retained quality of an encoder, for documents in its fit and documents left out of it."""

    # the user's own relevance judgements, or the neighbours that the space's own model finds
    judged_by: Judged
    fitted: RetainedQuality
    unseen: RetainedQuality
    fitted_by_language: Mapping[str, RetainedQuality]  # ISO 639-1 of the queries
    unseen_by_language: Mapping[str, RetainedQuality]

    def kept(self, documents: Documents, language: str | None = None) -> RetainedQuality:
        """The figure for queries in this language if it was measured, else the overall one."""
        overall = self.fitted if documents == "fixed" else self.unseen
        return self.by_language(documents).get(language or "", overall)

    def by_language(self, documents: Documents) -> Mapping[str, RetainedQuality]:
        """The figures that apply to `documents`, by language of the queries."""
        return self.fitted_by_language if documents == "fixed" else self.unseen_by_language

    def as_json(self) -> dict[str, Any]:
        """Plain values that `from_json` reads back."""
        return {
            "judged_by": self.judged_by,
            "fitted": self.fitted._asdict(),
            "unseen": self.unseen._asdict(),
            "fitted_by_language": _plain(self.fitted_by_language),
            "unseen_by_language": _plain(self.unseen_by_language),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read the values of `as_json`; raises ValueError naming the key for anything else."""
        data = mapping(data, "proof")
        if missing := [key for key in cls.__slots__ if key not in data]:
            raise ValueError(f"{missing[0]} is missing")
        judged_by, by_language = data["judged_by"], {}
        if judged_by not in get_args(Judged):
            raise ValueError(f"judged_by must be one of {', '.join(get_args(Judged))}")
        for key in ("fitted_by_language", "unseen_by_language"):
            by_language[key] = {
                name: _retained(kept, f"{key}.{name}")
                for name, kept in mapping(data[key], key).items()
            }
        return cls(
            judged_by,
            _retained(data["fitted"], "fitted"),
            _retained(data["unseen"], "unseen"),
            by_language["fitted_by_language"],
            by_language["unseen_by_language"],
        )


def mapping(value: object, key: str) -> Mapping[str, Any]:
    """`value` if it is a JSON object; raises ValueError naming `key` otherwise."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{key} must be an object")
    return value


def text(value: object, key: str) -> str:
    """`value` if it is text; raises ValueError naming `key` otherwise."""
    if not isinstance(value, str):
        raise ValueError(f"{key} must be text; it is {str(value)[:40]}")
    return value


def number(value: object, key: str, most: float) -> float:
    """`value` if it is a number from 0 to `most`; raises ValueError naming `key` otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise ValueError(f"{key} must be a number from 0 to {most:g}; it is {str(value)[:40]}")
    return float(value)


def count(value: object, key: str, least: int = 0) -> int:
    """`value` if it is a whole number of at least `least`; otherwise raises ValueError naming
    `key`.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(
            f"{key} must be a whole number of at least {least}; it is {str(value)[:40]}"
        )
    return value


def _retained(data: object, key: str) -> RetainedQuality:
    given = mapping(data, key)
    for name in given.keys() ^ set(RetainedQuality._fields):
        raise ValueError(f"{key}.{name} is {'unknown' if name in given else 'missing'}")
    kept = RetainedQuality(
        count(given["queries"], f"{key}.queries", 1),
        *(
            number(given[name], f"{key}.{name}", 1.0 if name.startswith("own_") else MAX_SHARE)
            for name in RetainedQuality._fields[1:]
        ),
    )
    for name, share, own in (
        ("recall", kept.recall, kept.own_recall),
        ("ndcg", kept.ndcg, kept.own_ndcg),
    ):
        if share * own > 1.0 + ROUNDING:
            raise ValueError(f"{key}.{name} is {share:g} times {own:g}, which is more than 1")
    return kept


def _plain(by_language: Mapping[str, RetainedQuality]) -> dict[str, dict[str, float]]:
    return {name: kept._asdict() for name, kept in by_language.items()}


def summary(kept_fitted: RetainedQuality, kept_unseen: RetainedQuality) -> dict[str, Any]:
    """Both figures with their intervals, under their names in reports."""
    figures: dict[str, Any] = {"queries": kept_unseen.queries}
    intervals: dict[str, tuple[float, float]] = {}
    for name, kept in (("fitted", kept_fitted), ("unseen", kept_unseen)):
        figures |= {f"recall_kept_{name}": kept.recall, f"ndcg_kept_{name}": kept.ndcg}
        intervals |= {
            f"recall_kept_{name}": (kept.recall_low, kept.recall_high),
            f"ndcg_kept_{name}": (kept.ndcg_low, kept.ndcg_high),
        }
    return {
        **figures,
        "intervals": intervals,
        "own_recall": kept_unseen.own_recall,
        "own_ndcg": kept_unseen.own_ndcg,
    }


def prove(
    judged_by: Judged,
    fitted: Found,
    unseen: Found,
    own: Found,
    relevant: Sequence[Collection[int]],
    rows_by_language: Mapping[str, Sequence[int]],
) -> Proof:
    """Build a proof from three searches with the same queries: by the encoder that saw all
    documents, by encoders that did not see the relevant ones, and by the space's own model.
    """

    def by_language(found: Found) -> dict[str, RetainedQuality]:
        return {
            name: kept_of(found[rows], own[rows], [relevant[row] for row in rows])
            for name, places in sorted(rows_by_language.items())
            if (rows := list(places))
        }

    return Proof(
        judged_by,
        kept_of(fitted, own, relevant),
        kept_of(unseen, own, relevant),
        by_language(fitted),
        by_language(unseen),
    )


def kept_of(over: Found, own: Found, relevant: Sequence[Collection[int]]) -> RetainedQuality:
    """The share of the own model's quality that an encoder's results keep, for the same queries.

    If the own model finds nothing relevant, there is nothing to keep: shares are 0.
    """
    own_recall, own_ndcg = recall(own, relevant), ndcg(own, relevant)
    return RetainedQuality(
        len(own),
        *_share(recall(over, relevant), own_recall),
        *_share(ndcg(over, relevant), own_ndcg),
        float(own_recall.mean()),
        float(own_ndcg.mean()),
    )


def _share(part: Scores, whole: Scores) -> tuple[float, float, float]:
    """The ratio of the means, with the bounds of its interval."""
    if not whole.any():
        return 0.0, 0.0, 0.0
    size = len(part)
    draws = np.random.default_rng(0).multinomial(size, np.full(size, 1 / size), RESAMPLES)
    parts, wholes = draws @ part, draws @ whole
    shares = np.divide(parts, wholes, out=np.zeros(RESAMPLES), where=wholes > 0)
    low, high = np.percentile(shares, INTERVAL)
    return float(part.mean() / whole.mean()), float(low), float(high)


def folds(relevant: Sequence[Collection[int]], documents: int, fewest: int = 0) -> list[Indices]:
    """Split queries into folds, so that the documents relevant to one fold can be left out of a
    fit.

    Returns the rows of the queries of each fold. Queries of neighbouring documents share a fold.
    There are more than three folds if three would leave out more than half of the documents, or
    fewer than `fewest` would stay in the fit. Raises ValueError if no number of folds is enough.
    """
    order = np.array(sorted(range(len(relevant)), key=lambda row: min(relevant[row], default=0)))
    count = min(FOLDS, len(order))
    while True:
        split = [np.sort(rows) for rows in np.array_split(order, count)]
        worst = max(len(left_out(relevant, rows)) for rows in split)
        if worst <= min(MAX_LEFT_OUT * documents, documents - fewest):
            return split
        if count >= min(MAX_FOLDS, len(order)):
            raise ValueError(
                f"to judge documents left out, {worst} of {documents} documents would have to be "
                "left out at a time; give more documents"
            )
        count = min(2 * count, MAX_FOLDS, len(order))


def left_out(relevant: Sequence[Collection[int]], rows: Indices) -> set[int]:
    """All documents that are relevant to one of these queries."""
    return {document for row in rows.tolist() for document in relevant[row]}
