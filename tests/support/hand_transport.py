"""A transport controlled by the test: calls stay open until the test answers or loses them."""

import asyncio
from dataclasses import dataclass, field

import numpy as np

from deployments.dispatch.transport import ConnectionLost, ReplicaLost
from deployments.dispatch.wire import Call, Failure, Reply
from deployments.engines.base import EngineOverloaded
from router.steps import ReplicaCounters


@dataclass(eq=False)
class OpenCall:
    """One call that the dispatcher sent."""

    model: str
    call: Call
    replica: str
    width: int
    future: "asyncio.Future[Reply]"
    cancelled: bool = False

    @property
    def firsts(self) -> list[int]:
        """The first token id of each text, which identifies it in tests."""
        assert self.call.ids is not None
        starts = np.concatenate([[0], np.cumsum(self.call.lengths)[:-1]])
        return [int(self.call.ids[start]) for start in starts]

    def answer(
        self, failed: dict[int, Failure] | None = None, stamps: tuple[float, ...] = ()
    ) -> None:
        """Answer with vectors that hold their text's first token id."""
        rows = np.repeat(np.array(self.firsts, np.float32)[:, None], self.width, axis=1)
        tokens = [int(length) for length in self.call.lengths]
        counters = ReplicaCounters(0, 0.0)
        self.future.set_result(
            Reply(rows, tokens, failed or {}, self.replica, 0.0, 0.0, 0, counters, None, stamps)
        )

    def lose(self) -> None:
        """Report that the replica died."""
        self.future.set_exception(ReplicaLost("killed"))

    def hang_up(self) -> None:
        """The connection broke."""
        self.future.set_exception(ConnectionLost("broken"))

    def fail(self) -> None:
        """Report an error of the engine."""
        self.future.set_exception(ValueError("poison"))

    def refuse(self, retry_after_s: float) -> None:
        """The server behind the engine is overloaded."""
        self.future.set_exception(EngineOverloaded("429", retry_after_s))


@dataclass
class HandTransport:
    """Records calls; `open` are the calls without an answer."""

    width: int = 4
    woken: list[str] = field(default_factory=list)
    sent: list[OpenCall] = field(default_factory=list)

    @property
    def open(self) -> list[OpenCall]:
        return [call for call in self.sent if not call.future.done()]

    async def send(self, model: str, call: Call, replica: str) -> Reply:
        sent = OpenCall(
            model, call, replica, self.width, asyncio.get_running_loop().create_future()
        )
        self.sent.append(sent)
        try:
            return await sent.future
        except asyncio.CancelledError:
            sent.cancelled = True
            raise

    async def wake(self, model: str) -> None:
        self.woken.append(model)

    async def answer_all(self) -> None:
        """Answer open calls until none is left."""
        await settle()
        while self.open:
            for call in self.open:
                call.answer()
            await settle()


async def settle() -> None:
    """Run the loop until it is idle."""
    for _ in range(20):
        await asyncio.sleep(0)
