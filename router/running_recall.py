"""What the queries of one collection keep of its best search, on average, as they are answered.

A native answer of the best space counts 1, an encoder's what it was measured to keep. An encoder
that keeps less than the floor may answer only while the average is not below it. Each query counts
less the more queries came after it, so that a quiet night does not pay for a whole day.

    average   recall kept / queries, both fading by e^(-1/window) a query
    admitted  recall >= floor, or average >= floor

An answer below the floor is booked when it is decided, another one when it was given. So the
average is never below the floor by more than one request, however many are under way:
floor * queries - kept <= queries of one request * (floor - recall of its encoder).

Pure: no clock, no randomness.
"""

import math
from typing import NamedTuple

WINDOW = 1000.0  # queries
ROUNDING = 1e-9  # by which sums of floats may be off


class Booking(NamedTuple):
    """One request below the floor, to be taken back where it is not answered."""

    recall: float
    queries: int
    at: float  # queries counted so far


class RunningRecall:
    """The average of one collection in one router."""

    __slots__ = ("_counted", "_kept", "_queries", "floor", "window")

    def __init__(self, floor: float, window: float = WINDOW) -> None:
        self.floor, self.window = floor, window
        self._kept = self._queries = self._counted = 0.0

    @property
    def average(self) -> float | None:
        """Recall kept by the last queries; None before the first one."""
        return min(1.0, self._kept / self._queries) if self._queries else None

    @property
    def low(self) -> bool:
        """Whether encoders that keep less than the floor must wait."""
        return self._kept < (self.floor - ROUNDING) * self._queries

    def decided(self, recall: float, queries: int) -> Booking | None:
        """A request goes to an encoder; None where nothing is booked before it is answered."""
        if recall >= self.floor:
            return None
        self._count(recall, queries)
        return Booking(recall, queries, self._counted)

    def answered(self, recall: float, queries: int) -> None:
        """A request that was not booked is answered."""
        self._count(recall, queries)

    def take_back(self, booking: Booking) -> None:
        """A request that was booked is not answered."""
        left = math.exp((booking.at - self._counted) / self.window) * booking.queries
        self._kept = max(0.0, self._kept - booking.recall * left)
        self._queries = max(0.0, self._queries - left)

    def _count(self, recall: float, queries: int) -> None:
        fade = math.exp(-queries / self.window)
        self._kept = fade * self._kept + recall * queries
        self._queries = fade * self._queries + queries
        self._counted += queries
