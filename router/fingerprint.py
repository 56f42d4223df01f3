"""Proof that two processes run the same model: texts, the model's input for them, and its vectors.

The proof has two halves. The router prepares the texts again and must get exactly the stored token
ids, or prompted text: this detects another tokenizer, prompt or instruction. A replica embeds the
stored input and must get vectors of the same direction: this detects other weights, pooling or
another revision. Each half alone would miss the other half's faults.

Vectors are stored in 16 bits, which changes a cosine by less than 0.00001.
"""

import base64
import hashlib
import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from router.arrays import TokenIds, Vectors
from router.model_config import CardExample, FingerprintConfig, resolve_path
from router.names import SIDES
from router.schema import Side

FORMAT = "embedding-router fingerprint 1"

# Long and short, several scripts, code, symbols, a decomposed text: a wrong pooling shows in long
# texts, a wrong tokenizer in texts that are not English.
TEXTS = (
    "Which proteins bind iron in the blood?",
    "The committee met on Tuesday to discuss the budget for the coming year. After three hours "
    "of debate it agreed to spend more "
    "on schools and less on roads, although two members, who live far from the city, voted "
    "against it. The decision takes effect "
    "in March, and a report on what it changed is due before the end of the following summer.",
    "今天天气很好，我们去公园散步吧。",
    "def mean(values: list[float]) -> float:\n    return sum(values) / len(values)  # "
    "ZeroDivisionError when empty",
    "Über die Brücke fährt täglich ein Zug: 1.234,56 € – c'est déjà trop cher, n'est-ce pas? ☕🚆",
    "Который час? كم الساعة؟ 몇 시예요?",
    # each accent and vowel is a separate character
    unicodedata.normalize(
        "NFD", "Tôi muốn trả lại sản phẩm này. Größe geändert. 안녕하세요. ガラス"
    ),
)


class Probe(NamedTuple):
    """One text and the model's input for it: token ids, or the prompted text for engines that take
    text.
    """

    text: str
    side: Side
    ids: TokenIds | None
    prompted: str | None


@dataclass(frozen=True)
class Fingerprint:
    """Probes of one model and their vectors, (probes, dimensions), of length 1 except for rounding
    to 16 bits.
    """

    model: str
    probes: Sequence[Probe]
    vectors: Vectors

    @cached_property
    def digest(self) -> str:
        """A digest of 32 hexadecimal characters; it does not cover the model's name."""
        return digest_of_json(_rows(self))

    @cached_property
    def row_of(self) -> Mapping[tuple[str, Side], int]:
        """The row of each text on each side.

        Where only one side has a probe, its row is used for both: the other side read the text
        alike, or had too many tokens.
        """
        own = {(probe.text, probe.side): row for row, probe in enumerate(self.probes)}
        alike = {(text, side): row for (text, _), row in own.items() for side in SIDES}
        return alike | own

    def misread(self, probe: Probe, ids: TokenIds | None, prompted: str | None) -> str | None:
        """Compare `probe` with the input that the router has just prepared from its text.

        Returns the error as a sentence, or None.
        """
        if (ids is None) != (probe.ids is None):
            made_with = "text" if probe.ids is None else "token ids"
            return (
                f"{self.model}: its fingerprint was made with {made_with}, its engine takes "
                "the other"
            )
        same = (
            prompted == probe.prompted
            if ids is None or probe.ids is None
            else np.array_equal(ids, probe.ids)
        )
        if same:
            return None
        return (
            f"{self.model}: what it would read of the {probe.side} {_short(probe.text)} is not "
            "what its fingerprint was made "
            "with: its prompt, instruction or tokenizer changed, and its vectors with them"
        )

    def mismatch(self, made: Vectors, min_cosine: float) -> str | None:
        """Compare the stored vectors with new vectors of the probes.

        Returns the error as a sentence, or None.
        """
        if made.shape != self.vectors.shape:
            return (
                f"{self.model}: it makes vectors of {made.shape[1]} dimensions, its "
                f"fingerprint has {self.vectors.shape[1]}"
            )
        lengths = np.linalg.norm(made, axis=1) * np.linalg.norm(self.vectors, axis=1)
        cosines = np.einsum("ij,ij->i", made, self.vectors) / lengths
        worst = int(np.argmin(np.where(np.isfinite(cosines), cosines, -1.0)))
        if cosines[worst] >= min_cosine:
            return None
        return (
            f"{self.model}: its vector of {_short(self.probes[worst].text)} has cosine "
            f"{cosines[worst]:.4f} with the "
            f"fingerprint's, and {min_cosine:g} is the least allowed: these are not the weights, "
            "pooling or revision that it was "
            "made with"
        )


