"""Memory that a large request took goes back to the system.

The allocator keeps what was freed, in one arena for each thread that allocated. What one text of
megabytes took would then stay until the router ends.
"""

import asyncio
import ctypes
from contextlib import suppress

LARGE = 1_000_000  # characters or bytes, from which a request is followed by this
AFTER_S = 1.0  # so that many large requests are followed by one

_waiting: set[asyncio.AbstractEventLoop] = set()


def give_back(size: int) -> None:
    """Soon after something of this size, give back what is free; a small one costs a comparison."""
    if size < LARGE:
        return
    loop = asyncio.get_running_loop()
    if loop not in _waiting:
        _waiting.add(loop)
        loop.call_later(AFTER_S, _begin, loop)


def _begin(loop: asyncio.AbstractEventLoop) -> None:
    _waiting.discard(loop)
    loop.run_in_executor(None, _trim)


def _trim() -> None:
    with suppress(AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
