"""What the holder of one key may learn of the others, over a real socket."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from router.keys import hash_of, new_key
from tests.support.fixtures import service_of
from tests.support.local_service import FAKE, LocalRouter, held, served

NAMES = ("one", "other", "open")
KEYS = {name: new_key(bytes([index + 7]) * 32) for index, name in enumerate(NAMES)}
MODEL: dict[str, Any] = {"engine": {"kind": "fake"}, "dimensions": 8, "max_tokens": 4096}
LONG = "hello " * 100  # read anew; what was read of short texts is kept
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


tenants = service_of(ARGS)


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
    names = ["secret-project", "Secret-Project", "secret-projekt", "docs-query", "a/b/c", "small/"]
    names.append("x" * 500)
    for name in names:
        told = {"headers": {"x-embedding-space": name}} if header else {"space": name}
        answer = ask(tenants, "one", path, **told)
        assert error(answer) == (403, "collection_not_allowed"), name
        message = answer.json()["error"]["message"]
        assert message.endswith("it may use docs")
        assert message.replace(name, "").count("secret") == 0
        assert len(message) < 250
    assert ask(tenants, "one", path, space="docs").status_code == 200
    assert ask(tenants, "one", path, space="DOCS").status_code == 200
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
    answer = ask(tenants, "one", path, **{"input": LONG, **body})
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
    assert ask(tenants, "one", path, input=LONG).status_code == 200
    assert ask(tenants, "open", path, input=LONG).status_code == 200
    assert read == [("small",), ("small", "large")]


SLOW: dict[str, Any] = {**MODEL, "engine": {"kind": "fake", "base_s": 0.02}}


@contextmanager
def caching(**cache: Any) -> Iterator[tuple[str, LocalRouter]]:
    models = {"small": SLOW, "minilm": FAKE}
    with served(
        {
            **ARGS,
            "models": models,
            "tiers": {"fast": "small"},
            "collections": {},
            "keys": {name: {"hash": hash_of(key)} for name, key in KEYS.items()},
            "cache": cache,
        }
    ) as both:
        yield both


def learned(tenants: tuple[str, LocalRouter], key: str, model: str, **body: Any) -> tuple[Any, ...]:
    explained = ask(tenants, key, "/v1/route", model=model, **body).json()
    work_ms = next(one["work_ms"] for one in explained["models"] if one["model"] == model)
    answer = ask(tenants, key, model=model, **body)
    return (
        work_ms > 0,
        answer.json()["routing"]["cached"],
        answer.headers["x-inference-ms"] > "0.00",
    )


@pytest.mark.parametrize(
    ("model", "body"),
    [
        ("small", {"input": "a secret"}),
        ("minilm", {"input": "a secret"}),
        ("minilm", {"input": ["a secret", "b" * 6000]}),
        ("minilm", {"input": "long " * 9000, "truncate": "end"}),
    ],
    ids=["text", "ids", "list", "cut"],
)
def test_by_default_a_key_learns_nothing_of_what_others_embedded(
    model: str, body: dict[str, Any]
) -> None:
    items = len(body["input"]) if isinstance(body["input"], list) else 1
    with caching() as tenants:
        new = learned(tenants, "one", model, **body)
        assert (new[1], new[2]) == (0, True)
        assert learned(tenants, "one", model, **body)[1] == items  # its own it does
        assert learned(tenants, "other", model, **body) == new
    with caching(scope="shared") as tenants:
        learned(tenants, "one", model, **body)
        assert learned(tenants, "other", model, **body)[1:] == (items, False)


def test_what_is_read_is_kept_by_key_too() -> None:
    for scope, read_again in ((None, 1), ("shared", 0)):
        with caching(scope=scope) as tenants:
            known = tenants[1].service.reader.known
            for key in ("one", "one", "other"):
                ask(tenants, key, "/v1/route", input="a secret")
            assert known.cache_info().misses == 1 + read_again


@pytest.mark.parametrize(("scope", "coalesced"), [(None, 0), ("shared", 1)])
def test_a_text_on_its_way_is_waited_for_by_its_own_key(scope: str | None, coalesced: int) -> None:
    with caching(scope=scope) as tenants, ThreadPoolExecutor(2) as pool:
        service = tenants[1].service
        gatherer = service.gatherers["small"]

        def sent() -> int:
            outstanding = service.ledger.outstanding_tokens("small", service.clock())
            return sum(outstanding.values()) + service.ledger.waiting_tokens("small")

        with held(tenants[1], lambda: True):
            first = pool.submit(ask, tenants, "one", input="a secret", model="small")
            while not (tokens := sent()):
                time.sleep(0.01)
            second = pool.submit(ask, tenants, "other", input="a secret", model="small")
            while not gatherer.coalesced and sent() == tokens:
                time.sleep(0.01)
        assert {first.result().status_code, second.result().status_code} == {200}
        assert gatherer.coalesced == coalesced
