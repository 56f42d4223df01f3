"""The running average of what one collection's queries keep of its best search.

A native answer in the best space counts as 1, an encoder's answer as the recall it was measured to
keep. A query counts less as more queries follow it, so that a quiet night does not pay for a whole
day.

    average   recall kept / queries, both fading by e^(-1/window) a query
    admitted  recall >= floor, or average >= floor

An answer below the floor is booked when it is decided, any other answer once it is given. So the
average is never below the floor by more than one request, with any number in flight:
floor * queries - kept <= queries of one request * (floor - recall of its encoder).

Pure: no clock, no randomness.
"""

import math
from typing import NamedTuple

WINDOW = 1000.0  # queries
ROUNDING = 1e-9  # tolerance for sums of floats


class Booking(NamedTuple):
    """A booked request below the floor; it is taken back if it is not answered."""

    recall: float
    queries: int
    at: float  # queries counted so far


class RunningRecall:
    """The average of one collection in one router."""

    __slots__ = ("_counted", "floor", "kept", "queries", "window")

    def __init__(self, floor: float, window: float = WINDOW) -> None:
        self.floor, self.window = floor, window
        self.kept = self.queries = self._counted = 0.0

    @property
    def average(self) -> float | None:
        """Recall kept by the last queries; None before the first one."""
        return min(1.0, self.kept / self.queries) if self.queries else None

    @property
    def low(self) -> bool:
        """Whether encoders that keep less than the floor must wait."""
        return self.kept < (self.floor - ROUNDING) * self.queries

    def decided(self, recall: float, queries: int) -> Booking | None:
        """Book a request below the floor that goes to an encoder; None if it is counted only when
        answered.
        """
        if recall >= self.floor:
            return None
        self._count(recall, queries)
        return Booking(recall, queries, self._counted)

    def answered(self, recall: float, queries: int) -> None:
        """Count an answered request that was not booked."""
        self._count(recall, queries)

    def take_back(self, booking: Booking) -> None:
        """Take back a booked request that was not answered."""
        left = math.exp((booking.at - self._counted) / self.window) * booking.queries
        self.kept = max(0.0, self.kept - booking.recall * left)
        self.queries = max(0.0, self.queries - left)

    def _count(self, recall: float, queries: int) -> None:
        fade = math.exp(-queries / self.window)
        self.kept = fade * self.kept + recall * queries
        self.queries = fade * self.queries + queries
        self._counted += queries
