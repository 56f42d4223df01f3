"""Bound the batch work in flight in one router, so that other requests do not wait behind it and
answers fit in memory.
"""

import asyncio
from typing import NamedTuple

MAX_TEXTS = 2048  # vectors of 4096 dimensions in JSON are 100 MB
MAX_BYTES = 8 * 1024 * 1024  # of input


class Weight(NamedTuple):
    """The size of one line of a batch."""

    texts: int
    size: int  # bytes


class InFlightSlot:
    """One line's place among the lines in flight, entered once or repeatedly; a second `leave` does
    nothing.
    """

    def __init__(self, limit: "InFlightLimit", weight: Weight) -> None:
        self._limit, self._weight, self._inside = limit, weight, False

    async def enter(self) -> None:
        """Wait until there is room."""
        await self._limit.enter(self._weight)
        self._inside = True

    def leave(self) -> None:
        """Release the room."""
        if self._inside:
            self._inside = False
            self._limit.leave(self._weight)


class InFlightLimit:
    """Lines in flight. Waiting lines are admitted in order, and a line of any size is admitted if
    none is in flight.
    """

    def __init__(self, max_lines: int) -> None:
        self._max_lines = max_lines
        self.lines = self._texts = self._size = 0
        self._turn = asyncio.Lock()
        self._left = asyncio.Event()

    async def enter(self, weight: Weight) -> None:
        """Wait until there is room, and take it; `leave` releases it."""
        async with self._turn:
            while self.lines and not self._fits(weight):
                self._left.clear()
                await self._left.wait()
            self.lines += 1
            self._texts += weight.texts
            self._size += weight.size

    def leave(self, weight: Weight) -> None:
        """Release the room of a line."""
        self.lines -= 1
        self._texts -= weight.texts
        self._size -= weight.size
        self._left.set()

    def _fits(self, weight: Weight) -> bool:
        return (
            self.lines < self._max_lines
            and self._texts + weight.texts <= MAX_TEXTS
            and self._size + weight.size <= MAX_BYTES
        )
