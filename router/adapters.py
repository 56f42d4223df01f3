"""Maps from one model's vectors into another model's space.

Fitting: rows of `source` and `target` are vectors of the same texts. The default is orthogonal
Procrustes, the smaller side padded with zeros (Schönemann 1966), of what is left when each side's
mean is taken away, brought to the target's scale: it keeps the angles between source vectors as
they are. Ridge and low rank fit the target's vectors more closely and the search less well
(docs/decisions/0004 has the figures). An adapter therefore carries what a search kept, for
documents in the fit and for documents left out of it (router/proof.py), and never a cosine.

Using: an adapter belongs to the two models whose fingerprints it was made with
(router/encoders.py). It maps vectors of the source's own size straight into the target's.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args
from zipfile import BadZipFile

import numpy as np

from router.arrays import Vectors
from router.proof import Proof
from router.space import Space

Method = Literal["procrustes", "ridge", "low-rank"]

METHODS: tuple[Method, ...] = get_args(Method)
FORMAT, OLD_FORMAT = "embedding-router adapter 2", "embedding-router adapter 1"
RIDGE = 1e-2  # times the mean square of the source's dimensions
RANK_SHARE = 0.5  # of the smaller side's dimensions


class OldFormat(ValueError):
    """An adapter file without a figure for documents left out."""


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
    source_fingerprint: str  # digests of what the models proved to be when it was made
    target_fingerprint: str
    texts: int  # that it was fitted on
    proof: Proof

    def map(self, vectors: Vectors) -> Vectors:
        """(n, source dimensions) to (n, target dimensions) of length 1."""
        return project(vectors, self.matrix, self.offset)


def project(vectors: Vectors, matrix: Vectors, offset: Vectors) -> Vectors:
    """Map each row and give it length 1.

    Row by row, so that a row's bits do not depend on the rows beside it, as a batched product's do.
    """
    mapped: Vectors = np.matmul(vectors[:, None, :], matrix)[:, 0] + offset
    lengths = np.linalg.norm(mapped, axis=1, keepdims=True)
    lengths[lengths == 0.0] = 1.0
    mapped /= lengths
    return mapped


def fit(source: Vectors, target: Vectors, method: Method = "procrustes") -> tuple[Vectors, Vectors]:
    """Matrix and offset of the map that `method` fits to (n, source) and (n, target) vectors of the
    same n texts.

    Raises ValueError where the two do not have the same number of rows.
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
        # Of the product of the padded matrices only this block is not zero, and its singular
        # vectors are all that counts.
        left, _, right = np.linalg.svd(x.T @ y, full_matrices=False)
        spread = float(np.linalg.norm(x)) or 1.0
        matrix = left @ right * (float(np.linalg.norm(y)) / spread)
    else:
        gram = x.T @ x
        matrix = np.linalg.solve(
            gram + RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram)), x.T @ y
        )
        # the best map of this rank: the ridge map onto the main directions of what it predicts
        if method == "low-rank":
            rank = max(1, int(RANK_SHARE * min(matrix.shape)))
            _, _, main = np.linalg.svd(x @ matrix, full_matrices=False)
            matrix = matrix @ main[:rank].T @ main[:rank]
    return matrix.astype(np.float32), (y_mean - x_mean @ matrix).astype(np.float32)


def save(adapter: Adapter, path: Path) -> None:
    """Write it as npz: two arrays, and JSON for the rest."""
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
    text = json.dumps(about, sort_keys=True)
    with path.open("wb") as file:  # numpy would append .npz to another name
        np.savez_compressed(
            file,
            matrix=adapter.matrix,
            offset=adapter.offset,
            about=np.frombuffer(text.encode(), np.uint8),
        )


def load(path: Path) -> Adapter:
    """Read a file that `save` wrote; raises ValueError naming the file when it is something
    else.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            matrix, offset, about = (
                arrays["matrix"],
                arrays["offset"],
                json.loads(arrays["about"].tobytes()),
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
            source=Space.parse(about.pop("source")),
            target=Space.parse(about.pop("target")),
            proof=Proof.from_json(about.pop("proof")),
            **about,
        )
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
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        raise ValueError(
            f"{path} is not an adapter: {error}; make one with `embedding-router align`"
        ) from error
