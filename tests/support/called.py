"""Count function calls without changing the functions."""

import sys
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any


class Called:
    """Counts of calls of some Python functions on this thread within a block."""

    def __init__(self, **functions: Callable[..., Any]) -> None:
        self._names = {function.__code__: name for name, function in functions.items()}
        self._counts: Counter[str] = Counter()

    def __enter__(self) -> "Called":
        self._before = sys.getprofile()
        sys.setprofile(self._count)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(self._before)

    def taken(self) -> dict[str, int]:
        """The counts since the last time."""
        counts, self._counts = self._counts, Counter()
        return {name: counts[name] for name in self._names.values()}

    def _count(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call" and (name := self._names.get(frame.f_code)) is not None:
            self._counts[name] += 1
