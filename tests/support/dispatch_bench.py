"""One dispatcher over a transport worked by hand, on a clock that a test moves."""

import asyncio
import math
import random
from collections.abc import Callable

import numpy as np

from deployments.dispatch.chunks import Rows
from deployments.dispatch.dispatcher import ModelDispatcher
from router.domain import Curve, Model
from router.feedback import Feedback
from router.ledger import Ledger
from router.routing_config import RoutingConfig
from tests.support.hand_transport import HandTransport, settle

BATCH = 1000


SHORT = Curve(0.001, 0.001, 0.0001, 0.0, BATCH)


def feedback(curve: Curve = SHORT, cold_start_s: float | None = None) -> Feedback:
    return Feedback(Model("m", 0, 100_000, curve, {}), True, RoutingConfig(), 0.0, cold_start_s)


class Clock:
    """Seconds that only a test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class LoopClock:
    """The loop's own clock; counts how often it is read."""

    reads = 0

    def __call__(self) -> float:
        self.reads += 1
        return asyncio.get_running_loop().time()


class Bench:
    """One dispatcher, its transport, and the shorthand of the tests."""

    def __init__(
        self,
        learned: Feedback | None = None,
        clock: Callable[[], float] | None = None,
        max_queue_s: float = 1000.0,
        replica_timeout_s: float = 1000.0,
        steps: bool = True,
        bulk_call_s: float = math.inf,
    ) -> None:
        self.transport, self.clock = HandTransport(), Clock()
        self.ledger = Ledger({"m": 3})
        self.dispatcher = ModelDispatcher(
            model="m",
            dimensions=4,
            batch_tokens=BATCH,
            calls_in_flight=3,
            max_queued_tokens=50_000,
            max_queue_s=max_queue_s,
            replica_timeout_s=replica_timeout_s,
            transport=self.transport,
            ledger=self.ledger,
            feedback=learned or feedback(),
            clock=clock or self.clock,
            rng=random.Random(1),
            steps=steps,
            bulk_call_s=bulk_call_s,
        )

    def submit(
        self, first: int, *lengths: int, bulk: bool = False, deadline_s: float | None = None
    ) -> list[asyncio.Future[Rows]]:
        ids = [np.full(length, first + index, np.int32) for index, length in enumerate(lengths)]
        chunks = self.dispatcher.submit(ids, None, list(lengths), "document", deadline_s, bulk)
        return [chunk.future for chunk in chunks]

    async def occupied(self, calls: int = 3) -> None:
        """Submit so many small texts that each take a call, as the one before should be nearly
        done; so should the last be.
        """
        for index in range(calls):
            self.submit(index, 10)
            await settle()
            self.clock.now += 1.0


def firsts(rows: list[Rows]) -> list[int]:
    return [int(value) for answer in rows for value in answer.vectors[:, 0]]
