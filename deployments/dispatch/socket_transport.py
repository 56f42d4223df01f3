"""Calls to replicas over direct sockets (`transport: direct`), without the cost of a handle call.

Serve still controls everything but the call itself: replicas, health, start, stop, scaling. Each
replica listens on a port and has a random token. A router gets both through the replica's Serve
handle, so only a process that can make handle calls can connect; a peer that does not send the
token first is disconnected. Calls use the handle while there is no connection: for a new replica,
behind a firewall, and when Ray's own traffic is encrypted (RAY_USE_TLS).

- A cancelled call is cancelled at the replica; when a router dies, its texts leave the engine.
- A replica that dies closes its connections, which is noticed at once. Its calls get
  ConnectionLost, and the next call, over Serve's handle, shows whether only the connection broke.
  TCP detects a vanished node in 10 s, and its calls get ReplicaLost. A replica that Serve stops
  first answers the calls that it has taken.
- Serve counts these calls like its own, so `target_ongoing_requests` and its gauges stay valid.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from contextvars import Context
from typing import Protocol

import orjson

from deployments.dispatch.frames import (
    CALL,
    CANCEL,
    CONNECT_S,
    ERROR,
    HELLO,
    MAX_BYTES,
    REPLY,
    Address,
    Frames,
)
from deployments.dispatch.transport import ConnectionLost, ReplicaLost
from deployments.dispatch.wire import Call, Reply, pack_call, stamped, unpack_reply
from deployments.engines.base import (
    EngineError,
    EngineFailed,
    EngineOverloaded,
    ServerUnreachable,
)
from router.cards import Cards
from router.errors import RequestTooLarge

AGAIN_S = 1.0  # between two tries to connect
WARN_SHARED_S = 5.0  # from the first replica that shares a device to the warning

log = logging.getLogger("ray.serve")


class Handles(Protocol):
    """The operations that are needed of Serve's handles."""

    async def send(self, model: str, call: Call, replica: str) -> Reply: ...

    async def wake(self, model: str) -> None: ...

    async def address(self, model: str, replica: str) -> Address | None:
        """The address of `replica`, or of another replica that answered instead; None if it has no
        socket.
        """

    def counted(self, model: str, replica: str) -> AbstractContextManager[None]:
        """Count a call for Serve's autoscaling and gauges while it runs."""


class Connection(Frames):
    """A router's connection to one replica, with any number of calls in flight."""

    def __init__(self, replica: str) -> None:
        super().__init__()
        self.replica = replica
        loop = asyncio.get_running_loop()
        self.greeted: asyncio.Future[None] = loop.create_future()
        self.lost: asyncio.Future[None] = loop.create_future()
        self._calls: dict[int, asyncio.Future[Reply]] = {}
        self._number = 0
        self._retired = False

    @classmethod
    async def open(cls, address: Address) -> "Connection":
        """Connect and authenticate. Raises OSError or TimeoutError."""
        async with asyncio.timeout(CONNECT_S):
            _, line = await asyncio.get_running_loop().create_connection(
                lambda: cls(address.replica), address.host, address.port
            )
            line.write(0, HELLO, address.token.encode())
            try:
                await line.greeted
            except BaseException:
                line.abort()
                raise
        return line

    async def send(self, call: Call) -> Reply:
        """Make one call; cancelling it cancels it at the replica. Raises ReplicaLost, or
        EngineError for an error at the replica.

        Raises RequestTooLarge for a call at which the replica would close the connection, and
        with it all other calls.
        """
        if self.lost.done():
            raise ConnectionLost(f"the connection to replica {self.replica} is closed")
        packed = pack_call(call)
        if len(packed) > MAX_BYTES:
            raise RequestTooLarge(MAX_BYTES)
        self._number = number = (self._number + 1) & 0xFFFFFFFF
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._calls[number] = future
        self.write(number, CALL, packed)
        try:
            return await future
        except asyncio.CancelledError:
            self.write(number, CANCEL)
            raise
        finally:
            self._calls.pop(number, None)
            if self._retired and not self._calls:
                self.close()

    def retire(self) -> None:
        """Close after the running calls are answered: the replica is being stopped."""
        self._retired = True
        if not self._calls:
            self.close()

    def frame(self, number: int, kind: int, payload: bytearray) -> None:
        if kind == HELLO and not self.greeted.done():
            self.greeted.set_result(None)
        future = self._calls.get(number)
        if future is None or future.done():  # its caller has left
            return
        if kind == REPLY:
            try:
                future.set_result(stamped(unpack_reply(payload)))
            except (ValueError, TypeError) as error:
                future.set_exception(error)
        elif kind == ERROR:
            dead, after_s, name, message, detail = orjson.loads(payload)
            if dead:
                future.set_exception(
                    ReplicaLost(f"the engine of replica {self.replica} died: {message}")
                )
            elif after_s is not None:
                future.set_exception(EngineOverloaded(message, after_s))
            elif detail is not None:
                away = name == ServerUnreachable.__name__
                failed = ServerUnreachable if away else EngineFailed
                future.set_exception(failed(message, detail))
            else:
                future.set_exception(EngineError(f"{name}: {message}"))

    def connection_lost(self, exc: Exception | None) -> None:
        why = f"the connection to replica {self.replica} broke" + (f": {exc}" if exc else "")
        # otherwise the peer's machine is silent
        hung_up = exc is None or isinstance(exc, ConnectionError)
        for future in self._calls.values():
            if not future.done():
                future.set_exception(ConnectionLost(why) if hung_up else ReplicaLost(why))
        if not self.greeted.done():
            self.greeted.set_exception(ConnectionError(why))
        if not self.lost.done():
            self.lost.set_result(None)


