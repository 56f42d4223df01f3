"""POST /v1/rerank as clients see it: the order, and what was decided.

Scores of the fake reranker are a hash of what it reads: a score that is right proves the template.
"""

import copy
import os
from collections.abc import Iterator
from typing import Any

import cohere
import httpx
import numpy as np
import pytest

from deployments.engines.fake_rerank import hashed
from deployments.service.decision_log import open_log
from router.config import DecisionLogConfig
from router.decision_log import RERANK
from router.decision_log import read as read_log
from router.keys import hash_of
from router.replay import replay
from router.strict import changed
from tests.support.faults import faulty
from tests.support.fixtures import client_of, service_of
from tests.support.local_service import LocalRouter, served
from tests.support.rerank_service import ARGS, DOCUMENTS, LONG, expected, rerank

running = service_of(ARGS)


http = client_of("running")


@pytest.fixture
def fresh() -> Iterator[httpx.Client]:
    """A router that has learned nothing yet of how long anything takes."""
    with served(ARGS) as (url, _), httpx.Client(base_url=url, timeout=60) as client:
        yield client


def scored(answer: dict[str, Any]) -> dict[int, float]:
    return {one["index"]: one["relevance_score"] for one in answer["results"]}


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
def test_documents_come_by_falling_score_as_their_pairs_are_read(
    http: httpx.Client, path: str
) -> None:
    answer = rerank(http, path, model="quick")
    scores = expected(DOCUMENTS)
    assert [one["index"] for one in answer["results"]] == list(np.argsort(-scores))
    found = scored(answer)
    np.testing.assert_array_equal([np.float32(found[place]) for place in range(5)], scores)
    assert answer["model"] == "quick"
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > 0
    assert all("document" not in one for one in answer["results"])


def test_an_answer_says_how_it_was_routed(http: httpx.Client) -> None:
    answer = http.post(
        "/v1/rerank",
        json={"query": "q", "documents": ["Tell me more about this.", "b"], "model": "Org/QUICK"},
        headers={"x-request-id": "mine"},
    )
    body = answer.json()
    routing = body["routing"]
    assert body["id"] == "mine"
    assert routing.pop("predicted_ms") > 0
    assert routing.pop("languages")
    assert routing.pop("tokens") == body["usage"]["prompt_tokens"]
    assert routing == {
        "model": "quick",
        "tier": "fast",
        "reason": "pinned",
        "score": "probability",
        "language": "en",
        "degraded": False,
        "cached": 0,
        "truncated": [],
    }
    assert answer.headers["x-embedding-model"] == "quick"
    assert answer.headers["x-routing-reason"] == "pinned"
    assert "x-embedding-space" not in answer.headers
    for name in ("x-request-id", "x-predicted-ms", "x-queue-ms", "x-inference-ms", "x-total-ms"):
        assert answer.headers[name]


def test_coheres_clients_work_unmodified(
    running: tuple[str, LocalRouter], http: httpx.Client
) -> None:
    whole = expected(DOCUMENTS)
    order = list(np.argsort(-whole))
    newer = cohere.ClientV2(api_key="unused", base_url=running[0], httpx_client=http)
    answer = newer.rerank(
        model="quick", query="which?", documents=DOCUMENTS, top_n=3, max_tokens_per_doc=4096
    )
    assert [one.index for one in answer.results] == order[:3]
    older = cohere.Client(api_key="unused", base_url=running[0], httpx_client=http)
    objects = [{"text": text} for text in DOCUMENTS]
    first = older.rerank(model="quick", query="which?", documents=objects, return_documents=True)
    assert [one.index for one in first.results] == order
    document = first.results[0].document
    assert document is not None
    assert document.text == DOCUMENTS[order[0]]


def test_jinas_request_works_unmodified(http: httpx.Client) -> None:
    jina = {"model": "quick", "query": "which?", "documents": DOCUMENTS, "top_n": 2}
    answer = http.post("/v1/rerank", json=jina | {"return_documents": True}).json()
    assert answer["usage"]["total_tokens"] > 0
    for one in answer["results"]:
        assert set(one) == {"index", "relevance_score", "document"}


