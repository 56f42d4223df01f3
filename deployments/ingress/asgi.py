"""The parts of ASGI that the ingress needs: bodies, headers and clients with limits, and detecting
that a client has left.
"""

import asyncio
import os
import random
import re
import zlib
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, BinaryIO, NamedTuple, TypeVar
from urllib.parse import parse_qsl

from deployments.ingress.outgoing import Held
from deployments.ingress.pace import PATIENCE
from deployments.serve_internals import DISCONNECT_DISABLED_HEADER
from router.config import Limits
from router.errors import (
    HeadersTooLarge,
    InvalidValue,
    NotSupported,
    RateLimitExceeded,
    RequestTimeout,
    RequestTooLarge,
    render,
    shorten,
)
from router.names import split_address
from router.shapes.form import Errors
from router.stamps import Stamps

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = Mapping[str, str]
T = TypeVar("T")
OffLoop = Callable[[Callable[[], bytes]], Awaitable[bytes]]

SEND_BYTES = 64 * 1024  # of an answer, passed to the server at a time
FILE_BYTES = 256 * 1024  # the same for a file
SEND_TIMEOUT_S = 10.0  # unless the answer sets another
MOST_GZIP_FILES = 32  # in one body
GZIP_FREE_BYTES = 1024 * 1024  # that a gzip body can become, however small it was sent
ON_LOOP_BYTES = 64 * 1024  # a gzip body that becomes more is inflated in a thread
GZIP = b"\x1f\x8b"  # how every file begins
MOST_RATIO = 1032  # of deflate: a larger size in a trailer is no size
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


class ClientLeft(Exception):
    """The client closed the connection and reads no answer."""


class HttpAnswer(NamedTuple):
    """The result of a route."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: Headers = MappingProxyType({})
    held: Held | None = None  # released when the client has read it
    stream: BinaryIO | None = None  # the body, if it is a file; closed at the end


class HttpRequest:
    """One request: its scope, its headers by name in lower case, its path, and the source of its
    body.

    The last value of a repeated header counts. The path is the one below the application's route
    prefix, without a trailing slash. `id` is the caller's `x-request-id` or a new one. `alone`
    means that Serve is not around the application. `sent` is the body if all of it has arrived,
    `came_s` the time at which the headers were read. `address` is the part before the path,
    /in/COLLECTION, and `ignored` the fields of the body that were dropped. `errors` writes errors
    if the path alone does not determine their form. `stamps` is None unless they are taken.
    """

    __slots__ = (
        "address",
        "alone",
        "came_s",
        "errors",
        "headers",
        "id",
        "ignored",
        "path",
        "receive",
        "scope",
        "sent",
        "stamps",
    )

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        alone: bool,
        sent: bytes | None = None,
        came_s: float | None = None,
    ) -> None:
        self.scope, self.receive, self.alone, self.sent = scope, receive, alone, sent
        self.came_s = came_s
        self.stamps: Stamps | None = None
        self.headers: Headers = {
            name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in scope["headers"]
        }
        self.id = request_id(self.headers)
        self.ignored: tuple[str, ...] = ()
        self.errors: Errors | None = None
        full: str = scope["path"]
        path = full.removeprefix(scope.get("root_path", "")).rstrip("/") or "/"
        self.address, self.path = split_address(path)

    @property
    def watched(self) -> Receive | None:
        """The receiver to watch for a client that leaves; None if Serve cancels the call
        instead.
        """
        unwatched = self.alone or self.headers.get(DISCONNECT_DISABLED_HEADER) == "?1"
        return self.receive if unwatched else None


# The header in which a proxy in front writes the client's address; set for every process when the
# proxy is started (deployments/launch/environment.py).
ADDRESS_HEADER_VARIABLE = "EMBEDDING_ROUTER_CLIENT_ADDRESS_HEADER"
BUSY_RETRY_S = 1.0


class Gate:
    """The number of running requests in this router, in total and of each client."""

    def __init__(self) -> None:
        self._all = 0
        self._of: dict[str, int] = {}

    @contextmanager
    def passed(self, client: str, limits: Limits) -> Iterator[None]:
        """Count one request while the block runs; raises RateLimitExceeded if there are too many
        already.
        """
        own = self._of.get(client, 0)
        if self._all >= limits.max_requests:
            raise RateLimitExceeded(
                f"{limits.max_requests} requests at once", BUSY_RETRY_S, "this router"
            )
        if own >= limits.max_requests_per_client:
            raise RateLimitExceeded(
                f"{limits.max_requests_per_client} requests at once", BUSY_RETRY_S, "this client"
            )
        self._all += 1
        self._of[client] = own + 1
        try:
            yield
        finally:
            self._all -= 1
            if self._of[client] > 1:
                self._of[client] -= 1
            else:
                del self._of[client]


def client_of(http_request: HttpRequest, limits: Limits) -> str:
    """The address of the request's client, as far as it is known."""
    name = limits.client_address_header or os.environ.get(ADDRESS_HEADER_VARIABLE, "")
    if name and (forwarded := http_request.headers.get(name.lower())):
        return forwarded.rpartition(",")[
            2
        ].strip()  # the client itself can have written the entries before it
    client = http_request.scope.get("client")
    return client[0] if client else ""


