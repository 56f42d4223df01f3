"""Socket frames between a router and a replica, shared by both ends."""

import asyncio
import os
import socket
import struct
from collections.abc import Mapping
from typing import NamedTuple, cast

HELLO, CALL, CANCEL, REPLY, ERROR = range(5)


_HEAD = struct.Struct("<IIB")  # payload bytes, number of the call, kind


HELLO_BYTES = 256


MAX_BYTES = 1 << 28


CONNECT_S = 5.0


_QUIET_S, _PROBES = 4, 3  # seconds of silence before a probe; number of probes, every 2 s


class Address(NamedTuple):
    """The address of one replica, and the token that a router must send. `start` has the seconds of
    each phase of its start, `device` what it runs on, if known, and `devices` its accelerators
    on `node`.
    """

    replica: str
    host: str
    port: int
    token: str
    start: Mapping[str, float] | None = None
    device: str | None = None
    node: str = ""
    devices: tuple[str, ...] = ()


class Frames(asyncio.Protocol):
    """Splits received bytes into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self.max_bytes = MAX_BYTES

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's have no common class
        with socket.socket(
            fileno=os.dup(transport.get_extra_info("socket").fileno())
        ) as same:  # uvloop's have no options
            _keep_alive(same)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        while len(buffer) >= _HEAD.size:
            size, number, kind = _HEAD.unpack_from(buffer)
            if size > self.max_bytes:
                self.abort()
                return
            end = _HEAD.size + size
            if len(buffer) < end:
                return
            payload = buffer[_HEAD.size : end]
            del buffer[:end]
            self.frame(number, kind, payload)

    def frame(self, number: int, kind: int, payload: bytearray) -> None:
        raise NotImplementedError

    def write(self, number: int, kind: int, payload: bytes = b"") -> None:
        """Send one frame, if the connection is still open."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(_HEAD.pack(len(payload), number, kind) + payload)

    def abort(self) -> None:
        self._buffer.clear()
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def _keep_alive(sock: socket.socket) -> None:
    """Detect a vanished peer machine within about 10 s; its kernel reports a dead process."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", _QUIET_S),
        ("TCP_KEEPINTVL", 2),
        ("TCP_KEEPCNT", _PROBES),
        ("TCP_USER_TIMEOUT", 10_000),
    ):
        if hasattr(socket, name):  # Linux
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
