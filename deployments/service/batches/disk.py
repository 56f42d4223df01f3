"""What files and batches are stored with: names that sort by time, writes that are whole or not
there, and locks that end with their process.
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
    """`file-` or `batch_` and 32 hexadecimal digits; a later one is greater."""
    return f"{prefix}{int(now * 1000):012x}{secrets.token_hex(10)}"


def is_id(text: str) -> bool:
    """Whether this could be the id of a file or a batch: nothing else becomes a path."""
    return _ID.fullmatch(text) is not None


def made(folder: Path) -> Path:
    """The folder, which is there from now on; only the service's user may look into it."""
    if not folder.parent.exists():
        made(folder.parent)
    folder.mkdir(mode=ONLY_OWNER, exist_ok=True)
    return folder


def of_key(folder: Path, key: str) -> Path:
    """The part of a folder that belongs to one key; other keys never look there."""
    return folder / (key or OPEN)


async def to_the_end(function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Call it in a thread, and wait for its end even where the caller is cancelled: afterwards what
    it writes to may be closed, or belong to another router.
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
        running.exception()  # nobody else looks at it
        raise cancelled
    return running.result()


def write_whole(path: Path, content: bytes) -> None:
    """Put `content` in the place of what was there, at once; it outlives the machine's power."""
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
    """Let new names in a folder outlive the machine's power."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def names_in(folder: Path, descending: bool = True) -> list[str]:
    """The ids in a folder, newest first."""
    try:
        found = [entry for entry in os.listdir(folder) if is_id(entry)]
    except FileNotFoundError:
        return []
    return sorted(found, key=lambda name: name[-32:], reverse=descending)


class Lock:
    """A lock on a file, held until `release` or the end of this process, however that comes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    @classmethod
    def take(cls, path: Path, wait: bool = False) -> "Lock | None":
        """The lock; None while another holder has it, unless the caller waits for that."""
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "rb")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.close()
            return None
        return cls(file)

    def release(self) -> None:
        """Let the next one have it."""
        self._file.close()

    @classmethod
    @contextmanager
    def held(cls, path: Path) -> "Iterator[None]":
        """Wait for the lock, and have it for as long as the block runs."""
        lock = cls.take(path, wait=True)
        assert lock is not None, "it was waited for"
        try:
            yield
        finally:
            lock.release()


class Appended:
    """A file of one writer, that grows by whole pieces."""

    def __init__(self, path: Path, keep: int | None = None) -> None:
        """Keeps the first bytes of a file that is there; None: all of them."""
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self._file = os.fdopen(handle, "r+b", buffering=0)
        try:
            self._end = os.fstat(handle).st_size if keep is None else keep
            self._file.truncate(self._end)
        except OSError:
            self.close()
            raise

    def append(self, piece: bytes) -> None:
        """Write all of it, or nothing; raises OSError, and ValueError once it is closed."""
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
        """Let it outlive the machine's power."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Write no more."""
        self._file.close()


class Gently:
    """Lets other threads run between the steps of a long one: while it holds the interpreter,
    requests wait.
    """

    BUSY_S = REST_S = 0.0005

    def __init__(self) -> None:
        self._since_s = time.monotonic()

    def step(self) -> None:
        """Rest, if it is time to."""
        if time.monotonic() - self._since_s >= self.BUSY_S:
            time.sleep(self.REST_S)
            self._since_s = time.monotonic()


def lines_of(path: Path, most_bytes: int) -> Iterator[tuple[int, bytes]]:
    """The lines of an input file that are not blank, from 1; of a longer one only its beginning,
    which is longer than `most_bytes` too.
    """
    gently = Gently()
    with path.open("rb") as stream:
        number = 0
        while line := stream.readline(most_bytes + 2):
            number += 1
            yet = line
            while not yet.endswith(b"\n") and (yet := stream.readline(most_bytes + 2)):
                pass
            gently.step()
            if stripped := line.strip():
                yield number, stripped
