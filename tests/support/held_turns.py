"""Event-loop turns released by the test."""

import asyncio

from deployments.service.turns import Turns


class HeldTurns(Turns):
    """Turns that each wait for a release of `allowed`."""

    def __init__(self) -> None:
        super().__init__()
        self.allowed = asyncio.Semaphore(0)
        self.asked: asyncio.Queue[None] = asyncio.Queue()

    def allow(self, turns: int) -> None:
        for _ in range(turns):
            self.allowed.release()

    async def next(self) -> None:
        self.asked.put_nowait(None)
        await self.allowed.acquire()
        await super().next()