def test_equal_scores_keep_the_order_of_the_request(http: httpx.Client) -> None:
    answer = rerank(http, documents=["b", "a", "b", "a", "b"], model="quick")
    order = [one["index"] for one in answer["results"]]
    assert order in ([0, 2, 4, 1, 3], [1, 3, 0, 2, 4])


def test_top_n_is_the_head_of_the_whole_order(http: httpx.Client) -> None:
    whole = rerank(http, model="quick")["results"]
    assert rerank(http, model="quick", top_n=2)["results"] == whole[:2]
    assert rerank(http, model="quick", top_n=99)["results"] == whole


def test_documents_may_be_objects_and_come_back_where_that_is_asked(http: httpx.Client) -> None:
    plain = rerank(http, model="quick", return_documents=True)
    objects = rerank(
        http, model="quick", documents=[{"text": text} for text in DOCUMENTS], return_documents=True
    )
    assert objects["results"] == plain["results"]
    for one in plain["results"]:
        assert one["document"] == {"text": DOCUMENTS[one["index"]]}


def test_the_instruction_of_a_request_stands_in_the_template(http: httpx.Client) -> None:
    found = scored(rerank(http, model="quick", instruction="badly"))
    scores = expected(DOCUMENTS, task="badly")
    np.testing.assert_array_equal([np.float32(found[place]) for place in range(5)], scores)


def test_words_of_a_query_that_look_like_the_template_are_only_words(http: httpx.Client) -> None:
    query = "{document} {query} {instruction}"
    found = scored(rerank(http, model="quick", query=query, documents=["{query}"]))
    text = f"judge well | {query} | {{query}} :"
    assert np.float32(found[0]) == hashed([f"document:{text}".encode()], 0)[0, 0]


def test_similarity_is_the_cosine_of_the_vectors_that_the_model_gives(http: httpx.Client) -> None:
    answer = rerank(http, model="by-large")
    assert answer["routing"]["score"] == "cosine"

    def vectors(texts: list[str], side: str) -> np.ndarray:
        body = {"input": texts, "model": "large", "input_type": side}
        data = http.post("/v1/embeddings", json=body).json()["data"]
        return np.array([one["embedding"] for one in data], np.float32)

    cosines = vectors(DOCUMENTS, "document") @ vectors(["which?"], "query")[0]
    found = scored(answer)
    np.testing.assert_allclose([found[place] for place in range(5)], cosines, atol=1e-6)
    assert [one["index"] for one in answer["results"]] == list(np.argsort(-cosines))


def test_similarity_takes_vectors_that_were_made_before_from_the_cache(http: httpx.Client) -> None:
    for side, text in (("document", "known to the cache"), ("query", "which?")):
        body = {"input": [text], "model": "large", "input_type": side}
        http.post("/v1/embeddings", json=body)
    answer = rerank(http, model="by-large", documents=["known to the cache", "new to the cache"])
    assert answer["routing"]["cached"] == 1  # of the documents


def test_pairs_that_were_scored_before_come_from_the_cache(http: httpx.Client) -> None:
    first = rerank(http, model="quick", query="a question of its own")
    again = rerank(http, model="quick", query="a question of its own")
    assert (first["routing"]["cached"], again["routing"]["cached"]) == (0, 5)
    assert first["results"] == again["results"]
    other = rerank(http, model="quick", query="another question of its own")
    assert other["routing"]["cached"] == 0
    assert other["results"] != first["results"]


def test_a_budget_takes_the_best_reranker_that_is_in_time(fresh: httpx.Client) -> None:
    text = {"query": "of the budget"}
    late = rerank(fresh, quality="balanced", latency_budget_ms=250, **text)
    assert (late["model"], late["routing"]["reason"]) == ("quick", "budget")
    assert late["routing"]["degraded"]
    served_late = rerank(
        fresh, quality="balanced", latency_budget_ms=250, on_budget_miss="serve", **text
    )
    assert served_late["model"] == "quick"  # one that is in time is no miss
    assert rerank(fresh, quality="balanced", **text)["model"] == "slow"


