"""A server for tests of the fast path: real sockets, uvicorn and an application that echoes its
request.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import uvicorn
from ray.serve._private.http_util import RequestIdMiddleware

from deployments.ingress import asgi, bodies, fast_path, responses
from deployments.ingress.asgi import HttpAnswer, HttpRequest, Receive, Scope
from router.errors import RequestTooLarge


class Counts:
    """Serve's counts of requests; a test sees every change."""

    def __init__(self) -> None:
        self.running = self.ended = 0
        self.statuses: list[str] = []

    def inc_num_ongoing_requests(self, kind: Any) -> None:
        assert kind.is_direct_ingress
        self.running += 1

    def dec_num_ongoing_requests(self, kind: Any) -> None:
        self.running -= 1

    def record_request_metrics(
        self, *, route: str, latency_ms: float, is_error: bool, exception_type: str | None
    ) -> None:
        assert (route, is_error, exception_type) == ("/", False, None)
        assert latency_ms > 0
        self.ended += 1

    def record_ingress_request_metrics(
        self, *, status_code: str, is_error: bool, **_: object
    ) -> None:
        assert is_error == (status_code >= "400")
        self.statuses.append(status_code)


class Replica:
    """The parts of Serve's replica that the fast path uses; other requests are answered `slow`."""

    def __init__(self, prefix: str = "/", **changed: Any) -> None:
        self._metrics_manager, self._route_prefix = Counts(), prefix
        self._deployment_id = SimpleNamespace(name="router", app_name="app")
        self._http_options = SimpleNamespace(request_timeout_s=None)
        self.max_ongoing_requests, self.max_queued_requests = 1_000_000, -1
        for name, value in changed.items():
            setattr(self, name, value)

    async def asgi(self, scope: Scope, receive: Receive, send: asgi.Send) -> None:
        await responses.respond(send, 200, b"slow", {"content-length": "4"})


class Echo:
    """An application that echoes each request once it has the whole body; `answer` replaces the
    echo.
    """

    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        self.ids: list[str] = []
        self.answer: HttpAnswer | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.left = 0
        self.error: Exception | None = None
        self.max_bytes = 10_000_000

    async def exchange(self, http_request: HttpRequest) -> HttpAnswer:
        self.scopes.append(http_request.scope)
        self.ids.append(http_request.id)
        if self.error is not None:
            raise self.error
        try:
            body = await bodies.body(http_request, self.max_bytes, 5.0)
            await asgi.attended(self.gate.wait(), 5.0, http_request.watched)
        except RequestTooLarge:
            return HttpAnswer(413, b"", headers={"content-length": "0"})
        except asgi.ClientLeft:
            self.left += 1
            return HttpAnswer(499, b"")
        if self.answer is not None:
            return self.answer
        told = json.dumps(
            {
                "body": len(body),
                "path": http_request.path,
                "client": http_request.scope["client"][0],
            }
        ).encode()
        return HttpAnswer(200, told, headers={"content-length": str(len(told)), "x-echo": "ä"})


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  others change it
            await asyncio.sleep(0.01)


class Stage:
    """A server, and the bytes sent and received."""

    def __init__(self, replica: Replica, echo: Echo, port: int, server: uvicorn.Server) -> None:
        self.counts: Counts = replica._metrics_manager
        self.echo, self.port, self.server = echo, port, server

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield reader, writer
        finally:
            writer.close()

    async def ask(
        self, request: bytes, answers: int = 1
    ) -> list[tuple[bytes, dict[bytes, bytes], bytes]]:
        """Send `request` and read this many responses: status line, headers, body."""
        async with self.connected() as (reader, writer):
            writer.write(request)
            return [await read(reader) for _ in range(answers)]


async def read(reader: asyncio.StreamReader) -> tuple[bytes, dict[bytes, bytes], bytes]:
    async with asyncio.timeout(5):
        status, *lines = (await reader.readuntil(b"\r\n\r\n")).strip().split(b"\r\n")
        headers = dict(line.lower().split(b": ", 1) for line in lines)
        return status, headers, await reader.readexactly(int(headers[b"content-length"]))


class PromptServer(uvicorn.Server):
    """Stop at once, not at uvicorn's next tick of 0.1 s."""

    async def main_loop(self) -> None:
        await self.on_tick(0)
        while not self.should_exit:  # noqa: ASYNC110  others change it
            await asyncio.sleep(0.01)


@asynccontextmanager
async def staged(replica: Replica, middleware: Any = None, **options: Any) -> AsyncIterator[Stage]:
    """A server as Serve starts it, around `replica`; `options` are uvicorn's."""
    echo, before = Echo(), uvicorn.config.HTTP_PROTOCOLS["auto"]
    fast_path.install(echo.exchange)
    app: Any = RequestIdMiddleware(replica.asgi)
    app = app if middleware is None else middleware(app)
    options |= {
        "factory": True,
        "host": "127.0.0.1",
        "port": 0,
        "lifespan": "off",
        "log_config": None,
    }
    server = PromptServer(uvicorn.Config(lambda: app, **options))
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    serving = asyncio.create_task(server._serve(None))
    try:
        await until(lambda: server.started)
        yield Stage(replica, echo, server.servers[0].sockets[0].getsockname()[1], server)
    finally:
        server.should_exit = True
        await serving
        uvicorn.config.HTTP_PROTOCOLS["auto"] = before


def post(
    path: str = "/v1/embeddings",
    body: bytes = b"hello",
    more: str = "",
    version: str = "1.1",
    method: str = "POST",
) -> bytes:
    head = (
        f"{method} {path} HTTP/{version}\r\nhost: localhost\r\ncontent-length: "
        f"{len(body)}\r\n{more}\r\n"
    )
    return head.encode() + body
