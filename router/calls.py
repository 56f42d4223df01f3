"""A dispatcher's records: chunks of requests, the calls that carry them, and calls in flight at
each replica.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from router.domain import Curve, attention
from router.fair import ANY_SENDER, Sender
from router.ledger import Dispatch

SMALL, LARGE = 0, 1  # kinds of chunks, and of the calls that carry them
SMALL_TOKENS = 512  # a chunk up to this size shares a call
SMALL_ROWS = 32
SMALL_BYTES = 65_536  # of text, which can be long but have few tokens
FEW_TEXTS = 16  # up to this number plain Python is faster than numpy
MESSAGE_BYTES = 3_500_000  # of 4 MiB; the rest is for headers, counts and pickle


@dataclass(slots=True)
class DispatchCounters:
    """Counters of a dispatcher, for metrics and tests."""

    calls: int = 0
    retries: int = 0
    dropped: int = 0
    cancelled_calls: int = 0
    wakes: int = 0  # times that a first replica was requested


class CallSize(NamedTuple):
    """The limits of one call."""

    tokens: int
    rows: int
    text_bytes: int


class BulkSize(NamedTuple):
    """The time limit of one bulk call, so that interactive texts do not wait long behind it."""

    curve: Curve
    bias: float
    seconds: float
    attention_tokens: int | None

    def exceeded(self, tokens: int, tokens_sq: int, texts: int) -> bool:
        """Whether the work is predicted to take longer than the limit."""
        return self.bias * self.curve.step(tokens, tokens_sq, texts) > self.seconds


@dataclass(slots=True, frozen=True)
class DispatchLimits:
    """The limits of a dispatcher, from the config and the engine."""

    call_size: CallSize
    calls_in_flight: int  # at each replica
    max_queued_tokens: int
    max_queue_s: float
    replica_timeout_s: float
    attention_tokens: int | None = None  # the attention span of a token, None: the whole text
    # whether an engine runs one step after another: then small chunks are gathered
    steps: bool = True
    bulk_call_s: float = math.inf  # predicted work of a call with bulk; one text can take longer
    bulk_share: float = 0.1  # of the replicas' time, reserved for bulk


@dataclass(slots=True, eq=False, kw_only=True)
class Chunk:
    """A part of one request, small enough for one engine batch. A subclass adds what it carries."""

    lengths: npt.NDArray[np.int32]  # tokens of each text
    tokens: int
    text_bytes: int = 0  # at most; 0 for token ids
    group: str | None = None  # only chunks of the same group share a call
    # digest of the common beginning of all its texts, for engines with a prefix cache
    prefix: bytes | None = None
    bulk: bool = False
    sender: Sender = ANY_SENDER  # for fair queueing between keys
    deadline_s: float | None = None
    queued_s: float = 0.0
    kind: int = field(init=False)
    done: bool = False  # it has ended: with rows, with an error, or cancelled
    waiting: bool = False  # it is counted in the queue
    call: "CallInFlight[Any] | None" = None  # the call that carries it
    tries: int = 0  # failed ones
    connections_broken: int = 0  # during its calls; the first one does not count as a try
    failed_at: str | None = None  # the replica of its last failed call
    # the replica whose engine made no vector of one of its texts, although the call itself worked
    suspect: str | None = None
    engine_failed: bool = False  # in a call with this chunk: perhaps because of its text

    def __post_init__(self) -> None:
        small = (
            self.tokens <= SMALL_TOKENS
            and len(self.lengths) <= SMALL_ROWS
            and self.text_bytes <= SMALL_BYTES
        )
        self.kind = SMALL if small else LARGE

    def drop(self) -> None:
        """Release what a subclass carries: the chunk is never sent."""

    def tokens_sq(self, span: int | None) -> int:
        """The attention term of the curve, as `router.domain.attention` computes it."""
        if len(self.lengths) <= FEW_TEXTS:
            return attention(self.lengths.tolist(), span)
        lengths = self.lengths.astype(np.int64)
        return int(np.dot(lengths, lengths if span is None else np.minimum(lengths, span)))


def max_rows(dimensions: int) -> int:
    """The maximum number of rows of `dimensions` float32 in one reply."""
    return max(1, MESSAGE_BYTES // (4 * dimensions))


def cuts(
    counts: Sequence[int],
    text_bytes: Sequence[int] | None,
    batch_tokens: int,
    row_limit: int,
    bulk: BulkSize | None = None,
) -> list[tuple[int, int]]:
    """Split texts into consecutive ranges, each at most one batch of tokens, one reply of rows and
    one message of text.

    `text_bytes` is None for token ids; `bulk` is None for interactive texts.
    """
    cuts, start, tokens, size, tokens_sq = list[tuple[int, int]](), 0, 0, 0, 0
    for index, count in enumerate(counts):
        own = 0 if text_bytes is None else text_bytes[index]
        own_sq = 0 if bulk is None else attention((count,), bulk.attention_tokens)
        if index > start and (
            tokens + count > batch_tokens
            or index - start >= row_limit
            or size + own > MESSAGE_BYTES
            or (
                bulk is not None
                and bulk.exceeded(tokens + count, tokens_sq + own_sq, index - start + 1)
            )
        ):
            cuts.append((start, index))
            start, tokens, size, tokens_sq = index, 0, 0, 0
        tokens, size, tokens_sq = tokens + count, size + own, tokens_sq + own_sq
    cuts.append((start, len(counts)))
    return cuts


C = TypeVar("C", bound=Chunk)


@dataclass(slots=True, eq=False)
class CallInFlight(Generic[C]):
    """One call to a replica, and the chunks that it carries."""

    chunks: list[C]
    kind: int
    replica: str
    at: "ReplicaInFlight"
    dispatch: Dispatch
    texts: int
    tokens_sq: int
    sent_s: float
    limit_s: float  # the call hangs if its replica has answered no call for so long
    hangs_at_s: float
    live: int  # chunks that were not cancelled
    interactive: bool  # whether it carries interactive chunks
    open: bool = True
    hung: str | None = None  # the message for the log, after it was given up


@dataclass(slots=True, eq=False)
class ReplicaInFlight:
    """One dispatcher's calls in flight at one replica."""

    calls: list[int] = field(default_factory=lambda: [0, 0])  # small, large
    open: set[CallInFlight[Any]] = field(default_factory=set)
    interactive: int = 0  # calls with interactive chunks
    failures: int = 0  # failed calls in a row
    nearly_done_s: float = 0.0  # when its small calls should be nearly done

    def answered(self, now: float) -> None:
        """Extend the limits of the other calls: a replica that answers one does not hang."""
        for call in self.open:
            call.hangs_at_s = now + call.limit_s
