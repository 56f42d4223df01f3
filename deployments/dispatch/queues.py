"""What waits in one lane: small chunks and large ones, of each kind the interactive before the
bulk.

Small chunks share a call, a large one has a call of its own. The ledger is told of what is
interactive; bulk goes after everybody else, so nobody's wait grows by it. A chunk that its caller
took back stops counting at once, wherever it stands, and leaves the queue when its turn comes.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from deployments.dispatch.chunks import Chunk
from deployments.dispatch.wire import MESSAGE_BYTES, max_rows
from router.errors import DeadlineExceeded
from router.ledger import Ledger

SMALL, LARGE = 0, 1  # kinds of chunks, and of the calls that carry them


@dataclass(slots=True)
class Counters:
    """What a lane has done, for metrics and tests."""

    calls: int = 0
    retries: int = 0
    dropped: int = 0
    cancelled_calls: int = 0
    wakes: int = 0  # times that a replica was asked for where there was none


class Queues:
    """The chunks of one model that wait in this router."""

    def __init__(
        self,
        model: str,
        batch_tokens: int,
        dimensions: int,
        ledger: Ledger,
        counters: Counters,
        clock: Callable[[], float],
    ) -> None:
        self._model, self._batch_tokens, self._most_rows = model, batch_tokens, max_rows(dimensions)
        self._ledger, self._counters, self._clock = ledger, counters, clock
        self._queues = tuple((deque[Chunk](), deque[Chunk]()) for _ in (SMALL, LARGE))
        self.bulk_tokens = 0
        self.small_tokens = 0  # of small chunks, bulk ones too

    @property
    def tokens(self) -> int:
        """All that wait, bulk too."""
        return self._ledger.waiting_tokens(self._model) + self.bulk_tokens

    def put(self, chunk: Chunk, front: bool = False) -> None:
        """Let it wait, behind the others or before them."""
        queue = self._of(chunk)
        if front:
            queue.appendleft(chunk)
        else:
            queue.append(chunk)
        chunk.waiting = True
        if chunk.small:
            self.small_tokens += chunk.tokens
        if chunk.bulk:
            self.bulk_tokens += chunk.tokens
        else:
            self._ledger.queued(self._model, chunk.tokens)

    def uncount(self, chunk: Chunk) -> None:
        """It waits no longer; saying so twice changes nothing."""
        if chunk.waiting:
            chunk.waiting = False
            if chunk.small:
                self.small_tokens -= chunk.tokens
            if chunk.bulk:
                self.bulk_tokens -= chunk.tokens
            else:
                self._ledger.unqueued(self._model, chunk.tokens)

    def waits(self, kind: int) -> bool:
        """Whether a live chunk of this kind waits; dead ones in front are dropped on the way."""
        for queue in self._queues[kind]:
            while queue:
                if self._alive(queue[0]):
                    return True
                self._next(queue)
        return False

    def first(self, kind: int) -> Chunk:
        """The chunk that goes next; one waits."""
        interactive, bulk = self._queues[kind]
        return (interactive or bulk)[0]

    def set_aside(self, kind: int, replica: str) -> list[Chunk]:
        """Take out the chunks in front that `replica` failed; they still count as waiting."""
        found = []
        for queue in self._queues[kind]:
            while queue and queue[0].failed_at == replica:
                found.append(queue.popleft())
        return found

    def put_back(self, aside: list[Chunk]) -> None:
        """In front again, in the order in which they stood there."""
        for chunk in reversed(aside):
            self._of(chunk).appendleft(chunk)

    def take_large(self) -> list[Chunk]:
        """One, or none where all are dead."""
        for queue in self._queues[LARGE]:
            while queue:
                chunk = self._next(queue)
                if self._alive(chunk):
                    return [chunk]
        return []

    def take_small(self, but_of: str | None) -> list[Chunk]:
        """Small chunks for one call: interactive first, up to one batch, message and reply.

        Those of text are all of one side, for its engine writes the prompt, which token ids hold
        already. Behind the first none joins that the replica `but_of` failed.
        """
        chunks: list[Chunk] = []
        tokens = rows = size = 0
        for queue in self._queues[SMALL]:
            while queue:
                chunk = queue[0]
                if chunks and (
                    tokens + chunk.tokens > self._batch_tokens
                    or rows + len(chunk.lengths) > self._most_rows
                    or size + chunk.size > MESSAGE_BYTES
                    or (chunk.texts is not None and chunk.input_type != chunks[0].input_type)
                    or (but_of is not None and chunk.failed_at == but_of)
                ):
                    return chunks
                self._next(queue)
                if self._alive(chunk):
                    chunks.append(chunk)
                    tokens, rows, size = (
                        tokens + chunk.tokens,
                        rows + len(chunk.lengths),
                        size + chunk.size,
                    )
        return chunks

    def take_all(self) -> Iterator[Chunk]:
        """Every chunk, dead or alive."""
        for pair in self._queues:
            for queue in pair:
                while queue:
                    yield self._next(queue)

    def _of(self, chunk: Chunk) -> deque[Chunk]:
        return self._queues[SMALL if chunk.small else LARGE][chunk.bulk]

    def _next(self, queue: deque[Chunk]) -> Chunk:
        chunk = queue.popleft()
        self.uncount(chunk)
        return chunk

    def _alive(self, chunk: Chunk) -> bool:
        if chunk.future.done():
            self._counters.dropped += 1
            return False
        if chunk.deadline_s is not None and self._clock() >= chunk.deadline_s:
            self._counters.dropped += 1
            chunk.fail(DeadlineExceeded(chunk.deadline_s - chunk.queued_s))
            return False
        return True
