"""Load the encoders of a config and check each against its proof before anything starts.

Every refusal has its own message: another fingerprint, too little recall, no proof, no such model,
a space that is not the collection's.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from router import adapters, fingerprint, measured, student
from router.adapters import Adapter
from router.collection_config import CollectionConfig
from router.config import RouterArgs
from router.encoders import Encoder, Encoders, native
from router.fingerprint import Fingerprint
from router.measured import Measured
from router.model_config import INSTRUCTION, ModelConfig, Prompts, resolve_path
from router.schema import Side
from router.space import Space, fit
from router.strict import ConfigError, suggestion
from router.student import Student

SIDES: tuple[Side, ...] = ("query", "document")
SAME_COSINE = 0.999  # minimum for every probe, for the same weights elsewhere


class Unfit(ValueError):
    """The reason why a model must not make a space's vectors, as a clause."""


def load_encoders(args: RouterArgs, running: Mapping[str, str] | None = None) -> Encoders:
    """Load all encoders of a config. Raises ConfigError with the problems of all of them.

    For a reload, `running` has the digests, by model, of the fingerprints and students that the
    router runs with: a file that has changed since is refused.
    """
    return _Loading(args, running).encoders()


def load_student(config: ModelConfig, base_dir: str | None) -> Student:
    """Load the student of a model's config; the file is read once and cached.

    Raises OSError or ValueError.
    """
    file = resolve_path(config.engine.files["weights"], base_dir)
    stat = file.stat()
    return _student(file, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=8)
def _student(file: Path, changed_ns: int, size: int) -> Student:
    return student.load(file)


