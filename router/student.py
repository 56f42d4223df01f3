"""A student: a small encoder of queries into another model's space, a bag of tokens.

A text is cut into lower-cased words and pieces of words. Each has a row of the teacher's size; the
vector is their weighted sum, scaled to length 1. A trained head is folded into the rows, which are
stored in 8 bits. Encoding needs only numpy and a tokenizer, so it is cheap enough for the router's
own process.

The file has what admits the student to a space: the teacher's fingerprint, a digest of itself, what
a search with it keeps (router/proof.py), and the licences of the texts that it was made from.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from router.arrays import Indices, Vectors
from router.files import UNREADABLE, replacing
from router.model_config import MAX_TOKENS
from router.proof import Proof, count, mapping, number, text
from router.space import Space

FORMAT = "embedding-router student 1"
UNKNOWN = 0  # id of text outside the vocabulary
_LEVELS = 127


@dataclass(frozen=True, slots=True)
class About:
    """The description of a student, and its sources."""

    space: Space  # whose queries it makes
    teacher_fingerprint: str
    tokens: int
    general_texts: int
    own_texts: int  # of the collection
    licences: Mapping[str, int] = field(default_factory=dict)  # texts by licence
    overlap: float | None = None  # with the teacher's first ten, on sentences of documents left out
    proof: Proof | None = None  # None: not judged on any collection


@dataclass(frozen=True)
class Student:
    """Rows of 8 bits, each with a scale and a weight, and the tokenizer that selects them."""

    about: About
    tokenizer: Tokenizer
    rows: npt.NDArray[np.int8]  # (tokens, dimensions)
    scales: Vectors  # (tokens,): a row's true values are its own times its scale
    weights: Vectors  # (tokens,): the weight of a token in a text

    @cached_property
    def factors(self) -> Vectors:
        """The factor of each row in a sum."""
        made: Vectors = self.scales * self.weights
        made[UNKNOWN] = 0.0
        return made

    @cached_property
    def fingerprint(self) -> str:
        """Digest of everything that determines a vector."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(self.tokenizer.to_str().encode())
        for part in (self.rows, self.scales, self.weights):
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Encode texts to (n, dimensions) of length 1; zeros for a text without known tokens."""
        return self.encode_ids([self._ids(text) for text in texts])

    def encode_ids(self, texts: Sequence[npt.NDArray[np.integer[Any]]]) -> Vectors:
        """Encode texts given as ids of its tokenizer.

        Each text is encoded by itself, so that a vector does not depend on the texts beside it.
        """
        made = np.zeros((len(texts), self.rows.shape[1]), np.float32)
        for place, ids in enumerate(texts):
            known = self._known(ids)
            if not known.size:
                continue
            row = self.factors.take(known) @ self.rows.take(known, axis=0).astype(np.float32)
            np.divide(row, math.sqrt(row @ row) or 1.0, out=made[place])
        return made

    def _ids(self, text: str) -> Indices:
        return np.array(self.tokenizer.encode(text, add_special_tokens=False).ids, np.int64)

    @staticmethod
    def _known(ids: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.integer[Any]]:
        read = ids[:MAX_TOKENS]
        known: npt.NDArray[np.integer[Any]] = (
            read if np.count_nonzero(read) == len(read) else read[read != UNKNOWN]
        )
        return known


def quantised(rows: Vectors) -> tuple[npt.NDArray[np.int8], Vectors]:
    """Rows in 8 bits, and the scale of each."""
    scales = np.maximum(np.abs(rows).max(axis=1), 1e-12).astype(np.float32) / _LEVELS
    return np.rint(rows / scales[:, None]).astype(np.int8), scales


def save(student: Student, path: Path) -> None:
    """Write `student` as npz: rows, scales, weights, the tokenizer, and JSON for the rest."""
    about = student.about
    content: dict[str, Any] = {
        "format": FORMAT,
        "space": str(about.space),
        "teacher_fingerprint": about.teacher_fingerprint,
        "fingerprint": student.fingerprint,
        "tokens": about.tokens,
        "general_texts": about.general_texts,
        "own_texts": about.own_texts,
        "licences": dict(about.licences),
        "overlap": about.overlap,
        "proof": None if about.proof is None else about.proof.as_json(),
    }
    with replacing(path) as file:
        np.savez_compressed(
            file,
            rows=student.rows,
            scales=student.scales,
            weights=student.weights,
            tokenizer=np.frombuffer(student.tokenizer.to_str().encode(), np.uint8),
            about=np.frombuffer(json.dumps(content, sort_keys=True).encode(), np.uint8),
        )


def load(path: Path) -> Student:
    """Read a file that `save` wrote; raises ValueError naming the file if it is anything else."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            content = dict(mapping(json.loads(arrays["about"].tobytes()), "about"))
            stored = arrays["tokenizer"].tobytes().decode()
            rows, scales, weights = arrays["rows"], arrays["scales"], arrays["weights"]
        if content.pop("format") != FORMAT:
            raise ValueError(f"this version reads {FORMAT!r}")
        digest, proof = content.pop("fingerprint"), content.pop("proof")
        space = Space.parse(text(content.pop("space"), "space"))
        about = About(
            space=space, proof=None if proof is None else Proof.from_json(proof), **content
        )
        student = Student(about, _tokenizer(stored), rows, scales, weights)
        for key in ("tokens", "general_texts", "own_texts"):
            count(getattr(about, key), key)
        for licence, texts in mapping(about.licences, "licences").items():
            count(texts, f"licences.{licence}")
        if about.overlap is not None:
            number(about.overlap, "overlap", 1.0)
        if not (np.isfinite(scales).all() and np.isfinite(weights).all()):
            raise ValueError("its scales or weights are not finite")
        shape = (about.tokens, space.dimensions)
        if rows.shape != shape or scales.shape != shape[:1] or weights.shape != shape[:1]:
            raise ValueError(f"it must have {shape[0]} rows of {shape[1]}; it has {rows.shape}")
        if student.fingerprint != digest:
            raise ValueError("its rows are not those that it was measured with")
        return student
    except UNREADABLE as error:
        why = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(
            f"{path} is not a student: {why}; make one with `embedding-router distill`"
        ) from error


def _tokenizer(text: str) -> Tokenizer:
    try:
        made: Tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # the library raises no narrower class
        raise ValueError(f"its tokenizer cannot be read ({error})") from None
    return made
