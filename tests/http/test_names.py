"""Side, space, tier and budget without a field: by name, address and key, and what disagrees."""

import asyncio
from typing import Any

import httpx
import pytest
from openai import OpenAI

from router.config import RouterArgs
from router.keys import hash_of
from router.strict import ConfigError, changed
from tests.support.fixtures import client_of, client_with, service_of
from tests.support.local_service import LocalRouter, served
from tests.support.named_service import ARGS, KEYS, LOCKED, bearer

FROM_CONFIG = {
    "space": (None, "config"),
    "input_type": ("document", "config"),
    "quality": ("auto", "config"),
    "latency_budget_ms": (4000.0, "config"),
    "priority": ("interactive", "config"),
}


open_service = service_of(ARGS)


http = client_of("open_service")


locked = client_with(LOCKED)


def settings(
    client: httpx.Client, body: dict[str, Any], at: str = "", **headers: str
) -> dict[str, tuple[Any, str]]:
    answer = client.post(f"{at}/v1/route", json={"input": "text"} | body, headers=headers)
    assert answer.status_code == 200, answer.text
    found = answer.json()["settings"]
    return {name: (one["value"], one["from"]) for name, one in found.items()}


@pytest.mark.parametrize(
    ("at", "body", "headers", "found"),
    [
        ("", {}, {}, {}),
        ("", {"model": "auto"}, {}, {}),
        ("", {"model": "small"}, {}, {}),
        ("", {"model": "fast"}, {}, {"quality": ("fast", "name")}),
        ("", {"model": "fast", "quality": "fast"}, {}, {"quality": ("fast", "body")}),
        ("", {"quality": "auto"}, {}, {"quality": ("auto", "body")}),
        ("", {}, {"x-quality-tier": "best"}, {"quality": ("best", "header")}),
        ("", {"model": "fast"}, {"x-quality-tier": "Fast"}, {"quality": ("fast", "name")}),
        ("", {"model": "fast"}, {"x-quality-tier": "auto"}, {"quality": ("fast", "name")}),
        ("", {"model": "fast", "quality": "fast"}, {"x-quality-tier": "best"}, {
            "quality": ("fast", "body")}),
        ("", {"model": "small"}, {"x-quality-tier": "fast"}, {"quality": ("fast", "header")}),
        ("", {"model": "auto-query"}, {"x-quality-tier": "best"}, {
            "quality": ("best", "header"), "input_type": ("query", "name")}),
        ("", {"model": "docs"}, {}, {"space": ("docs", "name")}),
        ("", {"model": "small/4"}, {}, {"space": ("small/4", "name")}),
        ("", {"model": "small", "dimensions": 4}, {}, {}),
        (
            "",
            {"model": "docs-query@50ms"},
            {},
            {
                "space": ("docs", "name"),
                "input_type": ("query", "name"),
                "latency_budget_ms": (50.0, "name"),
            },
        ),
        ("/in/docs", {}, {}, {"space": ("docs", "address")}),
        (
            "/in/docs/query",
            {},
            {},
            {"space": ("docs", "address"), "input_type": ("query", "address")},
        ),
        (
            "/in/docs/query",
            {"model": "docs-query", "space": "docs", "input_type": "search_query"},
            {},
            {"space": ("docs", "body"), "input_type": ("query", "body")},
        ),
        ("/in/docs", {"model": "large/8"}, {}, {"space": ("docs", "name")}),
        ("", {"model": "docs", "space": "Large/8"}, {}, {"space": ("docs", "body")}),
        ("/in/my%20faq", {}, {}, {"space": ("my faq", "address")}),
        ("", {}, {"x-embedding-space": "shop"}, {"space": ("shop", "header")}),
        (
            "",
            {"space": "shop", "latency_budget_ms": 70},
            {"x-embedding-space": "docs", "x-latency-budget-ms": "3"},
            {"space": ("shop", "body"), "latency_budget_ms": (70.0, "body")},
        ),
        ("", {}, {"x-latency-budget-ms": "70"}, {"latency_budget_ms": (70.0, "header")}),
        ("", {"model": "auto@70ms", "priority": "bulk"}, {}, {
            "latency_budget_ms": (70.0, "name"), "priority": ("bulk", "body")}),
        ("", {"instruction": "Find it"}, {}, {"input_type": ("query", "config")}),
        ("", {"input_type": "clustering"}, {}, {"input_type": ("clustering", "body")}),
    ],
)  # fmt: skip
def test_each_setting_says_where_it_comes_from(
    http: httpx.Client,
    at: str,
    body: dict[str, Any],
    headers: dict[str, str],
    found: dict[str, tuple[Any, str]],
) -> None:
    assert settings(http, body, at, **headers) == FROM_CONFIG | found


