"""The fast path under what Serve's config and its application say."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from deployments.ingress import asgi, fast_path
from deployments.ingress.application import Application
from deployments.ingress.asgi import HttpRequest, Receive, Scope
from tests.support.fast_path_stage import Replica, post, read, staged


async def test_a_root_path_is_what_a_proxy_took_off_the_path() -> None:
    async with staged(Replica(), root_path="/api") as stage:
        ((_, _, body),) = await stage.ask(post("/v1/embeddings"))
        assert json.loads(body)["path"] == "/v1/embeddings"
        assert stage.echo.scopes[0]["path"] == "/api/v1/embeddings"
        assert (await stage.ask(post("/api/v1/embeddings")))[0][2] == b"slow"


async def test_a_prefix_is_no_part_of_the_path() -> None:
    async with staged(Replica(prefix="/tools/embed")) as stage:
        stage.counts.record_request_metrics = lambda **_: None  # type: ignore[method-assign]
        ((_, _, body),) = await stage.ask(post("/tools/embed/v1/embeddings"))
        assert json.loads(body)["path"] == "/v1/embeddings"
        assert (await stage.ask(post("/v1/embeddings")))[0][2] == b"slow"


class Middleware:
    """Somebody's own, as Serve lets people add them."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: asgi.Send) -> None:
        await self._app(scope, receive, send)


@pytest.mark.parametrize(
    ("replica", "middleware"),
    [
        (Replica(max_ongoing_requests=5), None),
        (Replica(max_queued_requests=5), None),
        (Replica(), Middleware),
        (Replica(_http_options=SimpleNamespace(request_timeout_s=3.0)), None),
        (Replica(_metrics_manager=object()), None),
    ],
    ids=["running", "queued", "middleware", "time", "another Serve"],
)
async def test_what_somebody_asked_serve_for_it_does(replica: Replica, middleware: Any) -> None:
    async with staged(replica, middleware) as stage:
        assert (await stage.ask(post()))[0][2] == b"slow"


@pytest.mark.parametrize(
    ("name", "value"), [("max_queued_requests", 5), ("_route_prefix", "/elsewhere")]
)
async def test_what_the_next_config_says_holds_on_connections_that_are_open(
    name: str, value: Any
) -> None:
    replica = Replica()
    async with staged(replica) as stage, stage.connected() as (reader, writer):
        writer.write(post())
        assert json.loads((await read(reader))[2])["body"] == 5
        setattr(replica, name, value)
        writer.write(post())
        assert (await read(reader))[2] == b"slow"


async def test_a_route_prefix_that_changes_moves_the_fast_path_along() -> None:
    replica = Replica()
    async with staged(replica) as stage, stage.connected() as (reader, writer):
        replica._metrics_manager.record_request_metrics = lambda **_: None  # type: ignore[method-assign]
        for prefix, old in (("/a/b", "/"), ("/c", "/a/b"), ("/", "/c")):
            replica._route_prefix = prefix
            writer.write(post(f"{prefix.rstrip('/')}/v1/embeddings"))
            told = json.loads((await read(reader))[2])
            assert told["path"] == "/v1/embeddings"
            assert stage.echo.scopes[-1]["root_path"] == prefix.rstrip("/")
            writer.write(post(f"{old.rstrip('/')}/v1/embeddings"))
            assert (await read(reader))[2] == b"slow"


async def test_an_application_on_another_loop_is_serves_to_call(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with staged(Replica()) as stage:

        async def install() -> None:
            fast_path.install(stage.echo.exchange)

        await asyncio.to_thread(asyncio.run, install())
        with caplog.at_level("WARNING", logger="ray.serve"):
            assert (await stage.ask(post()))[0][2] == b"slow"
    assert "another thread" in caplog.text


async def test_a_router_that_has_no_config_yet_says_when_to_come_back() -> None:
    async def receive() -> asgi.Message:
        raise AssertionError("nobody reads the body")

    scope = {"path": "/v1/embeddings", "method": "POST", "headers": [(b"x-request-id", b"mine")]}
    application = Application(SimpleNamespace(tracing=None))
    answer = await application.exchange(HttpRequest(scope, receive, True))
    assert answer.status == 503
    assert answer.headers["content-length"] == str(len(answer.body))
    assert (answer.headers["retry-after"], answer.headers["x-request-id"]) == ("1", "mine")
