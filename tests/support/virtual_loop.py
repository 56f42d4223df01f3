"""A service on an event loop with a virtual clock, with engines that sleep."""

import asyncio
import selectors
from typing import Any

import numpy as np

from deployments.dispatch.wire import Call, Reply
from router.domain import Curve
from router.steps import ReplicaCounters


class Jumping(selectors.DefaultSelector):
    """Adds the time that the loop would wait to its clock, without waiting."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(None if timeout is None else 0)
        if not ready and timeout:
            self.now_s += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on a virtual clock."""

    def __init__(self) -> None:
        self.jumping = Jumping()
        super().__init__(self.jumping)

    def time(self) -> float:
        return self.jumping.now_s


class SleepingReplicas:
    """A transport to replicas whose engines sleep as their curves say, one call after another."""

    def __init__(self, curves: dict[str, Curve], dimensions: int, loop: VirtualLoop) -> None:
        self._curves, self._dimensions, self._loop = curves, dimensions, loop
        self._turns: dict[str, asyncio.Lock] = {}
        self._held: dict[str, int] = {}
        self._served: dict[str, int] = {}
        self._busy_s: dict[str, float] = {}

    async def step(self, model: str, seconds: float) -> None:
        """Run a step of this duration on its own device."""
        await asyncio.sleep(seconds)

    async def send(self, model: str, call: Call, replica: str) -> Reply:
        turn = self._turns.setdefault(replica, asyncio.Lock())
        tokens, arrived_s = int(call.lengths.sum()), self._loop.time()
        self._held[replica] = self._held.get(replica, 0) + tokens
        async with turn:
            started_s = self._loop.time()
            lengths = call.lengths.astype(np.int64)
            squares = int((lengths * lengths).sum())
            await self.step(model, self._curves[model].step(tokens, squares, len(lengths)))
        now = self._loop.time()
        self._held[replica] -= tokens
        self._served[replica] = self._served.get(replica, 0) + tokens
        self._busy_s[replica] = self._busy_s.get(replica, 0.0) + now - started_s
        vectors = np.zeros((len(lengths), self._dimensions), np.float32)
        vectors[:, 0] = 1.0
        counters = ReplicaCounters(self._served[replica], self._busy_s[replica])
        waited_s, took_s = started_s - arrived_s, now - started_s
        counts = lengths.tolist()
        return Reply(vectors, counts, {}, replica, waited_s, took_s, self._held[replica], counters)

    async def wake(self, model: str) -> None:
        """Do nothing: replicas are always awake."""


def sized_text(number: int, tokens: int) -> str:
    """Return a text of its own for each number, of so many estimated tokens (without a tokenizer,
    a word of two letters and its space are one).
    """
    words = list[str]()
    for _ in range(tokens):
        words.append(chr(97 + number % 26) + chr(97 + number // 26 % 26))
        number //= 26 * 26
    return " ".join(words) + " "
