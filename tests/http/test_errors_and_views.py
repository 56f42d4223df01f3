"""Bad requests get the contract's error, all four keys, and everything else that answers a GET."""

import base64
import gzip
import hashlib
import json
import re
from typing import Any

import httpx
import numpy as np
import pytest
import tiktoken
from langchain_openai import OpenAIEmbeddings
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from openai import BadRequestError
from pydantic import SecretStr

pytestmark = pytest.mark.models


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "invalid_json"),
        (b"[]", 400, "invalid_json"),
        (b"\xff\xfe", 400, "invalid_json"),
        (b"[" * 100_000, 400, "invalid_json"),
        ({}, 400, "invalid_value"),
        ({"input": ""}, 400, "invalid_value"),
        ({"input": []}, 400, "invalid_value"),
        ({"input": ["a", ""]}, 400, "invalid_value"),
        ({"input": ["a", 1]}, 400, "invalid_value"),
        ({"input": {"text": "a"}}, 400, "invalid_value"),
        ({"input": ["a"] * 2049}, 400, "invalid_value"),
        ({"input": "a", "latency_budget_ms": 0}, 400, "invalid_value"),
        (b'{"input": "a", "latency_budget_ms": NaN}', 400, "invalid_value"),
        ({"input": "a", "latency_budget_ms": "50"}, 400, "invalid_value"),
        ({"input": "a", "encoding_format": "float64"}, 400, "invalid_value"),
        ({"input": "a", "latency_budget": 5}, 400, "unknown_field"),
        ({"input": "a", "dimensions": 100, "model": "fast"}, 400, "dimensions_not_supported"),
        (
            {"input": "a", "dimensions": 128, "model": "all-minilm-l6-v2"},
            400,
            "dimensions_not_supported",
        ),
        ({"input": [1, 2, 3]}, 400, "ambiguous_token_ids"),
        ({"input": "word " * 40_000}, 400, "context_length_exceeded"),
        ({"input": ["word " * 20_000] * 20, "model": "fast"}, 400, "max_tokens_per_request"),
        ({"input": "a", "model": "gpt-4"}, 404, "model_not_found"),
        ({"input": "a", "space": "wordllama-256/64", "dimensions": 128}, 409, "space_conflict"),
        (
            {"input": "a", "space": "wordllama-256/64", "model": "multilingual-e5-small"},
            409,
            "space_conflict",
        ),
        (b'{"input": "' + b"a" * 10_000_000 + b'"}', 413, "request_too_large"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, bytes | dict) else None,
)
def test_bad_requests_get_the_contracts_error(
    http: httpx.Client, body: Any, status: int, code: str
) -> None:
    answer = http.post(
        "/v1/embeddings", **({"content": body} if isinstance(body, bytes) else {"json": body})
    )
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code), answer.text
    assert set(error) == {"message", "type", "param", "code"}
    assert len(error["message"]) > 10
    assert answer.headers["x-request-id"]


def test_a_budget_that_no_idle_model_meets_is_refused_and_not_to_be_repeated(
    http: httpx.Client,
) -> None:
    answer = http.post(
        "/v1/embeddings", json={"input": "a", "latency_budget_ms": 0.01, "on_budget_miss": "reject"}
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "budget_unreachable")
    assert answer.headers["retry-after"] == "60"
    assert answer.headers["x-should-retry"] == "false"
    enough = re.search(r"raise latency_budget_ms to (\d+)", answer.json()["error"]["message"])
    assert enough is not None, answer.text
    again = {"input": "a", "latency_budget_ms": int(enough[1]) * 100, "on_budget_miss": "reject"}
    assert http.post("/v1/embeddings", json=again).status_code == 200