QUERY = {"input_type": "query"}
CONFLICTS: list[tuple[str, str, dict[str, Any], dict[str, str], list[str]]] = [
    # a space
    ("space_conflict", "/in/docs", {"model": "shop"}, {}, ["/in/docs", "'shop'"]),
    ("space_conflict", "/in/docs", {"model": "small"}, {}, ["docs", "small"]),
    ("space_conflict", "/in/docs", {"model": "small/8"}, {}, ["/in/docs", "'small/8'"]),
    ("space_conflict", "/in/docs", {"model": "fast"}, {}, ["docs", "fast"]),
    ("space_conflict", "/in/docs", {"space": "shop"}, {}, ["/in/docs", "'shop'"]),
    ("space_conflict", "/in/docs", {}, {"x-embedding-space": "shop"}, ["/in/docs", "'shop'"]),
    ("space_conflict", "", {"model": "docs", "space": "shop"}, {}, ["'docs'", "'shop'"]),
    ("space_conflict", "", {"model": "docs", "space": "large/4"}, {}, ["'docs'", "'large/4'"]),
    ("space_conflict", "", {"model": "docs"}, {"x-embedding-space": "shop"}, ["docs", "shop"]),
    ("space_conflict", "", {"model": "small/4", "space": "small/8"}, {}, ["/4", "/8"]),
    ("space_conflict", "", {"model": "docs", "quality": "fast"}, {}, ["docs", "fast"]),
    # dimensions
    ("space_conflict", "", {"model": "docs", "dimensions": 4}, {}, ["docs", "4"]),
    ("space_conflict", "", {"model": "small/4", "dimensions": 8}, {}, ["small/4", "8"]),
    ("space_conflict", "/in/docs", {"dimensions": 4}, {}, ["docs", "4"]),
    # a side
    ("name_conflict", "/in/docs/query", {"model": "docs-document"}, {}, ["/query", "-document"]),
    ("name_conflict", "/in/docs/query", {"input_type": "document"}, {}, ["/query", "document"]),
    ("name_conflict", "", {"model": "docs-document"} | QUERY, {}, ["docs-document", "query"]),
    ("name_conflict", "", {"model": "fast-query", "input_type": "clustering"}, {}, ["clustering"]),
    ("name_conflict", "", {"model": "small-document", "instruction": "Do"}, {}, ["instruction"]),
    ("name_conflict", "/in/docs/document", {"instruction": "Do"}, {}, ["instruction", "/docs"]),
    # a tier
    ("name_conflict", "", {"model": "fast", "quality": "best"}, {}, ["'fast'", "'best'"]),
    ("name_conflict", "", {"model": "fast-query", "quality": "best"}, {}, ["fast-query", "best"]),
    ("name_conflict", "", {"model": "small", "quality": "best"}, {}, ["small", "best"]),
    ("name_conflict", "", {"model": "small/4-query", "quality": "best"}, {}, ["small/4", "best"]),
    ("name_conflict", "", {"model": "fast"}, {"x-quality-tier": "best"}, ["'fast'", "'best'"]),
    ("name_conflict", "", {"model": "small"}, {"x-quality-tier": "best"}, ["small", "X-Quality"]),
    ("space_conflict", "", {"model": "docs"}, {"x-quality-tier": "fast"}, ["docs", "fast"]),
    # a budget
    ("name_conflict", "", {"model": "small@5ms", "latency_budget_ms": 6}, {}, ["@5ms", "6"]),
    ("name_conflict", "", {"model": "auto@5ms"}, {"x-latency-budget-ms": "6"}, ["@5ms", "X-Lat"]),
]


@pytest.mark.parametrize("route", ["embeddings", "route"])
@pytest.mark.parametrize(
    ("code", "at", "body", "headers", "both"),
    CONFLICTS,
    ids=[f"{at}{body}{headers}" for _, at, body, headers, _ in CONFLICTS],
)
def test_what_disagrees_is_refused_and_both_are_named(
    http: httpx.Client,
    code: str,
    at: str,
    body: dict[str, Any],
    headers: dict[str, str],
    both: list[str],
    route: str,
) -> None:
    answer = http.post(f"{at}/v1/{route}", json={"input": "text"} | body, headers=headers)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (409, code)
    assert all(one in error["message"] for one in both), error["message"]
    assert answer.headers["x-should-retry"] == "false"


