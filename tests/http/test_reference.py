"""The OpenAPI document is exact: it lists what there is, answers are what it says, and a fuzz finds
nothing that it does not.
"""

import copy
import json
from collections.abc import Iterator
from typing import Any, get_args

import httpx
import jsonschema
import pytest

from benchmarks.fuzz import FuzzCounts, fuzz, table
from router.routes import ROUTES
from router.schema import EncodingFormat
from tests.support.local_service import LocalRouter, served

MODEL: dict[str, Any] = {"engine": {"kind": "fake"}, "dimensions": 8, "max_tokens": 64}
ARGS: dict[str, Any] = {
    "models": {"small": MODEL | {"aliases": ["Other/Name"]}, "large": MODEL},
    "tiers": {"fast": "small"},
    "collections": {"docs": "small/8", "both": {"spaces": ["small/8", "large/8"]}},
    "rerankers": {"quick": {"engine": {"kind": "similarity", "model": "small"}}},
    "rerank_tiers": {"fast": "quick"},
}
TEXTS = ["one text", "你好，世界"]
RANK = {"query": "which", "documents": ["one", {"text": "two"}]}
TEI_RANK = {"query": "which", "texts": ["one", "two"]}
LINE = {"method": "POST", "url": "/v1/embeddings", "body": {"input": "a"}}
# requests of each handler that are answered with 200: method, path, body
Requests = list[tuple[str, str, Any]]
ANSWERED: dict[str, Requests] = {
    "embed": [
        ("POST", "/v1/embeddings", {"input": "a"}),
        ("POST", "/embeddings", {"input": TEXTS, "space": "docs", "encoding_format": "base64"}),
        ("POST", "/v1/embeddings", {"input": TEXTS, "space": "both", "input_type": "query"}),
    ],
    "azure_embed": [("POST", "/openai/deployments/{model}/embeddings", {"input": TEXTS})],
    "cohere_embed": [
        ("POST", "/v2/embed", {"texts": TEXTS, "embedding_types": list(get_args(EncodingFormat))}),
        ("POST", "/v2/embed", {"texts": TEXTS}),
    ],
    "ollama_embed": [("POST", "/api/embed", {"model": "small", "input": TEXTS})],
    "tei_embed": [("POST", "/embed", {"inputs": TEXTS})],
    "rerank": [
        ("POST", "/v1/rerank", RANK),
        ("POST", "/v2/rerank", RANK | {"return_documents": True, "top_n": 1}),
        ("POST", "/rerank", TEI_RANK),
        ("POST", "/rerank", TEI_RANK | {"return_text": True}),
    ],
    "explain": [
        ("POST", "/v1/route", {"input": "a"}),
        ("POST", "/route", {"input": TEXTS, "space": "both", "input_type": "query"}),
    ],
    "models": [("GET", "/v1/models", None), ("GET", "/models", None)],
    "model": [("GET", "/v1/models/{id}", None)],
    "tiers": [("GET", "/v1/tiers", None)],
    "compare": [("GET", "/v1/compare", None)],
    "decisions": [("GET", "/v1/decisions", None)],
    "what_if": [("POST", "/v1/what-if", {"routing": {"default_tier": "fast"}})],
    "usage": [("GET", "/v1/usage", None)],
    "files": [("GET", "/v1/files", None)],
    "file": [("GET", "/v1/files/{id}", None)],
    "batches": [("GET", "/v1/batches", None)],
    "batch": [("GET", "/v1/batches/{id}", None)],
    "delete_file": [("DELETE", "/v1/files/{id}", None)],
    "health": [("GET", "/health", None)],
    "live": [("GET", "/health/live", None)],
}
ELSEWHERE = {"upload_file", "create_batch", "cancel_batch"}  # before those that need what is made
LINES = 2000  # which take longer than to ask for an end of them
NOT_JSON = {"policy", "file_content", "reference", "console", "docs"}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, LocalRouter]]:
    folder = {"folder": str(tmp_path_factory.mktemp("batches"))}
    with served(ARGS | {"batches": folder}) as both:
        yield both


@pytest.fixture(scope="module")
def document(both: tuple[str, LocalRouter]) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{both[0]}/openapi.json").json()
    return found


def closed(value: Any) -> Any:
    """A schema in which an object has no other properties than those it names."""
    if isinstance(value, dict):
        inner = {key: closed(one) for key, one in value.items()}
        if "properties" in inner and inner.get("type") == "object":
            inner.setdefault("additionalProperties", False)
        return inner
    return [closed(one) for one in value] if isinstance(value, list) else value


def test_what_is_documented_exists_and_what_exists_is_documented(
    both: tuple[str, LocalRouter], document: dict[str, Any]
) -> None:
    url, _ = both
    assert set(document["paths"]) == {route.path for route in ROUTES}
    for path, operations in document["paths"].items():
        for method in operations:
            answer = httpx.request(
                method,
                url + path.replace("{id}", "small"),
                content=b"{}" if method == "post" else None,
            )
            missing = "{id}" in path and ("/files" in path or "/batches" in path)
            undocumented = (405, 500) if missing else (404, 405, 500)
            assert answer.status_code not in undocumented, (method, path)
        for method in {"get", "post", "put", "delete", "patch"} - set(operations):
            assert httpx.request(method, url + path.replace("{id}", "small")).status_code == 405, (
                method,
                path,
            )


