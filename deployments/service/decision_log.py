"""Writes the decision log on a separate thread (router/decision_log.py defines the format).

A request costs the event loop one append. Every line is one write to a file opened for appending,
so the routers of a machine can share a file. A file that reaches `max_bytes` is renamed to PATH.1
and replaces the previous one, so a log takes at most twice that. The renaming router locks the
file, so that no second router renames it again.

A line that was only partly written, because the disk is full, is removed from the file and written
again once there is room. Until then requests wait in memory; those beyond its bound are only
counted. Writers hold a shared lock; the one that removes a partial line holds an exclusive one.
"""

import errno
import fcntl
import logging
import os
import secrets
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

from router import config
from router.decision_log import DecisionContext, LogEntry, entry_line, lost_line, setting_line

WRITE_EVERY_S = 0.2
MAX_WAITING = 20_000  # requests in memory; beyond it the newest are counted and not written

log = logging.getLogger("ray.serve")


class DecisionLog:
    """An open log file; call `add` from one thread, and `close` at the end."""

    def __init__(
        self,
        path: Path,
        max_bytes: int,
        router: str,
        write: Callable[[int, bytes], int] = os.write,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        """Create the folder and the file. Raises OSError when they cannot be written."""
        self._path, self._max_bytes, self._router = path, max_bytes, router
        self._write_bytes, self._max_waiting = write, max_waiting
        self.waiting: deque[tuple[DecisionContext, LogEntry]] = deque()
        self._unsaid = 0  # lost requests that the next line must report
        self.lost = 0  # requests that are not in the file
        self.failures = 0  # writes that failed
        self._failing = False
        self._settings: dict[str | None, DecisionContext] = {}  # the last one written, by arm
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._open()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="decision-log", daemon=True)
        self._thread.start()

    def add(self, context: DecisionContext, entry: LogEntry) -> None:
        """Queue one request; the thread writes it after at most `WRITE_EVERY_S`."""
        if self._stopped.is_set():
            return
        if len(self.waiting) < self._max_waiting:
            self.waiting.append((context, entry))
        else:
            self.lost += 1
            self._unsaid += 1

    def close(self) -> None:
        """Write the queued requests and close the file."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stopped.wait(WRITE_EVERY_S):
                self._try_to_write()
            self._try_to_write()
            if self.waiting:
                log.error(
                    "the decision log %s ends without its last %d requests",
                    self._path,
                    len(self.waiting),
                )
                self.lost += len(self.waiting)
                self.waiting.clear()
        finally:
            os.close(self._file)

    def _try_to_write(self) -> None:
        try:
            self._write()
        except OSError as error:
            self.failures += 1
            if not self._failing:
                log.error(
                    "the decision log %s cannot be written (%s); its requests wait and it is tried "
                    "again every %g s",
                    self._path,
                    error,
                    WRITE_EVERY_S,
                )
            self._failing = True
        else:
            if self._failing:
                log.warning("the decision log %s is written again", self._path)
            self._failing = False

    def _write(self) -> None:
        while self.waiting:
            context, entry = self.waiting[0]
            self._make_room()
            router = self._router if context.arm is None else f"{self._router}-{context.arm}"
            if context is not self._settings.get(context.arm):
                self._append(setting_line(context, router))
                self._settings[context.arm] = context
            self._append(entry_line(entry, context, router))
            self.waiting.popleft()
        if self._unsaid:
            unsaid = self._unsaid
            self._append(lost_line(unsaid, self._router))
            self._unsaid -= unsaid

    def _append(self, line: bytes) -> None:
        """Write one whole line, or nothing. Raises OSError."""
        fcntl.flock(self._file, fcntl.LOCK_SH)
        try:
            written = self._write_bytes(self._file, line)
            if written < len(line):
                end = os.lseek(self._file, 0, os.SEEK_CUR)
                self._take_back(end - written, end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def _take_back(self, start: int, end: int) -> None:
        """Remove a partial line; if another router has written after it, end the line instead."""
        fcntl.flock(self._file, fcntl.LOCK_EX)
        if os.fstat(self._file).st_size == end:
            os.ftruncate(self._file, start)
        else:
            self._write_bytes(self._file, b"\n")

    def _make_room(self) -> None:
        """Switch to a new file if this one is full; rename it unless another router did."""
        if os.fstat(self._file).st_size < self._max_bytes:
            return
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            if self._path.exists() and os.path.samestat(os.fstat(self._file), self._path.stat()):
                self._path.replace(self._path.with_name(self._path.name + ".1"))
            full, self._file, self._settings = self._file, self._open(), {}
        except OSError:
            fcntl.flock(self._file, fcntl.LOCK_UN)
            raise
        os.close(full)  # which also releases the lock

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def open_log(settings: config.DecisionLogConfig, base_dir: str | None) -> DecisionLog:
    """Open the configured log, with a random name for this router. Raises OSError when it cannot be
    written.
    """
    path = Path(base_dir or ".") / Path(settings.path).expanduser()  # keeps an absolute path
    return DecisionLog(path, settings.max_bytes, secrets.token_hex(4))
