"""Admission to a model's queue in one router: it must have room, and the wait must not be too long.

Pure: times are arguments.
"""

import math
from operator import itemgetter
from typing import Any

from router.calls import DispatchLimits
from router.capacity import Demand
from router.errors import Overloaded
from router.fair import Sender
from router.feedback import Feedback
from router.ledger import Ledger
from router.queues import Queues
from router.replica_health import ReplicaSet

RETRY_AFTER_S = 1.0  # the Retry-After of an error when there is no better estimate
MAX_RETRY_AFTER_S = 60.0  # OpenAI's clients wait for no longer than 120 s, older ones 60
MIN_BULK_SHARE = 0.01  # of the capacity, if the config guarantees less


_BY_WAIT = itemgetter(1)


class Admission:
    """The bounds of one model's queue in this router."""

    def __init__(
        self,
        queues: Queues[Any],
        replicas: ReplicaSet,
        limits: DispatchLimits,
        feedback: Feedback,
        ledger: Ledger,
        now: float,
    ) -> None:
        self._queues, self._replicas, self._limits = queues, replicas, limits
        self._feedback, self._ledger = feedback, ledger
        self._interactive = Demand(now)  # it is sent before bulk

    def admit(
        self,
        tokens: int,
        deadline_s: float | None,
        bulk: bool,
        now: float,
        sender: Sender | None = None,
    ) -> None:
        """Count a request as demand.

        Raises Overloaded if this router's queue is full, or if the request would wait too long.
        """
        if (refusal := self.refusal(tokens, deadline_s, bulk, now, sender=sender)) is not None:
            raise refusal
        if not bulk:
            self._interactive.add(tokens, now)

    def refusal(
        self,
        tokens: int,
        deadline_s: float | None,
        bulk: bool,
        now: float,
        coming: tuple[int, int] = (0, 0),
        sender: Sender | None = None,
    ) -> Overloaded | None:
        """Return the error that `admit` would raise, without counting the request.

        `coming` is the interactive and bulk tokens that will arrive soon; they count as waiting.
        Work of other keys counts only if it is sent before that of `sender` (None: all of it).
        """
        before = None if bulk else sender  # bulk waits for interactive work of all keys
        same = waiting = self._ledger.waiting_tokens(self._queues.model, before) + coming[0]
        if bulk:
            same = self._queues.bulk.before(sender) + coming[1]
        ahead = waiting + same if bulk else waiting
        wait_s = self._wait_s(ahead, bulk, now)
        share = self._limits.bulk_share
        if bulk and share > 0.0:  # which no interactive work can take
            own = self._queues.bulk.until(tokens, sender) + coming[1]
            ahead, wait_s = min((ahead, wait_s), (own, self._seconds(own) / share), key=_BY_WAIT)
        left_s = math.inf if deadline_s is None else max(0.0, deadline_s - now)
        max_s = left_s if bulk else min(self._limits.max_queue_s, left_s)
        full = same > 0 and same + tokens > self._limits.max_queued_tokens
        if full or wait_s > max_s:
            room_s = self._room_s(tokens, ahead, wait_s, max_s)
            retry_after_s = min(max(RETRY_AFTER_S, room_s), MAX_RETRY_AFTER_S)
            return Overloaded(self._queues.model, retry_after_s)
        return None

    def _room_s(self, tokens: int, ahead: int, wait_s: float, max_s: float) -> float:
        """The predicted seconds until the queue is at half of both bounds, and the request fits.

        At half there is room for the others who were refused too, and the replicas still have work.
        A queue at its bound is then neither full nor empty, even if it moved half or twice as fast
        as predicted.
        """
        limit = self._limits.max_queued_tokens
        left = max(0, min(limit // 2, limit - tokens))
        return max(wait_s - max_s / 2, wait_s * (ahead - left) / ahead)

    def _wait_s(self, waiting: int, bulk: bool, now: float) -> float:
        """The predicted seconds until this many tokens are sent."""
        seconds = self._seconds(waiting)
        if seconds and bulk:  # interactive work is sent first, even if it arrives later
            rate = waiting / seconds
            minimum = max(MIN_BULK_SHARE, self._limits.bulk_share)
            return waiting / max(minimum * rate, rate - self._interactive.tokens_per_s(now))
        return seconds

    def _seconds(self, tokens: int) -> float:
        """Seconds that the replicas need for this router's tokens; 0 if no replica is ready."""
        if not tokens or not self._replicas.ready:
            return 0.0
        rate = self._feedback.tokens_per_s * len(self._replicas.ready) / self._ledger.routers
        return tokens / rate