def test_no_other_scale_stands_in_for_a_pinned_model_or_score(fresh: httpx.Client) -> None:
    text: dict[str, Any] = {"query": "of the scale", "latency_budget_ms": 250}
    pinned = rerank(fresh, model="slow", **text)
    assert (pinned["model"], pinned["routing"]["reason"]) == ("slow", "late")
    assert pinned["routing"]["elapsed_ms"] >= 0.0
    raw = rerank(fresh, score="raw", **text)
    assert (raw["model"], raw["routing"]["score"]) == ("slow", "raw")
    for fixed in ({"model": "slow"}, {"score": "raw"}):
        refused = fresh.post(
            "/v1/rerank",
            json={"documents": ["new"], "on_budget_miss": "reject", **text, **fixed},
        )
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "budget_unreachable")
        assert refused.headers["retry-after"]


def test_a_header_sets_tier_and_budget_where_the_body_does_not(fresh: httpx.Client) -> None:
    body = {"query": "by header", "documents": ["a"]}
    tier = fresh.post("/v1/rerank", json=body, headers={"X-Quality-Tier": "best"})
    assert tier.json()["model"] == "by-large"
    budget = {"X-Quality-Tier": "balanced", "X-Latency-Budget-Ms": "250"}
    assert fresh.post("/v1/rerank", json=body, headers=budget).json()["model"] == "quick"


def test_the_name_may_carry_a_budget(fresh: httpx.Client) -> None:
    late = rerank(fresh, model="balanced@250ms", query="by name")
    assert (late["model"], late["routing"]["reason"]) == ("quick", "budget")


@pytest.mark.parametrize("name", ["quick", "Org/Quick", "BY-LARGE"])
def test_a_reranker_makes_no_vectors(http: httpx.Client, name: str) -> None:
    answer = http.post("/v1/embeddings", json={"input": "a", "model": name})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "invalid_value", "model")
    assert "POST /v1/rerank" in error["message"]


def test_another_servers_reranker_is_one_of_this_service(running: tuple[str, LocalRouter]) -> None:
    far = {"engine": {"kind": "remote", "base_url": f"{running[0]}/v1", "model": "quick"}}
    args = ARGS | {"rerankers": {"far": far}, "rerank_tiers": {"fast": "far"}}
    with served(args) as (url, _), httpx.Client(base_url=url, timeout=60) as client:
        answer = rerank(client)
        assert answer["routing"]["score"] == "probability"
        found, scores = scored(answer), expected(DOCUMENTS)
        np.testing.assert_allclose([found[place] for place in range(5)], scores, atol=1e-6)
        refused = client.post("/v1/rerank", json={"query": "q", "documents": [LONG]})
        assert "quick reads 60" in refused.json()["error"]["message"]


