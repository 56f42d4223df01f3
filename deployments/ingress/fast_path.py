"""The fast path: inference requests go from the socket to the application, past Serve's wrapper.

Behind HAProxy, Serve starts an HTTP server in every router replica: uvicorn around Serve's ASGI
application around ours. For each request Serve makes metadata, five contexts, a record for a log
that is off, and two wrappers around `send`; uvicorn matches every response header against two
regular expressions. For a cached answer that was two thirds of the router's work.

Serve leaves uvicorn's setting for the HTTP class at `auto`. `install` defines what `auto` means
here: uvicorn's own class, but an inference POST goes straight to our application. Serve's server
keeps its port, connections, draining and health checks, and every other request. Serve's counts of
running and ended requests, which its autoscaler and draining use, are kept up to date.

The fast path needs private names of Serve's replica. If they are missing, or if Serve has work of
its own (an access log, middleware, time limits, a request limit), all requests go through Serve.
"""

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from functools import cache, lru_cache, partial
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote

from deployments.ingress.asgi import (
    SEND_TIMEOUT_S,
    HttpAnswer,
    HttpRequest,
    Receive,
    Scope,
    request_id,
)
from deployments.ingress.pace import Pace, unread
from deployments.ingress.routes import TABLE
from deployments.serve_internals import (
    REQUEST_TIMEOUT_HEADER,
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
    ServeReplica,
    begin,
    decoded_headers,
    forwarded_client,
    logs_every_request,
    set_http_protocol,
)
from deployments.telemetry.logs import where
from router.errors import InternalError, InvalidValue, render
from router.names import PREFIX, split_address
from router.routes import ROUTES

if TYPE_CHECKING:
    from deployments.serve_internals import ASGI3Application, ProxyHeadersMiddleware

UNLIMITED = 100_000  # running requests of one router: a smaller number is a configured limit
ONE_WRITE_BYTES = 256 * 1024  # up to here a copy is cheaper than a second system call
TIME_LIMIT = REQUEST_TIMEOUT_HEADER.encode()
REQUEST_ID = b"x-request-id"
KNOWN_CLIENTS = 128  # values of x-forwarded-for, of up to some kB each
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")

_INFERENCE = [route.path for route in ROUTES if route.model_serves]
PATHS = tuple(path for path in _INFERENCE if "{" not in path)
# the starts of addresses and of paths that contain a name
STARTS = (PREFIX, *(path.partition("{")[0] for path in _INFERENCE if "{" in path))

log = logging.getLogger("ray.serve")
Handler = Callable[[HttpRequest], Awaitable[HttpAnswer]]

# the handler of this process, and the loop it runs on
_here: list[tuple[Handler, asyncio.AbstractEventLoop]] = []


def install(handler: Handler) -> None:
    """Let `handler`, on the current loop, answer the inference requests of the server that Serve is
    about to start.
    """
    _here[:] = [(handler, asyncio.get_running_loop())]
    set_http_protocol(f"{__name__}:FastPathProtocol")


class FastPath:
    """The fast path of one server: its paths, and the counts it updates."""

    def __init__(
        self,
        handler: Handler,
        replica: ServeReplica,
        root_path: str,
        outer: "ProxyHeadersMiddleware",
    ) -> None:
        """Raises AttributeError if Serve's replica or uvicorn's middleware has changed."""
        self.handler, self.replica, self._proxies = handler, replica, outer
        self._forwarded = lru_cache(KNOWN_CLIENTS)(partial(forwarded_client, outer))
        self.outside = root_path  # the part of the path that a proxy removed
        self._mount()
        self.client(("127.0.0.1", 0), ())  # called once to see that it works
        self.open  # noqa: B018  the same

    def _mount(self) -> None:
        """Set the paths below Serve's current route prefix; a deploy can change it."""
        self._prefix = self.replica.route_prefix
        inside = (self._prefix or "").rstrip("/")
        self.root = self.outside + inside
        self.urls = frozenset((inside + path).encode() for path in PATHS)
        self._inside = inside
        self._starts = tuple((inside + start).encode() for start in STARTS)

    def takes(self, url: bytes) -> bool:
        """Whether a model answers a POST to `url`, which is given as it was sent."""
        if url in self.urls:
            return True
        if not url.startswith(self._starts) or not url.isascii():
            return False
        path = unquote(url.partition(b"?")[0].decode("ascii")).removeprefix(self._inside)
        return not path.endswith("/") and TABLE.infers(split_address(path)[1])

    @property
    def open(self) -> bool:
        """Whether Serve has no work of its own on a request; the next config can change this and
        the paths.
        """
        if self.replica.route_prefix != self._prefix:
            self._mount()
        running, waiting = self.replica.request_limits
        return bool(running >= UNLIMITED and waiting < 0 and not logs_every_request(log))

    def client(
        self, peer: tuple[str, int] | None, headers: Iterable[tuple[bytes, bytes]]
    ) -> tuple[str, int] | None:
        """The client reported by a proxy that uvicorn trusts; otherwise the peer."""
        if peer is None or peer[0] not in self._proxies.trusted_hosts:
            return peer
        reported = b", ".join([value for name, value in headers if name == b"x-forwarded-for"])
        if not reported:
            return peer
        return self._forwarded(reported.decode("latin-1")) or peer