@dataclass(frozen=True)
class CardProof:
    """A model's card as a proof; its `digest` is used like that of a fingerprint."""

    model: str
    card: CardExample
    revision: str | None = None  # the commit of the weights, which the card does not contain

    @cached_property
    def digest(self) -> str:
        """A digest of 32 hexadecimal characters; it does not cover the model's name."""
        return digest_of_json([self.card.model_dump(mode="json"), self.revision])

    def otherwise_pooled(self, pooling: str | None) -> str | None:
        """Compare an engine's pooling with the card's.

        Returns the error as a sentence, or None if they are equal or one is unknown.
        """
        if None in (self.card.pooling, pooling) or pooling == self.card.pooling:
            return None
        return (
            f"{self.model}: its engine pools by {pooling!r}, the card's model by "
            f"{self.card.pooling!r}: correct the engine's pooling, or the checkpoint's"
        )

    def mismatch(self, queries: Vectors, documents: Vectors) -> str | None:
        """Compare the card's similarities with those of new vectors, of length 1, of its texts.

        Returns the error as a sentence, or None.
        """
        made = queries @ documents.T
        off = np.abs(made - np.array(self.card.similarities, np.float32))
        off = np.where(np.isfinite(off), off, np.inf)
        if off.max() <= self.card.tolerance:
            return None
        row, column = np.unravel_index(int(off.argmax()), off.shape)
        return (
            f"{self.model}: the similarity of {_short(self.card.queries[row])} and "
            f"{_short(self.card.documents[column])} is {made[row, column]:.4f}, its card says "
            f"{self.card.similarities[row][column]:.4f}: these are not the card's weights or "
            "revision, or they are pooled or prompted otherwise"
        )


ModelProof = Fingerprint | CardProof


def digest_of(
    config: FingerprintConfig, model: str, base_dir: str | None, revision: str | None = None
) -> str:
    """The digest of the proof that a model's config names; `revision` is the commit that the config
    pins. Raises OSError or ValueError for an unusable file.
    """
    if config.card is not None:
        return CardProof(model, config.card, revision).digest
    return load_of(config, base_dir).digest


def load_of(config: FingerprintConfig, base_dir: str | None) -> Fingerprint:
    """Load the file that a model's config names.

    Raises OSError or ValueError for an unusable file, and for one with another digest.
    """
    found = load(resolve_path(str(config.file), base_dir))
    if config.digest not in {None, found.digest}:
        raise ValueError(
            f"{config.file} is not the file that the application was built with: restore it, or "
            "shut the application down and start it again (a deployment that changes nothing else "
            "does not build it again); other weights need a model of their own"
        )
    return found


def digest_of_probes(probes: Sequence[Probe], also: Sequence[Any]) -> str:
    """A digest, 32 hexadecimal characters, of a model's inputs and of `also`."""
    rows: list[Any] = [
        [probe.side, probe.prompted if probe.ids is None else probe.ids.tolist()]
        for probe in probes
    ]
    return digest_of_json([rows, *also])


def make(model: str, probes: Sequence[Probe], vectors: Vectors) -> Fingerprint:
    """Make a fingerprint of new vectors, rounded to 16 bits."""
    return Fingerprint(model, probes, vectors.astype("<f2").astype(np.float32))


def save(fingerprint: Fingerprint, path: Path) -> None:
    """Write a fingerprint as JSON, one line per probe."""
    about = {
        "format": FORMAT,
        "model": fingerprint.model,
        "dimensions": fingerprint.vectors.shape[1],
    }
    write_probes(path, about, _rows(fingerprint))


def write_probes(path: Path, about: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a fingerprint of any kind as JSON, one line per probe."""
    probes = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text(f'{json.dumps(about)[:-1]}, "probes": [\n{probes}\n]}}\n', encoding="utf-8")


def read_probes(path: Path, form: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Read a file that `write_probes` wrote; returns its content and its probes.

    Raises ValueError or KeyError if it has another format or no probes.
    """
    data = json.loads(path.read_text(encoding="utf-8"))
    if data["format"] != form:
        raise ValueError(f"its format is {data['format']!r}, this version reads {form!r}")
    if not data["probes"]:
        raise ValueError("it has no probes")
    return data, data["probes"]


def digest_of_json(content: Any) -> str:
    """A digest of 32 hexadecimal characters."""
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()


def load(path: Path) -> Fingerprint:
    """Read a file that `save` wrote.

    Raises a ValueError that names the file if it is not a fingerprint.
    """
    try:
        data, rows = read_probes(path, FORMAT)
        vectors = np.array(
            [np.frombuffer(base64.b64decode(row["vector"]), "<f2") for row in rows], np.float32
        )
        if vectors.shape != (len(rows), data["dimensions"]):
            raise ValueError(
                f"it has {vectors.shape} vectors for {len(rows)} probes of {data['dimensions']} "
                "dimensions"
            )
        probes = [
            Probe(
                row["text"],
                row["side"],
                np.array(row["ids"], np.int32) if "ids" in row else None,
                row.get("prompted"),
            )
            for row in rows
        ]
        return Fingerprint(str(data["model"]), probes, vectors)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not a fingerprint: {error}; make one with `embedding-router fingerprint`"
        ) from error


def _rows(fingerprint: Fingerprint) -> list[dict[str, Any]]:
    return [
        {
            "text": probe.text,
            "side": probe.side,
            **({"prompted": probe.prompted} if probe.ids is None else {"ids": probe.ids.tolist()}),
            "vector": base64.b64encode(vector.astype("<f2").tobytes()).decode(),
        }
        for probe, vector in zip(fingerprint.probes, fingerprint.vectors, strict=True)
    ]


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")