def test_a_body_without_a_declared_length_has_the_same_limit(http: httpx.Client) -> None:
    pieces = (b"a" * 1_000_000 for _ in range(10))
    answer = http.post("/v1/embeddings", content=pieces)
    assert answer.json()["error"]["code"] == "request_too_large"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/embeddings", 405, "method_not_allowed"),
        ("POST", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/v1/nothing", 404, "not_found"),
        ("GET", "/v1/models/nothing", 404, "model_not_found"),
    ],
)
def test_wrong_paths_and_methods_are_json_errors(
    http: httpx.Client, method: str, path: str, status: int, code: str
) -> None:
    answer = http.request(method, path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


@pytest.fixture
def some_tiktoken_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """LangChain asks tiktoken for OpenAI's encoding, which it would download: any encoding makes
    ids that are not the model's.
    """
    ranks = {bytes([byte]): byte for byte in range(256)}
    made = tiktoken.Encoding(
        "cl100k_base", pat_str=r"\S+|\s+", mergeable_ranks=ranks, special_tokens={}
    )
    monkeypatch.setitem(tiktoken.registry.ENCODINGS, "cl100k_base", made)


@pytest.mark.usefixtures("some_tiktoken_encoding")
def test_langchain_with_defaults_is_told_what_to_set_and_then_works(url: str) -> None:
    def client(**options: bool) -> OpenAIEmbeddings:
        return OpenAIEmbeddings(
            model="wordllama-256",
            base_url=f"{url}/v1",
            api_key=SecretStr("unused"),
            max_retries=0,
            **options,
        )

    with pytest.raises(BadRequestError, match="check_embedding_ctx_length=False"):
        client().embed_query("hello")
    assert (
        len(client(check_embedding_ctx_length=False).embed_documents(["hello", "world"])[1]) == 256
    )


def test_llama_index_works(url: str) -> None:
    model = OpenAILikeEmbedding(model_name="best", api_base=f"{url}/v1", api_key="unused")
    assert len(model.get_text_embedding("hello")) == 384


def test_a_request_id_is_kept_when_it_is_sane(http: httpx.Client) -> None:
    assert http.get("/health", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert (
        http.get("/health", headers={"x-request-id": "x" * 1000}).headers["x-request-id"]
        != "x" * 1000
    )


def test_route_explains_without_embedding(http: httpx.Client) -> None:
    body = http.post(
        "/v1/route", json={"input": "Où est la gare la plus proche de notre hôtel ?"}
    ).json()
    assert body["features"]["language"] == "fr"
    assert body["features"]["script"] == "Latn"
    assert body["decision"]["model"] == "multilingual-e5-small"
    assert body["decision"]["reason"] == "rule:not-english"
    assert [model["model"] for model in body["models"]] == [
        "wordllama-256",
        "all-minilm-l6-v2",
        "multilingual-e5-small",
    ]
    assert [model["chosen"] for model in body["models"]] == [False, False, True]
    assert all(model["why"] for model in body["models"])


def test_models_are_listed_as_openai_does_with_tiers(http: httpx.Client) -> None:
    listed = http.get("/v1/models").json()
    assert listed["object"] == "list"
    assert {"wordllama-256", "multilingual-e5-small", "auto", "fast", "best"} <= {
        model["id"] for model in listed["data"]
    }
    assert (
        http.get("/v1/models/intfloat/multilingual-e5-small").json()["id"]
        == "multilingual-e5-small"
    )
    assert http.get("/v1/models/best").json()["id"] == "best"


def test_tiers_show_the_matrix(http: httpx.Client) -> None:
    http.post("/v1/embeddings", json={"input": "something to measure", "model": "fast"})
    body = http.get("/v1/tiers").json()
    rows = {row["model"]: row for row in body["data"]}
    assert body["tiers"]["best"] == "multilingual-e5-small"
    assert rows["wordllama-256"]["dimensions"] == 256
    assert rows["wordllama-256"]["p50_ms"] > 0
    assert rows["wordllama-256"]["replicas_ready"] == 1


def test_health_docs_and_openapi_answer(http: httpx.Client) -> None:
    assert http.get("/health").json() == {"status": "ok"}
    assert http.get("/health/live").status_code == 200
    assert "/v1/embeddings" in http.get("/openapi.json").json()["paths"]
    docs = http.get("/docs")
    assert docs.headers["content-type"].startswith("text/html")
    (style,) = re.findall(r"<style>(.*?)</style>", docs.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = docs.headers["content-security-policy"]
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}';")
    assert "frame-ancestors 'none'" in policy
    assert "/v1/embeddings" in docs.text
    assert "http://" not in docs.text.replace("http://127.0.0.1", "").replace(
        "http://localhost", ""
    )


@pytest.mark.parametrize(
    "text", ["\ufdfa" * 8, "\ufdfa" * 100, "a\0b", "\ufdfa\0" * 50], ids=["8", "100", "nul", "both"]
)
def test_characters_that_overflow_a_c_buffer_are_harmless(http: httpx.Client, text: str) -> None:
    answer = http.post("/v1/embeddings", json={"input": text, "model": "multilingual-e5-small"})
    assert answer.status_code == 200
    assert http.get("/health").status_code == 200


@pytest.mark.parametrize("language", ["cz", "english", "xx", "zzz", "en_US.UTF-8", "e", "12", ""])
def test_a_language_nobody_knows_is_a_bad_value(http: httpx.Client, language: str) -> None:
    answer = http.post("/v1/embeddings", json={"input": "hello", "language": language})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "invalid_value")
    assert error["param"] == "language"
    assert error["message"].startswith("language ")


@pytest.mark.parametrize(
    ("given", "known"),
    [("eng", "en"), ("EN-us", "en"), ("zh_Hant", "zh"), ("ger", "de"), ("haw", None)],
)
def test_a_language_of_three_letters_is_that_of_two(
    http: httpx.Client, given: str, known: str | None
) -> None:
    for path in ("/v1/embeddings", "/v1/route"):
        answer = http.post(path, json={"input": "hello there", "language": given}).json()
        found = answer["features"] if path == "/v1/route" else answer["routing"]
        assert found["language"] == known


def test_token_ids_for_a_model_that_takes_text_or_outside_its_vocabulary_are_refused(
    http: httpx.Client,
) -> None:
    for model, ids in (("multilingual-e5-small", [1, 2, 3]), ("wordllama-256", [2_000_000_000])):
        answer = http.post(
            "/v1/embeddings", json={"input": ids, "model": model, "token_ids": "model"}
        )
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_value"), (
            answer.text
        )


