"""Any server with a rerank route as an engine: in the form of Cohere and Jina, which `vllm serve`
also has, or of Text Embeddings Inference.

As for embeddings, the server is not trusted: an answer must have one finite score for every
document, in any order that its indices give. A text here is a pair that the router wrote as
`LENGTH:`, the query, the document. Pairs of one query are sent in one request.
"""

import asyncio
from typing import Any

import numpy as np

from deployments.engines.base import Batch, Embedded, EngineError, Setup
from deployments.engines.remote import Refused, RemoteEngine
from deployments.engines.vllm_rerank import not_finite
from router import rerank_config
from router.arrays import Vectors

_SHORT = "health"  # a document that every server accepts


def create(settings: rerank_config.RemoteRerankEngineConfig, setup: Setup) -> "RemoteRerankEngine":
    """Create the engine without starting it."""
    return RemoteRerankEngine(settings, setup)


def split_pair(text: str) -> tuple[str, str]:
    """Split a pair into its query and its document."""
    length, _, rest = text.partition(":")
    if not length.isdecimal():
        raise EngineError("a pair has no length before its query: the router writes it")
    return rest[: int(length)], rest[int(length) :]


class RemoteRerankEngine(RemoteEngine):
    """A client of one server and reranker."""

    scores = True
    _made = "scores"

    def __init__(self, settings: rerank_config.RemoteRerankEngineConfig, setup: Setup) -> None:
        super().__init__(settings, 1, setup.max_tokens, setup.batch_tokens)
        self._rerank, self._raw = settings, setup.score == "raw"
        self._tei = settings.form == "tei"

    async def _embed(self, texts: list[str], first: bool = True) -> Embedded:
        """Send the pairs of each query in a separate request."""
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
        """Whether the server refuses the query even with a short document."""
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
        if self._tei:  # TEI has one model; without truncate it refuses long texts
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
            with np.errstate(over="ignore"):  # a number too large for float32 becomes infinite
                scores[place] = value
        return scores

    def _unusable(self, vectors: Vectors) -> dict[int, EngineError]:
        return not_finite(vectors)

    async def check_health(self) -> None:
        """Rank a word, with the rules of RemoteEngine's check."""
        await self._probe(Batch(texts=[f"6:health{_SHORT}"]))
