"""The proof that two processes run the same reranker: pairs, what it reads of them, and its scores.

As with the fingerprint of vectors the proof has two halves (router/fingerprint.py). Scores are
compared by their largest difference, since the cosine of two numbers says nothing. A reranker that
gives all pairs about the same score ranks nothing, whatever scores are stored: its template or its
classifier is wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from router.arrays import TokenIds, Vectors
from router.fingerprint import digest_of_json, read_probes, write_probes

FORMAT = "embedding-router score fingerprint 1"
MIN_SPREAD = 0.001

# Right and wrong answers, long and short, in several scripts.
PAIRS = (
    ("What is the capital of China?", "The capital of China is Beijing."),
    ("What is the capital of China?", "Bananas are rich in potassium and easy to peel."),
    ("explain gravity", "Gravity is a force that attracts two bodies towards each other."),
    ("explain gravity", "def mean(values):\n    return sum(values) / len(values)"),
    ("今天天气怎么样？", "今天天气很好，我们去公园散步吧。"),
    ("今天天气怎么样？", "The committee met on Tuesday to discuss the budget for the coming year."),
)


class PairProbe(NamedTuple):
    """One pair and what the reranker reads of it: token ids, or text if its engine takes text."""

    query: str
    document: str
    ids: TokenIds | None
    text: str | None


@dataclass(frozen=True)
class ScoreFingerprint:
    """Probes of one reranker, and their scores."""

    model: str
    probes: Sequence[PairProbe]
    scores: Sequence[float]

    @cached_property
    def digest(self) -> str:
        """32 hexadecimal characters that identify this proof."""
        return digest_of_json(_rows(self))

    def misread(self, now: Sequence[PairProbe]) -> str | None:
        """Describe what is wrong with how the router prepares the pairs now; None if nothing is."""
        for stored, made in zip(self.probes, now, strict=True):
            same = (
                made.text == stored.text
                if stored.ids is None or made.ids is None
                else np.array_equal(stored.ids, made.ids)
            )
            if not same or (stored.ids is None) != (made.ids is None):
                return (
                    f"{self.model}: what it would read of the query {stored.query!r} is not what "
                    "its fingerprint was made with: its template, instruction or tokenizer changed"
                )
        return None

    def mismatch(self, made: Vectors, max_difference: float) -> str | None:
        """Describe what is wrong with scores that were just made; None if nothing is."""
        off = np.abs(made[:, 0] - np.array(self.scores, np.float32))
        worst = int(np.argmax(np.where(np.isfinite(off), off, np.inf)))
        if off[worst] <= max_difference:
            return None
        return (
            f"{self.model}: its score of {self.probes[worst].document!r} is {made[worst, 0]:.4f}, "
            f"its fingerprint has {self.scores[worst]:.4f}, and {max_difference:g} is the largest "
            "difference allowed: these are not the weights, template or precision that it was "
            "made with"
        )


def too_even(model: str, scores: Vectors) -> str | None:
    """Describe what is wrong with scores that do not distinguish the pairs; None if they do."""
    spread = float(scores.max() - scores.min())
    if spread >= MIN_SPREAD:
        return None
    return (
        f"{model}: it gives all probes about the same score, {float(scores.mean()):.4f} (they "
        f"spread over {spread:.2g}, and {MIN_SPREAD:g} is the least): it would rank nothing. "
        "Check its template, and engine.args.hf_overrides for a model that is no classifier"
    )


def make(model: str, probes: Sequence[PairProbe], scores: Vectors) -> ScoreFingerprint:
    """The fingerprint of scores that were just made."""
    return ScoreFingerprint(model, probes, [round(float(score), 6) for score in scores[:, 0]])


def save(fingerprint: ScoreFingerprint, path: Path) -> None:
    """Write `fingerprint` to a JSON file, one line per probe."""
    write_probes(path, {"format": FORMAT, "model": fingerprint.model}, _rows(fingerprint))


def load(path: Path) -> ScoreFingerprint:
    """Read a file that `save` wrote; raises ValueError naming the file if it is anything else."""
    try:
        data, rows = read_probes(path, FORMAT)
        probes = [
            PairProbe(
                row["query"],
                row["document"],
                np.array(row["ids"], np.int32) if "ids" in row else None,
                row.get("text"),
            )
            for row in rows
        ]
        scores = [float(row["score"]) for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not a fingerprint of scores: {error}; make one with "
            "`embedding-router fingerprint`"
        ) from error
    return ScoreFingerprint(str(data["model"]), probes, scores)


def _rows(fingerprint: ScoreFingerprint) -> list[dict[str, Any]]:
    return [
        {
            "query": probe.query,
            "document": probe.document,
            **({"text": probe.text} if probe.ids is None else {"ids": probe.ids.tolist()}),
            "score": score,
        }
        for probe, score in zip(fingerprint.probes, fingerprint.scores, strict=True)
    ]
