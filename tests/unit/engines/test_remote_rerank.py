"""What another server's reranker is sent, and what is made of its answers."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from deployments.engines import create
from deployments.engines.base import Batch, Embedded, Engine, EngineError, InvalidText
from router.rerank_config import RerankerConfig
from tests.support.scripted_server import Scripted

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


@asynccontextmanager
async def reranker(answer: Any, **more: Any) -> AsyncIterator[Engine]:
    """A reranker whose server answers so, started."""
    script = Scripted()
    script.answer = answer
    async with await asyncio.start_server(script.serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        engine_part = {"kind": "remote", "base_url": url, "model": "m", **more.pop("engine", {})}
        engine = create(RerankerConfig.model_validate({"engine": engine_part, **more}), None)
        await engine.start()
        try:
            yield engine
        finally:
            await engine.stop()


def batch(*pairs: tuple[str, str]) -> Batch:
    return Batch(texts=[f"{len(query)}:{query}{document}" for query, document in pairs])


async def ranked(*pairs: tuple[str, str]) -> tuple[Embedded, int]:
    """The scores of the pairs, and how many requests they took."""
    picky = Picky()
    async with reranker(picky) as engine:
        picky.requests = 0
        return await engine.embed(batch(*pairs)), picky.requests


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


class Tei:
    """A server of Text Embeddings Inference: texts in, a bare list out, best first."""

    def __init__(self) -> None:
        self.last: dict[str, Any] = {}

    def __call__(self, body: dict[str, Any]) -> tuple[int, bytes]:
        self.last = body
        scores = [(len(text) / 100, place) for place, text in enumerate(body["texts"])]
        ranking = [{"index": place, "score": score} for score, place in sorted(scores)[::-1]]
        return 200, json.dumps(ranking).encode()


@pytest.mark.parametrize("score", ["probability", "raw"])
async def test_a_server_of_tei_is_sent_texts_and_answers_a_list(score: str) -> None:
    tei = Tei()
    async with reranker(tei, engine={"form": "tei"}, score=score) as engine:
        answer = await engine.embed(batch(("q", "four"), ("q", "a"), ("q", "three")))
    texts = {"query": "q", "texts": ["four", "a", "three"]}
    assert tei.last == texts | {"raw_scores": score == "raw"}
    np.testing.assert_allclose(answer.vectors[:, 0], [0.04, 0.01, 0.05], rtol=1e-6)
    assert not answer.failed
    assert all(count > 0 for count in answer.tokens)


def result(place: Any, score: Any = 0.5) -> dict[str, Any]:
    return {"index": place, "relevance_score": score}


NONSENSE: dict[str, Any] = {
    "fewer": [result(0), result(1)],
    "more": [result(0), result(1), result(2), result(3)],
    "twice": [result(0), result(1), result(1)],
    "another": [result(0), result(1), result(3)],
    "negative": [result(-1), result(0), result(1)],
    "no number": [result(0), result(1), result(2, "0.5")],
    "a truth": [result(0), result(1), result(2, True)],
    "no score": [result(0), result(1), {"index": 2}],
    "no index": [result(0), result(1), {"relevance_score": 0.5}],
    "no list": 7,
}


@pytest.mark.parametrize("what", NONSENSE)
async def test_an_answer_that_does_not_score_every_document_once_is_an_error(what: str) -> None:
    def answer(body: dict[str, Any]) -> tuple[int, bytes]:
        healthy = [result(place) for place in range(len(body["documents"]))]
        results = healthy if len(healthy) == 1 else NONSENSE[what]
        return 200, json.dumps({"results": results}).encode()

    async with reranker(answer) as engine:
        with pytest.raises(EngineError, match="its server answered nonsense"):
            await engine.embed(batch(("q", "a"), ("q", "b"), ("q", "c")))


async def test_a_score_that_is_not_finite_fails_alone() -> None:
    def answer(body: dict[str, Any]) -> tuple[int, bytes]:
        many = len(body["documents"]) > 1  # the first request is for health
        results = [result(place) for place in range(len(body["documents"]))]
        return 200, json.dumps(
            {"results": [result(0, 1e300 if many else 0.5), *results[1:]]}
        ).encode()

    async with reranker(answer) as engine:
        made = await engine.embed(batch(("q", "b"), ("q", "a"), ("q", "c")))
    assert list(made.failed) == [0]
    assert "not finite" in str(made.failed[0])
