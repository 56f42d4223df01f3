"""Storage primitives of files and batches: ids that sort by time, atomic writes, and locks that
end with their process.
"""

import asyncio
import errno
import fcntl
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, ParamSpec, TypeVar

ONLY_OWNER = 0o700
OPEN = "_"  # the folder of callers without a key; the name of a key begins with a letter or digit
P = ParamSpec("P")
R = TypeVar("R")
_ID = re.compile(r"[a-z]+[-_][0-9a-f]{32}")


def new_id(prefix: str, now: float) -> str:
    """Create an id: `prefix` and 32 hexadecimal digits; later ids sort after earlier ones."""
    return f"{prefix}{int(now * 1000):012x}{secrets.token_hex(10)}"


def is_id(text: str) -> bool:
    """Whether `text` has the form of a file or batch id; only such a text is used in a path."""
    return _ID.fullmatch(text) is not None


def made(folder: Path) -> Path:
    """Create the folder, if needed, for the service's user only, and return it."""
    if not folder.parent.exists():
        made(folder.parent)
    folder.mkdir(mode=ONLY_OWNER, exist_ok=True)
    return folder


def of_key(folder: Path, key: str) -> Path:
    """The subfolder of one key; it is never read for another key."""
    return folder / (key or OPEN)


async def to_the_end(function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Call `function` in a thread and wait for its end, even if the caller is cancelled. Only after
    that can its files be closed or be taken over by another router.
    """
    call = partial(function, *args, **kwargs)
    running = asyncio.get_running_loop().run_in_executor(None, call)
    cancelled: asyncio.CancelledError | None = None
    while not running.done():
        try:
            await asyncio.wait({running})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        running.exception()  # retrieve it, or asyncio logs it
        raise cancelled
    return running.result()


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file's content atomically; the new content survives a power failure."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(file, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make new names in a folder survive a power failure."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def names_in(folder: Path, descending: bool = True) -> list[str]:
    """The ids in a folder, newest first if `descending`."""
    try:
        found = [entry for entry in os.listdir(folder) if is_id(entry)]
    except FileNotFoundError:
        return []
    return sorted(found, key=lambda name: name[-32:], reverse=descending)


class Lock:
    """A lock on a file, held until `release` or until this process exits or is killed."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    @classmethod
    def take(cls, path: Path, wait: bool = False) -> "Lock | None":
        """Take the lock. Without `wait`, return None if another holder has it."""
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "rb")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.close()
            return None
        return cls(file)

    def release(self) -> None:
        """Release the lock."""
        self._file.close()

    @classmethod
    @contextmanager
    def held(cls, path: Path) -> "Iterator[None]":
        """Wait for the lock, and hold it while the block runs."""
        lock = cls.take(path, wait=True)
        assert lock is not None, "it was waited for"
        try:
            yield
        finally:
            lock.release()


class Appended:
    """A file with one writer, to which only whole pieces are appended."""

    def __init__(self, path: Path, keep: int | None = None) -> None:
        """Keep the first `keep` bytes of an existing file; None keeps all of them."""
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self._file = os.fdopen(handle, "r+b", buffering=0)
        try:
            self._end = os.fstat(handle).st_size if keep is None else keep
            self._file.truncate(self._end)
        except OSError:
            self.close()
            raise

    def append(self, piece: bytes) -> None:
        """Write all of `piece` or nothing. Raises OSError, and ValueError after `close`."""
        handle, written = self._file.fileno(), 0
        try:
            while written < len(piece):
                more = os.pwrite(handle, piece[written:], self._end + written)
                if not more:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                written += more
        except OSError:
            os.ftruncate(handle, self._end)
            raise
        self._end += len(piece)

    def sync(self) -> None:
        """Make the written pieces survive a power failure."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Gently:
    """Lets other threads run between the steps of a long task: requests wait while it holds the
    interpreter.
    """

    BUSY_S = REST_S = 0.0005

    def __init__(self) -> None:
        self._since_s = time.monotonic()

    def step(self) -> None:
        """Sleep for `REST_S` if `BUSY_S` has passed since the last rest."""
        if time.monotonic() - self._since_s >= self.BUSY_S:
            time.sleep(self.REST_S)
            self._since_s = time.monotonic()


def lines_of(path: Path, max_bytes: int) -> Iterator[tuple[int, bytes]]:
    """The non-blank lines of an input file, numbered from 1. A line over `max_bytes` is cut, but
    stays over it.
    """
    gently = Gently()
    with path.open("rb") as stream:
        number = 0
        while line := stream.readline(max_bytes + 2):
            number += 1
            yet = line
            while not yet.endswith(b"\n") and (yet := stream.readline(max_bytes + 2)):
                pass
            gently.step()
            if stripped := line.strip():
                yield number, stripped
