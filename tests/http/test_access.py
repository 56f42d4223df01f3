"""Keys, limits and origins over a real socket: who is answered, what each may use, and what
everybody is told.
"""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openai import AuthenticationError, OpenAI, PermissionDeniedError, RateLimitError

from deployments.ingress.auth import Access, duration
from deployments.ingress.rate_limits import RateLimiter
from deployments.ingress.routes import FILES
from deployments.ingress.views import NOT_TAKEN
from deployments.telemetry import metrics
from router.errors import InvalidApiKey
from router.keys import hash_of
from router.routes import ROUTES, Audience
from router.strict import parse_args
from tests.support.fixtures import service_of
from tests.support.local_service import LocalRouter, served
from tests.support.locked_service import KEYS, LOCKED, MODEL, OPEN, http_request


def paths_for(caller: Audience) -> set[str]:
    return {route.path for route in (*ROUTES, *FILES) if route.caller is caller}


WORD = "abc " * 3  # four of the estimated tokens


locked = service_of(LOCKED)


@pytest.fixture
def stopped() -> Iterator[tuple[str, LocalRouter]]:
    """On a clock that stands still: what was used does not come back meanwhile."""
    with served(LOCKED, RateLimiter(clock=lambda: 1000.0)) as both:
        yield both


def client(locked: tuple[str, LocalRouter], name: str | None) -> httpx.Client:
    return httpx.Client(
        base_url=locked[0],
        timeout=60,
        headers={} if name is None else {"authorization": f"Bearer {KEYS[name]}"},
    )


def embed(locked: tuple[str, LocalRouter], name: str | None, **body: Any) -> httpx.Response:
    with client(locked, name) as http:
        return http.post("/v1/embeddings", json={"input": WORD, **body})


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"authorization": "Bearer er-wrong"},
        {"api-key": "er-wrong"},
        {"authorization": "Basic x"},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "path",
    ["/v1/embeddings", "/v1/route", "/v1/models", "/v1/tiers", "/v1/decisions", "/v1/nothing"],
)
def test_without_a_valid_key_nothing_is_answered_but_how_to_get_in(
    locked: tuple[str, LocalRouter], path: str, header: dict[str, str]
) -> None:
    method = "POST" if path in ("/v1/embeddings", "/v1/route") else "GET"
    answer = httpx.request(
        method, locked[0] + path, json={"input": "a"} if method == "POST" else None, headers=header
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "Authorization: Bearer" in answer.json()["error"]["message"]
    assert "er-wrong" not in answer.text


@pytest.mark.parametrize("path", sorted(paths_for(Audience.ANYONE) - {"/"}))
def test_health_and_documentation_need_no_key(locked: tuple[str, LocalRouter], path: str) -> None:
    assert httpx.get(locked[0] + path).status_code == 200
    assert (
        httpx.get(locked[0] + path, headers={"authorization": "Bearer er-wrong"}).status_code == 200
    )


def test_keys_come_as_openais_and_azures_clients_send_them_and_refusals_are_understood(
    locked: tuple[str, LocalRouter],
) -> None:
    def openai(key: str) -> OpenAI:
        return OpenAI(base_url=f"{locked[0]}/v1", api_key=key, max_retries=0)

    assert openai(KEYS["all"]).embeddings.create(model="best", input=WORD).model == "large"
    with pytest.raises(AuthenticationError, match="send a valid one"):
        openai("unused").embeddings.create(model="best", input=WORD)
    with pytest.raises(PermissionDeniedError, match="may not use 'best'; it may use small, fast"):
        openai(KEYS["fast"]).embeddings.create(model="best", input=WORD)
    azure = httpx.post(
        f"{locked[0]}/v1/embeddings",
        json={"input": WORD, "model": "fast"},
        headers={"api-key": KEYS["all"]},
    )
    assert azure.json()["model"] == "small"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"model": "fast"}, 200, None),
        ({}, 200, None),
        ({"input": "long " * 2000}, 200, None),  # a rule would send it to the large model
        ({"space": "docs"}, 200, None),
        ({"space": "small/8"}, 200, None),
        ({"model": "best"}, 403, "tier_not_allowed"),
        ({"quality": "best"}, 403, "tier_not_allowed"),
        ({"model": "large"}, 403, "tier_not_allowed"),
        ({"space": "large/8"}, 403, "tier_not_allowed"),
        ({"space": "shop"}, 403, "collection_not_allowed"),
    ],
    ids=str,
)
@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/route"])
def test_a_key_uses_its_models_and_collections_and_is_told_which_they_are(
    locked: tuple[str, LocalRouter], path: str, body: dict[str, Any], status: int, code: str | None
) -> None:
    with client(locked, "fast") as http:
        answer = http.post(path, json={"input": WORD, **body})
    assert answer.status_code == status, answer.text
    if code is None:
        assert answer.json().get("model", answer.json().get("decision", {}).get("model")) == "small"
    else:
        assert answer.json()["error"]["code"] == code
        assert "it may use" in answer.json()["error"]["message"]