def check_headers(scope: Scope, limits: Limits) -> None:
    """Check the number and the size of the headers; raises HeadersTooLarge."""
    given = scope["headers"]
    if (
        len(given) > limits.max_headers
        or sum(len(name) + len(value) for name, value in given) > limits.max_header_bytes
    ):
        raise HeadersTooLarge(limits.max_headers, limits.max_header_bytes)


def request_id(given: Headers) -> str:
    """The caller's `x-request-id` if it is short and printable, otherwise a new one."""
    own = given.get("x-request-id", "")
    return own if _REQUEST_ID.fullmatch(own) else f"{random.getrandbits(128):032x}"


def query(scope: Scope) -> Mapping[str, str]:
    """The query's parameters; the last value of a repeated name counts. Raises InvalidValue."""
    return dict(query_list(scope))


def query_list(scope: Scope) -> list[tuple[str, str]]:
    """The query's parameters in their order; raises InvalidValue."""
    try:
        return parse_qsl(
            scope["query_string"].decode("latin-1"), keep_blank_values=True, max_num_fields=16
        )
    except ValueError:
        raise InvalidValue("the query has more than 16 parameters") from None


async def body(
    http_request: HttpRequest,
    limit: int,
    timeout_s: float,
    gzip_ratio: int = 100,
    off_loop: OffLoop | None = None,
) -> bytes:
    """Read the whole body, unzipped; raises RequestTooLarge, RequestTimeout, ClientLeft or
    InvalidValue. `off_loop` runs what inflates a large body.
    """
    coding = http_request.headers.get("content-encoding", "").strip().lower()
    if coding not in ("", "identity", "gzip", "x-gzip"):
        raise InvalidValue(
            f"content-encoding {shorten(coding)} is not known here; send the body plain or with "
            "gzip",
            "content-encoding",
        )
    sent = await _sent(http_request, limit, timeout_s)
    if coding not in ("gzip", "x-gzip"):
        return sent
    inflated = _Inflated(sent, limit, gzip_ratio)
    inflated.refuse_by_trailer()
    if (whole := inflated.within(ON_LOOP_BYTES)) is not None:
        return whole
    return await (off_loop or asyncio.to_thread)(inflated.whole)


class _Inflated:
    """A gzip body, inflated to at most `limit` bytes, and `ratio` times as many as were sent."""

    def __init__(self, sent: bytes, limit: int, ratio: int) -> None:
        self._sent, self._limit, self._ratio = sent, limit, ratio
        self._may_become = max(GZIP_FREE_BYTES, ratio * len(sent))

    def refuse_by_trailer(self) -> None:
        """Refuse a small body whose last four bytes, its size in gzip, say that it is too large.

        Raises RequestTooLarge. A size that no gzip file can have is left to the inflating, and so
        is a large body: it could be one that was cut off, with other bytes there.
        """
        size = int.from_bytes(self._sent[-4:], "little")
        if (
            self._sent.startswith(GZIP)
            and len(self._sent) <= ON_LOOP_BYTES
            and min(self._limit, self._may_become) < size <= MOST_RATIO * len(self._sent)
        ):
            raise self._too_large()

    def within(self, most: int) -> bytes | None:
        """The body, or None if it is larger than `most`; raises as `whole`."""
        return self._all(min(most, self._limit, self._may_become))

    def whole(self) -> bytes:
        """The body; raises RequestTooLarge, or InvalidValue if it is not gzip."""
        made = self._all(min(self._limit, self._may_become))
        if made is None:
            raise self._too_large()
        return made

    def _all(self, most: int) -> bytes | None:
        parts, left, sent = list[bytes](), most, self._sent
        while sent:  # a gzip body can be several files in a row
            if len(parts) == MOST_GZIP_FILES:  # each costs a copy of what follows it
                raise InvalidValue(
                    f"the body is more than {MOST_GZIP_FILES} gzip files after one another; send "
                    "one",
                    "content-encoding",
                )
            stream = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
            try:
                part = stream.decompress(sent, left + 1)
            except zlib.error as error:
                raise InvalidValue(
                    f"content-encoding says gzip and the body is not: {error}", "content-encoding"
                ) from None
            left -= len(part)
            if left < 0:
                return None
            if not stream.eof:
                raise InvalidValue(
                    "content-encoding says gzip and the body ends too early", "content-encoding"
                )
            parts.append(part)
            sent = stream.unused_data
        return b"".join(parts)

    def _too_large(self) -> RequestTooLarge:
        if self._may_become < self._limit:
            return RequestTooLarge(
                self._may_become,
                f"a gzip body may become {self._ratio} times as large as what is sent "
                "(limits.max_gzip_ratio); send it plain",
            )
        return RequestTooLarge(self._limit)


