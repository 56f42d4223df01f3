"""What files and batches are stored with: names that sort by time, writes that are whole or not
there, and locks that end with their process.
"""

import errno
import fcntl
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

ONLY_OWNER = 0o700
OPEN = "_"  # the folder of callers without a key; the name of a key begins with a letter or digit
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


def write_whole(path: Path, content: bytes, durable: bool = True) -> None:
    """Put `content` in the place of what was there, at once; `durable`: it outlives the machine's
    power.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(file, "wb") as stream:
            stream.write(content)
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    if durable:
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
    def take(cls, path: Path) -> "Lock | None":
        """The lock; None while another holder has it."""
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "rb")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        return cls(file)

    def release(self) -> None:
        """Let the next one have it."""
        self._file.close()


class Appended:
    """A file of one writer, that grows by whole pieces."""

    def __init__(self, path: Path, keep: int = 0) -> None:
        """Keeps the first bytes of a file that is there."""
        self._file, self._end = os.open(path, os.O_RDWR | os.O_CREAT, 0o600), keep
        os.ftruncate(self._file, keep)

    def append(self, piece: bytes) -> None:
        """Write all of it, or nothing; raises OSError."""
        written = 0
        try:
            while written < len(piece):
                more = os.pwrite(self._file, piece[written:], self._end + written)
                if not more:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                written += more
        except OSError:
            os.ftruncate(self._file, self._end)
            raise
        self._end += len(piece)

    def sync(self) -> None:
        """Let it outlive the machine's power."""
        os.fsync(self._file)

    def close(self) -> None:
        """Write no more."""
        os.close(self._file)


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
