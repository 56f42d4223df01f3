"""/v1/rerank through a framework's own client, and what is recorded of it: as for embeddings."""

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.postprocessor.jinaai_rerank import JinaRerank
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from deployments.dispatch.wire import Call, Reply
from deployments.service.reranking import Reranking
from deployments.service.service import Service
from deployments.telemetry import metrics
from deployments.telemetry.tracing import Tracing
from router.keys import hash_of, new_key
from router.rerank_schema import RerankRequest
from router.schema import EmbeddingsRequest
from router.steps import ReplicaCounters
from router.strict import parse_args
from tests.support.local_service import LocalRouter, served
from tests.support.rerank_service import ARGS, DOCUMENTS, expected, rerank

KEY = new_key(b"k" * 32)


@pytest.fixture
def running() -> Iterator[tuple[str, LocalRouter]]:
    with served(ARGS) as both:
        yield both


def test_llama_indexs_reranker_works_unmodified(running: tuple[str, LocalRouter]) -> None:
    client = JinaRerank(
        model="quick", base_url=f"{running[0]}/v1", api_key="unused", top_n=len(DOCUMENTS) - 1
    )
    nodes = [NodeWithScore(node=TextNode(text=text), score=0.0) for text in DOCUMENTS]
    found = client.postprocess_nodes(nodes, QueryBundle("which?"))
    scores = expected(DOCUMENTS)
    order = np.argsort(-scores)[:-1]
    assert [one.node.get_content() for one in found] == [DOCUMENTS[place] for place in order]
    np.testing.assert_allclose([one.score for one in found], scores[order], rtol=1e-6)


def test_a_ranking_is_counted_with_the_metrics_of_embeddings(
    running: tuple[str, LocalRouter],
) -> None:
    url, router = running
    assert router.service.request_metrics is not None
    values = router.service.request_metrics.tally.values

    def counted(metric: metrics.Metric) -> dict[tuple[str, ...], float]:
        return {labels: value for labels, value in values[metric].items() if value}

    with httpx.Client(base_url=url) as http:
        answer = rerank(http, model="quick", latency_budget_ms=60_000)
        late = rerank(http, model="slow", latency_budget_ms=1, query="late")
        refused = http.post("/v1/rerank", json={"query": "", "documents": ["a"]})
        assert refused.status_code == 400
    language = answer["routing"]["language"] or "unknown"
    ours = ("quick", "none", "pinned", language, "answered")
    assert counted(metrics.REQUESTS).get(ours) == 1, counted(metrics.REQUESTS)
    assert counted(metrics.TEXTS)[ours] == len(DOCUMENTS)
    assert counted(metrics.TOKENS)[ours] == answer["usage"]["prompt_tokens"]
    assert sum(counted(metrics.REQUESTS).values()) == 3
    assert counted(metrics.BUDGETS) == {("quick", "kept"): 1, ("slow", "missed"): 1}
    assert counted(metrics.PINNED) == {("quick", "model"): 1, ("slow", "model"): 1}
    assert {labels[0] for labels in counted(metrics.PREDICTIONS)} == {"quick", "slow"}
    assert late["routing"]["reason"] == "late"


def test_a_keys_usage_counts_the_tokens_that_a_ranking_read() -> None:
    keys = {"one": {"hash": hash_of(KEY)}}
    headers = {"authorization": f"Bearer {KEY}"}
    with (
        served(ARGS | {"keys": keys, "cache": {"max_bytes": 0}}) as (url, _),
        httpx.Client(base_url=url, headers=headers) as http,
    ):
        tokens = [
            rerank(http, model=model)["usage"]["total_tokens"] for model in ("quick", "by-large")
        ]
        rows = {one["model"]: one for one in http.get("/v1/usage").json()["data"]}
    for model, read in zip(("quick", "by-large"), tokens, strict=True):
        row = rows[model]
        assert (row["key"], row["requests"], row["tokens"]) == ("one", 1, read)
        assert row["device_seconds"] > 0


def test_the_limits_of_a_key_hold_for_rankings_and_embeddings_together() -> None:
    limits = {"requests_per_minute": 2, "tokens_per_minute": 100_000}
    keys = {"one": {"hash": hash_of(KEY), **limits}}
    headers = {"authorization": f"Bearer {KEY}"}
    with served(ARGS | {"keys": keys}) as (url, _), httpx.Client(base_url=url) as http:
        http.headers.update(headers)
        rerank(http, model="quick")
        assert http.post("/v1/embeddings", json={"input": "a"}).is_success
        for path, body in (
            ("/v1/rerank", {"query": "q", "documents": ["a"]}),
            ("/v1/embeddings", {"input": "b"}),
        ):
            limited = http.post(path, json=body)
            assert limited.status_code == 429
            assert limited.json()["error"]["code"] == "rate_limit_exceeded"
            assert limited.headers["retry-after"]


class Scores:
    """A transport whose replicas answer each pair with its place in the call."""

    async def send(self, model: str, call: Call, replica: str) -> Reply:
        texts = len(call.lengths)
        rows = np.arange(texts, dtype=np.float32)[:, None]
        tokens = [int(length) for length in call.lengths]
        return Reply(rows, tokens, {}, replica, 0.0, 0.1, 0, ReplicaCounters(0, 0.0))

    async def wake(self, model: str) -> None:
        """Nothing: its replicas are awake."""


async def test_a_traced_ranking_has_the_spans_of_embeddings() -> None:
    kept, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    tracer: Any = provider.get_tracer("test")
    service = Service(parse_args(ARGS), Scores(), tracing=Tracing(tracer))
    service.replicas_changed("quick", ["quick-1"])
    common = EmbeddingsRequest(tuple(DOCUMENTS), None, side="document", model="quick")
    with tracer.start_as_current_span("request"):
        ranking = await Reranking(service).rerank(RerankRequest("which?", common))
    assert [place for place, _ in ranking.results] == [4, 3, 2, 1, 0]
    spans = {span.name: dict(span.attributes or {}) for span in kept.get_finished_spans()}
    assert set(spans) >= {"features", "decide", "dispatch", "call", "engine"}
    assert spans["features"]["embedding.texts"] == len(DOCUMENTS)
    assert spans["decide"]["embedding.model"] == spans["dispatch"]["embedding.model"] == "quick"
    for attributes in spans.values():
        assert not any("which?" in str(value) for value in attributes.values())