@dataclass
class _Loading:
    """The state while the encoders of a config are loaded."""

    args: RouterArgs
    running: Mapping[str, str] | None  # digests by model; None while the router starts
    problems: list[str] = field(default_factory=list)

    def encoders(self) -> Encoders:
        of_model: dict[str, Encoder] = {}
        for name, config in self.args.models.items():
            if config.space_of is None:
                continue
            try:
                of_model[name] = self._of_model(name, config, Space.parse(config.space_of))
            except (OSError, ValueError) as error:
                self.problems.append(f"models.{name}: {error}")
        of_collection = {
            name: self._of_collection(f"collections.{name}", collection, of_model)
            for name, collection in self.args.collections.items()
        }
        if self.problems:
            raise ConfigError(self.problems)
        return Encoders(of_model, of_collection)

    def _of_model(self, name: str, config: ModelConfig, space: Space) -> Encoder:
        """Load a model with `space_of`; the minimum recall of a collection is checked later."""
        if config.engine.in_router:
            loaded = load_student(config, self.args.base_dir)
            self._check_unchanged(name, loaded.fingerprint, config.engine.files["weights"])
            made = loaded.about
            if made.space != space:
                raise Unfit(
                    f"its file makes queries of {made.space}, `space_of` says {space}; correct "
                    "one of the two"
                )
            self._check_digest(space.model, made.teacher_fingerprint, "distill")
            if made.proof is None:
                raise Unfit(
                    "its file has no proof: it was not judged on any collection; run "
                    "`embedding-router distill` with --texts of your collection"
                )
            return Encoder(name, space, "student", proof=made.proof)
        if config.proof is None:
            self._check_probes(name, config, space)
            return Encoder(name, space, "same", "both")
        found = self._measured(config.proof, space)
        if name not in found.kept:
            raise Unfit(f"{config.proof} does not say what {name} keeps of {space}; measure it")
        for model in (space.model, name):
            self._check_measured(found, model, config.proof)
        return Encoder(name, space, "same", proof=found.kept[name], instruction=found.instruction)

    def _check_probes(self, name: str, config: ModelConfig, space: Space) -> None:
        """Check that the fingerprints of both models hold the same vectors, that their replicas
        are held to these, and that both read every request alike. Raises Unfit.
        """
        own, others = self._probes(name), self._probes(space.model)
        for model in (name, space.model):
            self._check_min_cosine(model, space)
        _check_prompts(config.prompts, self.args.models[space.model].prompts, space.model)
        cosines = _cosines(own, others, space.dimensions)
        if not cosines:
            raise Unfit(
                f"its fingerprint and that of {space.model} have no probe in common; make both "
                "with this version's `embedding-router fingerprint`"
            )
        if (worst := min(cosines)) < SAME_COSINE:
            raise Unfit(
                f"its fingerprint's vectors have cosine {worst:.4f} with those of {space.model}, "
                f"and {SAME_COSINE:g} is the least: measure what a search keeps, and name that "
                "file as `proof`"
            )

    def _check_min_cosine(self, model: str, space: Space) -> None:
        settings = self.args.models[model].fingerprint
        if settings is not None and settings.min_cosine < SAME_COSINE:
            raise Unfit(
                f"models.{model}.fingerprint.min_cosine is {settings.min_cosine:g}, and "
                f"{SAME_COSINE:g} is the least where another model makes vectors of {space} "
                "without a `proof`"
            )

    def _probes(self, model: str) -> Fingerprint:
        config = self.args.models[model].fingerprint
        if config is None or config.file is None:
            raise Unfit(
                f"models.{model} has no `fingerprint` with a file, so nothing shows that the two "
                "make the same vectors; make one with `embedding-router fingerprint`, or give a "
                "`proof` of measured recall"
            )
        found = fingerprint.load_of(config, self.args.base_dir)
        self._check_unchanged(model, found.digest, config.file)
        return found

    def _check_unchanged(self, model: str, digest: str, file: str | None) -> None:
        """Check that a running router has this version of a model's file. Raises Unfit."""
        if self.running is not None and self.running.get(model) != digest:
            raise Unfit(
                f"{file} has changed since this router started: restore it, or shut the "
                "application down and start it again"
            )

    def _check_digest(self, model: str, made_with: str, command: str) -> None:
        """Check that `model` is the one that a file was made with. Raises Unfit."""
        if model not in self.args.models:
            raise Unfit(f"it needs {model}, which is not one of the models")
        config = self.args.models[model]
        if config.fingerprint is None:
            raise Unfit(
                f"models.{model} has no `fingerprint`, so nothing shows that it is the {model} "
                "that the file was made with"
            )
        digest = fingerprint.digest_of(
            config.fingerprint, model, self.args.base_dir, config.revision
        )
        self._check_unchanged(model, digest, config.fingerprint.file)
        if digest != made_with:
            raise Unfit(
                f"it was made with another {model}: the fingerprints differ; run "
                f"`embedding-router {command}` again"
            )

    def _measured(self, file: str, space: Space) -> Measured:
        found = measured.load(resolve_path(file, self.args.base_dir))
        if found.space != space:
            raise Unfit(f"{file} compares with {found.space}, not with {space}")
        return found

    def _check_measured(self, found: Measured, model: str, file: str) -> None:
        if model not in found.fingerprints:
            raise Unfit(f"{file} has no fingerprint of {model}; measure it again")
        self._check_digest(model, found.fingerprints[model], "index")

    def _of_collection(
        self, where: str, collection: CollectionConfig, of_model: Mapping[str, Encoder]
    ) -> tuple[Encoder, ...]:
        natives = self._natives(where, collection)
        spaces = {encoder.space: encoder for encoder in natives}
        taken: dict[tuple[str, Space], Encoder] = {}
        for at, entry in _entries(where, collection):
            try:
                encoder = self._entry(entry, of_model)
                if encoder is None:  # the model's problem is reported already
                    continue
                if encoder.space not in spaces:
                    led = "leads to" if encoder.kind == "adapter" else "makes vectors of"
                    raise Unfit(f"it {led} {encoder.space}, {_spaces_of(collection)}")
                if encoder.adapter is not None:
                    self._check_adapter(encoder.adapter)
                own = spaces[encoder.space]
                encoder = replace(
                    encoder,
                    documents=collection.documents,
                    space_proof=own.space_proof,
                    assumed=own.assumed,
                    sides="both"
                    if encoder.kind == "adapter" and collection.adapt == "all"
                    else encoder.sides,
                )
                key = encoder.model, encoder.space
                if key in taken:
                    raise Unfit(
                        f"there is one from {encoder.model} already; a collection takes one from "
                        "each model into each space"
                    )
                taken[key] = encoder
                _check_kept(encoder, collection)
            except FileNotFoundError as error:  # its message names the entry
                self.problems.append(f"{at}: {error}")
            except (OSError, ValueError) as error:
                self.problems.append(f"{at}: {entry}: {error}")
        return (*natives, *taken.values())

    def _natives(self, where: str, collection: CollectionConfig) -> tuple[Encoder, ...]:
        """The native encoder of each space, with the recall of its index relative to the best."""
        made = [native(Space.parse(space)) for space in collection.all_spaces]
        if len(made) == 1:
            return tuple(made)
        if collection.proof is None:  # the largest model's index counts as the best
            ranks = {name: rank for rank, name in enumerate(self.args.models)}
            best = max(made, key=lambda entry: (ranks[entry.model], entry.space.dimensions))
            if collection.min_recall == 1.0:
                self.problems.append(
                    f"{where}: min_recall is 100.0%, and without `proof` nothing shows that a "
                    f"search in another space keeps all of one in {best.space}; measure it with "
                    "`embedding-router index --queries` under a lower min_recall and name the "
                    "file as `proof`, or leave that space out"
                )
            share = min(collection.min_recall_each, collection.min_recall)
            return tuple(item if item is best else replace(item, assumed=share) for item in made)
        try:
            found = measured.load(resolve_path(collection.proof, self.args.base_dir))
            if str(found.space) not in collection.all_spaces:
                raise Unfit(f"it compares with {found.space}, {_spaces_of(collection)}")
            for item in made:
                self._check_measured(found, item.model, collection.proof)
                if item.space != found.space and str(item.space) not in found.kept:
                    raise Unfit(f"it does not say what {item.space} keeps of {found.space}")
            made = [
                replace(
                    item,
                    space_proof=found.kept.get(str(item.space)),
                    documents=collection.documents,
                )
                for item in made
            ]
            for item in made:
                _check_kept(item, collection)
        except (OSError, ValueError) as error:
            self.problems.append(f"{where}.proof: {collection.proof}: {error}")
        return tuple(made)

    def _entry(self, entry: str, of_model: Mapping[str, Encoder]) -> Encoder | None:
        """The encoder for one name or file of `encoders` or `adapters`."""
        if entry in self.args.models:
            if self.args.models[entry].space_of is None:
                raise Unfit(
                    "it is a model with a space of its own; to let it make vectors of another, "
                    "fit an adapter with `embedding-router align` and name its file"
                )
            return of_model.get(entry)
        if not entry.endswith(".npz") and "/" not in entry:
            names = [name for name, model in self.args.models.items() if model.space_of is not None]
            near = suggestion(entry, names, "models with `space_of` are") if names else ""
            raise Unfit(f"there is no such model, and no file of an adapter; {near}".rstrip("; "))
        adapter = adapters.load(resolve_path(entry, self.args.base_dir))
        return Encoder(
            adapter.source.model, adapter.target, "adapter", proof=adapter.proof, adapter=adapter
        )

    def _check_adapter(self, adapter: Adapter) -> None:
        if adapter.source.model == adapter.target.model:
            raise Unfit(f"it leads from {adapter.source.model} to itself")
        self._check_digest(adapter.source.model, adapter.source_fingerprint, "align")
        self._check_digest(adapter.target.model, adapter.target_fingerprint, "align")
        own = self.args.models[adapter.source.model].dimensions
        if adapter.source.dimensions != own:
            raise Unfit(
                f"it reads {adapter.source.dimensions} dimensions, {adapter.source.model} makes "
                f"{own}"
            )


