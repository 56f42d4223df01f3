"""Who goes next where several keys wait, and how much of a model bulk gets beside what is
interactive.

    FairQueue   start-time fair queueing (Goyal, Vin and Cheng, 1996): each key's next chunk has a
                start tag, the lowest goes first, and sending t tokens moves the key's tag by
                t / weight. Of two keys that both wait, neither is ahead of its share by more than
                its largest chunk. A key that sent nothing saves up nothing.
    BulkShare   bulk goes to replicas that have nothing interactive in hand. Beside interactive work
                it goes when that has had (1 - share) / share times as long as bulk took: the share
                is exact to one call.

Pure: nothing here reads a clock.
"""

from collections import deque
from heapq import heappop, heappush, heapreplace
from itertools import count
from typing import Generic, NamedTuple, Protocol, TypeVar


class Sender(NamedTuple):
    """Whose work it is: an API key, and its weight against the others."""

    key: str = ""
    weight: float = 1.0


ANY_SENDER = Sender()


class Queued(Protocol):
    """What a queue reads of a chunk."""

    sender: Sender
    tokens: int
    done: bool  # it has ended, and is passed over


F = TypeVar("F", bound=Queued)


class _Flow(Generic[F]):
    """What one key has waiting."""

    __slots__ = ("chunks", "start")

    def __init__(self, start: float) -> None:
        self.chunks: deque[F] = deque()
        self.start = start


class FairQueue(Generic[F]):
    """The chunks of one kind: those put back in front, then each key's in turn."""

    __slots__ = ("_flows", "_front", "_heap", "_now", "_numbers")

    def __init__(self) -> None:
        self._front: deque[F] = deque()
        self._flows: dict[str, _Flow[F]] = {}
        self._heap: list[tuple[float, int, _Flow[F]]] = []  # flows with chunks
        self._numbers = count()
        self._now = 0.0  # the start tag of what went last

    def __bool__(self) -> bool:
        return bool(self._front or self._heap)

    def append(self, chunk: F) -> None:
        """Behind the others of its key."""
        flow = self._flows.get(chunk.sender.key)
        if flow is None:
            flow = self._flows[chunk.sender.key] = _Flow(self._now)
        if not flow.chunks:
            flow.start = max(flow.start, self._now)
            heappush(self._heap, (flow.start, next(self._numbers), flow))
        flow.chunks.append(chunk)

    def appendleft(self, chunk: F) -> None:
        """In front of all; it was charged when it first went."""
        self._front.append(chunk)

    def first(self) -> F:
        """The chunk that goes next; there is one."""
        return self._front[-1] if self._front else self._heap[0][2].chunks[0]

    def popleft(self) -> F:
        """Take it out, and charge its key, unless it is dead."""
        if self._front:
            return self._front.pop()
        start, _, flow = self._heap[0]
        chunk = flow.chunks.popleft()
        self._now = start
        if not chunk.done:
            flow.start += chunk.tokens / chunk.sender.weight
        if flow.chunks:
            heapreplace(self._heap, (flow.start, next(self._numbers), flow))
        else:
            heappop(self._heap)
            if not self._heap:  # nobody waits, so nobody is ahead
                self._flows.clear()
                self._now = 0.0
        return chunk


class Waiting:
    """Tokens that wait, by key."""

    __slots__ = ("_by_key", "_weights", "tokens")

    def __init__(self) -> None:
        self.tokens = 0
        self._by_key: dict[str, list[float]] = {}  # tokens, weight
        self._weights = 0.0

    def add(self, tokens: int, sender: Sender) -> None:
        """They wait now."""
        self.tokens += tokens
        own = self._by_key.get(sender.key)
        if own is None:
            self._by_key[sender.key] = [tokens, sender.weight]
            self._weights += sender.weight
        else:
            own[0] += tokens

    def remove(self, tokens: int, sender: Sender) -> None:
        """They wait no longer."""
        if not tokens:
            return
        self.tokens -= tokens
        own = self._by_key[sender.key]
        own[0] -= tokens
        if own[0] <= 0:
            del self._by_key[sender.key]
            self._weights = self._weights - own[1] if self._by_key else 0.0

    def before(self, sender: Sender | None, calls: int = 0) -> int:
        """Tokens that go before the next one of this key or with it: those of its own that wait,
        what the others send in their turns meanwhile, and the `calls` tokens of the calls that
        leave next, which take what they can carry. None: all.
        """
        if sender is None or self.tokens <= calls:
            return self.tokens
        own = self._by_key.get(sender.key)
        if own is None:
            return calls
        if len(self._by_key) == 1:
            return self.tokens
        return min(self.tokens, calls + int(own[0] * self._weights / own[1]))


class BulkShare:
    """What bulk took beside interactive work, in seconds of a replica."""

    __slots__ = ("_call_s", "_debt_s", "_share", "turn")

    def __init__(self, share: float) -> None:
        self._share, self._debt_s = share, 0.0
        self._call_s = 0.0  # that the last call took of bulk
        self.turn: int | None = None  # the kind of chunks that last went ahead of interactive ones

    @property
    def due(self) -> bool:
        """Whether bulk may go although there is interactive work."""
        return self._share > 0.0 and self._debt_s <= 0.0

    def sent(self, interactive_s: float, bulk_s: float, beside: bool, waits: bool) -> None:
        """A call takes these seconds of each; `beside`: interactive work waits for it or is where
        it goes; `waits`: there is more bulk. Time that was free counts for one call at most, and so
        do turns that bulk could not take because its calls had no slot.
        """
        if bulk_s:
            self._call_s = bulk_s
            self._debt_s = self._debt_s + bulk_s if beside else max(self._debt_s, bulk_s)
        if interactive_s and self._share > 0.0:
            paid_s = interactive_s * self._share / (1.0 - self._share)
            least_s = -2.0 * self._call_s if waits else 0.0
            self._debt_s = max(least_s, self._debt_s - paid_s)
