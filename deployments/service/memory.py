"""Return the memory of large requests to the system.

The allocator keeps freed memory, in one arena for each thread that allocated. The memory of one
text of megabytes would otherwise be kept until the router ends.
"""

import asyncio
import ctypes
from contextlib import suppress

LARGE = 1_000_000  # characters or bytes, from which memory is returned
AFTER_S = 1.0  # so that many large requests cause one trim

_waiting: set[asyncio.AbstractEventLoop] = set()


def give_back(size: int) -> None:
    """Return free memory soon after something of this size; a small one costs a comparison."""
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
