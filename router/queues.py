"""The waiting chunks of one model: small and large ones, interactive before bulk, keys in turn.

Small chunks share a call, a large one has a call of its own. The ledger counts the interactive
ones. Bulk is sent if nothing interactive waits, and otherwise in its guaranteed share of the time
(router/fair.py), so that it finishes under any load. A cancelled chunk stops counting at once and
leaves the queue when its turn comes.

Pure: times are arguments.
"""

from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import Generic

from router.calls import LARGE, SMALL, BulkSize, C, DispatchCounters, DispatchLimits
from router.errors import DeadlineExceeded, RouterError
from router.fair import BulkShare, FairQueue
from router.feedback import Feedback
from router.ledger import Ledger

_is_bulk = attrgetter("bulk")


def bulk_size(limits: DispatchLimits, feedback: Feedback) -> BulkSize:
    """The limit of a call with bulk in it, by the current curve of the model."""
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
        self._queues: tuple[tuple[FairQueue[C], FairQueue[C]], ...] = tuple(
            (FairQueue[C](), FairQueue[C]()) for _ in (SMALL, LARGE)
        )
        self._share = BulkShare(limits.bulk_share)
        self.bulk = ledger.bulk(model)
        self._small = [0, 0]  # tokens of small chunks: interactive, bulk
        # interactive tokens of each kind that can go to no replica with room now
        self.stuck = [0, 0]

    @property
    def tokens(self) -> int:
        """The tokens of all waiting chunks, bulk included."""
        return self._ledger.waiting_tokens(self.model) + self.bulk.tokens

    @property
    def small_tokens(self) -> int:
        """Tokens of small chunks that can share the next call: bulk only if nothing else waits."""
        interactive, bulk = self._small
        return interactive or bulk

    def put(self, chunk: C, front: bool = False) -> None:
        """Queue the chunk behind the others of its kind, or before them."""
        queue = self._queues[chunk.kind][chunk.bulk]
        if front:
            queue.appendleft(chunk)
        else:
            queue.append(chunk)
        chunk.waiting = True
        if chunk.kind is SMALL:
            self._small[chunk.bulk] += chunk.tokens
        if chunk.bulk:
            self.bulk.add(chunk.tokens, chunk.sender)
        else:
            self._ledger.queued(self.model, chunk.tokens, chunk.sender)

    def uncount(self, chunk: C) -> None:
        """Stop counting the chunk as waiting; a second call changes nothing."""
        if chunk.waiting:
            chunk.waiting = False
            if chunk.kind is SMALL:
                self._small[chunk.bulk] -= chunk.tokens
            if chunk.bulk:
                self.bulk.remove(chunk.tokens, chunk.sender)
            else:
                self._ledger.unqueued(self.model, chunk.tokens, chunk.sender)

    def waits(self, kind: int, now: float) -> bool:
        """Whether a live chunk of this kind waits that can go to some replica; drops dead ones in
        front, of interactive work and of bulk, so that `first` is alive.
        """
        interactive, bulk = self._queues[kind]
        bulk_lives = bulk.count > 0 and self._lives(bulk, now)
        if interactive.count and self._lives(interactive, now):
            return True
        return bulk_lives and (not self._interactive_waits or self._due(kind))

    def first(self, kind: int) -> C:
        """The chunk that goes next to a replica without interactive work. Raises LookupError if no
        chunk waits.
        """
        for queue in self._in_order(kind, True):
            if (chunk := queue.first()) is not None:
                return chunk
        raise LookupError(f"no chunk waits for {self.model}")

    def set_aside(self, kind: int, replica: str) -> list[C]:
        """Take out the chunks in front that `replica` failed; they still count as waiting."""
        found = []
        for queue in self._queues[kind]:
            while (chunk := queue.first()) is not None and chunk.failed_at == replica:
                found.append(queue.popleft())
        self.stuck[kind] = sum(chunk.tokens for chunk in found if chunk.waiting and not chunk.bulk)
        return found

    def needs_free(self, chunk: C) -> bool:
        """Whether this chunk, the next one, is bulk that is not due: it goes only where it delays
        nothing.
        """
        return chunk.bulk and not self._due(chunk.kind)

    def called(self, chunks: Sequence[C], seconds: float, free: bool) -> None:
        """Record that the taken chunks occupy a replica for this long; `free`: it has no
        interactive work of this router.
        """
        tokens = bulk = 0
        for chunk in chunks:
            tokens += chunk.tokens
            bulk += chunk.tokens if chunk.bulk else 0
        if not bulk:
            self._share.sent(seconds, 0.0, False, self.bulk.tokens > 0)
            return
        bulk_s = seconds * bulk / max(1, tokens)
        beside = not free or bulk < tokens or self._interactive_waits
        if beside:
            self._share.turn = chunks[0].kind
        self._share.sent(seconds - bulk_s, bulk_s, beside, self.bulk.tokens > 0)

    @property
    def _interactive_waits(self) -> bool:
        return self._ledger.waiting_tokens(self.model) > sum(self.stuck)

    def _due(self, kind: int) -> bool:
        """Whether bulk of this kind can go beside interactive work: it is bulk's turn, and not that
        of the other kind.
        """
        share = self._share
        return share.due and not (share.turn == kind and self._queues[1 - kind][1].count)

    def _in_order(self, kind: int, free: bool) -> tuple[FairQueue[C], ...]:
        """The queues that a call takes chunks from now, in order."""
        interactive, bulk = self._queues[kind]
        if not bulk.count:
            return (interactive,)
        if self._due(kind):
            return bulk, interactive
        return (bulk,) if free and not self._interactive_waits else (interactive,)

    def _lives(self, queue: FairQueue[C], now: float) -> bool:
        while (chunk := queue.first()) is not None:
            if self._alive(chunk, now):
                return True
            self._next(queue)
        return False

    def put_back(self, aside: list[C]) -> None:
        """Put chunks back in front, in the order that they had there."""
        for chunk in reversed(aside):
            self._queues[chunk.kind][chunk.bulk].appendleft(chunk)

    def take_large(self, now: float, free: bool) -> list[C]:
        """Take one chunk for a replica (`free` as for `called`), or none if none can go there."""
        for queue in self._in_order(LARGE, free):
            while (chunk := queue.first()) is not None:
                alive = self._alive(chunk, now)  # first: a key pays for no dead chunk
                self._next(queue)
                if alive:
                    return [chunk]
        return []

    def take_small(self, now: float, exclude_failed_at: str | None, free: bool) -> list[C]:
        """Take small chunks for one call, as many as it can carry: interactive first, or bulk if it
        is due; `free` as for `called`.

        All are of one group. No chunk that the replica `exclude_failed_at` failed joins the first.
        """
        chunks: list[C] = []
        max_tokens, max_rows, max_bytes = self._limits.call_size
        size = bulk_size(self._limits, self._feedback) if self.bulk.tokens else None
        tokens = rows = text_bytes = bulk_sq = 0
        for queue in self._in_order(SMALL, free):
            while (chunk := queue.first()) is not None:
                count, texts = tokens + chunk.tokens, rows + len(chunk.lengths)
                if chunk.bulk and size is not None:
                    bulk_sq += chunk.tokens_sq(size.attention_tokens)
                if chunks and (
                    count > max_tokens
                    or texts > max_rows
                    or text_bytes + chunk.text_bytes > max_bytes
                    or chunk.group != chunks[0].group
                    or (exclude_failed_at is not None and chunk.failed_at == exclude_failed_at)
                    or (chunk.bulk and size is not None and size.exceeded(count, bulk_sq, texts))
                ):
                    return self._interactive_first(chunks)
                alive = self._alive(chunk, now)
                self._next(queue)
                if alive:
                    chunks.append(chunk)
                    tokens, rows = count, texts
                    text_bytes += chunk.text_bytes
        return self._interactive_first(chunks)

    def _interactive_first(self, chunks: list[C]) -> list[C]:
        """Put interactive chunks first; bulk that was due was taken first, so that it had room."""
        return sorted(chunks, key=_is_bulk) if chunks and chunks[0].bulk else chunks

    def take_all(self) -> Iterator[C]:
        """Take every chunk, dead or alive."""
        for pair in self._queues:
            for queue in pair:
                while queue.count:
                    yield self._next(queue)

    def _next(self, queue: FairQueue[C]) -> C:
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
