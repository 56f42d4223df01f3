"""What the console is made of: its files, the last decisions, and the same decisions by other
rules.
"""

import asyncio
import json
import pickle
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema
import pytest
import yaml

from deployments.ingress import console
from deployments.ingress.application import Application
from deployments.ingress.what_if import MAX_BODY_BYTES
from tests.support.local_service import LocalRouter, served

pytestmark = pytest.mark.models

TEXT = "Grüße aus Tübingen, wo die Neckarinsel liegt"


@pytest.fixture(scope="module")
def fresh() -> Iterator[tuple[httpx.Client, LocalRouter]]:
    with served() as (url, router), httpx.Client(base_url=url, timeout=60) as client:
        yield client, router


@pytest.fixture(scope="module")
def client(fresh: tuple[httpx.Client, LocalRouter]) -> httpx.Client:
    """A router whose only decisions are those of this module: three English ones, one German."""
    http, _ = fresh
    for text in ("one", "two", "three"):
        http.post("/v1/embeddings", json={"input": text, "language": "en"}).raise_for_status()
    http.post(
        "/v1/embeddings", json={"input": TEXT, "latency_budget_ms": 60_000}
    ).raise_for_status()
    return http


def documented(client: httpx.Client, schema: str, answer: Any) -> None:
    document = client.get("/openapi.json").json()
    jsonschema.Draft202012Validator(
        {"$ref": f"#/components/schemas/{schema}", "components": document["components"]}
    ).validate(answer)


def what_if(client: httpx.Client, policy: Any) -> dict[str, Any]:
    answer = client.post(
        "/v1/what-if", content=yaml.safe_dump(policy), headers={"content-type": "application/yaml"}
    )
    assert answer.status_code == 200, answer.text
    documented(client, "WhatIf", answer.json())
    return answer.json()


def test_the_last_decisions_are_shown_and_polled_without_repeats(client: httpx.Client) -> None:
    page = client.get("/v1/decisions").json()
    documented(client, "Decisions", page)
    assert page["routers"] == 1
    assert page["router"] == client.get("/v1/tiers").json()["router"]
    *english, german = page["data"][:4]
    assert {one["model"] for one in english} == {"wordllama-256"}
    assert (german["model"], german["reason"], german["language"]) == (
        "multilingual-e5-small",
        "rule:not-english",
        "de",
    )
    assert german["budget_ms"] == 60_000
    assert german["actual_ms"] > 0
    assert client.get("/v1/decisions", params={"limit": 2}).json()["data"] == page["data"][-2:]
    after = client.get("/v1/decisions", params={"after": f"00000000:5,{page['next']}"}).json()
    assert (after["data"], after["missed"]) == ([], 0)


def test_a_request_that_is_refused_after_its_decision_is_shown_with_its_code(
    client: httpx.Client,
) -> None:
    body = {
        "input": "a text that nobody reads in a nanosecond",
        "latency_budget_ms": 1e-6,
        "on_budget_miss": "reject",
    }
    assert client.post("/v1/embeddings", json=body).status_code == 503
    last = client.get("/v1/decisions", params={"limit": 1}).json()["data"][0]
    assert (last["model"], last["outcome"], last["actual_ms"]) == (None, "budget_unreachable", None)


def test_no_text_is_kept(fresh: tuple[httpx.Client, LocalRouter], client: httpx.Client) -> None:
    _, router = fresh
    secret = "The password of the vault is swordfish"
    client.post(
        "/v1/embeddings",
        json={"input": secret, "instruction": "Find the swordfish", "user": "swordfish"},
    )
    kept = pickle.dumps([tuple(logged.entry) for logged in router.service.recent.logged()])
    assert b"swordfish" not in kept
    assert b"wordllama-256" in kept
    assert "swordfish" not in client.get("/v1/decisions").text


def test_the_rules_in_force_move_nothing_and_others_move_what_they_say(
    client: httpx.Client,
) -> None:
    answer = client.get("/v1/what-if")
    assert answer.headers["content-type"] == "application/yaml"
    policy = yaml.safe_load(answer.text)
    assert [rule["name"] for rule in policy["routing"]["rules"]] == ["not-english", "long"]
    same = what_if(client, policy)
    assert (same["moved"], same["changed"]) == ([], 0)
    assert same["requests"] == len(
        client.get("/v1/decisions", params={"limit": 200}).json()["data"]
    )

    policy["routing"]["rules"] = []
    other = what_if(client, policy)
    assert {(way["from"], way["to"]) for way in other["moved"]} == {
        ("multilingual-e5-small", "wordllama-256")
    }
    assert other["before"]["models"]["multilingual-e5-small"] >= 1
    assert "multilingual-e5-small" not in other["after"]["models"]


