"""Whether the reader of an answer keeps up.

A reader's system confirms bytes in steps, not as its program reads them: up to about 200 kB at a
time. So what a reader takes counts as time for the next step.
"""

import fcntl
import struct
import termios
from asyncio import WriteTransport
from contextlib import suppress

MIN_BYTES_PER_S = 1000  # that a reader must take on average
PATIENCE = 4  # times `limits.send_timeout_s`: the longest wait for one step


def unread(transport: WriteTransport) -> int:
    """The bytes of an answer that the reader's system has not confirmed."""
    waiting = transport.get_write_buffer_size()
    own = transport.get_extra_info("socket")
    with suppress(OSError, ValueError, AttributeError):  # closed, or without this count
        (sent,) = struct.unpack("i", fcntl.ioctl(own.fileno(), termios.TIOCOUTQ, bytes(4)))
        waiting += sent
    return waiting


class Pace:
    """The seconds that a reader can continue without reading anything."""

    def __init__(self, stall_s: float) -> None:
        self.look_s = stall_s / 4  # how often to look
        self._left_s, self._max_s = stall_s, PATIENCE * stall_s

    def late(self, taken: int, passed_s: float) -> bool:
        """Whether the reader is too slow, after it took `taken` bytes in `passed_s`."""
        self._left_s = min(self._max_s, self._left_s - passed_s + taken / MIN_BYTES_PER_S)
        return self._left_s <= 0
