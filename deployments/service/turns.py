"""Turns on the event loop for the long steps of large requests.

One step of a request with 2,048 texts takes some milliseconds. When many such requests arrive at
once, all their steps would run in one pass of the loop, and a short request waits for every one of
them at each of its own steps. With turns a pass has one of them.
"""

import asyncio

LARGE_TEXTS = 256  # a step of fewer takes less than a millisecond


class Turns:
    """First come, first served."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def next(self) -> None:
        """Return when no other step is due in this pass of the loop."""
        async with self._turn:
            await asyncio.sleep(0)
