"""Measure what a search keeps of a search in a collection's best space.

It is measured for the collection's other spaces, and for other models that make queries of the best
space.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from deployments.tools.align import Material, material, relevant_places, rows_by_language
from deployments.tools.client import EmbeddingAnswer
from deployments.tools.corpus import Text
from deployments.tools.migrate import MigrationError, Parts, vectors_at
from deployments.tools.writing import Corpus
from router.arrays import Indices, Vectors
from router.measured import as_proof
from router.proof import Judged, Proof, kept_of
from router.retrieval import ndcg, nearest, recall
from router.space import Space, fit


class Compared(NamedTuple):
    """Measurements of a collection's spaces."""

    best: Space
    judged_by: Judged
    queries: int
    documents: int  # that were searched
    kept: dict[str, Proof]  # by other space, and by model that made queries of the best
    own_recall: float  # recall@10 of the best space itself
    own_ndcg: float


def chosen(
    corpus: Corpus, queries: list[Text], judgements: Mapping[str, set[str]] | None, limit: int
) -> tuple[Material, Indices]:
    """Choose queries, documents, and the documents' rows in the corpus.

    The documents are all relevant ones and an even share of the others. Raises AlignError if too
    few queries can be judged.
    """
    asked = {query.id for query in queries}
    relevant = {id for query, found in (judgements or {}).items() if query in asked for id in found}
    own, others = list[int](), list[int]()
    for row, text in enumerate(corpus.texts()):
        (own if text.id in relevant else others).append(row)
    share = np.linspace(0, len(others) - 1, min(len(others), max(0, limit - len(own))))
    rows = np.sort(np.array([*own, *(others[int(place)] for place in share)], np.int64))
    kept = set(rows.tolist())
    documents = [text for row, text in enumerate(corpus.texts()) if row in kept]
    return material(documents, queries, judgements), rows


def own_vectors(made: Sequence[EmbeddingAnswer]) -> Vectors:
    """Join the vectors of all answers. Raises MigrationError for an answer over an adapter."""
    for answer in made:
        if answer.adapter is not None:
            raise MigrationError(f"the router answered over an adapter from {answer.adapter}")
    return np.concatenate([answer.vectors for answer in made])


def compare(
    given: Material,
    rows: Indices,
    written: Mapping[str, Parts],
    asked: Mapping[str, Vectors],
    best: str | None,
    others: Mapping[str, Vectors],
) -> Compared:
    """Search each space's index with queries of its own model; the best one also with `others`.

    `others` are query vectors by model. `best` None means the space of the highest nDCG@10.
    """
    found = {
        space: nearest(asked[space], vectors_at(parts, rows.tolist()))
        for space, parts in written.items()
    }
    if best is None:
        relevant = relevant_places(given, found[next(iter(found))])
        best = max(found, key=lambda space: float(ndcg(found[space], relevant).mean()))
    own = found[best]
    if others:
        documents = vectors_at(written[best], rows.tolist())
        found |= {
            model: nearest(_fitted(model, vectors, best), documents)
            for model, vectors in others.items()
        }
    relevant = relevant_places(given, own)
    judged_by: Judged = "neighbours" if given.judgements is None else "judgements"
    languages = rows_by_language([query.text for query in given.queries])
    kept = {}
    for name, over in found.items():
        if name != best:
            by_language = {
                language: kept_of(over[places], own[places], [relevant[place] for place in places])
                for language, places in languages.items()
            }
            kept[name] = as_proof(kept_of(over, own, relevant), by_language, judged_by)
    return Compared(
        Space.parse(best),
        judged_by,
        len(given.queries),
        len(rows),
        kept,
        float(recall(own, relevant).mean()),
        float(ndcg(own, relevant).mean()),
    )


def _fitted(model: str, vectors: Vectors, space: str) -> Vectors:
    """Cut a model's vectors to the size of another model's space. Raises MigrationError."""
    try:
        return fit(vectors, Space.parse(space).dimensions)
    except ValueError as error:
        raise MigrationError(f"{model} cannot make queries of {space}: {error}") from None
