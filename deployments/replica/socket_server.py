"""The replica's end of the socket transport: accept connections of routers and answer calls."""

import asyncio
import hmac
import secrets
from collections.abc import Awaitable, Callable

import orjson

from deployments.dispatch.frames import (
    CALL,
    CANCEL,
    CONNECT_S,
    ERROR,
    HELLO,
    HELLO_BYTES,
    MAX_BYTES,
    REPLY,
    Frames,
)
from deployments.dispatch.socket_transport import log
from deployments.dispatch.wire import Call, Reply, pack_reply, unpack_call
from deployments.engines.base import EngineDead, EngineError, EngineFailed, EngineOverloaded
from deployments.telemetry.logs import where


class ReplicaServer:
    """The socket server of one replica."""

    def __init__(self, embed: Callable[[Call], Awaitable[Reply]]) -> None:
        self.embed = embed
        self.token = secrets.token_hex(32)
        self.callers: set[_Caller] = set()
        self.strangers: set[_Caller] = set()  # have not sent the token yet
        self._server: asyncio.Server | None = None

    async def start(self, host: str) -> int:
        """Listen on a free port of `host` and return the port."""
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Caller(self), host, 0
        )
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        """Answer the accepted calls, then close all connections."""
        while tasks := [task for caller in self.callers for task in caller.running.values()]:
            await asyncio.wait(tasks)
        if self._server is not None:
            self._server.close()
        for caller in list(self.callers):
            caller.close()
        for stranger in list(self.strangers):
            stranger.abort()


class _Caller(Frames):
    """The connection of one router."""

    def __init__(self, listener: ReplicaServer) -> None:
        super().__init__()
        self._listener = listener
        self._known = False
        self.max_bytes = HELLO_BYTES  # until the right token was sent
        self.running: dict[int, asyncio.Task[None]] = {}
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._listener.strangers.add(self)
        self._patience = asyncio.get_running_loop().call_later(CONNECT_S, self.abort)

    def frame(self, number: int, kind: int, payload: bytearray) -> None:
        if not self._known:
            if kind != HELLO or not hmac.compare_digest(
                bytes(payload), self._listener.token.encode()
            ):
                self.abort()
                return
            self._known, self.max_bytes = True, MAX_BYTES
            self._forget()
            self._listener.callers.add(self)
            self.write(number, HELLO)
        elif kind == CALL:
            task = self.running[number] = asyncio.get_running_loop().create_task(
                self._serve(number, payload)
            )
            task.add_done_callback(lambda _: self.running.pop(number, None))
        elif kind == CANCEL and number in self.running:
            self.running[number].cancel()

    async def _serve(self, number: int, payload: bytearray) -> None:
        try:
            reply = pack_reply(await self._listener.embed(unpack_call(payload)))
        except Exception as error:
            after_s = error.retry_after_s if isinstance(error, EngineOverloaded) else None
            detail = error.detail if isinstance(error, EngineFailed) else None
            message = (
                isinstance(error, EngineDead),
                after_s,
                type(error).__name__,
                str(error),
                detail,
            )
            self.write(number, ERROR, orjson.dumps(message))
            if not isinstance(error, EngineError):
                log.error("a call failed:\n%s", where(error))
        else:
            self.write(number, REPLY, reply)

    def _forget(self) -> None:
        """Remove this connection from the strangers and stop its timer."""
        self._listener.strangers.discard(self)
        if self._patience is not None:
            self._patience.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        self._listener.callers.discard(self)
        for task in self.running.values():
            task.cancel()