def test_json_is_taken_too_and_what_is_left_out_stays(client: httpx.Client) -> None:
    answer = client.post(
        "/v1/what-if", json={"tiers": {"fast": "all-minilm-l6-v2", "best": "multilingual-e5-small"}}
    ).json()
    assert ("wordllama-256", "all-minilm-l6-v2") in {
        (way["from"], way["to"]) for way in answer["moved"]
    }
    assert client.post("/v1/what-if", json={}).json()["changed"] == 0


def test_a_replay_changes_nothing_that_is_served(client: httpx.Client) -> None:
    before = client.get("/v1/what-if").text
    client.post("/v1/what-if", json={"routing": {"default_tier": "best"}})
    assert client.get("/v1/what-if").text == before
    assert (
        client.post("/v1/route", json={"input": "one", "language": "en"}).json()["decision"][
            "model"
        ]
        == "wordllama-256"
    )


@pytest.mark.parametrize(
    ("body", "kind", "code", "says"),
    [
        (
            b"routing: {rulez: []}",
            "application/yaml",
            "invalid_value",
            "routing.rulez: unknown key; did you mean rules?",
        ),
        (b"routing: [", "text/yaml", "invalid_value", "line 1, column 11"),
        (b"", "", "invalid_value", "the body is empty"),
        (b"- 1", "", "invalid_value", "must be a mapping"),
        (b"\x00", "", "invalid_value", "not UTF-8 text"),
        (b"\xff\xff", "", "invalid_value", "not UTF-8 text"),
        (b"models: {}", "", "unknown_field", "valid fields are routing, tiers"),
        (b"a: &x [1]\nb: *x", "", "invalid_value", "aliases"),
        (b"[" * 30_000, "", "invalid_value", "nested deeper"),
        (b"routing: 2001-99-99", "", "invalid_value", "cannot be read as timestamp"),
        (
            b"routing: {quality_weight: " + b"59:" * 9_000 + b"59}",
            "",
            "invalid_value",
            "at most 400",
        ),
        (b"routing: {miss_share: !!bool x}", "", "invalid_value", "cannot be read as bool"),
        (b"tiers: " + b"9" * 5_000, "", "invalid_value", "at most 400"),
        (b"tiers: " + b"9" * 300, "", "invalid_value", "at most 64 bits"),
        (b"tiers: {fast: nothing}", "", "invalid_value", "tiers.fast names model 'nothing'"),
        (
            b"tiers: {fast: multilingual-e5-small, best: wordllama-256}",
            "",
            "invalid_value",
            "write models from small to large",
        ),
        (b"{", "application/json; charset=utf-8", "invalid_json", "the body is not JSON"),
        (b"[" * 30_000, "application/json", "invalid_json", "the body is not JSON"),
        (b"x" * (MAX_BODY_BYTES + 1), "", "request_too_large", "a policy has only"),
        (
            json.dumps({"routing": {f"k{n}": 1 for n in range(50)}}).encode(),
            "application/json",
            "invalid_value",
            "and 30 more",
        ),
    ],
    ids=lambda value: str(value)[:24] if isinstance(value, bytes) else None,
)
def test_a_policy_that_cannot_be_used_is_refused_in_sentences(
    client: httpx.Client, body: bytes, kind: str, code: str, says: str
) -> None:
    answer = client.post("/v1/what-if", content=body, headers={"content-type": kind})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (
        413 if code == "request_too_large" else 400,
        code,
    ), answer.text
    assert says in error["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/decisions", 405),
        ("DELETE", "/v1/what-if", 405),
        ("POST", "/", 405),
        ("GET", "/console", 404),
        ("GET", "/console/__init__.py", 404),
        ("GET", "/console/../ingress.py", 404),
        ("GET", "/v1/decisions?limit=x", 400),
        ("GET", "/v1/decisions?" + "&".join(f"a{n}=1" for n in range(20)), 400),
    ],
)
def test_other_paths_and_methods_are_errors(
    client: httpx.Client, method: str, path: str, status: int
) -> None:
    answer = client.request(method, path)
    assert (answer.status_code, "error" in answer.json()) == (status, True)


@pytest.mark.parametrize("path", sorted(console.ASSETS))
def test_every_file_of_the_console_is_served_with_a_policy_and_once(
    client: httpx.Client, path: str
) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.content == console.ASSETS[path].body
    assert "script-src 'self';" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    again = client.get(path, headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.head(path).headers["content-length"] == str(len(answer.content))


async def test_under_a_route_prefix_the_page_is_sent_to_where_its_links_are_right(
    fresh: tuple[httpx.Client, LocalRouter],
) -> None:
    transport = httpx.ASGITransport(Application(fresh[1]), root_path="/tools/embed")  # type: ignore[arg-type]
    async with (
        asyncio.timeout(10),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as http,
    ):
        answer = await http.get("/tools/embed")
        assert answer.status_code == 307
        assert (
            str(answer.next_request.url if answer.next_request else None)
            == "http://localhost/tools/embed/"
        )
        assert (await http.get("/tools/embed/")).headers["content-type"].startswith("text/html")
