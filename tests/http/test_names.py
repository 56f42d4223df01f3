"""Side, space, tier and budget without a field: by name, address and key, and what disagrees."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openai import OpenAI

from router.config import RouterArgs
from router.keys import hash_of
from router.strict import ConfigError, changed
from tests.support.local_service import LocalRouter, served

MODEL = {
    "engine": {"kind": "fake"},
    "dimensions": 8,
    "max_tokens": 64,
    "matryoshka": [4],
    "prompts": {"query": "{instruction} query: {text}", "document": "document: {text}"},
}
ARGS: dict[str, Any] = {
    "models": {"small": MODEL | {"aliases": ["text-embedding-3-small"]}, "large": MODEL},
    "tiers": {"fast": "small", "best": "large"},
    "routing": {"default_budget_ms": 4000},
    "collections": {
        "docs": {"space": "large/8", "input_type": "document"},
        "shop": "small/4",
        "my faq": "small/8",
    },
}
NAMES = ("free", "reader", "bulk", "shop", "limited", "tight")
KEYS = {name: f"er-{name:-<32}" for name in NAMES}
DEFAULTS: dict[str, Any] = {
    "free": {},
    "reader": {
        "defaults": {
            "space": "docs",
            "input_type": "query",
            "latency_budget_ms": 900,
            "priority": "bulk",
        }
    },
    "bulk": {"priorities": ["bulk"], "defaults": {"quality": "best"}},
    "shop": {"collections": ["shop"], "defaults": {"space": "shop"}},
    "limited": {"models": ["small"], "collections": ["shop"]},
    "tight": {"models": ["small"], "defaults": {"quality": "fast", "space": "small/4"}},
}
LOCKED = ARGS | {"keys": {name: {"hash": hash_of(KEYS[name])} | DEFAULTS[name] for name in NAMES}}
FROM_CONFIG = {
    "space": (None, "config"),
    "input_type": ("document", "config"),
    "quality": ("auto", "config"),
    "latency_budget_ms": (4000.0, "config"),
    "priority": ("interactive", "config"),
}


@pytest.fixture(scope="module")
def open_service() -> Iterator[tuple[str, LocalRouter]]:
    with served(ARGS) as both:
        yield both


@pytest.fixture(scope="module")
def http(open_service: tuple[str, LocalRouter]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=open_service[0], timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def locked() -> Iterator[httpx.Client]:
    with served(LOCKED) as (url, _), httpx.Client(base_url=url, timeout=60) as client:
        yield client


def settings(
    client: httpx.Client, body: dict[str, Any], at: str = "", **headers: str
) -> dict[str, tuple[Any, str]]:
    answer = client.post(f"{at}/v1/route", json={"input": "text"} | body, headers=headers)
    assert answer.status_code == 200, answer.text
    found = answer.json()["settings"]
    return {name: (one["value"], one["from"]) for name, one in found.items()}


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {KEYS[name]}"}


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


@pytest.mark.parametrize(
    ("key", "allowed"), [("free", {*ARGS["collections"]}), ("limited", {"shop"})]
)
def test_a_wrong_name_lists_the_collections_that_the_key_may_use(
    locked: httpx.Client, key: str, allowed: set[str]
) -> None:
    # of the form of a space, for which a key needs a model alone
    sent = {"input": "text", "model": "nothing/8"}
    for answer in (
        locked.post("/v1/embeddings", json=sent, headers=bearer(key)),
        locked.get("/v1/models/nothing/8", headers=bearer(key)),
    ):
        error = answer.json()["error"]
        assert error["code"] == "model_not_found"
        listed = error["message"].partition(" valid names are ")[2].split(", ")
        assert allowed == set(listed) & {*ARGS["collections"]}


def test_a_wrong_name_gets_the_nearest(locked: httpx.Client) -> None:
    sent = {"input": "text", "model": "docss"}
    error = locked.post("/v1/embeddings", json=sent, headers=bearer("free")).json()["error"]
    assert "did you mean 'docs'?" in error["message"]
    error = locked.post("/v1/embeddings", json=sent, headers=bearer("limited")).json()["error"]
    assert error["code"] == "collection_not_allowed"
    assert "docs'?" not in error["message"]


def test_the_list_of_models_has_every_name_that_the_key_may_use(locked: httpx.Client) -> None:
    def listed(key: str) -> dict[str, str]:
        answer = locked.get("/models", headers=bearer(key)).json()
        assert answer == locked.get("/v1/models", headers=bearer(key)).json()
        return {card["id"]: card["kind"] for card in answer["data"]}

    every = listed("free")
    assert every == {
        "small": "embedding",
        "large": "embedding",
        "auto": "tier",
        "fast": "tier",
        "best": "tier",
        "text-embedding-3-small": "alias",
        **{f"{name}{side}": "collection" for name in ARGS["collections"] for side in (
            "", "-query", "-document")},
    }  # fmt: skip
    assert listed("limited") == {
        name: kind
        for name, kind in every.items()
        if "large" not in name and "best" not in name and "docs" not in name and "faq" not in name
    }
    for name in every:
        card = locked.get(f"/v1/models/{name}", headers=bearer("free"))
        assert card.status_code == 200, name
    for name in ("small/7", "small/100000"):  # no space that has vectors
        assert locked.get(f"/v1/models/{name}", headers=bearer("free")).status_code == 404
    assert locked.get("/models/docs", headers=bearer("limited")).status_code == 404
    suffixed = locked.get("/models/fast-query@5ms", headers=bearer("limited")).json()
    assert (suffixed["id"], suffixed["model"]) == ("fast-query@5ms", "small")


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/route"])
@pytest.mark.parametrize(
    ("sent", "near"),
    [
        ({"model": "dosc"}, "docs"),
        ({"model": "DOC"}, "docs"),
        ({"model": "auto@1s"}, "auto@1000ms"),
        ({"model": "fast@0.05 S"}, "fast@50ms"),
        ({"model": "auto@50"}, "auto@50ms"),
        ({"model": "fats@0.000001ms"}, "fast@0.000001ms"),
        ({"model": "fast@999999.125s"}, "fast@999999125ms"),
        ({"model": "auto@soon"}, "auto"),
        ({"model": "auto-querry"}, "auto-query"),
        ({"model": "auto-documents@2s"}, "auto-document@2000ms"),
        ({"model": "smal-query"}, "small-query"),
        ({"model": "auto-docs"}, "auto-document"),
        ({"model": "best_query"}, "best-query"),
        ({"model": "shop queries@50"}, "shop-query@50ms"),
        ({"model": "text-embedding-3-small-quer"}, "text-embedding-3-small-query"),
        ({"model": "larg/4-query@1s"}, "large/4-query@1000ms"),
        ({"model": "docs-qury"}, "docs-query"),
        ({"model": "my fak@50ms"}, "my faq@50ms"),
        ({"model": "text-embeding-3-small"}, "text-embedding-3-small"),
        ({"model": "larg/4"}, "large/4"),
        ({"model": "bset"}, "best"),
        ({"space": "dosc"}, "docs"),
        ({"space": "My FQA"}, "my faq"),
        ({"space": "docs-query"}, "docs"),
        ({"space": "shop@50ms"}, "shop"),
        ({"space": "docs/16"}, "docs"),
        ({"space": "larg/8"}, "large/8"),
        ({"space": "larg/5"}, "large/8"),
        ({"space": "large"}, "large/8"),
        ({"space": "text-embeding-3-small/4"}, "text-embedding-3-small/4"),
        ({"space": "text-embedding-3-small"}, "text-embedding-3-small/8"),
        ({"space": "xyzzy"}, None),
        ({"model": "xyzzy/8"}, None),
    ],
    ids=str,
)
def test_the_nearest_name_may_be_a_model_an_alias_a_space_or_a_collection(
    http: httpx.Client, path: str, sent: dict[str, str], near: str | None
) -> None:
    answer = http.post(path, json={"input": "text", **sent})
    error = answer.json()["error"]
    ((param, name),) = sent.items()
    assert (answer.status_code, error["param"]) == (
        400 if param == "space" and "/" not in name else 404,
        param,
    )
    assert ("did you mean" in error["message"]) == (near is not None), error["message"]
    assert near is None or f"; did you mean {near!r}?" in error["message"]
    if "space" in sent:
        as_header = {"X-Embedding-Space": name}
        assert http.post(path, json={"input": "text"}, headers=as_header).json()["error"] == error


@pytest.mark.parametrize(
    ("at", "body", "headers"),
    [
        ("", {"model": "My FAQ"}, {}),
        ("", {"model": "MY FAQ-Query@50MS"}, {}),
        ("", {"space": "My Faq"}, {}),
        ("", {}, {"X-Embedding-Space": "MY FAQ"}),
        ("/in/My FAQ", {}, {}),
        ("/in/MY FAQ/query", {"space": "my faq"}, {"X-Embedding-Space": "docs"}),
        ("/in/my faq", {"model": "My Faq", "space": "Small/8"}, {}),
    ],
    ids=str,
)
def test_a_collection_is_found_in_any_case(
    locked: httpx.Client, at: str, body: dict[str, Any], headers: dict[str, str]
) -> None:
    sent = {"input": "text", **body}
    answer = locked.post(f"{at}/v1/route", json=sent, headers=bearer("free") | headers)
    assert answer.status_code == 200, answer.text
    assert answer.json()["settings"]["space"]["value"] == "my faq"
    answer = locked.post(f"{at}/v1/embeddings", json=sent, headers=bearer("free") | headers)
    assert answer.json()["routing"]["space"] == "small/8"


def test_collections_that_differ_by_case_alone_are_written_as_in_the_config() -> None:
    with served(ARGS | {"collections": {"docs": "large/8", "Docs": "small/8"}}) as (url, _):
        for name, space in (("docs", "large/8"), ("Docs", "small/8"), ("DOCS", None)):
            answer = httpx.post(f"{url}/v1/embeddings", json={"input": "text", "space": name})
            assert answer.json().get("routing", {}).get("space") == space


BESIDE: list[tuple[dict[str, Any], dict[str, str]]] = [  # what else is wrong with a request
    ({}, {}),
    ({"input_type": "document"}, {}),
    ({"quality": "best"}, {}),
    ({"latency_budget_ms": 60}, {}),
    ({"instruction": "Do"}, {}),
    ({"dimensions": 3}, {}),
    ({}, {"x-latency-budget-ms": "60"}),
    ({}, {"x-latency-budget-ms": "soon"}),
    ({}, {"x-quality-tier": "best"}),
    ({}, {"x-quality-tier": "cheap"}),
    ({}, {"x-embedding-space": "shop"}),
]


@pytest.mark.parametrize(("more", "sent_headers"), BESIDE, ids=str)
@pytest.mark.parametrize("path", ["embeddings", "route"])
@pytest.mark.parametrize(
    "place", ["model", "space", "header", "address", "suffix", "query", "document"]
)
def test_a_collection_that_a_key_may_not_use_looks_like_none_in_any_case(
    locked: httpx.Client,
    place: str,
    path: str,
    more: dict[str, Any],
    sent_headers: dict[str, str],
) -> None:
    suffixes = {"model": "", "suffix": "-query@50ms", "query": "-query", "document": "-document"}

    def refused(name: str) -> str:
        sent = {"space": {"space": name}}.get(place, {})
        if place in suffixes:
            sent = {"model": f"{name}{suffixes[place]}"}
        headers = bearer("limited") | sent_headers
        if place == "header":
            headers["x-embedding-space"] = name
        at = f"/in/{name}" if place == "address" else ""
        body = {"input": "a", **more, **sent}
        answer = locked.post(f"{at}/v1/{path}", json=body, headers=headers)
        # a header that cannot be read is refused before the space that a field or header names
        malformed = {"soon", "cheap"} & {*headers.values()} and place in ("space", "header")
        assert answer.status_code == (400 if malformed else 403), answer.text
        return answer.text.replace(name, "NAME")

    assert refused("DOCS") == refused("docs") == refused("xyzq")


def test_a_collection_that_a_key_may_use_is_found_for_it_alone(locked: httpx.Client) -> None:
    allowed = locked.post("/in/SHOP/v1/embeddings", json={"input": "a"}, headers=bearer("limited"))
    assert allowed.status_code == 200, allowed.text
    assert (
        "did you mean 'shop'?"
        in locked.post(
            "/v1/embeddings", json={"input": "a", "space": "shopp"}, headers=bearer("limited")
        ).text
    )


def test_a_key_gets_no_collection_that_it_may_not_use_as_the_nearest(locked: httpx.Client) -> None:
    for sent in ({"space": "docs/8"}, {"model": "docs/8"}, {"space": "docz/8"}):
        body = {"input": "text", **sent}
        errors = [
            locked.post("/v1/embeddings", json=body, headers=bearer(key)).json()["error"]
            for key in ("limited", "free")
        ]
        assert {error["code"] for error in errors} == {"model_not_found"}
        assert ["mean 'docs'?" in error["message"] for error in errors] == [False, True]
    error = locked.get("/v1/models/text-embeding-3-small", headers=bearer("free")).json()["error"]
    assert "did you mean 'text-embedding-3-small'?" in error["message"]
