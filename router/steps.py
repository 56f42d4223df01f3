"""The steps of one replica, as its replies show them.

A reply carries the replica's counters: the tokens that it served and the seconds in which it had
work. What both gained since the end of the step before is one step, without the time in which its
calls waited for that one. A step can answer several calls. It is complete when the replica holds
nothing more, or when a reply comes that belongs to a later step.
"""

from typing import NamedTuple

SAME_STEP = 0.2  # of a step's time: replies that follow its first one so soon belong to it
MAX_MIXED = 10  # steps in a row with calls of other routers, after which these count too


class ReplicaCounters(NamedTuple):
    """The counters of a replica since its start, from its replies."""

    served_tokens: int
    busy_s: float


class Step(NamedTuple):
    """The texts of one step, or of one call in it, and the seconds that it took."""

    tokens: int
    tokens_sq: int
    seconds: float
    texts: int


class Steps:
    """Finds the steps of one replica in its replies to this router."""

    __slots__ = ("_before", "_gained_s", "_known", "_last", "_mixed", "_open")

    def __init__(self) -> None:
        self._before = self._last = ReplicaCounters(0, 0.0)  # when `_open` began; in the last reply
        self._open: Step | None = None  # with the calls that were answered so far
        self._known = True  # whether `_open` began at `_before`
        self._gained_s = 0.0  # busy seconds until `_open` ended, since the reply before it
        self._mixed = 0

    def replied(self, call: Step, counters: ReplicaCounters, alone: bool, idle: bool) -> list[Step]:
        """Add the reply to a call that was at the replica for `call.seconds`; returns the steps
        that are complete.

        `alone`: the replica had no other work when the call was sent. `idle`: it has none now.
        """
        found = list[Step]()
        before = self._last
        if counters.served_tokens < before.served_tokens or counters.busy_s < before.busy_s:
            # it started again
            self._open, self._last = None, ReplicaCounters(0, 0.0)
        gained = counters.served_tokens - self._last.served_tokens
        if self._open is None:
            self._begin(call, counters, alone, gained)
        elif counters.busy_s - self._before.busy_s > (1.0 + SAME_STEP) * self._open.seconds:
            found += self._complete()
            self._begin(call, counters, alone, gained)
        else:
            tokens, tokens_sq, seconds, texts = self._open
            self._open = Step(
                tokens + call.tokens, tokens_sq + call.tokens_sq, seconds, texts + call.texts
            )
        self._last = counters
        return found + self._complete() if idle else found

    def _begin(self, call: Step, counters: ReplicaCounters, alone: bool, gained: int) -> None:
        """Open the step of this reply."""
        served = self._last.served_tokens
        # calls that were cancelled made the replica busy, too
        self._gained_s = counters.busy_s - self._last.busy_s
        seconds, self._known = min(self._gained_s, call.seconds), True
        if self._last == (0, 0.0) and gained != call.tokens:
            # it served others before this router's first call
            seconds = self._gained_s = call.seconds
            self._known = alone
            served = counters.served_tokens - call.tokens
        self._before = ReplicaCounters(served, counters.busy_s - seconds)
        self._open = Step(call.tokens, call.tokens_sq, seconds, call.texts)

    def _complete(self) -> list[Step]:
        """The open step, if its texts and its time are known."""
        step, self._open = self._open, None
        if step is None:
            return []
        served = self._last.served_tokens - self._before.served_tokens
        # it ended before its first reply
        ended_s = self._before.busy_s + step.seconds
        self._last = ReplicaCounters(self._last.served_tokens, ended_s)
        if not self._known:
            return []
        if served <= step.tokens:
            self._mixed = 0
            return [step]
        self._mixed += 1
        if self._mixed <= MAX_MIXED:
            return []
        if self._gained_s > step.seconds:  # it answered steps without calls of this router, too
            served = max(step.tokens, round(served * step.seconds / self._gained_s))
        times = served / max(step.tokens, 1)
        return [
            Step(served, round(step.tokens_sq * times), step.seconds, round(step.texts * times))
        ]
