"""Maps from one model's vectors into another model's space, and the rule by which a collection may
use one.

Fitting: rows of `source` and `target` are vectors of the same texts. The default is orthogonal
Procrustes, the smaller side padded with zeros (Schönemann 1966), of what is left when each side's
mean is taken away, brought to the target's scale: it keeps the angles between source vectors as
they are. Ridge and low rank fit the target's vectors more closely and the search less well
(docs/decisions/0004 has the figures). An adapter therefore carries what a search kept, for
documents in the fit and for documents left out of it (router/proof.py), and never a cosine.

Using: an adapter belongs to the two models whose fingerprints it was made with; any other weights,
or less recall than the collection's `min_recall`, and the router refuses to start. It maps vectors
of the source's own size straight into the target's.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args
from zipfile import BadZipFile

import numpy as np

from router import fingerprint
from router.arrays import Vectors
from router.config import CollectionConfig, RouterArgs
from router.domain import Model
from router.model_config import resolve_path
from router.proof import Documents, Kept, Proof
from router.space import Space
from router.strict import ConfigError

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
    documents: Documents = "growing"  # of the collection that uses it: which figure counts

    def map(self, vectors: Vectors) -> Vectors:
        """(n, source dimensions) to (n, target dimensions) of length 1."""
        return project(vectors, self.matrix, self.offset)

    @property
    def kept(self) -> Kept:
        """The figure that counts for its collection."""
        return self.proof.kept(self.documents)

    def kept_for(self, language: str | None) -> float:
        """Recall kept for queries in this language, where it was measured, else overall."""
        return self.proof.kept(self.documents, language).recall


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


def load_adapters(args: RouterArgs) -> dict[str, dict[str, Adapter]]:
    """For each collection the adapters that it may use, by their source model; raises ConfigError
    with all that are not fit.
    """
    problems: list[str] = []
    loaded: dict[str, dict[str, Adapter]] = {}
    for name, collection in args.collections.items():
        loaded[name] = {}
        for index, file in enumerate(collection.adapters):
            where = f"collections.{name}.adapters[{index}]"
            try:
                adapter = load(resolve_path(file, args.base_dir))
            except (OSError, ValueError) as error:
                problems.append(f"{where}: {error}")
                continue
            adapter = replace(adapter, documents=collection.documents)
            wrong = _unfit(args, adapter, collection)
            if not wrong and adapter.source.model in loaded[name]:
                wrong = (
                    f"there is one from {adapter.source.model} already; a collection takes "
                    "one from each model"
                )
            if wrong:
                problems.append(f"{where}: {file}: {wrong}")
            loaded[name][adapter.source.model] = adapter
    if problems:
        raise ConfigError(problems)
    return loaded


def as_ranked(
    models: Mapping[str, Model], space: Space, adapters: Mapping[str, Adapter]
) -> dict[str, Model]:
    """The models as the decision shall see them for one space: its own above all others, which
    follow by what they keep of it.

    The quality of a model that comes over an adapter is the own model's times the recall kept; what
    it keeps in a language of its own also where the own model has one figure for many.
    """
    own = models[space.model]
    ranked = {**models, space.model: replace(own, rank=len(models))}
    for rank, (name, adapter) in enumerate(
        sorted(adapters.items(), key=lambda item: item[1].kept.recall)
    ):
        points = dict(own.quality)
        if "default" in points:
            points = dict.fromkeys(adapter.proof.unseen_by_language, points["default"]) | points
        quality = {
            language: value * adapter.kept_for(language) for language, value in points.items()
        }
        long = own.long and replace(own.long, points=own.long.points * adapter.kept.recall)
        ranked[name] = replace(models[name], rank=rank, quality=quality, long=long)
    return ranked


def _unfit(args: RouterArgs, adapter: Adapter, collection: CollectionConfig) -> str | None:
    """Why this adapter may not serve this space, in a clause; None when it may."""
    if str(adapter.target) != collection.space:
        return f"it leads to {adapter.target}, the collection's space is {collection.space}"
    if adapter.source.model == adapter.target.model:
        return f"it leads from {adapter.source.model} to itself"
    for role, model, made_with in (
        ("from", adapter.source.model, adapter.source_fingerprint),
        ("to", adapter.target.model, adapter.target_fingerprint),
    ):
        if model not in args.models:
            return f"it leads {role} {model}, which is not one of the models"
        if (config := args.models[model].fingerprint) is None:
            return (
                f"models.{model} has no `fingerprint`, so nobody knows that it is the {model} "
                "that the adapter was made with"
            )
        try:
            digest = fingerprint.digest_of(
                config, model, args.base_dir, args.models[model].revision
            )
        except (OSError, ValueError) as error:
            return str(error)
        if digest != made_with:
            return (
                f"it was made with another {model}: the fingerprints differ; run "
                "`embedding-router align` again"
            )
    own = args.models[adapter.source.model].dimensions
    if adapter.source.dimensions != own:
        return (
            f"it reads {adapter.source.dimensions} dimensions, {adapter.source.model} makes {own}"
        )
    return _too_little(adapter.proof, collection)


def _too_little(proof: Proof, collection: CollectionConfig) -> str | None:
    """Why an encoder with this proof keeps too little for the collection; None where it is
    enough.
    """
    kept, growing = proof.kept(collection.documents), collection.documents == "growing"
    for name, floor in (
        ("min_recall", collection.min_recall),
        ("min_recall_each", collection.min_recall_each),
    ):
        if kept.recall >= floor:
            continue
        measured = "for documents left out of its fit" if growing else "for documents in its fit"
        fixed = (
            "; if the index holds only documents of the fit, write `documents: fixed`"
            if growing and proof.fitted.recall >= floor
            else ""
        )
        return (
            f"it keeps {kept.recall:.1%} of the recall of {collection.space}'s own model "
            f"{measured} ({kept.queries} queries, by {proof.judged_by}) and {name} is "
            f"{floor:.1%}; make it with more of your own text, or lower {name} if that is "
            f"enough{fixed}"
        )
    return None
