"""Fingerprints, adapters and students of fake models, made in a moment like the commands of these
names make real ones.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from deployments import engines
from deployments.engines.base import Batch
from deployments.service.fingerprints import probes_of
from deployments.service.prepare import Preparer
from deployments.tools.vocabulary import tokenizer
from router import adapters, fingerprint, measured, student
from router.adapters import Adapter
from router.config import RouterArgs
from router.fingerprint import Fingerprint
from router.proof import Proof, RetainedQuality
from router.space import Space
from router.strict import parse_args


async def fingerprint_of(args: RouterArgs, model: str) -> Fingerprint:
    """The vectors of the probes by the engine of `model`."""
    config = args.models[model]
    probes = probes_of(Preparer(args), model, config.max_tokens)
    engine = engines.create(config, None)
    await engine.start()
    vectors = []
    for probe in probes:
        batch = Batch(
            ids=None if probe.ids is None else [probe.ids],
            texts=None if probe.prompted is None else [probe.prompted],
            input_type=probe.side,
        )
        vectors.append((await engine.embed(batch)).vectors)
    await engine.stop()
    return fingerprint.make(model, probes, np.concatenate(vectors))


async def with_fingerprints(args: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The args with a fingerprint for every model, written into `folder`."""
    parsed = parse_args({**args, "collections": {}})
    models = {}
    for name, model in args["models"].items():
        file = folder / f"{name}.json"
        fingerprint.save(await fingerprint_of(parsed, name), file)
        models[name] = {**model, "fingerprint": str(file)}
    return {**args, "models": models}


def kept_of(recall: float, ndcg: float) -> RetainedQuality:
    """Figures of 300 queries with an interval of two points on either side."""
    return RetainedQuality(
        300, recall, recall - 0.02, recall + 0.02, ndcg, ndcg - 0.02, ndcg + 0.02, 0.8, 0.7
    )


def proof_of(
    unseen: float, fitted: float | None = None, by_language: Mapping[str, float] | None = None
) -> Proof:
    """The proof of an encoder that keeps these shares of the recall; a point more in the fit."""
    of = {name: kept_of(recall, recall) for name, recall in (by_language or {}).items()}
    inside = kept_of(min(1.0, unseen + 0.01) if fitted is None else fitted, unseen)
    return Proof("judgements", inside, kept_of(unseen, unseen), of, of)


def write_adapter(
    args: Mapping[str, Any],
    folder: Path,
    source: str,
    target: str,
    recall: float = 0.97,
    change: Mapping[str, Any] = MappingProxyType({}),
) -> str:
    """Write an adapter between models that have fingerprints, a random map with this `recall` in
    its proof; return its path.
    """
    into, dimensions = Space.parse(target), args["models"][source]["dimensions"]
    rng = np.random.default_rng(abs(hash((source, target))) % 2**32)
    matrix = rng.standard_normal((dimensions, into.dimensions)).astype(np.float32)
    digests = [
        fingerprint.load(Path(args["models"][model]["fingerprint"])).digest
        for model in (source, into.model)
    ]
    adapter = Adapter(
        Space(source, dimensions),
        into,
        matrix,
        np.zeros(into.dimensions, np.float32),
        "procrustes",
        digests[0],
        digests[1],
        1000,
        proof_of(recall),
    )
    file = folder / f"{source}-to-{into.model}-{into.dimensions}-{len(list(folder.iterdir()))}.npz"
    adapters.save(replace(adapter, **change), file)
    return str(file)


WORDS = ("a", "some", "another", "long", "rather", "text", "other", "##s", "今", "天")


def write_student(
    args: Mapping[str, Any],
    folder: Path,
    target: str,
    recall: float = 0.97,
    change: Mapping[str, Any] = MappingProxyType({}),
) -> str:
    """Write a student of a model that has a fingerprint, random rows for `WORDS` with this
    `recall`; return its path.
    """
    into = Space.parse(target)
    rng = np.random.default_rng(len(list(folder.iterdir())))
    rows, scales = student.quantised(
        rng.standard_normal((len(WORDS) + 1, into.dimensions)).astype(np.float32)
    )
    about = student.About(
        space=into,
        teacher_fingerprint=fingerprint.load(
            Path(args["models"][into.model]["fingerprint"])
        ).digest,
        tokens=len(rows),
        general_texts=0,
        own_texts=100,
        proof=proof_of(recall),
    )
    file = folder / f"student-of-{into.model}-{into.dimensions}-{len(list(folder.iterdir()))}.npz"
    made = student.Student(
        replace(about, **change), tokenizer(WORDS), rows, scales, np.ones(len(rows), np.float32)
    )
    student.save(made, file)
    return str(file)


def write_measured(
    args: Mapping[str, Any],
    folder: Path,
    space: str,
    kept: Mapping[str, float | Proof],
    instruction: str | None = None,
) -> str:
    """Write a file of the recall that models or spaces keep of `space`; return its path."""
    models = {Space.parse(space).model} | {
        name if name in args["models"] else Space.parse(name).model for name in kept
    }
    found = measured.Measured(
        Space.parse(space),
        {
            name: recall if isinstance(recall, Proof) else proof_of(recall, fitted=recall)
            for name, recall in kept.items()
        },
        {
            model: fingerprint.load(Path(args["models"][model]["fingerprint"])).digest
            for model in models
        },
        instruction,
    )
    file = folder / f"measured-{len(list(folder.iterdir()))}.json"
    measured.save(found, file)
    return str(file)
