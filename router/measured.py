"""Files of measured recall, for encoders that were not fitted: the same weights in another place,
and the native models of a collection's other spaces.

Recall is what a search keeps when another model makes its queries. Adapters and students carry
their proof in their own files. These models were measured as they are, so both figures of a proof
(documents in a fit, documents left out of it) are equal.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from router.files import replacing
from router.proof import Proof, RetainedQuality, mapping, text
from router.space import Space

FORMAT = "embedding-router measured 1"


@dataclass(frozen=True, slots=True)
class Measured:
    """The share of a search with the native model of `space` that other models keep."""

    space: Space  # recall is relative to a search with its native model
    # by model (an encoder of `space`) or by MODEL/DIMENSIONS (a search in that space's own index)
    kept: Mapping[str, Proof]
    fingerprints: Mapping[str, str]  # digests of the models that were measured, by model
    # of the queries; None: each model's own default, also for files of older versions
    instruction: str | None = None


def as_proof(
    kept: RetainedQuality, by_language: Mapping[str, RetainedQuality], judged_by: str
) -> Proof:
    """The proof of a model that was not fitted."""
    return Proof(
        "judgements" if judged_by == "judgements" else "neighbours",
        kept,
        kept,
        by_language,
        by_language,
    )


def save(measured: Measured, path: Path) -> None:
    """Write `measured` to a JSON file."""
    content = {
        "format": FORMAT,
        "space": str(measured.space),
        "kept": {name: proof.as_json() for name, proof in measured.kept.items()},
        "fingerprints": dict(measured.fingerprints),
        "instruction": measured.instruction,
    }
    with replacing(path) as file:
        file.write(f"{json.dumps(content, indent=1, sort_keys=True)}\n".encode())


def load(path: Path) -> Measured:
    """Read a file that `save` wrote; raises ValueError naming the file if it is anything else."""
    try:
        content = mapping(json.loads(path.read_text(encoding="utf-8")), "its content")
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}, this version reads {FORMAT!r}")
        return Measured(
            Space.parse(text(content["space"], "space")),
            {
                name: _proof(proof, f"kept.{name}")
                for name, proof in mapping(content["kept"], "kept").items()
            },
            {
                name: text(digest, f"fingerprints.{name}")
                for name, digest in mapping(content["fingerprints"], "fingerprints").items()
            },
            None if (asked := content.get("instruction")) is None else text(asked, "instruction"),
        )
    except (OSError, ValueError, KeyError, RecursionError) as error:
        why = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path} holds no measured recall: {why}") from error


def _proof(data: object, key: str) -> Proof:
    try:
        return Proof.from_json(mapping(data, "it"))
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error
