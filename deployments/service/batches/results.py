"""The lines of a batch's two output files: appended whole, read again by the router that goes on
after another one died.
"""

import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from deployments.service.batches.disk import Gently, lines_of
from deployments.service.batches.store import ERRORS, OUTPUT, Place
from router.batch_lines import not_run_line, number_of, read_line
from router.batches import Counts, Ending


class Result(NamedTuple):
    """One line that has ended."""

    number: int
    succeeded: bool
    line: bytes


class Results:
    """Both files of a batch, open for the one router that runs it."""

    def __init__(self, place: Place) -> None:
        """Reads which lines are done, and cuts off half a line at an end."""
        self.done: set[int] = set()
        self._files: list[_Appended] = []
        counts = []
        try:
            for name in (OUTPUT, ERRORS):
                before = len(self.done)
                self._files.append(_Appended(place.folder / name, self.done))
                counts.append(len(self.done) - before)
        except BaseException:
            self.close()
            raise
        self.counts = Counts(*counts)

    def add(self, results: Iterable[Result]) -> None:
        """Append these; raises OSError with none of those that did not fit."""
        gently = Gently()
        for number, succeeded, line in results:
            self._files[0 if succeeded else 1].append(line)
            self.done.add(number)
            completed, failed = self.counts
            self.counts = Counts(completed + succeeded, failed + (not succeeded))
            gently.step()

    def add_not_run(self, source: Path, most_bytes: int, ending: Ending) -> None:
        """Append an error for every line of the input that is not done."""
        for number, raw in lines_of(source, most_bytes):
            if number not in self.done:
                custom_id, _ = read_line(raw)
                self.add([Result(number, False, not_run_line(number, custom_id, ending))])

    def sync(self) -> None:
        """Let what was added outlive the machine's power."""
        for file in self._files:
            file.sync()

    def close(self) -> None:
        """Close both files."""
        for file in self._files:
            file.close()


class _Appended:
    """A file of whole lines."""

    def __init__(self, path: Path, done: set[int]) -> None:
        """Adds the numbers of its lines to `done`; what follows the last whole line is cut off."""
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self._end = 0
        try:
            for number, size in _whole_lines(path):
                done.add(number)
                self._end += size
            os.ftruncate(self._file, self._end)
        except BaseException:
            os.close(self._file)
            raise

    def append(self, line: bytes) -> None:
        written = 0
        try:
            while written < len(line):
                more = os.pwrite(self._file, line[written:], self._end + written)
                if not more:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                written += more
        except OSError:
            os.ftruncate(self._file, self._end)
            raise
        self._end += len(line)

    def sync(self) -> None:
        os.fsync(self._file)

    def close(self) -> None:
        os.close(self._file)


def _whole_lines(path: Path) -> Iterator[tuple[int, int]]:
    """Number and size of each line up to the first that is not whole."""
    gently = Gently()
    with path.open("rb") as stream:
        for line in stream:
            number = number_of(line)
            if number is None:
                return
            yield number, len(line)
            gently.step()
