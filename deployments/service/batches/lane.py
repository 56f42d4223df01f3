"""How much of all batches is in flight in one router: requests of others must find little in front
of them, and answers must fit in memory.
"""

import asyncio
from typing import NamedTuple

MOST_TEXTS = 2048  # vectors of 4096 dimensions in JSON are 100 MB
MOST_BYTES = 8 * 1024 * 1024  # of input


class Weight(NamedTuple):
    """What one line takes."""

    texts: int
    size: int  # bytes


class Turn:
    """One line's use of the lane, for a time or several; leaving twice is leaving once."""

    def __init__(self, lane: "BulkLane", weight: Weight) -> None:
        self._lane, self._weight, self._inside = lane, weight, False

    async def enter(self) -> None:
        """Wait until there is room."""
        await self._lane.enter(self._weight)
        self._inside = True

    def leave(self) -> None:
        """Give the room back."""
        if self._inside:
            self._inside = False
            self._lane.leave(self._weight)


class BulkLane:
    """Lines in flight; those that wait are let in in their order, and one alone may be of any
    size.
    """

    def __init__(self, most_lines: int) -> None:
        self._most_lines = most_lines
        self.lines = self._texts = self._size = 0
        self._turn = asyncio.Lock()
        self._left = asyncio.Event()

    async def enter(self, weight: Weight) -> None:
        """Wait until there is room; `leave` gives it back."""
        async with self._turn:
            while self.lines and not self._fits(weight):
                self._left.clear()
                await self._left.wait()
            self.lines += 1
            self._texts += weight.texts
            self._size += weight.size

    def leave(self, weight: Weight) -> None:
        """The line has ended."""
        self.lines -= 1
        self._texts -= weight.texts
        self._size -= weight.size
        self._left.set()

    def _fits(self, weight: Weight) -> bool:
        return (
            self.lines < self._most_lines
            and self._texts + weight.texts <= MOST_TEXTS
            and self._size + weight.size <= MOST_BYTES
        )
