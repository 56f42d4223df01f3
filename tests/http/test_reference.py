"""The OpenAPI document is exact: it lists what there is, answers are what it says, and a fuzz finds
nothing that it does not.
"""

import copy
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema
import pytest

from benchmarks.fuzz import Tally, fuzz, table
from router.routes import ROUTES
from tests.support.local_service import LocalRouter, served

MODEL: dict[str, Any] = {"engine": {"kind": "fake"}, "dimensions": 8, "max_tokens": 64}
ARGS: dict[str, Any] = {
    "models": {"small": MODEL, "large": MODEL},
    "tiers": {"fast": "small"},
    "collections": {"docs": "small/8"},
}
PATHS = [
    "/v1/models",
    "/models",
    "/v1/models/small",
    "/v1/models/fast",
    "/v1/tiers",
    "/v1/compare",
    "/v1/decisions",
    "/health",
]


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[str, LocalRouter]]:
    with served(ARGS) as both:
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
            if "/files" in path or "/batches" in path:  # there is none: no folder for them
                assert "`batches.folder`" in answer.json()["error"]["message"], (method, path)
            else:
                assert answer.status_code not in (404, 405, 500), (method, path)
        for method in {"get", "post", "put", "delete", "patch"} - set(operations):
            assert httpx.request(method, url + path.replace("{id}", "small")).status_code == 405, (
                method,
                path,
            )


@pytest.mark.parametrize("path", PATHS)
def test_an_answer_has_exactly_the_documented_fields(
    both: tuple[str, LocalRouter], document: dict[str, Any], path: str
) -> None:
    described = document["paths"].get(path) or document["paths"]["/v1/models/{id}"]
    check(document, described["get"]["responses"]["200"], httpx.get(both[0] + path).json())


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/route"])
@pytest.mark.parametrize(
    "body",
    [{"input": "a"}, {"input": ["a", "b"], "space": "docs", "encoding_format": "base64"}],
    ids=str,
)
def test_a_decision_has_exactly_the_documented_fields(
    both: tuple[str, LocalRouter], document: dict[str, Any], path: str, body: dict[str, Any]
) -> None:
    answer = httpx.post(both[0] + path, json=body)
    assert answer.status_code == 200
    described = document["paths"][path]["post"]["responses"]["200"]
    check(document, described, answer.json())
    promised = {name for name in described.get("headers", {}) if "ratelimit" not in name}
    assert promised <= set(answer.headers)


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
    tally = Tally()
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