@cache
def fast_path_of(app: Any, root_path: str) -> FastPath | None:
    """The fast path of Serve's server for `app`; None if all requests must go through Serve."""
    try:
        ((handler, loop),) = _here
        replica = ServeReplica(app)
        if replica.request_timeout_s is not None:
            return None
        if loop is not asyncio.get_running_loop():
            raise ValueError("Serve runs the application on another thread than its server")
        way = FastPath(handler, replica, root_path, app)
    except (AttributeError, TypeError, ValueError) as error:
        log.warning("embeddings go through Serve's own handling, which costs time: %s", error)
        return None
    if logs_every_request(log):
        log.warning(
            "embeddings go through Serve's own handling, which costs time, for its access log: "
            "`logging_config: {enable_access_log: false}` turns that off"
        )
    return way


def cleaned(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers without values that Serve cannot decode, and with exactly one request id: the
    last one sent if it is valid, otherwise a new one, as on the fast path.
    """
    own, kept = "", list[tuple[bytes, bytes]]()
    for name, value in headers:
        if name == REQUEST_ID:
            own = value.decode("latin-1")
        elif value.isascii() or name.replace(b"_", b"-") not in decoded_headers():
            kept.append((name, value))
    return [*kept, (REQUEST_ID, request_id({"x-request-id": own}).encode())]


class FastPathProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, but inference requests go straight to the router's application.

    A WebSocket handshake is an ordinary request here, which the application refuses.
    """

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.ws_protocol_class = None
        self._way = fast_path_of(self.app, self.root_path)

    def on_headers_complete(self) -> None:
        """Handle a request whose headers are complete."""
        way, parser = self._way, self.parser
        if (
            way is None
            or not way.open
            or not way.takes(self.url)
            or parser.get_method() != b"POST"
            or self.expect_100_continue
            or parser.should_upgrade()
            or TIME_LIMIT in dict(self.headers)
        ):
            self.headers[:] = cleaned(self.headers)  # the scope has the same list
            super().on_headers_complete()
            return
        sent, _, query = self.url.decode("ascii").partition("?")
        version = parser.get_http_version()
        http_request = cast(dict[str, Any], self.scope)
        http_request.update(
            method="POST",
            path=way.outside + unquote(sent),
            raw_path=(way.outside + sent).encode(),
            query_string=query.encode(),
            root_path=way.root,
            http_version=version,
            client=way.client(self.client, self.headers),
        )
        keep_alive = version != "1.0" and parser.should_keep_alive()
        begin(self, HttpExchange(way, self, keep_alive))

    def _unsupported_upgrade_warning(self) -> None:
        """Log nothing: the application answers upgrade requests."""

    def send_400_response(self, msg: str) -> None:
        """Answer invalid HTTP in JSON too, and close the connection."""
        body = render(InvalidValue("the request is not HTTP/1.1; check the client or proxy"))
        self.transport.write(
            STATUS_LINE[InvalidValue.status]
            + b"content-type: application/json\r\nconnection: close\r\n"
            + b"content-length: %d\r\n\r\n" % len(body)
            + body
        )
        self.transport.close()


class HttpExchange(RequestResponseCycle):
    """One inference request and its answer."""

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
        self._way, self._came_s = way, time.monotonic()

    async def run_asgi(self, app: "ASGI3Application") -> None:
        """Run the whole exchange; `app` is Serve's and is not called."""
        counts, status = self._way.replica, 499
        counts.began()
        try:
            sent = None
            if not self.more_body:
                sent, self.body = bytes(self.body), bytearray()
                self.message_event.clear()
            http_request = HttpRequest(
                cast(Scope, self.scope), cast(Receive, self.receive), True, sent, self._came_s
            )
            answer = await self._way.handler(http_request)
            try:
                stall_s = SEND_TIMEOUT_S if answer.held is None else answer.held.stall_s
                await self._respond(answer.status, answer.body, answer.headers, stall_s)
                if http_request.stamps is not None:
                    http_request.stamps.mark("written", time.monotonic())
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
            counts.ended(status, time.monotonic() - self._came_s)

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
        pace = Pace(stall_s)
        if self.flow.write_paused:  # an earlier answer on this connection
            await self._taken(pace)
        if self.disconnected or self.transport.is_closing():
            return
        values = "".join(headers.values())
        if not values.isprintable() and _CONTROL.search(values):
            raise ValueError("a header's value holds a control character")
        lines = [*map(": ".join, headers.items())]
        if not self.keep_alive:
            lines.append("connection: close")
        usual = [b"%b: %b\r\n" % header for header in self.default_headers]
        own = "\r\n".join(lines).encode("latin-1")
        head = b"".join((STATUS_LINE[status], *usual, own, b"\r\n\r\n"))
        self.response_started = True
        if len(body) <= ONE_WRITE_BYTES:
            self.transport.write(head + body)
        else:
            self.transport.write(head)
            view = memoryview(body)
            for start in range(0, len(body), ONE_WRITE_BYTES):
                self.transport.write(view[start : start + ONE_WRITE_BYTES])
                await self._taken(pace)
                await asyncio.sleep(0)  # a fast reader never makes this wait
                if self.disconnected:
                    return
        if self.flow.write_paused:
            await self._taken(pace)
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()

    async def _taken(self, pace: Pace) -> None:
        """Wait until the client has read most of what was written; abort a client that is late."""
        while self.flow.write_paused and not self.disconnected:
            before, began_s = unread(self.transport), time.monotonic()
            with suppress(TimeoutError):
                async with asyncio.timeout(pace.look_s):
                    await self.flow.drain()
            left = unread(self.transport)
            if pace.late(before - left, time.monotonic() - began_s) and self.flow.write_paused:
                log.info("a reader is too slow: it has not taken %d bytes of its answer", left)
                self.transport.abort()
                return