def _entries(where: str, collection: CollectionConfig) -> Iterator[tuple[str, str]]:
    for key in ("adapters", "encoders"):
        for index, entry in enumerate(getattr(collection, key)):
            yield f"{where}.{key}[{index}]", entry


def _spaces_of(collection: CollectionConfig) -> str:
    if collection.space is not None:
        return f"the collection's space is {collection.space}"
    return f"the collection's spaces are {', '.join(collection.spaces)}"


def _check_prompts(own: Prompts, others: Prompts, other: str) -> None:
    """Check what probes cannot show: requests without `input_type`, and those with an instruction
    of their own. Raises Unfit.
    """
    if own.default != others.default:
        raise Unfit(
            f"it reads a text without `input_type` as a {own.default} and {other} reads it as a "
            f"{others.default}; give both the same `prompts.default`"
        )
    for side in SIDES:
        reads = INSTRUCTION in own.of(side)
        if reads != (INSTRUCTION in others.of(side)):
            one, none = ("it", other) if reads else (other, "it")
            raise Unfit(
                f"`prompts.{side}` of {one} has {{instruction}} and that of {none} has none, so a "
                "request's own instruction would make other vectors; give both the same `prompts`"
            )


def _cosines(one: Fingerprint, other: Fingerprint, dimensions: int) -> list[float]:
    """Cosines of the vectors of both sides of the common texts, reduced to a space of `dimensions`;
    -1 for a vector of length 0.
    """
    if min(one.vectors.shape[1], other.vectors.shape[1]) < dimensions:
        raise Unfit(
            f"its fingerprint has vectors of {one.vectors.shape[1]} dimensions and the space has "
            f"{dimensions}"
        )
    common = list(one.row_of.keys() & other.row_of.keys())
    left, right = (
        fit(made.vectors[[made.row_of[key] for key in common]], dimensions) for made in (one, other)
    )
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    with np.errstate(invalid="ignore"):
        cosines = np.einsum("ij,ij->i", left, right) / lengths
    return [float(cosine) if np.isfinite(cosine) else -1.0 for cosine in cosines]


