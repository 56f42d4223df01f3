"""The chunks of one model that wait in a router: small and large ones, of each the interactive
before the bulk.

Small chunks share a call, a large one has a call of its own. The ledger counts what is interactive;
bulk goes last, so it delays no other request. A cancelled chunk stops counting at once and leaves
the queue when its turn comes.

Pure: times are arguments.
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic

from router.calls import LARGE, SMALL, BulkSize, C, DispatchCounters, DispatchLimits
from router.errors import DeadlineExceeded, RouterError
from router.feedback import Feedback
from router.ledger import Ledger


def bulk_size(limits: DispatchLimits, feedback: Feedback) -> BulkSize:
    """What a call with bulk in it may take, as the model's curve is known now."""
    curve, bias = feedback.model.curve, feedback.correction.bias
    return BulkSize(curve, bias, limits.bulk_call_s, limits.attention_tokens)


class Queues(Generic[C]):
    """The chunks of one model that wait in this router."""

    def __init__(
        self,
        model: str,
        limits: DispatchLimits,
        feedback: Feedback,
        ledger: Ledger,
        counters: DispatchCounters,
        fail: Callable[[C, RouterError], None],
    ) -> None:
        """`fail` ends a chunk whose deadline passed while it waited."""
        self.model, self._limits, self._feedback = model, limits, feedback
        self._ledger, self._counters, self._fail = ledger, counters, fail
        self._queues: tuple[tuple[deque[C], deque[C]], ...] = tuple(
            (deque[C](), deque[C]()) for _ in (SMALL, LARGE)
        )
        self.bulk_tokens = 0
        self.small_tokens = 0  # of small chunks, bulk ones too

    @property
    def tokens(self) -> int:
        """All that wait, bulk too."""
        return self._ledger.waiting_tokens(self.model) + self.bulk_tokens

    def put(self, chunk: C, front: bool = False) -> None:
        """Queue the chunk behind the others of its kind, or before them."""
        queue = self._queues[chunk.kind][chunk.bulk]
        if front:
            queue.appendleft(chunk)
        else:
            queue.append(chunk)
        chunk.waiting = True
        if chunk.kind is SMALL:
            self.small_tokens += chunk.tokens
        if chunk.bulk:
            self.bulk_tokens += chunk.tokens
        else:
            self._ledger.queued(self.model, chunk.tokens)

    def uncount(self, chunk: C) -> None:
        """Count the chunk no longer among what waits; a second call changes nothing."""
        if chunk.waiting:
            chunk.waiting = False
            if chunk.kind is SMALL:
                self.small_tokens -= chunk.tokens
            if chunk.bulk:
                self.bulk_tokens -= chunk.tokens
            else:
                self._ledger.unqueued(self.model, chunk.tokens)

    def waits(self, kind: int, now: float) -> bool:
        """Whether a live chunk of this kind waits; dead ones in front are dropped on the way."""
        for queue in self._queues[kind]:
            while queue:
                if self._alive(queue[0], now):
                    return True
                self._next(queue)
        return False

    def first(self, kind: int) -> C:
        """The chunk that goes next; one waits."""
        interactive, bulk = self._queues[kind]
        return (interactive or bulk)[0]

    def set_aside(self, kind: int, replica: str) -> list[C]:
        """Take out the chunks in front that `replica` failed; they still count as waiting."""
        found = []
        for queue in self._queues[kind]:
            while queue and queue[0].failed_at == replica:
                found.append(queue.popleft())
        return found

    def put_back(self, aside: list[C]) -> None:
        """Put them in front again, in the order in which they stood there."""
        for chunk in reversed(aside):
            self._queues[chunk.kind][chunk.bulk].appendleft(chunk)

    def take_large(self, now: float) -> list[C]:
        """One chunk, or none where all are dead."""
        for queue in self._queues[LARGE]:
            while queue:
                chunk = self._next(queue)
                if self._alive(chunk, now):
                    return [chunk]
        return []

    def take_small(self, now: float, exclude_failed_at: str | None) -> list[C]:
        """Small chunks for one call: interactive first, as many as the call may carry.

        All are of one group. No chunk that the replica `exclude_failed_at` failed joins the first.
        """
        chunks: list[C] = []
        most_tokens, most_rows, most_bytes = self._limits.call_size
        size = bulk_size(self._limits, self._feedback) if self.bulk_tokens else None
        tokens = rows = text_bytes = bulk_sq = 0
        for queue in self._queues[SMALL]:
            while queue:
                chunk = queue[0]
                count, texts = tokens + chunk.tokens, rows + len(chunk.lengths)
                if chunk.bulk and size is not None:
                    bulk_sq += chunk.tokens_sq(size.attention_tokens)
                if chunks and (
                    count > most_tokens
                    or texts > most_rows
                    or text_bytes + chunk.text_bytes > most_bytes
                    or chunk.group != chunks[0].group
                    or (exclude_failed_at is not None and chunk.failed_at == exclude_failed_at)
                    or (chunk.bulk and size is not None and size.exceeded(count, bulk_sq, texts))
                ):
                    return chunks
                self._next(queue)
                if self._alive(chunk, now):
                    chunks.append(chunk)
                    tokens, rows = count, texts
                    text_bytes += chunk.text_bytes
        return chunks

    def take_all(self) -> Iterator[C]:
        """Every chunk, dead or alive."""
        for pair in self._queues:
            for queue in pair:
                while queue:
                    yield self._next(queue)

    def _next(self, queue: deque[C]) -> C:
        chunk = queue.popleft()
        self.uncount(chunk)
        return chunk

    def _alive(self, chunk: C, now: float) -> bool:
        if chunk.done:
            self._counters.dropped += 1
            return False
        if chunk.deadline_s is not None and now >= chunk.deadline_s:
            self._counters.dropped += 1
            self._fail(chunk, DeadlineExceeded(chunk.deadline_s - chunk.queued_s))
            return False
        return True
