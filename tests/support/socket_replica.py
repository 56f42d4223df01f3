"""Replicas on sockets of their own, and handles that lead to them."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from deployments.dispatch.frames import Address
from deployments.dispatch.socket_transport import AGAIN_S, DirectTransport
from deployments.dispatch.wire import Call, Reply
from deployments.replica.socket_server import ReplicaServer
from router.steps import ReplicaCounters

WAIT_S = 30.0


def call(*lengths: int) -> Call:
    ids = np.concatenate(
        [np.full(length, index + 1, np.int32) for index, length in enumerate(lengths)]
    )
    return Call(ids, np.array(lengths, np.int32), None, "document", [None] * len(lengths))


class Replica:
    """A replica whose engine waits until it is told to go on; every vector holds its text's first
    id.
    """

    def __init__(self, name: str) -> None:
        self.name, self.go_on, self.arrived = name, asyncio.Event(), asyncio.Queue[Call]()
        self.error: Exception | None = None
        self.cancelled = asyncio.Event()
        self.listener = ReplicaServer(self.embed)
        self.address = Address(name, "127.0.0.1", 0, self.listener.token)

    async def start(self) -> None:
        self.address = self.address._replace(port=await self.listener.start("127.0.0.1"))

    async def embed(self, given: Call) -> Reply:
        self.arrived.put_nowait(given)
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if self.error is not None:
            raise self.error
        assert given.ids is not None
        starts = np.cumsum(given.lengths) - given.lengths
        vectors = np.repeat(given.ids[starts].astype(np.float32)[:, None], 4, axis=1)
        return Reply(
            vectors, given.lengths.tolist(), {}, self.name, 0.0, 0.0, 0, ReplicaCounters(0, 0.0)
        )


class Handles:
    """Serve's handles, as far as a transport asks them."""

    def __init__(self, *replicas: Replica) -> None:
        self.replicas = {replica.name: replica for replica in replicas}
        self.sent: list[str] = []
        self.running: dict[str, int] = dict.fromkeys(self.replicas, 0)
        self.counted_calls = 0
        self.asked = asyncio.Queue[str]()

    async def send(self, model: str, call: Call, replica: str) -> Reply:
        self.sent.append(replica)
        return await self.replicas[replica].embed(call)

    async def wake(self, model: str) -> None:
        """Nothing sleeps here."""

    async def address(self, model: str, replica: str) -> Address | None:
        self.asked.put_nowait(replica)
        return self.replicas[replica].address

    @contextmanager
    def counted(self, model: str, replica: str) -> Iterator[None]:
        self.running[replica] += 1
        self.counted_calls += 1
        try:
            yield
        finally:
            self.running[replica] -= 1


async def until(true: Callable[[], object]) -> None:
    """Wait for what another end of a socket makes true."""
    async with asyncio.timeout(WAIT_S):
        while not true():  # noqa: ASYNC110  # the other end has no event for it
            await asyncio.sleep(0)


async def connected(
    *replicas: Replica, again_s: float = AGAIN_S
) -> tuple[DirectTransport, Handles]:
    handles = Handles(*replicas)
    transport = DirectTransport(handles, again_s)
    transport.replicas_changed("m", [replica.name for replica in replicas])
    await until(
        lambda: (
            all(replica.listener.callers for replica in replicas)
            and len(transport.lines) == len(replicas)
        )
    )
    return transport, handles
