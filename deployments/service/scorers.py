"""Compute scores of pairs: by a reranker, or by the similarity of an embedding model's vectors."""

import asyncio
from typing import Protocol

import numpy as np

from deployments.dispatch.chunks import Rows
from deployments.service.pairs import PreparedPairs, of_query
from deployments.service.prepare import Prepared
from router.arrays import Vectors
from router.errors import RouterError


class Scorer(Protocol):
    """Computes a row of one number for each document of a request."""

    async def gather(self, prepared: Prepared, deadline_s: float, bulk: bool) -> Rows:
        """Return the scores. Raises RouterError when a document has none by `deadline_s`."""


class SimilarityScorer:
    """Scores by the cosine of an embedding model's vectors, which are kept in its cache."""

    def __init__(self, gatherer: Scorer) -> None:
        self._gatherer = gatherer

    async def gather(self, prepared: Prepared, deadline_s: float, bulk: bool) -> Rows:
        """See `Scorer`."""
        assert isinstance(prepared, PreparedPairs)
        assert prepared.query is not None, "similarity reads the query alone"
        gather = self._gatherer.gather
        asked = asyncio.ensure_future(self._query(prepared.query, deadline_s, bulk))
        asked.add_done_callback(_seen)
        try:
            documents = await gather(prepared, deadline_s, bulk)
            query = await asked
        finally:
            asked.cancel()
        cosines: Vectors = np.clip(documents.vectors @ query.vectors[0], -1.0, 1.0)
        return Rows(
            cosines[:, None],
            [*query.tokens, *documents.tokens],
            {},
            max(query.queue_s, documents.queue_s),
            max(query.inference_s, documents.inference_s),
            query.known + documents.known,
            documents.stamps,
            documents.call_texts,
            query.known,
            query.joined or documents.joined,
        )

    async def _query(self, query: Prepared, deadline_s: float, bulk: bool) -> Rows:
        try:
            return await self._gatherer.gather(query, deadline_s, bulk)
        except RouterError as error:
            raise of_query(error) from None


def _seen(task: "asyncio.Future[Rows]") -> None:
    """Retrieve the error of an abandoned task, so that asyncio does not log it."""
    if not task.cancelled():
        task.exception()
