"""What is refused of a rerank request, in its own words, and what one costs."""

from typing import Any

import httpx
import pytest

from router.keys import hash_of, new_key
from tests.http.test_rerank import ARGS, model, reranker
from tests.support.local_service import served

FORMS = {"/v1/rerank": "documents", "/rerank": "texts"}


@pytest.mark.parametrize("depth", [400, 900])
@pytest.mark.parametrize(("path", "texts"), FORMS.items())
def test_a_body_that_is_nested_too_deeply_is_refused(path: str, texts: str, depth: int) -> None:
    body = f'{{"query": "a", "{texts}": ["b"], "user": {"[" * depth}{"]" * depth}}}'
    with served(ARGS) as (url, _):
        answer = httpx.post(f"{url}{path}", content=body)
        assert answer.status_code == 400, answer.text
        if texts == "documents":
            assert answer.json()["error"]["code"] == "invalid_json"
        assert httpx.post(f"{url}{path}", json={"query": "a", texts: ["b"]}).is_success


def test_what_the_engine_says_of_the_query_is_said_of_the_query() -> None:
    inner = {"models": {"near": model(8)}, "tiers": {"fast": "near"}}
    with served(inner) as (there, _):
        far = {"kind": "remote", "base_url": f"{there}/v1", "model": "near"}
        outer = {
            "models": {"far": {"engine": far, "dimensions": 8, "max_tokens": 1000}},
            "tiers": {"fast": "far"},
            "rerankers": {"cosine": {"engine": {"kind": "similarity", "model": "far"}}},
            "rerank_tiers": {"fast": "cosine"},
        }
        long = "word " * 100  # 125 tokens there, which reads 40
        with served(outer) as (url, _):
            for body, param, begins in (
                ({"query": long, "documents": ["a", "b"]}, "query", "query: its server refused"),
                ({"query": "a", "documents": ["b", long]}, "documents", "documents[1]: its server"),
            ):
                error = httpx.post(f"{url}/v1/rerank", json=body, timeout=60).json()["error"]
                assert (error["code"], error["param"]) == ("invalid_value", param)
                assert error["message"].startswith(begins)


def test_one_document_has_no_list_of_languages() -> None:
    text = "Tell me more about this railway station."
    with served(ARGS) as (url, _):
        for documents, languages in (([text], None), ([text, text + " Now."], {"en": 2})):
            body = {"query": "Wo ist der Bahnhof?", "documents": documents, "model": "quick"}
            routing = httpx.post(f"{url}/v1/rerank", json=body).json()["routing"]
            assert (routing["language"], routing.get("languages")) == ("en", languages)


@pytest.mark.parametrize(("name", "an_hour"), [("quick", 5000.0), ("cosine", 2500.0)])
def test_reranking_costs_what_computes_it_costs(name: str, an_hour: float) -> None:
    key = new_key(b"r" * 32)
    args: dict[str, Any] = {
        "models": {"small": {**model(8), "device_hour_cost": 2500.0}},
        "tiers": {"fast": "small"},
        "rerankers": {
            "quick": reranker(device_hour_cost=5000.0),
            "cosine": {"engine": {"kind": "similarity", "model": "small"}},
        },
        "rerank_tiers": {"fast": "quick", "best": "cosine"},
        "keys": {"one": {"hash": hash_of(key)}},
    }
    headers = {"authorization": f"Bearer {key}"}
    with served(args) as (url, _):
        body = {"query": "which?", "documents": ["a", "b"], "model": name}
        assert httpx.post(f"{url}/v1/rerank", json=body, headers=headers).is_success
        (row,) = httpx.get(f"{url}/v1/usage", headers=headers).json()["data"]
        assert row["device_seconds"] > 0
        assert row["cost"] == pytest.approx(row["device_seconds"] / 3600 * an_hour, rel=1e-3)