class DirectTransport:
    """Sends each call over the replica's connection if there is one, otherwise through Serve's
    handle.
    """

    def __init__(
        self, handles: Handles, again_s: float = AGAIN_S, warn_shared_s: float = WARN_SHARED_S
    ) -> None:
        self._handles, self._again_s, self._warn_shared_s = handles, again_s, warn_shared_s
        self.lines: dict[str, Connection] = {}  # by replica
        self.starts: dict[str, Mapping[str, float]] = {}  # by model: its last replica's, by phase
        self.cards = Cards()
        self._shared: set[tuple[str, ...]] = set()  # groups that were reported
        self._telling: asyncio.TimerHandle | None = None
        self.on_device: Callable[[str, str], object] = lambda model, device: None
        self._keeping: dict[tuple[str, str], asyncio.Task[None]] = {}  # (model, replica)

    async def send(self, model: str, call: Call, replica: str) -> Reply:
        """Call `replica`. Raises ReplicaLost if it died during the call, otherwise EngineError."""
        line = self.lines.get(replica)
        if line is None or line.lost.done():
            return await self._handles.send(model, call, replica)
        with self._handles.counted(model, replica):
            return await line.send(call)

    async def wake(self, model: str) -> None:
        """Request a first replica from Serve."""
        await self._handles.wake(model)

    def replicas_changed(self, model: str, replicas: Sequence[str]) -> None:
        """Connect to new replicas, and close the connections of removed ones after their last
        answer.
        """
        for key in [key for key in self._keeping if key[0] == model and key[1] not in replicas]:
            self._keeping.pop(key).cancel()
            self.cards.left(key[1])
        for replica in replicas:
            if (model, replica) not in self._keeping:
                self._keeping[model, replica] = asyncio.get_running_loop().create_task(
                    self._keep(model, replica),
                    context=Context(),  # see dispatcher.py: a unique request id per call
                )

    async def _keep(self, model: str, replica: str) -> None:
        """Keep a connection to this replica while Serve lists it."""
        tries = 0
        while True:
            try:
                address = await self._handles.address(model, replica)
                if address is None:
                    return
                if address.replica == replica:
                    if address.start:
                        self.starts[model] = address.start
                    if address.devices:
                        self._has(model, address)
                    if address.device:
                        self.on_device(model, address.device)
                    line = self.lines[replica] = await Connection.open(address)
                    tries = 0
                    await asyncio.shield(line.lost)
            # also Ray's own errors: calls use the handle meanwhile
            except Exception as error:
                tries += 1
                if tries == 1:
                    log.warning(
                        "calls to %s at %s take Serve's handles: %s: %s",
                        model,
                        replica,
                        type(error).__name__,
                        error,
                    )
            finally:
                if (line_left := self.lines.pop(replica, None)) is not None:
                    line_left.retire()
            await asyncio.sleep(self._again_s * min(tries + 1, 30))

    def _has(self, model: str, address: Address) -> None:
        """Note the devices of a replica; shared ones are reported once, after all replicas that
        start together have joined.
        """
        self.cards.joined(address.replica, model, address.node, address.devices)
        if self.cards.shared_with(model) and self._telling is None:
            loop = asyncio.get_running_loop()
            self._telling = loop.call_later(self._warn_shared_s, self._warn_shared)

    def _warn_shared(self) -> None:
        self._telling = None
        for models, (node, device) in self.cards.groups().items():
            if models not in self._shared:
                self._shared.add(models)
                log.warning(
                    "%s share device %s of node %s: each is slower while another one works; give "
                    "each a device of its own, or let them work side by side with CUDA MPS",
                    " and ".join(models),
                    device,
                    node,
                )

    async def close(self) -> None:
        """Close all connections."""
        if self._telling is not None:
            self._telling.cancel()
        tasks = list(self._keeping.values())
        self._keeping.clear()
        for task in tasks:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)


def allowed() -> bool:
    """Whether calls can bypass Ray's own connections: not where those are encrypted."""
    return os.environ.get("RAY_USE_TLS", "0") in ("0", "", "false")
