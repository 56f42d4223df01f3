"""Check whether the model that serves a space now still makes the vectors stored in its index.

A sample of stored texts is embedded again, and two things are measured. The first is the cosine of
each new vector with the stored one. The second is the search: each text is searched among the
others with its new vector, and the results of its stored vector count as relevant. Cosines can show
that nothing changed; only the search shows what a change costs.

If the search loses too much, a linear map from the new vectors to the stored ones is fitted. It is
measured as in `align`, on texts left out of the fit.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from deployments.tools.align import AlignError, align, material, rows_by_language
from deployments.tools.corpus import CorpusError, Text, parquet_file, read_texts
from deployments.tools.origins import MIN_COSINE
from router.adapters import METHODS
from router.arrays import Vectors
from router.proof import RetainedQuality, kept_of
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
    not_bridged: str | None  # why it was not tried
    verdict: Verdict


def read_sample(index: Path, texts: Path | None, text_field: str, limit: int) -> Sample:
    """Read at most `limit` rows, evenly spread, from a Parquet file or a folder of them.

    Texts are taken from the same rows or, by id, from the file `texts`. Raises CorpusError.
    """
    columns = ["id", "vector", *([text_field] if texts is None else [])]
    rows = _spread(index, columns, texts is None, limit)
    vectors = _matrix(index, rows)
    if texts is None:
        found = [Text(str(row["id"]), row[text_field]) for row in rows]
    else:
        wanted = {str(row["id"]) for row in rows}
        known = {text.id: text for text in read_texts(texts, text_field) if text.id in wanted}
        places = [place for place, row in enumerate(rows) if str(row["id"]) in known]
        if not places:
            raise CorpusError(f"{texts} has none of the ids of {index}")
        vectors = vectors[places]
        found = [known[str(rows[place]["id"])] for place in places]
    for text in found:
        if not isinstance(text.text, str) or not text.text:
            raise CorpusError(f"{index}: {text_field!r} of id {text.id!r} is no text")
    return Sample(found, vectors)


def _spread(index: Path, columns: list[str], with_text: bool, limit: int) -> list[dict[str, Any]]:
    files = sorted(index.glob("*.parquet")) if index.is_dir() else [index]
    opened = [parquet_file(file) for file in files]
    if not opened:
        raise CorpusError(f"{index}: there are no Parquet files in it")
    for file, table in zip(files, opened, strict=True):
        has = table.schema_arrow.names
        if missing := [name for name in columns if name not in has]:
            hint = "" if not with_text else "; --texts FILE gives texts by their id"
            raise CorpusError(
                f"{file} has no column {' and no column '.join(map(repr, missing))}; it has "
                f"{', '.join(has) or 'none'}{hint}"
            )
    if not (count := sum(item.metadata.num_rows for item in opened)):
        raise CorpusError(f"{index} has no rows")
    places = set(np.linspace(0, count - 1, min(count, limit), dtype=np.int64).tolist())
    rows: list[dict[str, Any]] = []
    at = 0
    for item in opened:
        for batch in item.iter_batches(columns=columns):
            here = [place for place in range(len(batch)) if at + place in places]
            rows += batch.take(here).to_pylist() if here else []
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
    if len(stored) < FEWEST_TEXTS:
        raise AlignError(
            f"{len(stored)} texts are too few to judge; give {FEWEST_TEXTS} at least, and better "
            "a thousand"
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
    # each language must be able to reach `minimum`, whatever the others do
    finds = kept.recall_low >= minimum and all(
        language.recall_high >= minimum for language in languages.values()
    )
    bridged, why = None, None
    if same or finds:
        verdict: Verdict = "keep"
    else:
        try:
            bridged = await _bridged(sample, space, now)
        except AlignError as error:
            enough = math.ceil(BRIDGE_TEXTS_A_DIMENSION * space.dimensions)
            why = (
                f"{len(stored)} texts cannot tell {space.dimensions} dimensions apart; a --sample "
                f"of {enough} texts can"
                if len(stored) < enough
                else str(error)
            )
        verdict = "bridge" if bridged is not None and bridged.recall_low >= minimum else "migrate"
    return Verified(len(stored), cosines, kept, languages, bridged, why, verdict)


async def _bridged(sample: Sample, space: Space, now: Vectors) -> RetainedQuality:
    """Measure what a search over a fitted map keeps, on texts left out of the fit."""
    source = Space(f"{space.model} now", space.dimensions)
    rows = {text.text: row for row, text in enumerate(sample.texts)}
    made = {source.model: now, space.model: sample.vectors}

    async def embed(model: str, texts: Sequence[str], side: Side) -> Vectors:
        return made[model][[rows[text] for text in texts]]

    digests = dict.fromkeys(made, "")
    adapter = await align(
        embed, source, space, digests, material(sample.texts, None, None), METHODS[0]
    )
    return adapter.proof.unseen


def _others(queries: Vectors, documents: Vectors) -> Found:
    """Find the nearest documents of each row, except the row itself."""
    found = nearest(queries, documents, TOP + 1)
    rows = np.arange(len(found))[:, None]
    is_own = found == rows
    is_own[:, -1] |= ~is_own.any(axis=1)  # own row not found: drop the last one
    others: Found = found[~is_own].reshape(len(found), -1)
    return others