def test_a_header_that_contradicts_the_name_in_model_is_refused(http: httpx.Client) -> None:
    headers = {"X-Quality-Tier": "best"}
    body = {"input": "hello", "model": "fast"}
    answer = http.post("/v1/embeddings", json=body, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "name_conflict")
    agreed = http.post("/v1/embeddings", json=body | {"quality": "fast"}, headers=headers)
    assert agreed.json()["routing"]["model"] == "wordllama-256"


@pytest.mark.parametrize("parts", [1, 2])
def test_a_body_in_gzip_is_read(http: httpx.Client, parts: int) -> None:
    plain = json.dumps({"input": "a text " * 9000, "model": "fast"}).encode()
    cut = -(-len(plain) // parts)
    body = b"".join(
        gzip.compress(plain[start : start + cut]) for start in range(0, len(plain), cut)
    )
    answer = http.post("/v1/embeddings", content=body, headers={"content-encoding": "gzip"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"] == http.post("/v1/embeddings", content=plain).json()["data"]


@pytest.mark.parametrize(
    ("coding", "body", "status", "says"),
    [
        ("gzip", gzip.compress(b" " * 200_000_000, 9), 413, "bytes"),
        ("gzip", b"{}", 400, "gzip and the body is not"),
        ("gzip", gzip.compress(b'{"input": "a"}')[:-9], 400, "ends too early"),
        ("gzip", gzip.compress(b"") * 10_000, 400, "gzip files after one another"),
        ("br", b"{}", 400, "content-encoding 'br'"),
        ("gzip, gzip", b"{}", 400, "content-encoding"),
    ],
    ids=["bomb", "plain", "cut", "many", "brotli", "twice"],
)
def test_a_coding_that_cannot_be_read_is_named(
    http: httpx.Client, coding: str, body: bytes, status: int, says: str
) -> None:
    answer = http.post("/v1/embeddings", content=body, headers={"content-encoding": coding})
    assert answer.status_code == status
    assert says in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("tier", "text"),
    [
        *((tier, text) for tier in ("fast", "balanced", "best") for text in (" ", "\n\t ")),
        ("balanced", "a" * 1_000_000),
    ],
    ids=lambda value: repr(value[:9]),
)
def test_a_text_is_embedded_as_its_model_reads_it_however_little_that_is(
    http: httpx.Client, tier: str, text: str
) -> None:
    """docs/configuration.md says so: white space is text, and to WordPiece a word of a million
    letters is one unknown token.
    """
    answer = http.post("/v1/embeddings", json={"input": text, "model": tier})
    assert answer.status_code == 200
    assert np.linalg.norm(answer.json()["data"][0]["embedding"]) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("path", ["/v1/models", "/v1/embeddings", "/", "/nowhere"])
def test_a_websocket_handshake_is_refused_in_json(http: httpx.Client, path: str) -> None:
    headers = {
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    answer = http.get(path, headers=headers)
    assert answer.status_code == 426
    assert answer.json()["error"]["code"] == "not_supported"


def test_the_list_of_models_has_aliases_and_kinds(http: httpx.Client) -> None:
    listed = {card["id"]: card for card in http.get("/v1/models").json()["data"]}
    assert listed["wordllama-256"]["kind"] == "embedding"
    assert listed["fast"]["kind"] == listed["auto"]["kind"] == "tier"
    alias = listed["intfloat/multilingual-e5-small"]
    assert (alias["kind"], alias["model"]) == ("alias", "multilingual-e5-small")
    assert alias["dimensions"] == 384


@pytest.mark.parametrize(
    "named", ["wordllama-256/64", "WordLlama-256/64", "intfloat/multilingual-e5-small/384"]
)
def test_a_space_in_place_of_a_model_is_answered_in(http: httpx.Client, named: str) -> None:
    answer = http.post("/v1/embeddings", json={"input": "a", "model": named}).json()
    space = "wordllama-256/64" if "ama" in named else "multilingual-e5-small/384"
    assert answer["routing"]["space"] == space


@pytest.mark.parametrize("long", [False, True])
@pytest.mark.parametrize(
    ("body", "place"),
    [
        ('["fine", "ok", "\\ud800 half"]', "input[2] has half"),
        ('"\\udc00"', "input has half"),
        ('["\\ud83d\\ude00", "\\ude00\\ud83d"]', "input[1] has half"),
    ],
)
def test_half_a_surrogate_pair_is_named_by_its_item(
    http: httpx.Client, body: str, place: str, long: bool
) -> None:
    more = f', "user": "{"x" * 70_000}"' if long else ""
    sent = f'{{"input": {body}{more}}}'.encode()
    error = http.post("/v1/embeddings", content=sent).json()["error"]
    assert error["code"] == "invalid_json"
    assert place in error["message"]