def test_lists_show_what_the_key_may_use(locked: tuple[str, LocalRouter]) -> None:
    with client(locked, "fast") as http:
        assert [one["id"] for one in http.get("/v1/models").json()["data"]] == [
            "small",
            "auto",
            "fast",
            "docs",
            "docs-query",
            "docs-document",
        ]
        tiers = http.get("/v1/tiers").json()
        assert (tiers["tiers"], [row["model"] for row in tiers["data"]]) == (
            {"fast": "small"},
            ["small"],
        )
        assert list(tiers["collections"]) == ["docs"]
        assert http.get("/v1/models/small").status_code == 200
        assert http.get("/v1/models/large").json()["error"]["code"] == "model_not_found"
    with client(locked, "all") as http:
        assert len(http.get("/v1/models").json()["data"]) == 5 + 3 * 2


def test_everybody_reads_that_a_change_was_not_taken_and_an_admin_why(
    locked: tuple[str, LocalRouter],
) -> None:
    views = locked[1].views
    views.reload_error = "keys.search: it says too much"
    try:
        for name, said in (("all", NOT_TAKEN), ("admin", "keys.search: it says too much")):
            with client(locked, name) as http:
                assert http.get("/v1/tiers").json()["reload_error"] == said
    finally:
        views.reload_error = None
    with client(locked, "all") as http:
        assert http.get("/v1/tiers").json()["reload_error"] is None


def test_a_bulk_key_asks_for_bulk_without_saying_so(locked: tuple[str, LocalRouter]) -> None:
    assert embed(locked, "bulk").status_code == 200
    assert embed(locked, "bulk", priority="bulk").status_code == 200
    assert (
        embed(locked, "bulk", priority="interactive").json()["error"]["code"]
        == "priority_not_allowed"
    )


@pytest.mark.parametrize("path", [*sorted(paths_for(Audience.ADMIN)), "/v1/decisions/last"])
def test_what_other_callers_do_needs_an_admin_key(
    locked: tuple[str, LocalRouter], path: str
) -> None:
    with client(locked, "all") as http:
        assert http.get(path).json()["error"]["code"] == "admin_key_required"
    with client(locked, "admin") as http:
        assert http.get(path).status_code != 403


