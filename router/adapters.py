"""Maps from one model's vectors into another model's space.

Fitting: rows of `source` and `target` are vectors of the same texts. The default is orthogonal
Procrustes (Schönemann 1966). Each side's mean is subtracted, the smaller side is padded with zeros,
and the result is scaled to the target: it preserves the angles between source vectors. Ridge and
low rank fit the target's vectors more closely, but the search less well (docs/decisions/0004 has
the figures). An adapter therefore carries the recall that a search kept, for documents in the fit
and for documents left out of it (router/proof.py), and never a cosine.

Using: an adapter belongs to the two models whose fingerprints it was made with
(router/encoders.py). It maps vectors of the source's own size directly into the target's space.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from router.arrays import Vectors
from router.files import UNREADABLE, replacing
from router.proof import Proof, count, mapping, text
from router.space import Space

Method = Literal["procrustes", "ridge", "low-rank"]

METHODS: tuple[Method, ...] = get_args(Method)
FORMAT, OLD_FORMAT = "embedding-router adapter 2", "embedding-router adapter 1"
RIDGE = 1e-2  # times the mean square of the source's dimensions
RANK_SHARE = 0.5  # of the smaller side's dimensions


class OldFormat(ValueError):
    """An adapter file without a figure for documents that were left out of the fit."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """x -> (x @ matrix + offset) / |x @ matrix + offset|, from `source` (its model's own size) into
    `target`.
    """

    source: Space
    target: Space
    matrix: Vectors  # (source dimensions, target dimensions)
    offset: Vectors  # (target dimensions,)
    method: Method
    source_fingerprint: str  # digests of both models' fingerprints when the adapter was made
    target_fingerprint: str
    texts: int  # number of texts in the fit
    proof: Proof

    def map(self, vectors: Vectors) -> Vectors:
        """Map (n, source dimensions) to (n, target dimensions), rows of length 1."""
        return project(vectors, self.matrix, self.offset)


def project(vectors: Vectors, matrix: Vectors, offset: Vectors) -> Vectors:
    """Map each row and normalise it to length 1.

    Rows are mapped one by one. In a batched product a row's bits would depend on the other rows.
    """
    mapped: Vectors = np.matmul(vectors[:, None, :], matrix)[:, 0] + offset
    lengths = np.linalg.norm(mapped, axis=1, keepdims=True)
    lengths[lengths == 0.0] = 1.0
    mapped /= lengths
    return mapped


def fit(source: Vectors, target: Vectors, method: Method = "procrustes") -> tuple[Vectors, Vectors]:
    """Fit a map by `method` to (n, source) and (n, target) vectors of the same n texts.

    Returns its matrix and offset. Raises ValueError if the numbers of rows differ.
    """
    if len(source) != len(target):
        raise ValueError(
            f"{len(source)} source vectors and {len(target)} target vectors are not of the same "
            "texts"
        )
    x, y = source.astype(np.float64), target.astype(np.float64)
    x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
    x, y = x - x_mean, y - y_mean
    if method == "procrustes":
        # Only this block of the product of the padded matrices is not zero, so its singular
        # vectors are sufficient.
        left, _, right = np.linalg.svd(x.T @ y, full_matrices=False)
        spread = float(np.linalg.norm(x)) or 1.0
        matrix = left @ right * (float(np.linalg.norm(y)) / spread)
    else:
        gram = x.T @ x
        matrix = np.linalg.solve(
            gram + RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram)), x.T @ y
        )
        # the best map of this rank: the ridge map, projected on the main directions of its output
        if method == "low-rank":
            rank = max(1, int(RANK_SHARE * min(matrix.shape)))
            _, _, main = np.linalg.svd(x @ matrix, full_matrices=False)
            matrix = matrix @ main[:rank].T @ main[:rank]
    return matrix.astype(np.float32), (y_mean - x_mean @ matrix).astype(np.float32)


def save(adapter: Adapter, path: Path) -> None:
    """Write an adapter as npz: two arrays, and JSON for the rest."""
    about = {
        "format": FORMAT,
        "source": str(adapter.source),
        "target": str(adapter.target),
        "method": adapter.method,
        "source_fingerprint": adapter.source_fingerprint,
        "target_fingerprint": adapter.target_fingerprint,
        "texts": adapter.texts,
        "proof": adapter.proof.as_json(),
    }
    content = json.dumps(about, sort_keys=True)
    with replacing(path) as file:
        np.savez_compressed(
            file,
            matrix=adapter.matrix,
            offset=adapter.offset,
            about=np.frombuffer(content.encode(), np.uint8),
        )


def load(path: Path) -> Adapter:
    """Read a file that `save` wrote.

    Raises OldFormat, or a ValueError that names the file if it is not an adapter.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            matrix, offset, about = (
                arrays["matrix"],
                arrays["offset"],
                dict(mapping(json.loads(arrays["about"].tobytes()), "about")),
            )
        if (made := about.pop("format")) == OLD_FORMAT:
            raise OldFormat(
                f"{path} was judged only by documents that it was fitted on, as older versions "
                "did; run `embedding-router align` again"
            )
        if made != FORMAT:
            raise ValueError(f"this version reads {FORMAT!r}")
        adapter = Adapter(
            matrix=matrix,
            offset=offset,
            source=Space.parse(text(about.pop("source"), "source")),
            target=Space.parse(text(about.pop("target"), "target")),
            proof=Proof.from_json(about.pop("proof")),
            **about,
        )
        count(adapter.texts, "texts")
        sizes = (adapter.source.dimensions, adapter.target.dimensions)
        if (
            matrix.shape != sizes
            or offset.shape != sizes[1:]
            or not (np.isfinite(matrix).all() and np.isfinite(offset).all())
        ):
            raise ValueError(
                f"it maps {sizes[0]} to {sizes[1]} dimensions and its matrix is {matrix.shape}, "
                "or not finite"
            )
        return adapter
    except OldFormat:
        raise
    except UNREADABLE as error:
        why = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(
            f"{path} is not an adapter: {why}; make one with `embedding-router align`"
        ) from error
