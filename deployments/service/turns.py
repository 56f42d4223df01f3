"""Turns on the event loop for the long steps of large requests.

One step of a request with 2,048 texts takes some milliseconds. When many such requests arrive at
once, all their steps would run in one pass of the loop, and a short request waits for every one of
them at each of its own steps. With turns a pass has one of them.
"""

import asyncio
from collections.abc import Callable

LARGE_TEXTS = 256  # a step of fewer takes less than a millisecond


class Turns:
    """First come, first served."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._steps: set[asyncio.Task[None]] = set()  # the event loop holds tasks weakly

    async def next(self) -> None:
        """Return when no other step is due in this pass of the loop."""
        async with self._turn:
            await asyncio.sleep(0)

    async def run(self, step: Callable[[], None]) -> None:
        """Run `step` in its turn, even if the caller leaves before that."""
        await asyncio.shield(self.later(step))

    def later(self, step: Callable[[], None]) -> asyncio.Task[None]:
        """Run `step` in its turn, without waiting for it."""
        task = asyncio.create_task(self._run(step))
        self._steps.add(task)
        task.add_done_callback(self._steps.discard)
        return task

    async def _run(self, step: Callable[[], None]) -> None:
        await self.next()
        step()
