"""Any server with a rerank route as an engine: of Cohere's and Jina's form, which `vllm serve` has
too, or of Text Embeddings Inference's.

The server is trusted no more than that of embeddings: an answer must have one finite score for
every document, in whatever order its indices say. A text here is a pair that the router wrote as
`LENGTH:QUERY DOCUMENT`; pairs of one query travel in one request.
"""

import asyncio
from typing import Any

import numpy as np

from deployments.engines.base import Batch, Embedded, EngineError, Setup
from deployments.engines.remote import Refused, RemoteEngine
from deployments.engines.vllm_rerank import not_finite
from router import rerank_config
from router.arrays import Vectors

_SHORT = "health"  # a document that every server reads


def create(settings: rerank_config.RemoteRerankEngine, setup: Setup) -> "RemoteRerankEngine":
    """Make the engine of a config, not yet started."""
    return RemoteRerankEngine(settings, setup)


def split_pair(text: str) -> tuple[str, str]:
    """The query and the document of a pair."""
    length, _, rest = text.partition(":")
    if not length.isdecimal():
        raise EngineError("a pair has no length before its query: the router writes it")
    return rest[: int(length)], rest[int(length) :]


class RemoteRerankEngine(RemoteEngine):
    """A client of one server and reranker."""

    scores = True
    _made = "scores"

    def __init__(self, settings: rerank_config.RemoteRerankEngine, setup: Setup) -> None:
        super().__init__(settings, 1, setup.max_tokens, setup.batch_tokens)
        self._rerank, self._raw = settings, setup.score == "raw"
        self._tei = settings.form == "tei"

    async def _embed(self, texts: list[str], first: bool = True) -> Embedded:
        """Each query's pairs in a request of their own."""
        pairs = list(map(split_pair, texts))
        places: dict[str, list[int]] = {}
        for place, (query, _) in enumerate(pairs):
            places.setdefault(query, []).append(place)
        if len(places) <= 1:
            return await super()._embed(texts, first)
        parts = await asyncio.gather(
            *(self._embed([texts[place] for place in rows]) for rows in places.values())
        )
        whole = Embedded(np.ones((len(texts), 1), np.float32), [0] * len(texts))
        for rows, part in zip(places.values(), parts, strict=True):
            whole.vectors[rows] = part.vectors
            for place, count in zip(rows, part.tokens, strict=True):
                whole.tokens[place] = count
            whole.failed |= {rows[row]: error for row, error in part.failed.items()}
        return whole

    async def _refuses_all(self, texts: list[str]) -> bool:
        """Whether the query is refused with a short document too."""
        query, _ = split_pair(texts[0])
        try:
            await self._post([f"{len(query)}:{query}{_SHORT}"])
        except Refused:
            return True
        return False

    def _request(self, texts: list[str]) -> tuple[str, dict[str, Any]]:
        pairs = list(map(split_pair, texts))
        query, documents = pairs[0][0], [document for _, document in pairs]
        path, model = self._rerank.path, self._rerank.model
        if self._tei:  # it has one model; without truncate it refuses what is too long
            return path, {"query": query, "texts": documents, "raw_scores": self._raw}
        return path, {
            "model": model,
            "query": query,
            "documents": documents,
            "top_n": len(documents),
        }

    def _data(self, reply: Any) -> Any:
        return reply if self._tei else reply["results"]

    def _vectors(self, data: Any, texts: int) -> Vectors:
        """The scores in the order of `index`."""
        scores = np.empty((texts, 1), np.float32)
        for item, place in zip(data, self._places(data, texts), strict=True):
            value = item["score" if self._tei else "relevance_score"]
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(f"a score that is no number: {value!r}")
            with np.errstate(over="ignore"):  # one that is too large is not finite
                scores[place] = value
        return scores

    def _unusable(self, vectors: Vectors) -> dict[int, EngineError]:
        return not_finite(vectors)

    async def check_health(self) -> None:
        """Rank a word, as RemoteEngine embeds one."""
        await self._probe(Batch(texts=[f"6:health{_SHORT}"]))
