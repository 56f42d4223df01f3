"""What the holder of one key may learn of the others, over a real socket."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from router.keys import hash_of, new_key
from tests.support.local_service import LocalRouter, served

NAMES = ("one", "other", "open")
KEYS = {name: new_key(bytes([index + 7]) * 32) for index, name in enumerate(NAMES)}
MODEL: dict[str, Any] = {"engine": {"kind": "fake"}, "dimensions": 8, "max_tokens": 4096}
ARGS: dict[str, Any] = {
    "models": {"small": MODEL, "large": MODEL},
    "tiers": {"fast": "small", "best": "large"},
    "collections": {"docs": "small/8", "secret-project": "large/8"},
    "keys": {
        "one": {"hash": hash_of(KEYS["one"]), "models": ["small"], "collections": ["docs"]},
        "other": {"hash": hash_of(KEYS["other"])},
        "open": {"hash": hash_of(KEYS["open"])},
    },
}


@pytest.fixture(scope="module")
def tenants() -> Iterator[tuple[str, LocalRouter]]:
    with served(ARGS) as both:
        yield both


def ask(
    tenants: tuple[str, LocalRouter], key: str, path: str = "/v1/embeddings", **body: Any
) -> httpx.Response:
    headers = {"authorization": f"Bearer {KEYS[key]}", **body.pop("headers", {})}
    json = {"input": "hello", **body}
    return httpx.post(tenants[0] + path, json=json, headers=headers, timeout=60)


def error(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/route"])
@pytest.mark.parametrize("header", [False, True])
def test_a_limited_key_does_not_learn_which_collections_there_are(
    tenants: tuple[str, LocalRouter], path: str, header: bool
) -> None:
    names = ["secret-project", "secret-projekt", "DOCS", "docs-query", "a/b/c", "small/", "x" * 500]
    for name in names:
        told = {"headers": {"x-embedding-space": name}} if header else {"space": name}
        answer = ask(tenants, "one", path, **told)
        assert error(answer) == (403, "collection_not_allowed"), name
        message = answer.json()["error"]["message"]
        assert message.endswith("it may use docs")
        assert message.replace(name, "").count("secret") == 0
        assert len(message) < 250
    assert ask(tenants, "one", path, space="docs").status_code == 200
    assert ask(tenants, "one", path, space="small/8").status_code == 200
    assert error(ask(tenants, "one", path, space="small/9"))[0] == 400
    assert error(ask(tenants, "one", path, space="none/8")) == (404, "model_not_found")


def test_other_keys_are_told_the_collections_as_before(tenants: tuple[str, LocalRouter]) -> None:
    answer = ask(tenants, "other", space="secret-projekt")
    assert error(answer) == (400, "invalid_value")
    assert "docs, secret-project" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/route"])
@pytest.mark.parametrize(
    "body",
    [{"model": "best"}, {"quality": "best"}, {"model": "large"}, {"space": "large/8"}],
    ids=str,
)
def test_what_a_key_may_not_use_is_refused_before_anything_is_read(
    tenants: tuple[str, LocalRouter],
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    body: dict[str, Any],
) -> None:
    monkeypatch.setattr(tenants[1].service.reader, "read", None)
    answer = ask(tenants, "one", path, **body)
    assert error(answer) == (403, "tier_not_allowed")
    assert "it may use small, fast" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/route"])
def test_texts_are_read_for_the_models_of_the_key_only(
    tenants: tuple[str, LocalRouter], monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    reader, read = tenants[1].service.reader, list[tuple[str, ...]]()
    before = reader.read

    async def noted(*args: Any, **named: Any) -> Any:
        read.append(args[4])
        return await before(*args, **named)

    monkeypatch.setattr(reader, "read", noted)
    assert ask(tenants, "one", path).status_code == 200
    assert ask(tenants, "open", path).status_code == 200
    assert read == [("small",), ("small", "large")]
