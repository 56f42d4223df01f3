"""The table of routes: what is found at a path, who may call it, and what a wrong path means."""

import pytest

from deployments.ingress.routes import TABLE
from router.errors import NotFound
from router.routes import EMBEDDINGS, GET, POST, ROUTES, Audience, Route, Table, methods_of


def test_a_path_and_a_method_name_one_route() -> None:
    pairs = [(route.path, method) for route in ROUTES for method in route.methods]
    assert len(pairs) == len(set(pairs))


def test_the_routes_of_a_path_have_one_kind_of_caller() -> None:
    for route in ROUTES:
        assert {other.caller for other in TABLE.find(route.path)} == {route.caller}


def test_embeddings_have_an_alias() -> None:
    assert EMBEDDINGS == ("/v1/embeddings", "/embeddings")


@pytest.mark.parametrize(
    ("path", "handlers"),
    [
        ("/v1/embeddings", ["embed"]),
        ("/v1/what-if", ["policy", "what_if"]),
        ("/models", ["models"]),
        ("/v1/models/Qwen/Qwen3-Embedding-0.6B", ["model"]),
        ("/console/console.js", ["console"]),
        ("/console/nothing.js", []),
        ("/models/small", ["model"]),
        ("/v1/models/", []),
        ("/v1/models//small", []),
        ("/tiers", ["tiers"]),
        ("/decisions", []),
        ("/v1", []),
    ],
)
def test_a_path_finds_its_handlers(path: str, handlers: list[str]) -> None:
    assert [route.handler for route in TABLE.find(path)] == handlers


def test_a_parameter_may_stand_in_the_middle_and_the_longest_pattern_wins() -> None:
    table = Table(
        Route(path, GET, Audience.KEY, path)
        for path in ("/v1/files/{id}", "/v1/files/{id}/content", "/v1/files")
    )
    assert [route.path for route in table.find("/v1/files/a/b/content")] == [
        "/v1/files/{id}/content"
    ]
    assert table.find("/v1/files/a/b/content")[0].parameter("/v1/files/a/b/content") == "a/b"
    assert [route.path for route in table.find("/v1/files/content")] == ["/v1/files/{id}"]
    assert table.find("/v1/files/a")[0].parameter("/v1/files/a") == "a"


@pytest.mark.parametrize("route", ROUTES, ids=str)
def test_what_keys_call_under_v1_they_may_call_without(route: Route) -> None:
    if route.path.startswith("/v1/") and route.caller is Audience.KEY:
        path = route.path.removeprefix("/v1")
        (short,) = (one for one in ROUTES if (one.path, one.methods) == (path, route.methods))
        assert (short.handler, short.caller) == (route.handler, route.caller)


def test_methods_of_several_routes_are_listed_once() -> None:
    assert methods_of(TABLE.find("/v1/what-if")) == (*GET, *POST)


@pytest.mark.parametrize(
    ("path", "caller"),
    [
        ("/health", Audience.ANYONE),
        ("/", Audience.ANYONE),
        ("/console/console.js", Audience.ANYONE),
        ("/console/nothing.js", Audience.KEY),
        ("/v1/tiers", Audience.KEY),
        ("/nothing", Audience.KEY),
        ("/v1/decisions", Audience.ADMIN),
        ("/v1/decisions/last", Audience.ADMIN),
        ("/v1/decisionsx", Audience.KEY),
    ],
)
def test_who_may_call_a_path(path: str, caller: Audience) -> None:
    assert TABLE.caller(path) is caller


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/v1/embedding", "did you mean POST /v1/embeddings?"),
        ("/V1/Models", "did you mean GET /v1/models?"),
        ("/v1/helth", "did you mean GET /health?"),
        ("/nothing/here", "embeddings are at POST /v1/embeddings"),
        ("/" * 5000, "embeddings are at POST /v1/embeddings"),
    ],
)
def test_a_wrong_path_is_told_the_nearest(path: str, hint: str) -> None:
    message = str(NotFound(path, TABLE.nearest(path)))
    assert hint in message
    assert message.endswith("/docs lists every path")