def test_every_route_is_answered_below() -> None:
    assert {route.handler for route in ROUTES} == ANSWERED.keys() | ELSEWHERE | NOT_JSON


def test_an_answer_has_exactly_the_documented_fields(
    both: tuple[str, LocalRouter], document: dict[str, Any]
) -> None:
    names = {
        "/v1/models/{id}": ["small", "fast", "docs", "both-query", "quick", "Other/Name"],
        "/openai/deployments/{model}/embeddings": ["small"],
    }

    def answered(method: str, path: str, **sent: Any) -> Any:
        for name in names.get(path, [""]):
            url = both[0] + path.replace("{id}", name).replace("{model}", name)
            answer = httpx.request(method, url, timeout=60, **sent)
            assert answer.status_code == 200, (url, answer.text)
            described = document["paths"][path][method.lower()]["responses"]["200"]
            check(document, described, answer.json())
            headers = described.get("headers", {})
            sometimes = {one for one in headers if "ratelimit" in one}
            sometimes |= {"x-ignored-fields", "x-expected-recall"}
            assert headers.keys() - sometimes <= set(answer.headers)
        return answer.json()

    lines = [json.dumps({"custom_id": str(number), **LINE}) for number in range(LINES)]
    upload = {"file": ("in.jsonl", "\n".join(lines).encode()), "purpose": (None, "batch")}
    file = answered("POST", "/v1/files", files=upload)["id"]
    body = {"input_file_id": file, "endpoint": LINE["url"], "completion_window": "24h"}
    batch = answered("POST", "/v1/batches", json=body)["id"]
    for path, id in (("/v1/files/{id}", file), ("/v1/batches/{id}", batch)):
        names[path] = [id]
    names["/v1/batches/{id}/cancel"] = [batch]
    answered("POST", "/v1/batches/{id}/cancel")
    for requests in ANSWERED.values():
        for method, path, body in requests:
            answered(method, path, json=body)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"input": ""}),
        ("/v2/embed", {"texts": [""]}),
        ("/embed", {"inputs": ""}),
        ("/api/embed", {"input": ""}),
        ("/rerank", {"query": ""}),
        ("/rerank", {"query": "a", "texts": [""]}),
        ("/rerank", {"query": "a", "documents": [""]}),
        ("/v1/batches", {"input_file_id": "a"}),
        ("/v1/what-if", {"routes": {}}),
    ],
    ids=str,
)
def test_an_error_is_in_the_documented_form_of_its_api(
    both: tuple[str, LocalRouter], document: dict[str, Any], path: str, body: dict[str, Any]
) -> None:
    answer = httpx.post(both[0] + path, json=body, timeout=60)
    assert answer.status_code == 400
    described = document["paths"][path]["post"]["responses"]["400"]
    if "$ref" in described:
        described = document["components"]["responses"]["400"]
    check(document, described, answer.json())


def check(document: dict[str, Any], described: dict[str, Any], answer: Any) -> None:
    schema = copy.deepcopy(described["content"]["application/json"]["schema"])
    jsonschema.Draft202012Validator(
        closed({**schema, "components": document["components"]})
    ).validate(answer)


def test_the_page_shows_every_value_of_an_enum(both: tuple[str, LocalRouter]) -> None:
    page = httpx.get(f"{both[0]}/docs").text
    for word in ("ubinary", "balanced", "reject", "search_document", "interactive"):
        assert f"<code>{word}</code>" in page


def test_a_fuzz_finds_no_failure_no_hang_and_no_undocumented_answer(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tally = fuzz(300, start=1)
    with capsys.disabled():
        print("\n" + "\n".join(table(tally, 0.0)))
    assert tally.problems == []
    assert (tally.failures, tally.hangs) == (0, 0)
    assert len(tally.cases) == 4
    assert {200, 400, 401, 403, 404, 405} <= set(tally.statuses)


def test_the_fuzz_counts_what_may_not_happen() -> None:
    tally = FuzzCounts()
    tally.answered("a", 500, b'Traceback (most recent call last):\n  File "x.py"', 0.1, "a request")
    tally.hung("a", "another")
    assert (tally.failures, tally.hangs, len(tally.problems)) == (1, 1, 3)
    tally.answered(
        "a", 503, b'{"error": {"code": "budget_unreachable"}}', 0.1, "a refusal that was asked for"
    )
    assert (tally.failures, tally.refusals, len(tally.problems)) == (1, 1, 3)
    for body in (b'{"error": {"code": "model_unavailable"}}', b"<html>", b"[]"):
        tally.answered("a", 503, body, 0.1, "another")
    assert (tally.failures, tally.refusals) == (4, 1)
