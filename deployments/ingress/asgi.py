"""Requests and their clients in ASGI: headers, limits on clients, and detecting that a client has
left. bodies.py reads bodies, responses.py sends answers.
"""

import asyncio
import os
import random
import re
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping, MutableMapping
from functools import cache
from itertools import chain
from types import MappingProxyType, coroutine
from typing import Any, BinaryIO, NamedTuple, TypeVar
from urllib.parse import parse_qsl

from deployments.ingress.outgoing import Held
from deployments.serve_internals import DISCONNECT_DISABLED_HEADER
from router.config import Limits
from router.errors import (
    HeadersTooLarge,
    InvalidValue,
    RateLimitExceeded,
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

SEND_TIMEOUT_S = 10.0  # unless the answer sets another
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

    def enter(self, client: str, limits: Limits) -> None:
        """Count one request until `leave`; raises RateLimitExceeded if there are too many."""
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

    def leave(self, client: str) -> None:
        """Stop counting a request that entered."""
        self._all -= 1
        if self._of[client] > 1:
            self._of[client] -= 1
        else:
            del self._of[client]


def client_of(http_request: HttpRequest, limits: Limits) -> str:
    """The known address of the request's client."""
    name = limits.client_address_header or _address_header()
    if name and (forwarded := http_request.headers.get(name.lower())):
        return forwarded.rpartition(",")[
            2
        ].strip()  # the client itself can have written the entries before it
    client = http_request.scope.get("client")
    return client[0] if client else ""


@cache
def _address_header() -> str:
    """The header that the launcher's proxy writes the client's address into, if any."""
    return os.environ.get(ADDRESS_HEADER_VARIABLE, "")


def check_headers(scope: Scope, limits: Limits) -> None:
    """Check the number and the size of the headers; raises HeadersTooLarge."""
    given = scope["headers"]
    if (
        len(given) > limits.max_headers
        or sum(map(len, chain.from_iterable(given))) > limits.max_header_bytes
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


async def attended(
    work: Coroutine[Any, Any, T], limit_s: float, receive: Receive | None = None
) -> T:
    """Run `work`; cancel it with TimeoutError after `limit_s`, and with ClientLeft if `receive`
    reports a disconnect.

    The timer and the listener start only when the work first waits for something: synchronous
    answers need neither.
    """
    try:
        waits_for = work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    attendant = _Attendant(limit_s, receive)
    try:
        return await _rest(work, waits_for)
    except asyncio.CancelledError:
        if (why := attendant.why()) is None:
            raise
        raise why from None
    finally:
        attendant.leave()


@coroutine
def _rest(work: Coroutine[Any, Any, T], waits_for: Any) -> Generator[Any, Any, T]:
    """Await the rest of `work`, which waits for `waits_for`."""
    try:
        while True:
            try:
                got = yield waits_for
            except BaseException as error:
                waits_for = work.throw(error)
            else:
                waits_for = work.send(got)
    except StopIteration as done:
        result: T = done.value
        return result


class _Attendant:
    """Cancels the task that created it when the time is over or the client has left."""

    def __init__(self, limit_s: float, receive: Receive | None) -> None:
        caller = asyncio.current_task()
        assert caller is not None
        self._caller, self._cancelled_before = caller, caller.cancelling()
        self._why: Exception | None = None
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(limit_s, self._end, TimeoutError())
        self._listener: asyncio.Task[None] | None = None
        if receive is not None:
            self._listener = loop.create_task(_disconnect(receive))
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
        """The reason for the cancellation; None if another cancellation takes precedence."""
        return (
            None
            if self._why is None or self._caller.uncancel() > self._cancelled_before
            else self._why
        )

    def leave(self) -> None:
        """Cancel nothing from now on."""
        self._why = self._why or ClientLeft()
        self._timer.cancel()
        if self._listener is not None:
            self._listener.cancel()


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
