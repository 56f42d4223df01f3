"""The two output files of a batch. Lines are appended whole, and read again by a router that takes
over after another one died.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from deployments.service.batches.disk import Appended, Gently, lines_of
from deployments.service.batches.store import ERRORS, OUTPUT, Place
from router.batch_lines import not_run_line, number_of, read_line
from router.batches import Counts, Ending


class Result(NamedTuple):
    """The result of one line."""

    number: int
    succeeded: bool
    line: bytes


class Results:
    """Both output files of a batch, open in the one router that runs it."""

    def __init__(self, place: Place) -> None:
        """Read which lines are done, and cut off an incomplete last line."""
        self.done: set[int] = set()
        self._files: list[Appended] = []
        counts = []
        try:
            for name in (OUTPUT, ERRORS):
                before = len(self.done)
                self._files.append(self._opened(place.folder / name))
                counts.append(len(self.done) - before)
        except BaseException:
            self.close()
            raise
        self.counts = Counts(*counts)

    def _opened(self, path: Path) -> Appended:
        """Open a file, and cut off everything after its last complete line."""
        whole = 0
        if path.exists():
            for number, size in _whole_lines(path):
                self.done.add(number)
                whole += size
        return Appended(path, whole)

    def add(self, results: Iterable[Result]) -> None:
        """Append results. Raises OSError at the first that cannot be written whole."""
        gently = Gently()
        for number, succeeded, line in results:
            self._files[0 if succeeded else 1].append(line)
            self.done.add(number)
            completed, failed = self.counts
            self.counts = Counts(completed + succeeded, failed + (not succeeded))
            gently.step()

    def add_not_run(self, source: Path, max_bytes: int, ending: Ending) -> None:
        """Append an error for every line of the input that is not done."""
        for number, raw in lines_of(source, max_bytes):
            if number not in self.done:
                custom_id, _ = read_line(raw)
                self.add([Result(number, False, not_run_line(number, custom_id, ending))])

    def sync(self) -> None:
        """Make the added lines survive a power failure."""
        for file in self._files:
            file.sync()

    def close(self) -> None:
        """Close both files."""
        for file in self._files:
            file.close()


def _whole_lines(path: Path) -> Iterator[tuple[int, int]]:
    """Number and size of each line before the first incomplete one."""
    gently = Gently()
    with path.open("rb") as stream:
        for line in stream:
            number = number_of(line)
            if number is None:
                return
            yield number, len(line)
            gently.step()
