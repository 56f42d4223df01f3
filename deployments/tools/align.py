"""Fit an adapter on a user's own texts and measure it on queries that it was not fitted on.

It is measured for documents in the fit and, by folds, for documents left out of it
(router/proof.py). With queries and judgements, it is measured like the user's search. With queries
alone, the results of the space's own model count as relevant: nothing else is known, and this
measure is stricter. Without queries, a tenth of the texts is held out and used as queries, and
relevance is defined in the same way.

Texts are embedded on the document side of both models, although an adapter maps queries. A fit on
the query side finds no more (docs/decisions/0004), and the target's vectors of the documents are
needed anyway.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from deployments.tools.corpus import Text, read_judgements, read_some, read_texts
from deployments.tools.errors import ToolError
from deployments.tools.vector_store import Embed
from router.adapters import Adapter, Method, fit, project
from router.arrays import Indices, Vectors
from router.features import extract
from router.proof import folds, left_out, prove
from router.retrieval import TOP, Found, nearest
from router.schema import Side
from router.space import Space
from router.space import fit as cut

HELD_OUT_SHARE, MAX_HELD_OUT = 0.1, 1000
FEWEST_QUERIES = 10  # below this nothing is measured
FEWEST_DOCUMENTS = 3 * TOP  # random answers then have a recall@10 of a third at most
FEWEST_TO_HOLD_OUT = round(FEWEST_QUERIES / HELD_OUT_SHARE)
FEWEST_OF_A_LANGUAGE = 20
TRIED_FOR_SIDES = 4  # texts that show whether a model embeds queries and documents alike


class AlignError(ToolError):
    """There is too little data to fit or to measure; the message names what is missing."""


class Material(NamedTuple):
    """The texts that an adapter is fitted on and measured with."""

    fitted: list[Text]
    documents: list[Text]  # that are searched
    queries: list[Text]
    # ids of relevant documents by query; None: what the target's model finds
    judgements: Mapping[str, set[str]] | None


def read_material(texts: Path, queries: Path | None, qrels: Path | None, field: str) -> Material:
    """Read files of texts, queries and judgements, and collect `material` from them.

    Raises AlignError as that does, and CorpusError.
    """
    return material(
        read_some(texts, field),
        None if queries is None else list(read_texts(queries, field)),
        None if qrels is None else read_judgements(qrels),
    )


def material(
    texts: list[Text], queries: list[Text] | None, judgements: Mapping[str, set[str]] | None
) -> Material:
    """Collect the texts to fit and measure with; hold out queries if none are given.

    Raises AlignError if there are too few documents, or too few queries are left.
    """
    if queries is None:
        if len(texts) < FEWEST_TO_HOLD_OUT:
            raise AlignError(
                f"a tenth of your {len(texts)} texts would be the queries; give at least "
                f"{FEWEST_TO_HOLD_OUT} texts, or --queries"
            )
        held = min(int(len(texts) * HELD_OUT_SHARE), MAX_HELD_OUT)
        places = set(np.linspace(0, len(texts) - 1, held, dtype=np.int64).tolist())
        queries = [text for place, text in enumerate(texts) if place in places]
        texts = [text for place, text in enumerate(texts) if place not in places]
    if judgements is not None:
        known = {text.id for text in texts}
        judgements = {
            query: found for query, wanted in judgements.items() if (found := wanted & known)
        }
        queries = [query for query in queries if query.id in judgements]
    if len(queries) < FEWEST_QUERIES:
        what = (
            "queries have a relevant document among the texts"
            if judgements is not None
            else "queries are there"
        )
        raise AlignError(f"only {len(queries)} {what}; measuring takes {FEWEST_QUERIES} at least")
    check_documents([text.text for text in texts])
    asked = {query.text for query in queries}
    return Material([text for text in texts if text.text not in asked], texts, queries, judgements)


def check_documents(texts: Collection[str]) -> None:
    """Raise AlignError if a recall@10 over these documents would show nothing."""
    different = len(set(texts))
    if different < FEWEST_DOCUMENTS:
        raise AlignError(
            f"{different} different documents are too few to judge a search: random answers would "
            f"reach a recall@{TOP} of {min(1.0, TOP / max(1, different)):.0%}; give at least "
            f"{FEWEST_DOCUMENTS}"
        )


class Remembering:
    """An Embed that calls another Embed once for each text.

    If a model embeds queries and documents alike, only one side is embedded.
    """

    def __init__(self, embed: Embed) -> None:
        self._embed = embed
        self._known: dict[tuple[str, Side], dict[str, Vectors]] = {}

    async def __call__(self, model: str, texts: Sequence[str], side: Side) -> Vectors:
        if (model, side) not in self._known:
            tried = list(dict.fromkeys(texts))[:TRIED_FOR_SIDES]
            query, document = (
                await self._embed(model, tried, "query"),
                await self._embed(model, tried, "document"),
            )
            queries = dict(zip(tried, query, strict=True))
            alike = np.allclose(query, document, atol=1e-4)
            documents = queries if alike else dict(zip(tried, document, strict=True))
            self._known[model, "query"], self._known[model, "document"] = queries, documents
        known = self._known[model, side]
        if new := [text for text in dict.fromkeys(texts) if text not in known]:
            known.update(zip(new, await self._embed(model, new, side), strict=True))
        return np.stack([known[text] for text in texts])


async def align(
    embed: Embed,
    source: Space,
    target: Space,
    fingerprints: Mapping[str, str],
    given: Material,
    method: Method,
) -> Adapter:
    """Fit a map from `source` to `target` and measure it.

    `fingerprints` are the digests of both models. Raises AlignError if there are fewer texts than
    the map has directions to learn.
    """
    fewest = min(source.dimensions, target.dimensions)
    if len(given.fitted) < fewest:
        raise _too_few(len(given.fitted), fewest)
    fitted = [text.text for text in given.fitted]
    queries = [query.text for query in given.queries]
    x = await embed(source.model, fitted, "document")
    y = cut(await embed(target.model, fitted, "document"), target.dimensions)
    documents = cut(
        await embed(target.model, [text.text for text in given.documents], "document"),
        target.dimensions,
    )
    own = nearest(cut(await embed(target.model, queries, "query"), target.dimensions), documents)
    asked = await embed(source.model, queries, "query")
    relevant = relevant_places(given, own)
    matrix, offset = fit(x, y, method)
    unseen = np.empty_like(own)
    others = max(0, len(given.fitted) - len(given.documents))  # texts that are only in the fit
    for rows in folds_of(given, relevant, max(0, fewest - others)):
        keep = not_in(given.fitted, given.documents, left_out(relevant, rows))
        if len(keep) < fewest:
            raise _too_few(len(keep), fewest, " when those that are relevant are left out")
        unseen[rows] = nearest(project(asked[rows], *fit(x[keep], y[keep], method)), documents)
    return Adapter(
        source,
        target,
        matrix,
        offset,
        method,
        fingerprints[source.model],
        fingerprints[target.model],
        len(fitted),
        prove(
            "neighbours" if given.judgements is None else "judgements",
            nearest(project(asked, matrix, offset), documents),
            unseen,
            own,
            relevant,
            rows_by_language(queries),
        ),
    )


def folds_of(
    given: Material, relevant: Sequence[Collection[int]], fewest: int = 0
) -> list[Indices]:
    """Split the queries into folds. Raises AlignError if there are too few documents."""
    try:
        return folds(relevant, len(given.documents), fewest)
    except ValueError as error:
        raise AlignError(str(error)) from None


def not_in(fitted: Sequence[Text], documents: Sequence[Text], out: Collection[int]) -> Indices:
    """Rows of `fitted` that neither belong to nor equal one of the documents `out`.

    A part of a document has the document's id.
    """
    ids = {documents[place].id for place in out}
    texts = {documents[place].text for place in out}
    rows = [row for row, text in enumerate(fitted) if text.id not in ids and text.text not in texts]
    return np.array(rows, np.int64)


def rows_by_language(queries: Sequence[str]) -> dict[str, list[int]]:
    """Rows of the queries by language, for languages with enough queries to measure."""
    rows: dict[str, list[int]] = {}
    for row, query in enumerate(queries):
        rows.setdefault(extract([query]).language or "unknown", []).append(row)
    return {name: found for name, found in rows.items() if len(found) >= FEWEST_OF_A_LANGUAGE}


def relevant_places(given: Material, own: Found) -> list[set[int]]:
    """Places of the relevant documents of each query."""
    if given.judgements is None:
        return [set(row) for row in own.tolist()]
    places: dict[str, list[int]] = {}
    for place, document in enumerate(given.documents):
        places.setdefault(document.id, []).append(place)
    return [
        {place for id in given.judgements[query.id] for place in places[id]}
        for query in given.queries
    ]


def _too_few(texts: int, dimensions: int, when: str = "") -> AlignError:
    return AlignError(
        f"{texts} texts cannot tell {dimensions} dimensions apart{when}; give it several "
        "thousand of your own"
    )