def test_a_service_without_rerankers_says_where_they_are_written() -> None:
    args = {name: one for name, one in ARGS.items() if not name.startswith("rerank")}
    with served(args) as (url, _):
        answer = httpx.post(f"{url}/v1/rerank", json={"query": "q", "documents": ["a"]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert "`rerankers:`" in answer.json()["error"]["message"]


def test_models_and_tiers_list_rerankers(http: httpx.Client) -> None:
    cards = {one["id"]: one for one in http.get("/v1/models").json()["data"]}
    assert {id for id, one in cards.items() if one["kind"] == "rerank"} == {
        "quick",
        "Org/Quick",
        "slow",
        "by-large",
    }
    assert cards["by-large"]["score"] == "cosine"
    assert http.get("/v1/models/Org/Quick").json() == cards["Org/Quick"]
    tiers = http.get("/v1/tiers").json()
    assert tiers["rerank_tiers"] == {"fast": "quick", "balanced": "slow", "best": "by-large"}
    rows = {one["model"]: one for one in tiers["rerankers"]}
    assert rows["by-large"]["served_by"] == "large"
    assert rows["quick"]["replicas_ready"] == 1
    assert {one["model"] for one in tiers["data"]} == {"small", "large"}


READER, SEARCHER, TIERED = (f"er-{name:-<32}" for name in ("reader", "searcher", "tiered"))


def test_keys_may_use_similarity_where_they_may_use_its_model() -> None:
    keys = {
        "reader": {"hash": hash_of(READER), "models": ["large"], "tokens_per_minute": 100},
        "searcher": {"hash": hash_of(SEARCHER), "models": ["quick"], "priorities": ["bulk"]},
        "tiered": {
            "hash": hash_of(TIERED),
            "defaults": {"quality": "best", "space": "small/8", "input_type": "query"},
        },
    }
    body = {"query": "q", "documents": ["a", "b"]}
    with served(ARGS | {"keys": keys}) as (url, _):

        def post(key: str, **more: Any) -> httpx.Response:
            bearer = {"authorization": f"Bearer {key}"}
            return httpx.post(f"{url}/v1/rerank", json=body | more, headers=bearer)

        assert httpx.post(f"{url}/v1/rerank", json=body).status_code == 401
        assert post(READER).json()["model"] == "by-large"
        assert post(SEARCHER).json()["model"] == "quick"
        assert post(TIERED).json()["model"] == "by-large"  # the tier that its defaults name
        refused = post(READER, model="quick")
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "tier_not_allowed")
        assert "it may use by-large, best" in refused.json()["error"]["message"]
        priority = post(SEARCHER, priority="interactive")
        assert priority.json()["error"]["code"] == "priority_not_allowed"
        limited = post(READER, documents=["word " * 20] * 2 + ["other words " * 10] * 6)
        assert (limited.status_code, limited.json()["error"]["code"]) == (
            429,
            "rate_limit_exceeded",
        )
        listed = httpx.get(f"{url}/v1/models", headers={"authorization": f"Bearer {READER}"})
        kinds = {one["id"] for one in listed.json()["data"] if one["kind"] == "rerank"}
        assert kinds == {"by-large"}


def test_requests_are_counted_and_logged_as_those_of_embeddings(tmp_path: Any) -> None:
    path = tmp_path / "decisions.jsonl"
    with served(ARGS) as (url, router), httpx.Client(base_url=url) as client:
        log = router.service.log = open_log(DecisionLogConfig(path=str(path)), None)
        rerank(client, model="quick")
        client.post("/v1/embeddings", json={"input": "one text"})
        log.close()
        router.service.log = None
        shown = client.get("/v1/decisions").json()["data"]
        moved = client.post("/v1/what-if", json={"tiers": {"fast": "large", "best": "large"}})
    assert [(one["task"], one["model"]) for one in shown] == [
        ("rerank", "quick"),
        ("embed", "small"),
    ]
    assert moved.json()["requests"] == 1  # other rules for embeddings decide no rerankers
    with path.open("rb") as lines:
        logged = list(read_log(lines))
    assert [one.context.arm for one in logged] == [RERANK, None]
    assert replay(logged).changed == 0


def test_rules_and_tiers_of_reranking_change_without_a_restart() -> None:
    with served(ARGS) as (url, router), httpx.Client(base_url=url) as client:
        assert rerank(client)["model"] == "quick"
        service = router.service
        args = changed(
            service.args.model_dump(mode="json"), {"rerank_routing": {"default_tier": "best"}}
        )
        service.reload(args, service.catalogue)
        assert rerank(client)["model"] == "by-large"


FAULTY = copy.deepcopy(ARGS) | {"cache": {"max_bytes": 0}}


def test_a_reranker_that_dies_mid_request_is_replaced_by_another() -> None:
    with faulty(FAULTY) as (http, faults):
        faults.dying.add("quick")
        faults.end.set()
        answer = rerank(http, latency_budget_ms=60_000)
        assert answer["model"] == "by-large"
        assert answer["routing"]["score"] == "cosine"
        scores = [one["relevance_score"] for one in answer["results"]]
        assert scores == sorted(scores, reverse=True)
        assert {one["index"] for one in answer["results"]} == set(range(5))
        pinned = http.post("/v1/rerank", json={"query": "q", "documents": ["a"], "model": "quick"})
        assert (pinned.status_code, pinned.json()["error"]["code"]) == (503, "model_unavailable")


def test_no_score_that_is_not_finite_is_answered(tmp_path: Any) -> None:
    args = copy.deepcopy(ARGS)
    args["rerankers"]["quick"]["engine"]["faults"] = str(tmp_path)
    with served(args) as (url, _), httpx.Client(base_url=url) as client:
        (tmp_path / str(os.getpid())).write_text("nonsense")
        answer = client.post(
            "/v1/rerank", json={"query": "q", "documents": ["a"], "model": "quick"}
        )
        assert answer.status_code == 503
        assert "not finite" in answer.json()["error"]["message"]