def test_a_name_and_an_address_make_the_vectors_that_fields_make(http: httpx.Client) -> None:
    def vector(at: str, **body: Any) -> list[float]:
        answer = http.post(f"{at}/v1/embeddings", json={"input": "text"} | body)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"][0]["embedding"]

    query, document = (vector("", space="docs", input_type=side) for side in ("query", "document"))
    assert query != document
    assert vector("", model="docs-query") == vector("/in/docs/query") == query
    assert vector("", model="docs-document") == vector("/in/docs/document") == document
    assert vector("", model="docs") == vector("/in/docs") == document  # as the collection says
    assert vector("", model="small/4") == vector("", model="small", dimensions=4)


def test_the_openai_client_needs_a_base_url_and_a_name(
    open_service: tuple[str, LocalRouter],
) -> None:
    for at, model in (("", "docs-query@500ms"), ("/in/docs/query", "auto"), ("/in/docs", "docs")):
        with OpenAI(base_url=f"{open_service[0]}{at}/v1", api_key="x", max_retries=0) as client:
            answer = client.embeddings.create(model=model, input="text")
            assert answer.model == "large"
            assert len(answer.data[0].embedding) == 8


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/in/docs/v1/models", 200),
        ("/in/docs/query/models/small", 200),
        ("/in/docs/v1/tiers", 200),
        ("/in/nothing/v1/models", 404),
        ("/in/docs", 404),
        ("/in/docs/query", 404),
        ("/in/docs/health", 404),
        ("/in/docs/in/docs/v1/models", 404),
    ],
)
def test_an_address_is_in_front_of_what_keys_may_call(
    http: httpx.Client, path: str, status: int
) -> None:
    answer = http.get(path)
    assert answer.status_code == status
    if status == 404:
        assert answer.json()["error"]["code"] == "not_found"


def test_token_ids_need_a_pinned_model_whatever_its_name(http: httpx.Client) -> None:
    def status(model: str) -> tuple[int, str | None]:
        body = {"input": [1, 2], "token_ids": "model", "model": model}
        answer = http.post("/v1/embeddings", json=body)
        error = answer.json().get("error", {})
        return answer.status_code, error.get("code")

    assert status("small")[1] != "ambiguous_token_ids"
    assert status("small/4")[1] != "ambiguous_token_ids"
    for model in ("docs", "fast@50ms", "auto-query"):
        assert status(model) == (400, "ambiguous_token_ids")


def test_a_keys_defaults_hold_where_a_request_says_nothing(locked: httpx.Client) -> None:
    found = settings(locked, {}, **bearer("reader"))
    assert found == {
        "space": ("docs", "key"),
        "input_type": ("query", "key"),
        "quality": ("auto", "config"),
        "latency_budget_ms": (900.0, "key"),
        "priority": ("bulk", "key"),
    }
    assert settings(locked, {}, **bearer("bulk")) == FROM_CONFIG | {
        "quality": ("best", "key"),
        "priority": ("bulk", "key"),
    }


@pytest.mark.parametrize(
    ("body", "at", "headers", "found"),
    [
        ({"space": "shop"}, "", {}, {"space": ("shop", "body")}),
        ({"model": "small"}, "", {}, {"space": (None, "config")}),
        ({"model": "fast"}, "", {}, {"space": (None, "config"), "quality": ("fast", "name")}),
        ({"dimensions": 4}, "", {}, {"space": (None, "config")}),
        ({"model": "large"}, "", {}, {}),
        ({"model": "shop"}, "", {}, {"space": ("shop", "name")}),
        ({}, "/in/shop", {}, {"space": ("shop", "address")}),
        ({}, "", {"x-embedding-space": "shop"}, {"space": ("shop", "header")}),
        ({"input_type": "document"}, "", {}, {"input_type": ("document", "body")}),
        ({"model": "docs-document"}, "", {}, {
            "space": ("docs", "name"), "input_type": ("document", "name")}),
        ({}, "", {"x-latency-budget-ms": "70"}, {"latency_budget_ms": (70.0, "header")}),
        ({"priority": "interactive"}, "", {}, {"priority": ("interactive", "body")}),
    ],
)  # fmt: skip
def test_a_keys_defaults_give_way_in_silence(
    locked: httpx.Client,
    body: dict[str, Any],
    at: str,
    headers: dict[str, str],
    found: dict[str, tuple[Any, str]],
) -> None:
    kept = {
        "space": ("docs", "key"),
        "input_type": ("query", "key"),
        "quality": ("auto", "config"),
        "latency_budget_ms": (900.0, "key"),
        "priority": ("bulk", "key"),
    }
    assert settings(locked, body, at, **bearer("reader"), **headers) == kept | found


