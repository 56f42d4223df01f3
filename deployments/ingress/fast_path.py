"""Requests for embeddings on their short way: from the socket to the application, past Serve's
wrapper around it.

Behind HAProxy every router replica has an HTTP server of its own, which Serve starts: uvicorn
around an ASGI application of Serve's around ours. For each request Serve makes metadata, five
contexts, a record for a log that is off, and two wrappers around `send`; uvicorn looks at every
header of the answer with two regular expressions. Where the answer is in the cache that was two
thirds of all that the router did.

uvicorn takes the class that speaks HTTP as a setting, and Serve leaves it at `auto`. `install` says
what that means in this process: uvicorn's own class, but that a POST for embeddings goes to our
application at once. Serve's server keeps its port, its connections, its draining and its health
checks, and every other request goes Serve's way. What Serve counts is told to it: the requests
under way, which its autoscaler and its draining ask for, and those that ended.

It needs names of Serve's replica that Serve does not promise. Where they are missing, or where
somebody asked Serve for something that it does on its way (an access log, middleware, time limits,
a limit of requests), all requests go Serve's way.
"""

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import cache
from logging.handlers import MemoryHandler
from typing import TYPE_CHECKING, Any, cast

import uvicorn.config
from ray.serve._private.common import RequestMetadata, RequestProtocol
from ray.serve._private.constants import SERVE_HTTP_REQUEST_TIMEOUT_S_HEADER
from ray.serve._private.logging_utils import log_access_log_filter
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from deployments.ingress.asgi import SEND_TIMEOUT_S, HttpAnswer, HttpRequest, Receive, Scope
from deployments.telemetry.logs import where
from router.errors import InternalError, render

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application

PATHS = ("/v1/embeddings", "/embeddings")
UNLIMITED = 100_000  # running requests of one router: fewer is a limit that somebody set
ONE_WRITE_BYTES = 256 * 1024  # up to here a copy is cheaper than a second call to the kernel
TIME_LIMIT = SERVE_HTTP_REQUEST_TIMEOUT_S_HEADER.encode()
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")

log = logging.getLogger("ray.serve")
Handler = Callable[[HttpRequest], Awaitable[HttpAnswer]]

# how this process answers a request, and the loop it does so on
_here: list[tuple[Handler, asyncio.AbstractEventLoop]] = []


def install(handler: Handler) -> None:
    """Let `handler`, which runs on the current loop, answer the embeddings of the server that
    Serve is about to start.
    """
    _here[:] = [(handler, asyncio.get_running_loop())]
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{__name__}:FastPathProtocol"


class ServesCounts:
    """What Serve wants to know of the requests that do not pass it."""

    def __init__(self, replica: Any) -> None:
        """Raises AttributeError where Serve's replica is not as it was."""
        counts, deployment = replica._metrics_manager, replica._deployment_id
        self._more, self._less = counts.inc_num_ongoing_requests, counts.dec_num_ongoing_requests
        self._record, self._record_http = (
            counts.record_request_metrics,
            counts.record_ingress_request_metrics,
        )
        self._kind = RequestMetadata(
            request_id="",
            internal_request_id="",
            is_direct_ingress=True,
            _request_protocol=RequestProtocol.HTTP,
        )
        self._route, self._deployment, self._app = (
            replica._route_prefix or "/",
            deployment.name,
            deployment.app_name,
        )

    def began(self) -> None:
        """One more is under way."""
        self._more(self._kind)

    def ended(self, status: int, seconds: float) -> None:
        """One is over."""
        latency_ms = seconds * 1000
        self._less(self._kind)
        self._record(route=self._route, latency_ms=latency_ms, is_error=False, exception_type=None)
        self._record_http(
            protocol=RequestProtocol.HTTP,
            method="POST",
            route=self._route,
            app_name=self._app,
            deployment_name=self._deployment,
            latency_ms=latency_ms,
            is_error=status >= 400,
            status_code=str(status),
        )


class FastPath:
    """The short way of one server: its paths, and the counts to keep."""

    def __init__(
        self,
        handler: Handler,
        replica: Any,
        root_path: str,
        outer: ProxyHeadersMiddleware,
    ) -> None:
        """Raises AttributeError where Serve's replica or uvicorn's middleware is not as it was."""
        self.handler, self.counts, self._replica = handler, ServesCounts(replica), replica
        # what a proxy took off the path, and what Serve will
        self.outside, self._prefix = (
            root_path,
            replica._route_prefix,
        )
        inside = (self._prefix or "").rstrip("/")
        self.root, self.urls = (
            root_path + inside,
            frozenset((inside + path).encode() for path in PATHS),
        )
        self._trusted = outer.trusted_hosts
        self.open  # noqa: B018  asked once to see that it can be

    @property
    def open(self) -> bool:
        """Whether there is nothing that Serve is to do with a request; the next config may change
        that.
        """
        replica = self._replica
        return bool(
            replica.max_ongoing_requests >= UNLIMITED
            and replica.max_queued_requests < 0
            and replica._route_prefix == self._prefix
            and not _access_log()
        )

    def client(
        self, peer: tuple[str, int] | None, headers: Iterable[tuple[bytes, bytes]]
    ) -> tuple[str, int] | None:
        """Who asks, by the word of a proxy that uvicorn trusts, as its own middleware has it."""
        if peer is None or peer[0] not in self._trusted:
            return peer
        told = b", ".join(value for name, value in headers if name == b"x-forwarded-for").decode(
            "latin-1"
        )
        host, port = self._trusted.get_trusted_client_address(told) if told else ("", 0)
        return (host, port) if host else peer


