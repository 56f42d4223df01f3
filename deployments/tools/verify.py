"""Check whether the model that serves a space now still makes the vectors stored in its index.

A sample of stored texts is embedded again, and two things are measured. The first is the cosine of
each new vector with the stored one. The second is the search: each text is searched among the
others with its new vector, and the results of its stored vector count as relevant. Cosines can show
that nothing changed; only the search shows what a change costs.

If the search loses too much, a linear map from the new vectors to the stored ones is fitted. It is
measured as in `align`, on texts left out of the fit, also for each language of which there are
enough texts.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from deployments.tools.align import (
    FEWEST_OF_A_LANGUAGE,
    HELD_OUT_SHARE,
    AlignError,
    align,
    material,
    rows_by_language,
)
from deployments.tools.corpus import (
    CorpusError,
    Text,
    as_id,
    batch_rows,
    batches,
    parquet_file,
    read_texts,
)
from deployments.tools.migrate import digest_of, manifest_of
from deployments.tools.origins import MIN_COSINE
from router.adapters import METHODS
from router.arrays import Vectors
from router.proof import Proof, RetainedQuality, kept_of
from router.retrieval import TOP, Found, nearest
from router.schema import Side
from router.space import Space

FEWEST_TEXTS = 100  # with fewer texts there is no verdict
BRIDGE_TEXTS_A_DIMENSION = 1.5  # enough to fit a map, and to judge it on texts left out
LOW_QUANTILE = 0.01  # this quantile of the cosines must reach MIN_COSINE

Verdict = Literal["keep", "bridge", "migrate"]


class Sample(NamedTuple):
    """Stored texts and their vectors, which have length 1."""

    texts: list[Text]
    vectors: Vectors


class Verified(NamedTuple):
    """The result of a verification."""

    texts: int
    cosines: Vectors
    kept: RetainedQuality  # of the search with the new vectors
    by_language: dict[str, RetainedQuality]
    bridged: (
        RetainedQuality | None
    )  # the same over a map, for texts left out of its fit; None: not tried
    bridged_by_language: dict[str, RetainedQuality]
    not_bridged: str | None  # why it was not tried
    verdict: Verdict


def read_sample(index: Path, texts: Path | None, text_field: str, limit: int) -> Sample:
    """Read at most `limit` rows, evenly spread, from a Parquet file or a folder of them.

    Texts are taken from the same rows or, by id, from the file `texts`. Raises CorpusError.
    """
    columns = ["id", "vector", *([text_field] if texts is None else [])]
    rows = _spread(index, columns, texts is None, limit)
    vectors = _matrix(index, list(rows.values()))
    ids = [_id_of(index, row) for row in rows.values()]
    if texts is None:
        found = [Text(id, row[text_field]) for id, row in zip(ids, rows.values(), strict=True)]
    elif index.is_dir() and manifest_of(index).get("corpus_digest") == digest_of(texts):
        found = _by_row(index, texts, text_field, list(rows))
    else:
        known = _by_id(index, texts, text_field, ids)
        places = [place for place, id in enumerate(ids) if id in known]
        vectors = vectors[places]
        found = [known[ids[place]] for place in places]
    for text in found:
        if not isinstance(text.text, str) or not text.text:
            raise CorpusError(f"{index}: {text_field!r} of id {text.id!r} is no text")
    return Sample(found, vectors)


def _id_of(index: Path, row: dict[str, Any]) -> str:
    try:
        return as_id(row["id"])
    except ValueError as error:
        raise CorpusError(f"{index}: the id {row['id']!r} {error}") from None


def _by_row(index: Path, texts: Path, text_field: str, rows: list[int]) -> list[Text]:
    """Return the texts of these rows of a folder that `index` or `migrate` made of `texts`.

    The rows of the folder are those of the file, so parts of a document can share its id.
    """
    manifest, wanted = manifest_of(index), set(rows)
    has, makes = _count(index), manifest.get("rows")
    if has != makes:
        raise CorpusError(
            f"{index} has {has} of {makes} rows; go on with the command that makes it, and verify "
            "it then"
        )
    read = read_texts(texts, text_field, manifest.get("id_field"))
    return [text for row, text in enumerate(read) if row in wanted]


def _by_id(index: Path, texts: Path, text_field: str, ids: list[str]) -> dict[str, Text]:
    """Return the texts by those ids that stand once in the index and in `texts`.

    Raises CorpusError if there are none, or too few because parts share an id.
    """
    wanted = set(ids)
    known, stand, held = dict[str, Text](), Counter[str](), Counter[str]()
    id_field = manifest_of(index).get("id_field") if index.is_dir() else None
    for text in read_texts(texts, text_field, id_field):
        if text.id in wanted:
            known[text.id] = text
            stand[text.id] += 1
    if not known:
        raise CorpusError(f"{texts} has none of the ids of {index}")
    for file, one in _files(index):
        for batch in batches(file, one, columns=["id"]):
            each = (_id_of(index, row) for row in batch_rows(file, batch))
            held.update(id for id in each if id in known)
    once = {id: text for id, text in known.items() if stand[id] == 1 and held[id] == 1}
    if len(once) < min(len(known), FEWEST_TEXTS):
        raise CorpusError(
            f"{len(known) - len(once)} ids stand in several rows of {index} or {texts}, so nothing "
            "says which text belongs to which vector; give as --texts the very file that `index` "
            "read, or an index with a column of the texts"
        )
    return once


def _files(index: Path) -> list[tuple[Path, Any]]:
    files = sorted(index.glob("*.parquet")) if index.is_dir() else [index]
    return [(file, parquet_file(file)) for file in files]


def _count(index: Path) -> int:
    return sum(one.metadata.num_rows for _, one in _files(index))


def _spread(
    index: Path, columns: list[str], with_text: bool, limit: int
) -> dict[int, dict[str, Any]]:
    """Return at most `limit` rows by their number in the index."""
    opened = _files(index)
    if not opened:
        raise CorpusError(f"{index}: there are no Parquet files in it")
    for file, one in opened:
        has = one.schema_arrow.names
        if missing := [name for name in columns if name not in has]:
            hint = "" if not with_text else "; --texts FILE gives texts by their id"
            raise CorpusError(
                f"{file} has no column {' and no column '.join(map(repr, missing))}; it has "
                f"{', '.join(has) or 'none'}{hint}"
            )
    if not (count := _count(index)):
        raise CorpusError(f"{index} has no rows")
    places = set(np.linspace(0, count - 1, min(count, limit), dtype=np.int64).tolist())
    rows: dict[int, dict[str, Any]] = {}
    at = 0
    for file, one in opened:
        for batch in batches(file, one, columns=columns):
            here = [place for place in range(len(batch)) if at + place in places]
            found = batch_rows(file, batch.take(here)) if here else []
            rows.update(zip([at + place for place in here], found, strict=True))
            at += len(batch)
    return rows


def _matrix(index: Path, rows: Sequence[dict[str, Any]]) -> Vectors:
    first = rows[0]["vector"] if rows else None
    width = len(first) if isinstance(first, list) else 0
    made = np.empty((len(rows), width), np.float32)
    for place, row in enumerate(rows):
        vector, name = row["vector"], f"{index}: the vector of id {row['id']!r}"
        if vector is None:
            raise CorpusError(f"{name} is missing")
        if not isinstance(vector, list):
            raise CorpusError(f"{name} is no list of numbers")
        if len(vector) != width:
            raise CorpusError(
                f"{name} has {len(vector)} dimensions, and that of the first row has {width}"
            )
        try:
            made[place] = vector
        except (TypeError, ValueError):
            raise CorpusError(f"{name} is no list of numbers") from None
    lengths = np.linalg.norm(made, axis=1, keepdims=True)
    if wrong := np.flatnonzero(~(np.isfinite(lengths[:, 0]) & (lengths[:, 0] > 0))).tolist():
        raise CorpusError(
            f"{index}: the vector of id {rows[wrong[0]]['id']!r} is zero or not finite, so it has "
            "no direction to compare"
        )
    unit: Vectors = made / lengths
    return unit


async def verify(sample: Sample, space: Space, now: Vectors, minimum: float) -> Verified:
    """Compare the stored vectors with those made `now`; a search can lose 1 - `minimum`.

    Raises AlignError if there are too few texts.
    """
    stored = sample.vectors
    if (different := len({text.text for text in sample.texts})) < FEWEST_TEXTS:
        raise AlignError(
            f"{different} different texts are too few to judge; give {FEWEST_TEXTS} at least, and "
            "better a thousand"
        )
    own = _others(stored, stored)
    over = _others(now, stored)
    relevant = [set(row) for row in own.tolist()]
    kept = kept_of(over, own, relevant)
    languages = {
        name: kept_of(over[rows], own[rows], [relevant[row] for row in rows])
        for name, rows in rows_by_language([text.text for text in sample.texts]).items()
    }
    cosines: Vectors = (stored * now).sum(axis=1)
    same = float(np.quantile(cosines, LOW_QUANTILE)) >= MIN_COSINE
    finds = _keeps(kept, languages, minimum)
    bridged, why = None, None
    bridged_by_language: dict[str, RetainedQuality] = {}
    if same or finds:
        verdict: Verdict = "keep"
    else:
        try:
            proof = await _bridged(sample, space, now)
            bridged, bridged_by_language = proof.unseen, dict(proof.unseen_by_language)
        except AlignError as error:
            enough = math.ceil(BRIDGE_TEXTS_A_DIMENSION * space.dimensions)
            why = (
                f"{len(stored)} texts cannot tell {space.dimensions} dimensions apart; a --sample "
                f"of {enough} texts can"
                if len(stored) < enough
                else str(error)
            )
        crossed = bridged is not None and _keeps(bridged, bridged_by_language, minimum)
        verdict = "bridge" if crossed else "migrate"
    return Verified(
        len(stored), cosines, kept, languages, bridged, bridged_by_language, why, verdict
    )


def _keeps(kept: RetainedQuality, languages: Mapping[str, RetainedQuality], minimum: float) -> bool:
    """Whether a search keeps `minimum`, and each language can reach it, whatever the others do."""
    return kept.recall_low >= minimum and all(
        one.recall_high >= minimum for one in languages.values()
    )


def _held_out(texts: Sequence[str]) -> set[int]:
    """Rows that judge a bridge: an even tenth, and enough of each language but the largest."""
    most = round(len(texts) * HELD_OUT_SHARE)
    held = set(np.linspace(0, len(texts) - 1, most, dtype=np.int64).tolist())
    for rows in sorted(rows_by_language(texts).values(), key=len)[:-1]:
        if (more := FEWEST_OF_A_LANGUAGE - len(held.intersection(rows))) > 0:
            others = [row for row in rows if row not in held]
            places = np.linspace(0, len(others) - 1, more, dtype=np.int64).tolist()
            held.update(others[place] for place in places)
    return held


async def _bridged(sample: Sample, space: Space, now: Vectors) -> Proof:
    """Measure what a search over a fitted map keeps, on texts left out of the fit."""
    source = Space(f"{space.model} now", space.dimensions)
    rows = {text.text: row for row, text in enumerate(sample.texts)}
    made = {source.model: now, space.model: sample.vectors}

    async def embed(model: str, texts: Sequence[str], side: Side) -> Vectors:
        return made[model][[rows[text] for text in texts]]

    digests = dict.fromkeys(made, "")
    held = _held_out([text.text for text in sample.texts])
    queries = [text for row, text in enumerate(sample.texts) if row in held]
    others = [text for row, text in enumerate(sample.texts) if row not in held]
    given = material(others, queries, None)
    return (await align(embed, source, space, digests, given, METHODS[0])).proof


def _others(queries: Vectors, documents: Vectors) -> Found:
    """Find the nearest documents of each row, except the row itself."""
    found = nearest(queries, documents, TOP + 1)
    rows = np.arange(len(found))[:, None]
    is_own = found == rows
    is_own[:, -1] |= ~is_own.any(axis=1)  # own row not found: drop the last one
    others: Found = found[~is_own].reshape(len(found), -1)
    return others
