"""Fair queueing between keys, and bulk's guaranteed share of a model.

    FairQueue   start-time fair queueing (Goyal, Vin and Cheng, 1996): each key's next chunk has a
                start tag, the lowest goes first, and sending t tokens moves the key's tag by
                t / weight. While two keys wait, neither is ahead of its share by more than its
                largest chunk. An idle key saves up no credit.
    BulkShare   bulk goes to replicas without interactive work. Beside interactive work it goes when
                interactive work has had (1 - share) / share times as long as bulk: the share is
                exact to one call.

Pure: nothing here reads a clock.
"""

import math
from collections import deque
from heapq import heappop, heappush, heapreplace
from itertools import count
from typing import Generic, NamedTuple, Protocol, TypeVar


class Sender(NamedTuple):
    """The sender of work: an API key, and its weight against other keys."""

    key: str = ""
    weight: float = 1.0


ANY_SENDER = Sender()


class Queued(Protocol):
    """The attributes of a chunk that a queue reads."""

    sender: Sender
    tokens: int
    done: bool  # it has ended and is skipped


F = TypeVar("F", bound=Queued)


class _Flow(Generic[F]):
    """The waiting chunks of one key."""

    __slots__ = ("chunks", "start")

    def __init__(self, start: float) -> None:
        self.chunks: deque[F] = deque()
        self.start = start


class FairQueue(Generic[F]):
    """The chunks of one kind: those put back in front, then those of the keys in fair order."""

    __slots__ = ("_flows", "_front", "_heap", "_now", "_numbers", "count")

    def __init__(self) -> None:
        self.count = 0  # chunks in it
        self._front: deque[F] = deque()
        self._flows: dict[str, _Flow[F]] = {}
        self._heap: list[tuple[float, int, _Flow[F]]] = []  # flows with chunks
        self._numbers = count()
        self._now = 0.0  # the start tag of the last chunk that was taken

    def append(self, chunk: F) -> None:
        """Add a chunk behind the others of its key."""
        flow = self._flows.get(chunk.sender.key)
        if flow is None:
            flow = self._flows[chunk.sender.key] = _Flow(self._now)
        if not flow.chunks:
            flow.start = max(flow.start, self._now)
            heappush(self._heap, (flow.start, next(self._numbers), flow))
        flow.chunks.append(chunk)
        self.count += 1

    def appendleft(self, chunk: F) -> None:
        """Put a chunk back in front of all others; it was charged when it was first taken."""
        self._front.append(chunk)
        self.count += 1

    def first(self) -> F | None:
        """The next chunk; None if there is none."""
        if self._front:
            return self._front[-1]
        return self._heap[0][2].chunks[0] if self._heap else None

    def popleft(self) -> F:
        """Take out the next chunk and charge its key, unless the chunk has ended. Raises IndexError
        if there is none.
        """
        if self._front:
            self.count -= 1
            return self._front.pop()
        start, _, flow = self._heap[0]
        self.count -= 1
        chunk = flow.chunks.popleft()
        self._now = start
        if not chunk.done:
            flow.start += chunk.tokens / chunk.sender.weight
        if flow.chunks:
            heapreplace(self._heap, (flow.start, next(self._numbers), flow))
        else:
            heappop(self._heap)
            if not self._heap:  # no key waits, so none is ahead
                self._flows.clear()
                self._now = 0.0
        return chunk


class WaitingTokens:
    """Waiting tokens by key."""

    __slots__ = ("_by_key", "_weights", "tokens")

    def __init__(self) -> None:
        self.tokens = 0
        self._by_key: dict[str, list[float]] = {}  # tokens, weight
        self._weights = 0.0

    def add(self, tokens: int, sender: Sender) -> None:
        """Count tokens that start to wait."""
        if not tokens:  # an entry without tokens would never be removed
            return
        self.tokens += tokens
        own = self._by_key.get(sender.key)
        if own is None:
            self._by_key[sender.key] = [tokens, sender.weight]
            self._weights += sender.weight
        else:
            own[0] += tokens

    def remove(self, tokens: int, sender: Sender) -> None:
        """Count tokens that no longer wait."""
        if not tokens:
            return
        self.tokens -= tokens
        own = self._by_key[sender.key]
        own[0] -= tokens
        if own[0] <= 0:
            del self._by_key[sender.key]
            self._weights = self._weights - own[1] if self._by_key else 0.0

    def before(self, sender: Sender | None, calls: int = 0) -> int:
        """Tokens that are sent before this key's next one or with it (`sender` None: all).

        These are its own waiting tokens, the tokens that other keys send in the meantime, and the
        `calls` tokens that the next calls carry in any case.
        """
        if sender is None or self.tokens <= calls:
            return self.tokens
        own = self._by_key.get(sender.key)
        if own is None:
            return calls
        if len(self._by_key) == 1:
            return self.tokens
        return min(self.tokens, calls + int(own[0] * self._weights / own[1]))

    def until(self, tokens: int, sender: Sender | None) -> int:
        """Tokens that are sent until `tokens` more of this key have been sent: these, its waiting
        ones, and those of other keys in the meantime (`sender` None: all).
        """
        every = self.tokens + tokens
        if sender is None:
            return every
        waiting, weight = self._by_key.get(sender.key, (0.0, sender.weight))
        weights = self._weights if sender.key in self._by_key else self._weights + weight
        return min(every, math.ceil((waiting + tokens) * weights / weight))


class BulkShare:
    """Bulk's use of replicas while interactive work waits, in seconds of a replica."""

    __slots__ = ("_call_s", "_debt_s", "_share", "turn")

    def __init__(self, share: float) -> None:
        self._share, self._debt_s = share, 0.0
        self._call_s = 0.0  # bulk's part of the last call with bulk
        self.turn: int | None = None  # the kind of chunks that last went ahead of interactive ones

    @property
    def due(self) -> bool:
        """Whether bulk can be sent although there is interactive work."""
        return self._share > 0.0 and self._debt_s <= 0.0

    def sent(self, interactive_s: float, bulk_s: float, beside: bool, waits: bool) -> None:
        """Account for a call with these seconds of interactive work and bulk.

        `beside`: interactive work waits for the call or is at its replica. `waits`: there is more
        bulk. Free time counts for one call at most, and so do turns that bulk could not take
        because its calls had no slot.
        """
        if bulk_s:
            self._call_s = bulk_s
            self._debt_s = self._debt_s + bulk_s if beside else max(self._debt_s, bulk_s)
        if interactive_s and self._share > 0.0:
            paid_s = interactive_s * self._share / (1.0 - self._share)
            min_s = -2.0 * self._call_s if waits else 0.0
            self._debt_s = max(min_s, self._debt_s - paid_s)
