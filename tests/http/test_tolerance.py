"""Fields that the API does not have, and other spellings of values."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from router.keys import hash_of
from tests.support.fixtures import client_with
from tests.support.local_service import served
from tests.support.shapes import ARGS

KEYS = {name: f"er-{name:-<32}" for name in ("strict", "some", "all")}
IGNORED: dict[str, Any] = {"strict": False, "some": ["keep_alive", "add bos"], "all": True}
LOCKED = ARGS | {
    "keys": {
        name: {"hash": hash_of(key), "ignore_fields": IGNORED[name]} for name, key in KEYS.items()
    }
}
LONG = {"input": ["text " * 4000] * 5, "truncate": "end", "model": "reader"}


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    batches = {"folder": str(tmp_path_factory.mktemp("batches"))}
    with (
        served(ARGS | {"batches": batches}) as (url, _),
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def tolerant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    batches = {"folder": str(tmp_path_factory.mktemp("batches"))}
    args = ARGS | {"limits": {"unknown_fields": "ignore"}, "batches": batches}
    with served(args) as (url, _), httpx.Client(base_url=url, timeout=60) as client:
        yield client


locked = client_with(LOCKED)


@pytest.mark.parametrize("route", ["embeddings", "route"])
@pytest.mark.parametrize("body", [{"input": "text"}, LONG], ids=["short", "long"])
def test_unknown_fields_are_dropped_and_named(
    tolerant: httpx.Client, route: str, body: dict[str, Any]
) -> None:
    more = {"keep_alive": 5, "ünknown\r\nx: y, z": {"input": [None]}}
    answer = tolerant.post(f"/v1/{route}", json=body | more)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-ignored-fields"] == ("keep_alive, %C3%BCnknown%0D%0Ax: y%2C z")
    assert "x-ignored-fields" not in tolerant.post(f"/v1/{route}", json=body).headers


def test_unknown_fields_of_files_and_batches_are_dropped_and_named(
    tolerant: httpx.Client,
) -> None:
    upload: dict[str, Any] = {"file": ("in.jsonl", b"{}"), "purpose": (None, "batch")}
    more = {"expires_after[anchor]": (None, "created_at"), "expires_after[seconds]": (None, "9")}
    made = tolerant.post("/v1/files", files=upload | more)
    assert made.headers["x-ignored-fields"] == "expires_after[anchor], expires_after[seconds]"
    assert made.json()["bytes"] == 2
    body = {
        "input_file_id": made.json()["id"],
        "endpoint": "/v1/embeddings",
        "completion_window": "24h",
        "output_expires_after": {"anchor": "created_at", "seconds": 9},
    }
    answer = tolerant.post("/v1/batches", json=body)
    assert answer.headers["x-ignored-fields"] == "output_expires_after"
    for wrong in (
        tolerant.post("/v1/files", files=upload | {"purposes": (None, "x")}),
        tolerant.post("/v1/batches", json=body | {"end_point": "x"}),
    ):
        assert wrong.json()["error"]["code"] == "unknown_field"
        assert "did you mean" in wrong.json()["error"]["message"]


def test_unknown_fields_of_files_and_batches_are_refused_where_nothing_else_is_said(
    http: httpx.Client,
) -> None:
    upload: dict[str, Any] = {"file": ("in.jsonl", b"{}"), "purpose": (None, "batch")}
    upload |= {"more": (None, "x")}
    body = {"input_file_id": "file-0", "endpoint": "x", "completion_window": "24h", "more": 1}
    for answer in (http.post("/v1/files", files=upload), http.post("/v1/batches", json=body)):
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (400, "unknown_field", "more")


@pytest.mark.parametrize("body", [{"input": "text"}, LONG], ids=["short", "long"])
@pytest.mark.parametrize(
    "field", ["dimension", "Dimensions", "inputs", "inputtype", "Latency_Budget", "taks"]
)
def test_a_misspelt_field_is_refused_in_any_case(
    tolerant: httpx.Client, field: str, body: dict[str, Any]
) -> None:
    error = tolerant.post("/v1/embeddings", json=body | {"x": 1, field: 5}).json()["error"]
    assert (error["code"], error["param"]) == ("unknown_field", field)
    assert "did you mean" in error["message"]


def test_a_body_of_unknown_fields_is_refused(tolerant: httpx.Client) -> None:
    body = {"input": "text"} | {f"zzz{number}": 1 for number in range(100_000)}
    error = tolerant.post("/v1/embeddings", json=body).json()["error"]
    assert (error["code"], "more than 32 fields" in error["message"]) == ("invalid_value", True)


def test_an_unknown_field_hides_no_other_mistake(tolerant: httpx.Client) -> None:
    body = {"input": "text", "keep_alive": 5, "dimensions": "8"}
    error = tolerant.post("/v1/embeddings", json=body).json()["error"]
    assert (error["code"], error["param"]) == ("invalid_value", "dimensions")


@pytest.mark.parametrize(
    ("key", "field", "status"),
    [
        ("strict", "keep_alive", 400),
        ("some", "keep_alive", 200),
        ("some", "add bos", 200),
        ("some", "other", 400),
        ("all", "other", 200),
        ("all", "dimension", 400),
    ],
)
def test_a_key_may_have_fields_of_its_own(
    locked: httpx.Client, key: str, field: str, status: int
) -> None:
    headers = {"authorization": f"Bearer {KEYS[key]}"}
    answer = locked.post("/v1/embeddings", json={"input": "a", field: 1}, headers=headers)
    assert answer.status_code == status
    assert (answer.headers.get("x-ignored-fields") == field) == (status == 200)


@pytest.mark.parametrize(
    ("spelling", "plain"),
    [
        ({"input_type": "passage"}, {"input_type": "document"}),
        ({"input_type": "PASSAGE"}, {"input_type": "document"}),
        ({"input_type": "SEARCH_QUERY"}, {"input_type": "query"}),
        ({"truncate": "END"}, {"truncate": "end"}),
        ({"truncate": "START"}, {"truncate": "start"}),
        ({"truncate": "None"}, {"truncate": "none"}),
        ({"quality": "BEST"}, {"quality": "best"}),
        ({"priority": "Bulk"}, {"priority": "bulk"}),
        ({"task": "retrieval.query"}, {"input_type": "query"}),
        ({"task": "retrieval.passage"}, {"input_type": "document"}),
        ({"task": "text-matching"}, {"input_type": "clustering"}),
        ({"task": "retrieval.passage", "input_type": "passage"}, {"input_type": "document"}),
        ({"embedding_type": "base64"}, {"encoding_format": "base64"}),
        ({"normalized": True, "late_chunking": False}, {}),
    ],
)
def test_other_spellings_mean_the_same(
    http: httpx.Client, spelling: dict[str, Any], plain: dict[str, Any]
) -> None:
    long = plain.get("truncate", "none") != "none"
    text = " ".join(str(number) for number in range(400 if long else 1))

    def data(more: dict[str, Any]) -> Any:
        body = {"input": text, "model": "reader"} if long else {"input": text, "space": "my faq"}
        if "quality" in more:
            del body["space"]
        answer = http.post("/v1/embeddings", json=body | more)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    assert data(spelling) == data(plain)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"late_chunking": True}, "late_chunking"),
        ({"normalized": False}, "normalized"),
        ({"task": "retrieval.query", "input_type": "document"}, "task"),
        ({"task": "retrieval"}, "task"),
        ({"embedding_type": "float", "encoding_format": "base64"}, "embedding_type"),
        ({"truncate": 1}, "truncate"),
        ({"input_type": "passages"}, "input_type"),
    ],
)
def test_what_would_change_the_vectors_is_refused_by_name(
    http: httpx.Client, body: dict[str, Any], param: str
) -> None:
    error = http.post("/v1/embeddings", json={"input": "text"} | body).json()["error"]
    assert (error["code"], error["param"]) == ("invalid_value", param)