@pytest.mark.parametrize(
    ("key", "at", "body", "code"),
    [
        ("shop", "", {"model": "docs"}, "collection_not_allowed"),
        ("shop", "", {"model": "docs-query@5ms"}, "collection_not_allowed"),
        ("shop", "/in/docs", {}, "collection_not_allowed"),
        ("shop", "/in/nothing", {}, "collection_not_allowed"),
        ("shop", "", {"model": "nothing"}, "collection_not_allowed"),
        ("shop", "", {"model": "nothing-query@5ms"}, "collection_not_allowed"),
        ("shop", "", {"model": "large/8", "space": "docs"}, "collection_not_allowed"),
        ("shop", "", {"model": "small/4", "space": "docs"}, "collection_not_allowed"),
        ("shop", "", {"model": "small/4", "space": "nothing"}, "collection_not_allowed"),
        ("limited", "", {"model": "large-query"}, "tier_not_allowed"),
        ("limited", "", {"model": "large/4"}, "tier_not_allowed"),
        ("bulk", "", {"priority": "interactive"}, "priority_not_allowed"),
    ],
)
def test_a_keys_permissions_never_give_way(
    locked: httpx.Client, key: str, at: str, body: dict[str, Any], code: str
) -> None:
    answer = locked.post(f"{at}/v1/embeddings", json={"input": "a"} | body, headers=bearer(key))
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, code)


def test_a_default_that_nothing_contradicts_is_never_left_in_silence() -> None:
    key = {"hash": hash_of(KEYS["free"]), "defaults": {"space": "both"}}
    both = {"both": {"spaces": ["small/8", "large/8"]}}
    with (
        served(ARGS | {"collections": both, "keys": {"free": key}}) as (url, _),
        httpx.Client(base_url=url, timeout=60, headers=bearer("free")) as client,
    ):
        for body in ({}, {"input_type": "document"}, {"model": "auto"}):
            answer = client.post("/v1/embeddings", json={"input": "a", **body})
            assert (answer.status_code, answer.json()["error"]["code"]) == (409, "space_conflict")
        for body in ({"input_type": "query"}, {"model": "small"}, {"quality": "best"}):
            answer = client.post("/v1/embeddings", json={"input": "a", **body})
            assert answer.status_code == 200, answer.text


def test_an_address_keeps_admins_paths_closed(locked: httpx.Client) -> None:
    answer = locked.get("/in/docs/v1/decisions", headers=bearer("free"))
    assert answer.json()["error"]["code"] == "admin_key_required"
    assert locked.get("/in/docs/v1/models").json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize(
    ("defaults", "says"),
    [
        ({"space": "nothing"}, "keys.limited.defaults.space: 'nothing' is neither"),
        ({"space": "small/5"}, "a size that it serves"),
        ({"space": "docs"}, "may not use the collection 'docs'"),
        ({"space": "large/8"}, "may not use the model 'large'"),
        ({"quality": "balanced"}, "there is no tier 'balanced'"),
        ({"quality": "best"}, "may not use the tier 'best'"),
        ({"model": "small"}, "keys.limited.defaults.model: unknown key"),
        ({"input_type": "passage"}, "keys.limited.defaults.input_type"),
    ],
)
def test_defaults_that_a_key_may_not_use_are_refused(defaults: dict[str, Any], says: str) -> None:
    keys = LOCKED["keys"] | {"limited": LOCKED["keys"]["limited"] | {"defaults": defaults}}
    with pytest.raises(ConfigError, match=says):
        changed(LOCKED, {"keys": keys})


def test_a_reload_that_makes_a_name_ambiguous_is_refused(
    open_service: tuple[str, LocalRouter],
) -> None:
    args: RouterArgs = changed(ARGS, {"collections": {"fast": "large/8"}})

    async def reload() -> None:
        from router.spaces import Catalogue

        open_service[1].service.reload(args, Catalogue(args))

    with pytest.raises(ValueError, match=r"collections\.fast"):
        asyncio.run(reload())
