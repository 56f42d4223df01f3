"""Rescoring by similarity is work of the embedding model, in its ledger and among its texts."""

import asyncio
import random

import numpy as np

from deployments.dispatch.chunks import Rows
from deployments.service.pairs import PreparedPairs
from deployments.service.prepare import Prepared
from deployments.service.reranking import Ranking, Reranking
from deployments.service.scorers import SimilarityScorer
from deployments.service.service import Service
from router.rerank_schema import RerankRequest
from router.schema import EmbeddingsRequest
from router.strict import parse_args
from tests.support.hand_transport import HandTransport, settle
from tests.support.local_service import FAKE

ARGS = parse_args(
    {
        "models": {"served": FAKE, "other": FAKE},
        "tiers": {"fast": "served"},
        "rerankers": {"cosine": {"engine": {"kind": "similarity", "model": "served"}}},
        "rerank_tiers": {"fast": "cosine"},
    }
)


def ranked(reranking: Reranking, number: int) -> "asyncio.Task[Ranking]":
    documents = [f"document {place} of request {number}" for place in range(3)]
    common = EmbeddingsRequest(documents, None, model="cosine", side="document")
    request = RerankRequest(f"query {number}", common)
    return asyncio.create_task(reranking.rerank(request))


async def test_pairs_that_wait_are_work_of_the_embedding_model_until_they_are_scored() -> None:
    transport = HandTransport(ARGS.models["served"].dimensions)
    service = Service(ARGS, transport, clock=lambda: 0.0, rng=random.Random(1))
    reranking, ledger = Reranking(service), service.ledger
    for name in ("served", "other"):
        service.replicas_changed(name, [name])

    backlogs, tasks = [0], list["asyncio.Task[Ranking]"]()
    for number in range(12):
        tasks.append(ranked(reranking, number))
        await settle()
        backlogs.append(ledger.backlog_tokens("served"))
    grown = np.diff(backlogs)
    assert (grown > 0).all()
    assert ledger.waiting_tokens("served") > 0  # queued, behind those that run
    running = ledger.outstanding_tokens("served", 0.0)["served"]
    assert running == backlogs[-1] - ledger.waiting_tokens("served") > 0
    assert reranking.loads()["cosine"].ahead_tokens > 0
    assert ledger.backlog_tokens("other") == 0
    assert {call.model for call in transport.open} == {"served"}

    await transport.answer_all()
    rankings = await asyncio.gather(*tasks)
    assert [ranking.prompt_tokens for ranking in rankings] == list(grown)
    assert ledger.backlog_tokens("served") == 0
    ledger.assert_empty()
    for dispatcher in service.dispatchers.values():
        await dispatcher.close()


class Cached:
    """Answers with a vector for each text, of which the first `known` were in the cache."""

    def __init__(self, **known: int) -> None:
        self.known = known

    async def gather(self, prepared: Prepared, deadline_s: float, bulk: bool) -> Rows:
        texts = prepared.texts
        assert texts is not None
        known = self.known[prepared.side or ""]
        return Rows(
            np.eye(2, dtype=np.float32)[[0] * len(texts)], [5] * len(texts), {}, 0, 0, known
        )


async def test_a_query_that_was_known_counts_among_the_known_texts_but_not_the_documents() -> None:
    query = Prepared(None, ["q"], [5], "query", True, [b"q"])
    pairs = PreparedPairs(None, ["a", "b"], [5, 5], "document", True, [b"a", b"b"], query=query)
    for of_query in (0, 1):
        scorer = SimilarityScorer(Cached(query=of_query, document=1))
        got = await scorer.gather(pairs, 60.0, False)
        assert (len(got.tokens), got.known, got.known - got.known_aside) == (3, 1 + of_query, 1)
