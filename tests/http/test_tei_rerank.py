"""/rerank as clients of Text Embeddings Inference ask for it."""

from typing import Any

import httpx
import pytest

from tests.support.fixtures import client_with
from tests.support.local_service import served
from tests.support.rerank_service import ARGS, DOCUMENTS

http = client_with(ARGS)


def test_the_answer_is_a_list_with_falling_scores(http: httpx.Client) -> None:
    body = {"query": "which", "texts": DOCUMENTS}
    plain = http.post("/rerank", json={"query": "which", "documents": DOCUMENTS}).json()["results"]
    answer = http.post("/rerank", json=body)
    assert answer.json() == [
        {"index": one["index"], "score": one["relevance_score"]} for one in plain
    ]
    assert answer.headers["x-embedding-model"]
    with_text = http.post("/rerank", json=body | {"return_text": True, "truncate": True}).json()
    assert [one["text"] for one in with_text] == [DOCUMENTS[one["index"]] for one in plain]


def test_a_server_of_that_api_is_a_reranker_of_this_service(http: httpx.Client) -> None:
    server = {"kind": "remote", "base_url": str(http.base_url), "model": "any", "form": "tei"}
    for far, model in (({"engine": server}, "quick"), ({"engine": server, "score": "raw"}, "slow")):
        args = ARGS | {"rerankers": {"far": far}, "rerank_tiers": {"fast": "far"}}
        body = {"query": "which", "documents": DOCUMENTS}
        own = http.post("/rerank", json=body | {"model": model}).json()["results"]
        with served(args) as (url, _):
            answer = httpx.post(f"{url}/v1/rerank", json=body, timeout=60).json()
        assert answer["results"] == own
        assert answer["routing"]["score"] == far.get("score", "probability")


def test_raw_scores_need_a_reranker_that_has_them(http: httpx.Client) -> None:
    body = {"query": "which", "texts": DOCUMENTS, "raw_scores": True}
    answer = http.post("/rerank", json=body)
    assert (answer.status_code, answer.headers["x-embedding-model"]) == (200, "slow")


def test_raw_scores_that_no_reranker_has_are_refused_in_words_of_this_api() -> None:
    without = {name: one for name, one in ARGS["rerankers"].items() if name != "slow"}
    tiers = {"fast": "quick", "best": "by-large"}
    body = {"query": "which", "texts": DOCUMENTS, "raw_scores": True}
    with served(ARGS | {"rerankers": without, "rerank_tiers": tiers}) as (url, _):
        answer = httpx.post(f"{url}/rerank", json=body, timeout=60)
        assert (answer.status_code, answer.json()["error"]) == (
            400,
            "raw_scores needs a reranker whose scores are of kind 'raw', and this service has none "
            "(quick: probability, by-large: cosine); leave raw_scores out",
        )
        plain = {"query": "which", "documents": DOCUMENTS, "score": "raw"}
        error = httpx.post(f"{url}/v1/rerank", json=plain, timeout=60).json()["error"]
        assert (error["param"], error["message"][:24]) == ("score", "score needs a reranker w")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"query": "a", "texts": ["b"], "documents": ["b"]}, "documents and texts"),
        ({"query": "a", "texts": []}, "texts is an empty array"),
        ({"query": "a", "texts": ["b", ""]}, "texts[1] is an empty string"),
        ({"query": "", "texts": ["b"]}, "query is an empty string"),
        ({"texts": ["b"]}, "query is missing"),
        ({"query": "a", "texts": ["b"], "return_text": 1}, "return_text"),
        ({"query": "a", "texts": ["b"], "raw_score": True}, "did you mean"),
    ],
)
def test_a_body_with_texts_gets_errors_of_that_api(
    http: httpx.Client, body: dict[str, Any], says: str
) -> None:
    answer = http.post("/rerank", json=body)
    assert answer.status_code == 400, answer.text
    assert list(answer.json()) == ["error", "error_type"]
    assert says in answer.json()["error"]


def test_a_body_with_neither_is_told_both_names(http: httpx.Client) -> None:
    error = http.post("/rerank", json={"query": "a"}).json()["error"]
    assert error["code"] == "invalid_value"
    assert "documents or texts" in error["message"]