def test_a_limit_is_told_on_every_answer_and_kept(stopped: tuple[str, LocalRouter]) -> None:
    with client(stopped, "limited") as http:
        first = http.get("/v1/models").headers
        assert (first["x-ratelimit-limit-requests"], first["x-ratelimit-limit-tokens"]) == (
            "20",
            "3000",
        )
        before = int(first["x-ratelimit-remaining-requests"])
        answer = http.post("/v1/embeddings", json={"input": WORD})
        tokens = answer.json()["usage"]["prompt_tokens"]
        assert int(answer.headers["x-ratelimit-remaining-tokens"]) == 3000 - tokens
        assert answer.headers["x-ratelimit-reset-requests"].endswith("s")

        wrong = http.post("/v1/embeddings", json={"input": WORD, "model": "nobody"})
        assert wrong.status_code == 404
        assert (
            int(wrong.headers["x-ratelimit-remaining-requests"]) == before - 2
        )  # nonsense counts as a request
        assert (
            int(wrong.headers["x-ratelimit-remaining-tokens"]) == 3000 - tokens
        )  # and costs no tokens

        huge = http.post("/v1/embeddings", json={"input": ["word " * 2000] * 3})
        assert (huge.status_code, huge.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert huge.headers["x-should-retry"] == "false"
        assert "send its texts in several requests" in huge.json()["error"]["message"]
        assert not {"retry-after", "retry-after-ms"} & set(huge.headers)  # waiting does not help
        assert int(huge.headers["x-ratelimit-remaining-requests"]) == before - 3  # it was read

        statuses = [
            http.post("/v1/embeddings", json={"input": WORD}).status_code for _ in range(25)
        ]
        assert (
            statuses == [200] * 17 + [429] * 8
        )  # 20, less the three before: what was refused unread costs nothing
        refused = http.post("/v1/embeddings", json={"input": WORD})
        assert (refused.status_code, refused.json()["error"]["type"]) == (429, "rate_limit_error")
        assert 1 <= int(refused.headers["retry-after"]) <= 4
        assert 0 < int(refused.headers["retry-after-ms"]) <= 3500
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        assert http.get("/v1/models").status_code == 200  # reading what there is costs nothing
    with pytest.raises(RateLimitError, match="20 requests per minute"):
        OpenAI(
            base_url=f"{stopped[0]}/v1", api_key=KEYS["limited"], max_retries=0
        ).embeddings.create(model="fast", input=WORD)
    assert "x-ratelimit-limit-requests" not in embed(stopped, "all").headers


def test_preflights_are_answered_for_the_configured_origin_only(
    locked: tuple[str, LocalRouter],
) -> None:
    asks = {
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization, content-type",
    }
    told = httpx.options(
        f"{locked[0]}/v1/embeddings", headers={"origin": "https://app.example.com", **asks}
    )
    assert (told.status_code, told.content) == (204, b"")
    assert "content-length" not in told.headers
    assert told.headers["access-control-allow-origin"] == "https://app.example.com"
    assert "POST" in told.headers["access-control-allow-methods"]
    assert told.headers["access-control-allow-headers"] == "authorization, content-type"
    assert "origin" in told.headers["vary"]
    other = httpx.options(
        f"{locked[0]}/v1/embeddings", headers={"origin": "https://evil.example.com", **asks}
    )
    assert not [name for name in other.headers if name.startswith("access-control-")]

    real = httpx.get(f"{locked[0]}/health", headers={"origin": "https://app.example.com"})
    assert real.headers["access-control-allow-origin"] == "https://app.example.com"
    assert "x-embedding-space" in real.headers["access-control-expose-headers"]
    refused = httpx.post(
        f"{locked[0]}/v1/embeddings", headers={"origin": "https://app.example.com"}
    )
    assert (refused.status_code, "access-control-allow-origin" in refused.headers) == (
        401,
        True,
    )  # the page may read why
    plain = httpx.options(
        f"{locked[0]}/v1/embeddings", headers={"authorization": f"Bearer {KEYS['all']}"}
    )
    assert plain.status_code == 405


def test_origins_are_nobody_by_default_and_everybody_by_a_star() -> None:
    with served(OPEN) as (url, _):
        asks = {"origin": "https://app.example.com", "access-control-request-method": "POST"}
        for answer in (
            httpx.options(f"{url}/v1/embeddings", headers=asks),
            httpx.get(f"{url}/health", headers=asks),
        ):
            assert (answer.status_code, answer.json()["error"]["code"]) == (
                403,
                "origin_not_allowed",
            )
            assert "access-control-allow-origin" not in answer.headers
    star = Access(parse_args(OPEN | {"cors": {"origins": ["*"]}}))
    assert star.cors({"origin": "https://any.example"})["access-control-allow-origin"] == "*"


def test_requests_that_never_reach_the_service_are_counted_too() -> None:
    limited = {
        "models": {"small": MODEL},
        "tiers": {"fast": "small"},
        "routing": {"default_tier": "fast"},
    } | {"keys": {"one": {"hash": hash_of(KEYS["all"]), "requests_per_minute": 4}}}
    with (
        served(limited) as (url, router),
        httpx.Client(base_url=url, headers={"api-key": KEYS["all"]}) as http,
    ):
        for body in (b"{", b'{"input": 1}', b'{"modle": "a", "input": "a"}'):
            assert http.post("/embeddings", content=body).status_code == 400
        assert (
            http.post("/v1/embeddings", content=b"{}", headers={"api-key": "er-wrong"}).status_code
            == 401
        )
        assert http.post("/v1/route", json={"input": "a"}).status_code == 200
        assert http.post("/v1/route", json={"input": "a"}).status_code == 429
        assert http.post("/v1/embeddings", json={"input": "a"}).status_code == 429
        assert router.service.request_metrics is not None
        values = router.service.request_metrics.tally.values
    outcomes = {labels[-1]: count for labels, count in values[metrics.REQUESTS].items()}
    assert outcomes == {
        "invalid_json": 1,
        "invalid_value": 1,
        "unknown_field": 1,
        "invalid_api_key": 1,
        "rate_limit_exceeded": 1,
    }
    assert values[metrics.RATE_LIMITED] == {("requests",): 2, ("tokens",): 0}


def test_keys_are_reloaded_and_a_limit_goes_on_where_it_was() -> None:
    access = Access(parse_args(LOCKED))
    assert access.caller(http_request("/v1/models", {"api-key": KEYS["limited"]})).name == "limited"
    less = json.loads(json.dumps(LOCKED))
    del less["keys"]["all"]
    access.reload(parse_args(less))
    with pytest.raises(InvalidApiKey):
        access.caller(http_request("/v1/models", {"api-key": KEYS["all"]}))
    assert access.caller(http_request("/v1/models", {"api-key": KEYS["limited"]})).name == "limited"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0ms"),
        (-1.0, "0ms"),
        (0.25, "250ms"),
        (1.0, "1s"),
        (59.94, "59.9s"),
        (360, "6m0s"),
        (61.5, "1m1.5s"),
    ],
)
def test_times_are_written_as_openai_writes_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
