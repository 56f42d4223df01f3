"""What a request that ends refused, or whose client leaves, costs the limits of its key."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from typing import Any

import httpx
import pytest

from deployments.ingress.application import Application
from deployments.ingress.asgi import HttpAnswer, HttpRequest, Message, Receive, Scope
from deployments.ingress.rate_limits import READ_CHARACTERS_A_TOKEN, RateLimiter
from deployments.service.reader import TEXT_CHARACTERS
from deployments.telemetry.metrics import REQUESTS
from router.keys import Grant, hash_of, new_key
from router.strict import parse_args
from tests.support.local_service import ARGS, LocalRouter, served
from tests.support.refused import WAIT_S, Gated, ask, error

KEY = new_key(b"k" * 32)


def metered(**limits: int) -> dict[str, Any]:
    return {
        "models": {"small": {**ARGS["models"]["all-minilm-l6-v2"], "max_tokens": 100_000}},
        "tiers": {"fast": "small"},
        "keys": {"one": {"hash": hash_of(KEY), **limits}},
    }


@pytest.fixture
def still() -> Callable[..., AbstractContextManager[httpx.Client]]:
    """Opens a service with these limits, in which no time passes."""

    @contextmanager
    def opened(**limits: int) -> Iterator[httpx.Client]:
        with (
            served(metered(**limits), RateLimiter(lambda: 0.0)) as (url, _),
            httpx.Client(
                base_url=url, timeout=WAIT_S, headers={"authorization": f"Bearer {KEY}"}
            ) as http,
        ):
            yield http

    return opened


Still = Callable[..., AbstractContextManager[httpx.Client]]
WORDS = {"input": "word " * 2999}  # 3001 tokens


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/route"])
def test_what_can_never_fit_is_said_so_and_counts(still: Still, path: str) -> None:
    with still(requests_per_minute=3, tokens_per_minute=3000) as http:
        for left in (2, 1, 0):
            answer = http.post(path, json=WORDS)
            assert error(answer) == (429, "rate_limit_exceeded", None)
            assert "can never be answered" in answer.json()["error"]["message"]
            assert "retry-after" not in answer.headers
            assert answer.headers["x-ratelimit-remaining-requests"] == str(left)
            assert answer.headers["x-ratelimit-remaining-tokens"] == "3000"
        refused = http.post(path, json=WORDS)
        assert "3 requests per minute" in refused.json()["error"]["message"]
        assert int(refused.headers["retry-after"]) > 0


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/route"])
def test_a_request_that_was_read_is_not_given_back(still: Still, path: str) -> None:
    with still(requests_per_minute=5, tokens_per_minute=4000) as http:
        first = http.post(path, json=WORDS)
        assert (first.status_code, first.headers["x-ratelimit-remaining-tokens"]) == (200, "999")
        for left in (3, 2):  # too many for now
            answer = http.post(path, json=WORDS)
            assert int(answer.headers["retry-after"]) > 0
            assert answer.headers["x-ratelimit-remaining-requests"] == str(left)
        assert http.post(path, json={"input": "word " * 997}).status_code == 200
        unread = http.post(path, json=WORDS)  # refused by the tokens that are gone
        assert (unread.status_code, unread.headers["x-ratelimit-remaining-requests"]) == (429, "1")


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/route"])
def test_a_key_without_a_limit_of_requests_pays_for_reading(still: Still, path: str) -> None:
    with still(tokens_per_minute=3000) as http:
        statuses = [http.post(path, json=WORDS) for _ in range(100)]
    assert {one.status_code for one in statuses} == {429}
    read = [one for one in statuses if "can never" in one.json()["error"]["message"]]
    assert 0 < len(read) <= 3000 / (14_995 // 400) + 1


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/route"])
@pytest.mark.parametrize("truncate", ["end", "start"])
def test_what_is_cut_is_charged_as_cut(path: str, truncate: str) -> None:
    args = metered(tokens_per_minute=3000)
    args["models"]["small"]["max_tokens"] = 256
    body = {"input": [WORDS["input"], "hello"], "truncate": truncate}
    with served(args, RateLimiter(lambda: 0.0)) as (url, _):
        answer = ask(url, path, json=body, headers={"authorization": f"Bearer {KEY}"})
    assert answer.status_code == 200
    assert answer.headers["x-ratelimit-remaining-tokens"] == str(3000 - 256 - 3)


def request_of(path: str, body: dict[str, Any], left: asyncio.Event) -> tuple[Scope, Receive]:
    """A request with the key, whose client is there until `left`."""
    content, sent = json.dumps(body).encode(), list[bytes]()
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "headers": [(b"authorization", f"Bearer {KEY}".encode())],
    }

    async def receive() -> Message:
        if not sent:
            sent.append(content)
            return {"type": "http.request", "body": content}
        await left.wait()
        return {"type": "http.disconnect"}

    return scope, receive


@asynccontextmanager
async def local(args: dict[str, Any]) -> AsyncIterator[LocalRouter]:
    """A router on this loop, in which no time passes for limits."""
    router = LocalRouter(parse_args(args), RateLimiter(lambda: 0.0))
    await router.start()
    try:
        yield router
    finally:
        await router.stop()


def tokens_left(router: LocalRouter) -> int:
    (left,) = (
        left
        for kind, _, left, _ in router.access.rate_limiter.left(Grant("one"))
        if kind == "tokens"
    )
    return left


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/route"])
@pytest.mark.parametrize("by_serve", [False, True])
async def test_who_leaves_while_his_text_is_read_pays_for_that(path: str, by_serve: bool) -> None:
    async with local(metered(tokens_per_minute=3000)) as router:
        tokenizer = router.service.preparer.tokenizers["small"]
        assert tokenizer is not None
        router.service.preparer.tokenizers["small"] = gated = Gated(tokenizer)
        left = asyncio.Event()
        scope, receive = request_of(path, {"input": "word " * 14_000}, left)
        application = Application(router, alone=not by_serve)  # type: ignore[arg-type]
        exchange = asyncio.create_task(
            application.exchange(HttpRequest(scope, receive, not by_serve))
        )
        try:
            while not gated.waiting and not exchange.done():  # noqa: ASYNC110  threads change it
                await asyncio.sleep(0.01)
            if by_serve:
                exchange.cancel()
            else:
                left.set()
            await asyncio.wait([exchange])
            assert tokens_left(router) == 3000 - 70_000 // READ_CHARACTERS_A_TOKEN
        finally:
            gated.go.set()


async def test_an_answer_that_may_not_go_out_is_counted_once_and_paid_as_read() -> None:
    args = metered(tokens_per_minute=3000) | {"limits": {"max_answer_bytes": 1_000_000}}
    large = {"input": [f"text {index}" for index in range(100)]}
    async with local(args) as router:
        never = asyncio.Event()
        application = Application(router, alone=True)  # type: ignore[arg-type]

        async def sent() -> HttpAnswer:
            return await application.exchange(
                HttpRequest(*request_of("/v1/embeddings", large, never), True)
            )

        def requests() -> float:
            assert router.service.request_metrics is not None
            values = router.service.request_metrics.tally.values
            return sum(values[REQUESTS].values())

        first = await sent()
        assert first.held is not None
        left, body = tokens_left(router), json.loads(first.body)
        assert (first.status, left) == (200, 3000 - body["usage"]["prompt_tokens"])
        refused = await sent()
        assert (refused.status, requests()) == (429, 2)
        assert b"limits.max_answer_bytes" in refused.body
        read = sum(map(len, large["input"])) + 100 * TEXT_CHARACTERS
        assert left - tokens_left(router) == read // READ_CHARACTERS_A_TOKEN
        first.held.release()
