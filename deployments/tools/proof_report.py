"""The proof of an encoder as JSON, as a table and as a plot."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from router.collection_config import CollectionConfig
from router.proof import Proof, RetainedQuality, summary

EACH: float = CollectionConfig.model_fields["min_recall_each"].default


def measure(proof: Proof) -> str:
    """Name what counted as relevant."""
    if proof.judged_by == "judgements":
        return "your judgements"
    return "what the target's own model finds"


def as_json(proof: Proof) -> dict[str, Any]:
    """Return both figures, overall and by language; `kept` lists those for documents left out."""
    languages = proof.unseen_by_language
    return {
        **summary(proof.fitted, proof.unseen),
        "by_language": {
            name: summary(proof.fitted_by_language[name], kept) for name, kept in languages.items()
        },
        "kept": [
            {"language": name, **unseen._asdict(), "error": _error(unseen)}
            for name, _, unseen in _rows(proof)
        ],
    }


def table(proof: Proof, floor: float) -> Iterator[str]:
    """Format both figures with intervals, overall and by language, and whether a floor is met."""
    yield (
        f"{'':10}{'queries':>8}  {'own':>6} {'recall@10 kept: in the fit':>28} {'left out':>22}  "
        f"{'own':>6} {'nDCG@10 kept: in the fit':>28} {'left out':>22}"
    )
    for name, fitted, unseen in _rows(proof):
        yield (
            f"{name:10}{unseen.queries:8d}  {unseen.own_recall:6.3f} {recall_kept(fitted):>28} "
            f"{recall_kept(unseen):>22}  {unseen.own_ndcg:6.3f} {ndcg_kept(fitted):>28} "
            f"{ndcg_kept(unseen):>22}"
        )
    yield "left out: each query judged by a fit that saw none of its relevant documents"
    if proof.unseen.recall < floor:
        fixed = (
            ", or write `documents: fixed` if the index holds only these documents"
            if proof.fitted.recall >= floor
            else ""
        )
        if proof.unseen.recall < EACH:
            yield (
                f"left out it keeps less than a collection's min_recall_each of {EACH:.0%}: the "
                f"router will refuse it unless you lower that{fixed}"
            )
            return
        share = (1.0 - floor) / (1.0 - proof.unseen.recall)
        yield (
            f"left out it keeps less than a collection's min_recall of {floor:.0%}: it may answer "
            f"{share:.0%} of the queries, unless you lower that{fixed}"
        )


def plot(file: Path, proof: Proof, floor: float, title: str) -> str | None:
    """Plot recall and nDCG kept, in the fit and left out, beside the floor.

    Returns the file's name, or None without matplotlib.
    """
    try:
        import matplotlib
    except ModuleNotFoundError:
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = _rows(proof)
    places = np.arange(len(rows))
    figure, axes = pyplot.subplots(figsize=(7, 2 + 0.8 * len(rows)), layout="constrained")
    bars = (
        ("recall@10, in the fit", [_bar(row.recall, *row[2:4]) for _, row, _ in rows], "#9ecae1"),
        ("recall@10, left out", [_bar(row.recall, *row[2:4]) for _, _, row in rows], "tab:blue"),
        ("nDCG@10, in the fit", [_bar(row.ndcg, *row[5:7]) for _, row, _ in rows], "#fdd0a2"),
        ("nDCG@10, left out", [_bar(row.ndcg, *row[5:7]) for _, _, row in rows], "tab:orange"),
    )
    for number, (label, values, colour) in enumerate(bars):
        middle, below, above = np.array(values).T
        axes.barh(
            places + 0.2 * (number - 1.5),
            middle,
            0.19,
            xerr=[below, above],
            label=label,
            color=colour,
            ecolor="black",
            capsize=2,
        )
    axes.axvline(
        100 * floor, color="black", linestyle="--", linewidth=1, label=f"min_recall {floor:.0%}"
    )
    axes.set_yticks(places, [f"{name} ({kept.queries})" for name, _, kept in rows])
    axes.invert_yaxis()
    axes.set(xlabel="% kept of what the own model finds", title=title)
    axes.set_xlim(0, max(105.0, axes.get_xlim()[1]))
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=3,
        fontsize=8,
        frameon=False,
    )
    figure.savefig(file, dpi=120)
    pyplot.close(figure)
    return file.name


def _rows(proof: Proof) -> list[tuple[str, RetainedQuality, RetainedQuality]]:
    return [
        ("all", proof.fitted, proof.unseen),
        *(
            (name, proof.fitted_by_language[name], kept)
            for name, kept in proof.unseen_by_language.items()
        ),
    ]


def _error(kept: RetainedQuality) -> float:
    """Standard error of the recall kept: a quarter of its 95 % interval."""
    return (kept.recall_high - kept.recall_low) / 4


def recall_kept(kept: RetainedQuality) -> str:
    """Format recall kept, with its interval."""
    return f"{kept.recall:.1%} [{kept.recall_low:.1%}, {kept.recall_high:.1%}]"


def ndcg_kept(kept: RetainedQuality) -> str:
    """Format nDCG kept, with its interval."""
    return f"{kept.ndcg:.1%} [{kept.ndcg_low:.1%}, {kept.ndcg_high:.1%}]"


def _bar(value: float, low: float, high: float) -> tuple[float, float, float]:
    return 100 * value, 100 * max(0.0, value - low), 100 * max(0.0, high - value)
