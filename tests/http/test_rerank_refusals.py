"""What is refused of a rerank request, in its own words, and what one costs."""

from typing import Any

import httpx
import pytest

from router.keys import hash_of, new_key
from tests.support.fixtures import client_of, client_with, service_of
from tests.support.local_service import served
from tests.support.rerank_service import ARGS, LONG, model, reranker

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


NAMED: dict[str, Any] = ARGS | {
    "collections": {"docs": "large/16", "faq": {"spaces": ["small/8", "large/16"]}},
    "keys": {
        "all": {"hash": hash_of("er-all"), "priorities": ["interactive"]},
        "faq": {"hash": hash_of("er-faq"), "collections": ["faq"]},
        "bulk": {"hash": hash_of("er-bulk"), "priorities": ["bulk"], "tokens_per_minute": 1000},
        "admin": {"hash": hash_of("er-admin"), "admin": True},
    },
}
RANK = "ranks nothing; send auto, or one of the rerankers quick, slow, by-large"


named = client_with(NAMED)


def rerank(client: httpx.Client, key: str, path: str = "/v1/rerank", **body: Any) -> httpx.Response:
    texts = "texts" if body.pop("tei", False) else "documents"
    sent = {"query": "which?", texts: ["one", "two"], **body}
    return client.post(path, json=sent, headers={"authorization": f"Bearer er-{key}"})


@pytest.mark.parametrize(
    ("model", "what"),
    [
        ("docs", "docs is a collection"),
        ("docs-query@50ms", "docs is a collection"),
        ("faq", "faq is a collection"),
        ("large/16", "large/16 is a vector space"),
        ("LARGE/7", "large/7 is a vector space"),
        ("large", "large is an embedding model"),
        ("large@50ms", "large is an embedding model"),
        ("small-document", "small is an embedding model"),
    ],
)
def test_what_makes_vectors_is_named_as_what_it_is(
    named: httpx.Client, model: str, what: str
) -> None:
    for path in ("/v1/rerank", "/v2/rerank", "/rerank"):
        answer = rerank(named, "all", path, model=model)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (
            400,
            "invalid_value",
            "model",
        )
        assert error["message"] == f"{what} and {RANK}"


@pytest.mark.parametrize(
    ("model", "near"),
    [
        ("quik", "quick"),
        ("quick@1s", "quick@1000ms"),
        ("auto@1s", "auto@1000ms"),
        ("Org/Quik", "Org/Quick"),
        ("by-larg@50ms", "by-large@50ms"),
        ("nothing", None),
    ],
)
def test_a_wrong_name_of_a_reranker_gets_the_nearest(
    named: httpx.Client, model: str, near: str | None
) -> None:
    answer = rerank(named, "all", model=model)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (404, "model_not_found")
    assert ("did you mean" in error["message"]) == (near is not None)
    assert near is None or f"did you mean {near!r}?" in error["message"]
    listed = named.get(f"/v1/models/{model}", headers={"authorization": "Bearer er-all"}).json()
    assert near is None or f"did you mean {near!r}?" in listed["error"]["message"]


def test_a_collection_that_the_key_may_not_use_is_a_name_like_any_other(
    named: httpx.Client,
) -> None:
    for path, more in (
        ("/v1/rerank", {}),
        ("/v1/rerank", {"latency_budget_ms": 60}),
        ("/v1/rerank", {"quality": "best"}),
        ("/rerank", {"priority": "bulk"}),
        ("/in/NAME/v1/rerank", {"model": "quick-query"}),
    ):
        for suffix in ("", "-query", "-document@50ms", "@50ms"):
            answers = [
                rerank(named, "faq", path.replace("NAME", name), **{"model": name + suffix, **more})
                for name in ("docs", "dxyz")
            ]
            there, nowhere = answers
            status = 403 if path.startswith("/in/") else 404
            assert (there.status_code, nowhere.status_code) == (status, status)
            assert there.text.replace("docs", "dxyz") == nowhere.text
    assert "faq is a collection" in rerank(named, "faq", model="faq").text


