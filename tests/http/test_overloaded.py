"""What a request gets whose model has too much queued work: how long to wait, and what else to
send.
"""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from router.fair import Sender
from router.keys import hash_of
from tests.support.local_service import LocalRouter, held, served
from tests.support.waiting import wait_for

MODEL: dict[str, Any] = {
    "engine": {"kind": "fake"},
    "dimensions": 8,
    "max_tokens": 4096,
    "curve": {"fixed_s": 0.01, "base_s": 0.01, "s_per_token": 0.005, "batch_tokens": 256},
}
ARGS: dict[str, Any] = {
    "models": {"tiny": MODEL, "small": MODEL},
    "tiers": {"fast": "tiny", "best": "small"},
    "routing": {"default_tier": "best"},
    "collections": {"docs": "small/8"},
    "limits": {"max_queued_tokens": 1000},
    "rerankers": {"near": {"engine": {"kind": "similarity", "model": "small"}}},
    "rerank_tiers": {"fast": "near"},
    "keys": {
        "any": {"hash": hash_of("er-any")},
        "now": {"hash": hash_of("er-now"), "priorities": ["interactive"]},
        "one": {"hash": hash_of("er-one"), "models": ["small"]},
    },
}
BULK, BUDGET = '"priority": "bulk"', "latency_budget_ms"
TEXT = "word " * 80  # 100 tokens
LIST, FEW = [f"{TEXT}{n}" for n in range(40)], [f"{TEXT}{n}" for n in range(12)]


@contextmanager
def full_queue(
    args: dict[str, Any], model: str, *keys: str
) -> Iterator[tuple[httpx.Client, LocalRouter]]:
    """A service where the queue of one model has no room for these keys."""
    with (
        served(args) as (url, router),
        httpx.Client(base_url=url, timeout=60) as client,
        ThreadPoolExecutor(len(keys)) as pool,
    ):
        with held(router, lambda: True):

            def send(key: str) -> int:
                body = {"input": [f"{key} {n} {TEXT}" for n in range(30)], "model": model}
                return client.post("/v1/embeddings", json=body, headers=bearer(key)).status_code

            sent = [pool.submit(send, key) for key in keys]
            waiting = router.service.ledger.waiting_tokens
            wait_for(
                lambda: min(waiting(model, Sender(key, 1.0)) for key in keys) > 1000,
                "a full queue",
            )
            yield client, router
        assert {one.result() for one in sent} == {200}


@pytest.fixture(scope="module")
def full() -> Iterator[tuple[httpx.Client, LocalRouter]]:
    """A service where the larger of two models has no room."""
    with full_queue(ARGS, "small", "any", "now", "one") as both:
        yield both


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer er-{key}"}


def refused(
    full: tuple[httpx.Client, LocalRouter],
    path: str,
    key: str,
    headers: dict[str, str] | None = None,
    **body: Any,
) -> tuple[str, int]:
    answer = full[0].post(path, json=body, headers=bearer(key) | (headers or {}))
    assert answer.status_code == 429, answer.text
    error = answer.json().get("error", answer.json())
    message = error if isinstance(error, str) else error["message"]
    assert message.startswith("too much work waits for ")
    return message, int(answer.headers["retry-after"])


@pytest.mark.parametrize(
    ("key", "body", "bulk", "budget"),
    [
        ("any", {"input": LIST}, True, True),
        ("any", {"input": LIST, "model": "best"}, True, True),
        ("any", {"input": LIST, "quality": "best"}, True, True),
        ("any", {"input": LIST, "model": "small"}, True, False),
        ("any", {"input": LIST, "space": "docs"}, True, False),
        ("any", {"input": LIST, "latency_budget_ms": 1e6}, True, False),
        ("any", {"input": FEW}, False, True),
        ("now", {"input": LIST}, False, True),
        ("now", {"input": LIST, "model": "small"}, False, False),
        ("one", {"input": LIST}, True, False),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_full_queue_names_what_else_the_caller_can_send(
    full: tuple[httpx.Client, LocalRouter],
    key: str,
    body: dict[str, Any],
    bulk: bool,
    budget: bool,
) -> None:
    message, _ = refused(full, "/v1/embeddings", key, **body)
    assert (BULK in message, BUDGET in message) == (bulk, budget), message


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ({"model": "fast"}, {}),
        ({"quality": "fast"}, {}),
        ({}, {"X-Quality-Tier": "fast"}),
        ({"model": "tiny"}, {}),
    ],
    ids=str,
)
def test_the_smallest_model_has_no_faster_one(
    body: dict[str, Any], headers: dict[str, str]
) -> None:
    with full_queue(ARGS, "tiny", "any") as full:
        message, _ = refused(full, "/v1/embeddings", "any", headers, input=FEW, **body)
    assert "waits for tiny" in message
    assert BUDGET not in message


@pytest.mark.parametrize(
    ("body", "headers", "budget"),
    [
        ({"model": "best"}, {}, False),
        ({"quality": "best"}, {}, False),
        ({}, {"X-Quality-Tier": "best"}, False),
        ({}, {}, True),
    ],
    ids=str,
)
def test_a_strict_tier_has_no_faster_model(
    body: dict[str, Any], headers: dict[str, str], budget: bool
) -> None:
    strict = ARGS | {"routing": {"default_tier": "best", "strict_tiers": True}}
    with full_queue(strict, "small", "any") as full:
        message, _ = refused(full, "/v1/embeddings", "any", headers, input=FEW, **body)
    assert (BUDGET in message) == budget


def test_the_time_to_retry_is_when_the_queue_is_half_as_long_and_the_request_fits(
    full: tuple[httpx.Client, LocalRouter],
) -> None:
    service = full[1].service
    waiting = service.ledger.waiting_tokens("small", Sender("any", 1.0))
    a_second = service.feedback["small"].tokens_per_s
    for texts, left in ((LIST, 0), (FEW[:1], 500)):  # of 1,000; the list alone has more
        _, retry_after_s = refused(full, "/v1/embeddings", "any", input=texts)
        assert retry_after_s == math.ceil((waiting - left) / a_second) > 10


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("/v2/embed", {"texts": LIST, "model": "auto"}, "the header X-Latency-Budget-Ms"),
        ("/api/embed", {"input": LIST, "model": "auto"}, "the header X-Latency-Budget-Ms"),
        ("/embed", {"inputs": LIST}, "the header X-Latency-Budget-Ms"),
        ("/v1/rerank", {"query": "a", "documents": LIST}, BULK),
    ],
)
def test_other_apis_are_told_what_they_can_send(
    full: tuple[httpx.Client, LocalRouter], path: str, body: dict[str, Any], says: str
) -> None:
    message, _ = refused(full, path, "any", **body)
    assert says in message
    assert path == "/v1/rerank" or BULK not in message