def _check_kept(encoder: Encoder, collection: CollectionConfig) -> None:
    """Check that an encoder keeps enough of the best search's recall for the collection.

    An assumed share of a space that was not measured does not count. Raises Unfit.
    """
    if encoder.proof is None and not encoder.native:
        return
    kept = [proof.kept(collection.documents).recall for proof in encoder.proofs]
    recall = math.prod(kept)
    if recall < collection.min_recall_each:
        name, floor = "min_recall_each", collection.min_recall_each
    elif collection.min_recall == 1.0 and recall < 1.0:
        name, floor = "min_recall", 1.0
    else:
        return
    proof = encoder.proofs[0]
    never = ", so no share of its answers can keep that" if name == "min_recall" else ""
    limit = f"and {name} is {floor:.1%}{never}"
    queries = proof.kept(collection.documents).queries
    figures = f"({queries} queries, by {proof.judged_by})"
    if encoder.native:
        raise Unfit(
            f"a search in {encoder.space} keeps {recall:.1%} of the best space's {figures} "
            f"{limit}; leave that space out, or lower {name} if that is enough"
        )
    growing = collection.documents == "growing"
    seen = "for documents left out of its fit" if growing else "for documents in its fit"
    of_space = (
        f"; that space keeps {kept[1]:.1%} of the best one's, so {recall:.1%} in all,"
        if len(kept) > 1
        else ""
    )
    in_fit = math.prod(proof.fitted.recall for proof in encoder.proofs)
    fixed = (
        "; if the index holds only documents of the fit, write `documents: fixed`"
        if growing and in_fit >= floor
        else ""
    )
    raise Unfit(
        f"it keeps {kept[0]:.1%} of the recall of {encoder.space}'s own model {seen} "
        f"{figures}{of_space} {limit}; make it with more of your own text, or lower {name} if "
        f"that is enough{fixed}"
    )