async def _sent(http_request: HttpRequest, limit: int, timeout_s: float) -> bytes:
    """Read the body as it was sent; raises RequestTooLarge (before reading if the length is
    declared), RequestTimeout, or ClientLeft on a broken upload.
    """
    if http_request.sent is not None:
        if len(http_request.sent) > limit:
            raise RequestTooLarge(limit)
        return http_request.sent
    declared = http_request.headers.get("content-length", "")
    if declared.isdigit() and int(declared[:12]) > limit:
        raise RequestTooLarge(limit)
    try:
        return await attended(_whole(http_request.receive, limit), timeout_s)
    except TimeoutError:
        raise RequestTimeout(timeout_s) from None


async def _whole(receive: Receive, limit: int) -> bytes:
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        part = message.get("body", b"")
        parts.append(part)
        size += len(part)
        if size > limit:
            raise RequestTooLarge(limit)
        if not message.get("more_body", False):
            return b"".join(parts) if len(parts) > 1 else part


async def attended(
    work: Coroutine[Any, Any, T], limit_s: float, receive: Receive | None = None
) -> T:
    """Run `work`; cancel it with TimeoutError after `limit_s`, and with ClientLeft if `receive`
    reports a disconnect.

    The timer and the listener start only when the work first waits for something: synchronous
    answers need neither.
    """
    attendant = _Attendant(limit_s, receive)
    try:
        return await work
    except asyncio.CancelledError:
        if (why := attendant.why()) is None:
            raise
        raise why from None
    finally:
        attendant.leave()


class _Attendant:
    """Cancels the task that created it when the time is over or the client has left."""

    def __init__(self, limit_s: float, receive: Receive | None) -> None:
        caller = asyncio.current_task()
        assert caller is not None
        self._caller, self._cancelled_before = caller, caller.cancelling()
        self._limit_s, self._receive = limit_s, receive
        self._loop = asyncio.get_running_loop()
        self._next: asyncio.Handle = self._loop.call_soon(self._begin)
        self._listener: asyncio.Task[None] | None = None
        self._why: Exception | None = None

    def _begin(self) -> None:
        self._next = self._loop.call_later(self._limit_s, self._end, TimeoutError())
        if self._receive is not None:
            self._listener = self._loop.create_task(_disconnect(self._receive))
            self._listener.add_done_callback(self._heard)

    def _heard(self, listener: "asyncio.Task[None]") -> None:
        if not listener.cancelled():
            listener.exception()  # a connection that cannot be read has no client either
            self._end(ClientLeft())

    def _end(self, why: Exception) -> None:
        if self._why is None:
            self._why = why
            self._caller.cancel()

    def why(self) -> Exception | None:
        """Why the work was cancelled; None if another cancellation takes precedence."""
        return (
            None
            if self._why is None or self._caller.uncancel() > self._cancelled_before
            else self._why
        )

    def leave(self) -> None:
        """Cancel nothing from now on."""
        self._why = self._why or ClientLeft()
        self._next.cancel()
        if self._listener is not None:
            self._listener.cancel()


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def respond(
    send: Send, status: int, content: bytes, given: Headers, held: Held | None = None
) -> None:
    """Send one whole response, in parts that the client must read in time."""
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in given.items()]
    stall_s = SEND_TIMEOUT_S if held is None else held.stall_s
    try:
        await send({"type": "http.response.start", "status": status, "headers": raw})
        for start in range(0, max(1, len(content)), SEND_BYTES):
            part = content[start : start + SEND_BYTES] if len(content) > SEND_BYTES else content
            more = start + SEND_BYTES < len(content)
            async with asyncio.timeout(PATIENCE * stall_s):
                await send({"type": "http.response.body", "body": part, "more_body": more})
    except TimeoutError:
        pass  # the server closes an incomplete response
    finally:
        if held is not None:
            held.release()


async def respond_with_file(
    send: Send, status: int, given: Headers, stream: BinaryIO, stall_s: float, whole: bool = True
) -> None:
    """Send a response whose body is a file, read in parts; if not `whole`, only its headers."""
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in given.items()]
    try:
        await send({"type": "http.response.start", "status": status, "headers": raw})
        more = True
        while more:
            part = await asyncio.to_thread(stream.read, FILE_BYTES) if whole else b""
            more = len(part) == FILE_BYTES
            async with asyncio.timeout(PATIENCE * stall_s):
                await send({"type": "http.response.body", "body": part, "more_body": more})
    except TimeoutError:
        pass  # the server closes an incomplete response
    finally:
        stream.close()


async def refuse_websocket(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a handshake with 426, or close it if the server cannot send a response."""
    await receive()
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close"})
        return
    error = NotSupported()
    content = render(error)
    given = {
        "content-type": "application/json",
        "content-length": str(len(content)),
        **error.headers,
    }
    raw = [(name.encode(), value.encode()) for name, value in given.items()]
    start = {"type": "websocket.http.response.start", "status": error.status, "headers": raw}
    await send(start)
    await send({"type": "websocket.http.response.body", "body": content})


async def lifespan(receive: Receive, send: Send) -> None:
    """Confirm startup and shutdown: Serve's own hooks start what a router runs, and the caller
    stops it afterwards.
    """
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await send({"type": "lifespan.shutdown.complete"})
            return