@pytest.mark.parametrize(
    "sent",
    [{"space": "docs"}, {"space": "large/16"}, {"dimensions": 8}, {"input_type": "query"}],
    ids=str,
)
def test_a_field_of_vectors_is_refused_with_what_ranks(
    named: httpx.Client, sent: dict[str, Any]
) -> None:
    (field,) = sent
    error = rerank(named, "all", **sent).json()["error"]
    assert (error["code"], error["param"]) == ("unknown_field", field)
    assert error["message"].startswith(f"{field} is a field of requests for vectors")
    assert "the rerankers quick, slow, by-large" in error["message"]


def test_teis_ranking_has_no_field_of_vectors_either(named: httpx.Client) -> None:
    body = {"query": "a", "texts": ["b"], "dimensions": 64}
    headers = {"authorization": "Bearer er-all"}
    answer = named.post("/rerank", json=body, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("dimensions is a field of requests for vectors")


@pytest.mark.parametrize(
    ("model", "instead"),
    [
        ("quick-query", "quick"),
        ("QUICK-Document", "QUICK"),
        ("Org/Quick-query", "Org/Quick"),
        ("auto-query", "auto"),
        ("best-document@50ms", "best@50ms"),
        ("quick-query@100000000000ms", "quick@100000000000ms"),
        ("quick-query@0.000001MS", "quick@0.000001MS"),
    ],
)
def test_a_name_with_a_side_ranks_nothing(named: httpx.Client, model: str, instead: str) -> None:
    for path in ("/v1/rerank", "/v2/rerank", "/rerank"):
        answer = rerank(named, "all", path, model=model)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (400, "invalid_value")
        assert error["param"] == "model"
        assert error["message"].endswith(f"; send {instead!r}")
        assert rerank(named, "all", path, model=instead).status_code == 200
    assert "did you mean 'auto@1000ms'?" in rerank(named, "all", model="auto-querry@1s").text


@pytest.mark.parametrize("space", ["docs", "large/16", "nothing", ""])
@pytest.mark.parametrize(("path", "texts"), FORMS.items())
def test_a_header_with_a_space_is_refused(
    named: httpx.Client, path: str, texts: str, space: str
) -> None:
    headers = {"authorization": "Bearer er-all", "x-embedding-space": space}
    answer = named.post(path, json={"query": "a", texts: ["b"]}, headers=headers)
    assert answer.status_code == 400, answer.text
    assert "X-Embedding-Space is a header of requests for vectors" in answer.text
    del headers["x-embedding-space"]
    assert named.post(path, json={"query": "a", texts: ["b"]}, headers=headers).is_success


@pytest.mark.parametrize(
    "body",
    [
        {"query": "a", "documents": ["b"]},
        {"query": "a", "texts": ["b"]},
        {"documents": ["b"], "query": "a", "model": "quick"},
        {"input": "a", "top_n": 3},
        {"input": "a", "score": "cosine"},
    ],
    ids=str,
)
def test_requests_for_vectors_say_where_rankings_go(
    named: httpx.Client, body: dict[str, Any]
) -> None:
    says = {
        "/v1/route": "explains only requests for vectors",
        "/v1/embeddings": "(POST /v1/rerank), and a request for vectors has none",
    }
    for path, sentence in says.items():
        answer = named.post(path, json=body, headers={"authorization": "Bearer er-all"})
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (400, "unknown_field")
        assert f"{error['param']} is a field of rankings" in error["message"]
        assert sentence in error["message"]
        assert "POST /v1/rerank" in error["message"]


@pytest.mark.parametrize("model", ["quick", "QUICK@50ms", "quick-query", "quick/1", "Org/Quick"])
def test_a_reranker_makes_no_vectors_whatever_suffix_it_has(
    named: httpx.Client, model: str
) -> None:
    for field in ("model", "space"):
        answer = named.post(
            "/v1/embeddings",
            json={"input": "a", field: model},
            headers={"authorization": "Bearer er-all"},
        )
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (400, field)
        assert error["message"].startswith("quick is a reranker and makes no vectors")


PATHS = [("/v1/rerank", False), ("/v2/rerank", False), ("/rerank", False), ("/rerank", True)]


@pytest.mark.parametrize(("path", "tei"), PATHS, ids=str)
def test_a_bulk_key_ranks_on_the_bulk_lane_and_pays_for_it(
    named: httpx.Client, path: str, tei: bool
) -> None:
    def last() -> dict[str, Any]:
        seen = named.get("/v1/decisions?limit=1", headers={"authorization": "Bearer er-admin"})
        (entry,) = seen.json()["data"]
        return dict(entry)

    answer = rerank(named, "bulk", path, tei=tei)
    assert answer.status_code == 200, answer.text
    assert last()["priority"] == "bulk"
    left = int(answer.headers["x-ratelimit-remaining-tokens"])
    again = rerank(named, "bulk", path, tei=tei, query="another query")
    assert int(again.headers["x-ratelimit-remaining-tokens"]) < left
    assert rerank(named, "all", path, tei=tei).status_code == 200
    assert last()["priority"] == "interactive"


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
def test_a_lane_that_the_key_may_not_use_is_refused(named: httpx.Client, path: str) -> None:
    for key, lane, own in (("all", "bulk", "interactive"), ("bulk", "interactive", "bulk")):
        answer = rerank(named, key, path, priority=lane)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (
            403,
            "priority_not_allowed",
            "priority",
        )
        assert f'send "priority": "{own}"' in error["message"]
        assert rerank(named, key, path, priority=own).status_code == 200


running = service_of(ARGS)


http = client_of("running")


def test_a_document_longer_than_a_pinned_reranker_reads_is_refused_by_its_place(
    http: httpx.Client,
) -> None:
    refused = http.post(
        "/v1/rerank", json={"query": "q", "documents": ["a", LONG], "model": "quick"}
    )
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (400, "context_length_exceeded")
    assert error["param"] == "documents"
    assert error["message"].startswith("documents[1] ")
    assert "quick reads 60" in error["message"]


REFUSED: dict[str, dict[str, Any]] = {
    "query is missing; send the text that documents are ranked for": {"query": None},
    "query is an empty string; send text": {"query": ""},
    "query must be a string, it is an array": {"query": ["a"]},
    "documents is an empty array; send at least one text": {"documents": []},
    "documents must be an array of strings, it is 'a'": {"documents": "a"},
    "documents[1] must be a string, it is 1": {"documents": ["a", 1]},
    "documents[1] is an empty string; leave it out": {"documents": ["a", ""]},
    "documents[0] has no text; send a string": {"documents": [{}]},
    "documents[0] must be a string, it is 1": {"documents": [{"text": 1}]},
    "documents[0] has the key 'title', and only text is read; put all of it into text": {
        "documents": [{"title": "t"}]
    },
    "documents has 1001 items; the limit is 1000 (limits.max_documents); send those that "
    "a first search ranks highest": {"documents": ["a"] * 1001},
    "top_n must be greater than or equal to 1, it is 0": {"top_n": 0},
    "top_n must be a valid integer, it is '1'": {"top_n": "1"},
    "max_tokens_per_doc must be greater than or equal to 1, it is 0": {"max_tokens_per_doc": 0},
    "large is an embedding model and ranks nothing; send auto, or one of the rerankers quick, "
    "slow, by-large": {"model": "large"},
    "no reranker that this request leaves open has scores of kind 'raw' (quick: probability, "
    "slow: raw, by-large: cosine); leave score out, or name another model": {
        "model": "quick",
        "score": "raw",
    },
    "instruction has 2001 characters; the limit is 2000 (limits.max_instruction_characters); "
    "shorten it, or put it into the texts": {"instruction": "x" * 2001},
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_cannot_be_ranked_is_refused_by_name(http: httpx.Client, sentence: str) -> None:
    changes = REFUSED[sentence]
    answer = http.post("/v1/rerank", json={"query": "q", "documents": ["a"]} | changes)
    assert (answer.status_code, answer.json()["error"]) == (
        400,
        {
            "message": sentence,
            "type": "invalid_request_error",
            "param": list(changes)[-1],
            "code": "invalid_value",
        },
    )


def test_a_query_too_long_for_every_reranker_is_named(http: httpx.Client) -> None:
    answer = http.post(
        "/v1/rerank",
        json={"query": LONG, "documents": ["a"], "model": "by-large", "truncate": "end"},
    )
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "context_length_exceeded")
    assert "large" in error["message"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"query": "q", "documents": ["a"], "topn": 1}, 400, "unknown_field"),
        ({"query": "q", "documents": ["a"], "model": "gpt-4"}, 404, "model_not_found"),
        (["q"], 400, "invalid_json"),
    ],
)
def test_other_refusals_have_their_own_codes(
    http: httpx.Client, body: Any, status: int, code: str
) -> None:
    answer = http.post("/v1/rerank", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
