"""What another server's reranker is sent once that server refuses a request."""

import asyncio
import json
from typing import Any

import numpy as np

from deployments.engines import create
from deployments.engines.base import Batch, Embedded, InvalidText
from router.rerank_config import RerankerConfig
from tests.unit.engines.test_engines import Scripted

DOCUMENTS = [f"document {place}" for place in range(16)]
LONG = "x" * 21


class Picky:
    """Refuses long queries and long documents, and counts what it is sent."""

    def __init__(self) -> None:
        self.requests = 0

    def __call__(self, body: dict[str, Any]) -> tuple[int, bytes]:
        self.requests += 1
        if any(len(text) > 20 for text in (body["query"], *body["documents"])):
            return 400, b"too long"
        places = range(len(body["documents"]))
        results = [{"index": place, "relevance_score": 0.5} for place in places]
        return 200, json.dumps({"results": results}).encode()


async def ranked(*pairs: tuple[str, str]) -> tuple[Embedded, int]:
    """The scores of the pairs, and how many requests they took."""
    script, picky = Scripted(), Picky()
    script.answer = picky
    async with await asyncio.start_server(script.serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        far = {"engine": {"kind": "remote", "base_url": url, "model": "m"}}
        engine = create(RerankerConfig.model_validate(far), None)
        await engine.start()
        picky.requests = 0
        texts = [f"{len(query)}:{query}{document}" for query, document in pairs]
        try:
            return await engine.embed(Batch(texts=texts)), picky.requests
        finally:
            await engine.stop()


async def test_a_query_that_is_refused_is_tried_with_one_short_document_only() -> None:
    answer, requests = await ranked(*((LONG, document) for document in DOCUMENTS))
    assert requests == 2
    assert sorted(answer.failed) == list(range(16))
    assert all(type(error) is InvalidText for error in answer.failed.values())
    assert len(answer.tokens) == len(answer.vectors) == 16


async def test_a_document_that_is_refused_fails_alone() -> None:
    documents = [*DOCUMENTS[:5], LONG, *DOCUMENTS[6:]]
    answer, requests = await ranked(*(("q", document) for document in documents))
    assert list(answer.failed) == [5]
    assert requests == 1 + 1 + 2 * 4  # whole, the query alone, and halves down to one document
    np.testing.assert_array_equal(np.delete(answer.vectors[:, 0], 5), np.float32(0.5))


async def test_a_query_that_is_refused_fails_beside_others() -> None:
    pairs = [(query, document) for document in DOCUMENTS[:4] for query in (LONG, "q")]
    answer, requests = await ranked(*pairs)
    assert sorted(answer.failed) == [0, 2, 4, 6]
    assert requests == 3
