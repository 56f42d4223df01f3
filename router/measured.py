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
from router.proof import Proof, RetainedQuality
from router.space import Space

FORMAT = "embedding-router measured 1"


@dataclass(frozen=True, slots=True)
class Measured:
    """The share of a search with the native model of `space` that other models keep."""

    space: Space  # recall is relative to a search with its native model
    # by model (an encoder of `space`) or by MODEL/DIMENSIONS (a search in that space's own index)
    kept: Mapping[str, Proof]
    fingerprints: Mapping[str, str]  # digests of the models that were measured, by model


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
    }
    with replacing(path) as file:
        file.write(f"{json.dumps(content, indent=1, sort_keys=True)}\n".encode())


def load(path: Path) -> Measured:
    """Read a file that `save` wrote; raises ValueError naming the file if it is anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}, this version reads {FORMAT!r}")
        return Measured(
            Space.parse(content["space"]),
            {str(name): Proof.from_json(proof) for name, proof in content["kept"].items()},
            {str(name): str(digest) for name, digest in content["fingerprints"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path} holds no measured recall: {why}") from error