def _access_log() -> bool:
    """Whether Serve writes a line for every request, as it does unless `enable_access_log` is
    false.
    """
    return any(
        isinstance(one, MemoryHandler) and log_access_log_filter not in one.filters
        for one in log.handlers
    )


@cache
def fast_path_of(app: Any, root_path: str) -> FastPath | None:
    """The short way through a server of Serve's that runs `app`; None where all requests must go
    Serve's way.
    """
    try:
        ((handler, loop),) = _here
        # below uvicorn's middleware for proxies, Serve's for request ids, and no other
        replica = app.app._app.__self__
        if replica._http_options.request_timeout_s is not None:
            return None
        if loop is not asyncio.get_running_loop():
            raise ValueError("Serve runs the application on another thread than its server")
        way = FastPath(handler, replica, root_path, app)
    except (AttributeError, TypeError, ValueError) as error:
        log.warning("embeddings go through Serve's own handling, which costs time: %s", error)
        return None
    if _access_log():
        log.warning(
            "embeddings go through Serve's own handling, which costs time, for its access log: "
            "`logging_config: {enable_access_log: false}` turns that off"
        )
    return way


class FastPathProtocol(HttpToolsProtocol):
    """uvicorn's HTTP, but that the router's application is asked for embeddings without anybody
    between.
    """

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._way = fast_path_of(self.app, self.root_path)

    def on_headers_complete(self) -> None:
        """Called when all headers of a request are there."""
        way, parser = self._way, self.parser
        if (
            way is None
            or self.url not in way.urls
            or not way.open
            or parser.get_method() != b"POST"
            or self.expect_100_continue
            or parser.should_upgrade()
            or any(name == TIME_LIMIT for name, _ in self.headers)
        ):
            super().on_headers_complete()
            return
        path, version = way.outside + self.url.decode("ascii"), parser.get_http_version()
        http_request = cast(dict[str, Any], self.scope)
        http_request.update(
            method="POST",
            path=path,
            raw_path=path.encode(),
            query_string=b"",
            root_path=way.root,
            http_version=version,
            client=way.client(self.client, self.headers),
        )
        before = self.cycle
        self.cycle = HttpExchange(
            way, self, keep_alive=version != "1.0" and parser.should_keep_alive()
        )
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:  # it was sent before the one before was answered
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))


class HttpExchange(RequestResponseCycle):
    """One request for embeddings and its answer."""

    def __init__(self, way: FastPath, listener: FastPathProtocol, keep_alive: bool) -> None:
        super().__init__(
            scope=listener.scope,
            transport=listener.transport,
            flow=listener.flow,
            logger=listener.logger,
            access_logger=listener.access_logger,
            access_log=False,
            default_headers=listener.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=keep_alive,
            on_response=listener.on_response_complete,
        )
        self._way = way

    async def run_asgi(self, app: "ASGI3Application") -> None:
        """The whole exchange; `app` is Serve's, and is not asked."""
        counts, began_s, status = self._way.counts, time.monotonic(), 499
        counts.began()
        try:
            sent = None
            if not self.more_body:
                sent, self.body = bytes(self.body), bytearray()
                self.message_event.clear()
            http_request = HttpRequest(
                cast(Scope, self.scope), cast(Receive, self.receive), True, sent
            )
            answer = await self._way.handler(http_request)
            try:
                stall_s = SEND_TIMEOUT_S if answer.held is None else answer.held.stall_s
                await self._respond(answer.status, answer.body, answer.headers, stall_s)
            finally:
                if answer.held is not None:
                    answer.held.release()
            status = answer.status
        except Exception as error:
            status = InternalError.status
            log.error("an answer could not be sent:\n%s", where(error))
            await self._fail()
        except asyncio.CancelledError:
            self.transport.close()
            raise
        finally:
            self.on_response = lambda: None
            counts.ended(status, time.monotonic() - began_s)

    async def _fail(self) -> None:
        if self.response_started:
            self.transport.close()
        else:
            body = render(InternalError())
            headers = {"content-type": "application/json", "content-length": str(len(body))}
            await self._respond(InternalError.status, body, headers)

    async def _respond(
        self,
        status: int,
        body: bytes,
        headers: Mapping[str, str],
        stall_s: float = SEND_TIMEOUT_S,
    ) -> None:
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        values = "".join(headers.values())
        if not values.isprintable() and _CONTROL.search(values):
            raise ValueError("a header's value holds a control character")
        lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
        if not self.keep_alive:
            lines.append("connection: close\r\n")
        usual = b"".join(
            [part for name, value in self.default_headers for part in (name, b": ", value, b"\r\n")]
        )
        head = b"".join((STATUS_LINE[status], usual, "".join(lines).encode("latin-1"), b"\r\n"))
        self.response_started = True
        if len(body) <= ONE_WRITE_BYTES:
            self.transport.write(head + body)
        else:
            self.transport.write(head)
            view = memoryview(body)
            for start in range(0, len(body), ONE_WRITE_BYTES):
                self.transport.write(view[start : start + ONE_WRITE_BYTES])
                await self._taken(stall_s)
                if self.disconnected:
                    return
        if self.flow.write_paused:
            await self._taken(stall_s)
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()

    async def _taken(self, stall_s: float) -> None:
        """Wait until the reader has taken most of what was written; one that takes nothing for
        `stall_s` is cut off.
        """
        while self.flow.write_paused and not self.disconnected:
            before = self.transport.get_write_buffer_size()
            try:
                async with asyncio.timeout(stall_s):
                    await self.flow.drain()
            except TimeoutError:
                if self.transport.get_write_buffer_size() >= before:
                    log.info("a reader took nothing of its answer for %g s", stall_s)
                    self.transport.abort()
                    return
