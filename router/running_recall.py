"""The running account of what one collection's queries keep of its best search.

A native answer in the best space counts as 1, an encoder's answer as the recall it was measured to
keep. The account holds `floor` on average over all queries that were decided, in flight or
answered:

    balance    sum of (recall - floor) * queries over answered requests. Credit fades by
               e^(-1/window) a query, so that a quiet night does not pay for a whole day.
               Debt never fades.
    promised   the same sum over requests below the floor that are not answered yet
    admitted   recall >= floor, or balance + promised >= 0

A request below the floor is only admitted without debt, and fading never adds credit. So at any
time, with n queries in each request that counts and with any number in flight:

    sum of n * recall >= floor * sum of n - largest n * (floor - recall) of one request

A request that is not answered leaves no trace. The state is a few numbers.

`average` is another figure, for reports: the mean of about the last `window` answered queries.

Pure: no clock, no randomness.
"""

import math
from typing import NamedTuple

WINDOW = 1000.0  # queries
ROUNDING = 1e-6  # queries: tolerance for sums of floats


class Booking(NamedTuple):
    """A promised request below the floor: `keep` counts it, `take_back` removes it; call one of
    them, once.
    """

    recall: float
    queries: int


class RunningRecall:
    """The account of one collection in one router."""

    __slots__ = ("_kept", "_open", "_queries", "balance", "floor", "promised", "window")

    def __init__(self, floor: float, window: float = WINDOW) -> None:
        self.floor, self.window = floor, window
        self.balance = self.promised = 0.0  # in queries
        self._open = 0  # bookings
        self._kept = self._queries = 0.0  # both fade

    @property
    def average(self) -> float | None:
        """Mean recall of the last answered queries; None before the first one."""
        return min(1.0, self._kept / self._queries) if self._queries else None

    @property
    def low(self) -> bool:
        """Whether encoders that keep less than the floor must wait."""
        return self.balance + self.promised < -ROUNDING

    def decided(self, recall: float, queries: int) -> Booking | None:
        """Book a request below the floor that goes to an encoder; None if it is counted only when
        answered.
        """
        if recall >= self.floor:
            return None
        self._open += 1
        self.promised += self._beyond(recall, queries)
        return Booking(recall, queries)

    def answered(self, recall: float, queries: int) -> None:
        """Count an answered request that was not booked."""
        fade, beyond = math.exp(-queries / self.window), self._beyond(recall, queries)
        rest = self.balance + min(0.0, beyond)  # credit that is spent does not fade first
        self.balance = fade * max(0.0, rest) + min(0.0, rest) + max(0.0, beyond)
        self._kept = fade * self._kept + recall * queries
        self._queries = fade * self._queries + queries

    def keep(self, booking: Booking) -> None:
        """Count a booked request that was answered."""
        self.take_back(booking)
        self.answered(booking.recall, booking.queries)

    def take_back(self, booking: Booking) -> None:
        """Remove a booked request that was not answered."""
        self._open -= 1
        self.promised -= self._beyond(booking.recall, booking.queries)
        if not self._open:
            self.promised = 0.0  # without the rounding errors of sums

    def _beyond(self, recall: float, queries: int) -> float:
        return (recall - self.floor) * queries
