"""A transport that a test works by hand: calls stay open until the test answers, fails or loses
them.
"""

import asyncio
from dataclasses import dataclass, field

import numpy as np

from deployments.dispatch.transport import ConnectionLost, ReplicaLost
from deployments.dispatch.wire import Call, Failure, Reply
from deployments.engines.base import EngineOverloaded
from router.steps import Counters


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
        """The first token id of each text, by which a test knows it."""
        assert self.call.ids is not None
        starts = np.concatenate([[0], np.cumsum(self.call.lengths)[:-1]])
        return [int(self.call.ids[start]) for start in starts]

    def answer(
        self, failed: dict[int, Failure] | None = None, stamps: tuple[float, ...] = ()
    ) -> None:
        """Every vector holds its text's first token id."""
        rows = np.repeat(np.array(self.firsts, np.float32)[:, None], self.width, axis=1)
        tokens = [int(length) for length in self.call.lengths]
        counters = Counters(0, 0.0)
        self.future.set_result(
            Reply(rows, tokens, failed or {}, self.replica, 0.0, 0.0, 0, counters, None, stamps)
        )

    def lose(self) -> None:
        """The replica died."""
        self.future.set_exception(ReplicaLost("killed"))

    def hang_up(self) -> None:
        """The line to the replica broke."""
        self.future.set_exception(ConnectionLost("broken"))

    def fail(self) -> None:
        """The engine raised something."""
        self.future.set_exception(ValueError("poison"))

    def refuse(self, retry_after_s: float) -> None:
        """What is behind the engine takes no more for now."""
        self.future.set_exception(EngineOverloaded("429", retry_after_s))


@dataclass
class HandTransport:
    """Keeps what was sent; `open` are the calls that wait for their answer."""

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
        """Answer what is open, and what is sent when that is answered."""
        await settle()
        while self.open:
            for call in self.open:
                call.answer()
            await settle()


async def settle() -> None:
    """Let everything run that can run now."""
    for _ in range(20):
        await asyncio.sleep(0)
