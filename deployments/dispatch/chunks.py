"""The part of a request that travels as one: cut from it, joined with others in a call, answered
with rows.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from deployments.dispatch.wire import MESSAGE_BYTES, Call, Failure
from router.arrays import TokenIds, Vectors
from router.errors import RouterError

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

SMALL_TOKENS = 512  # a chunk up to this size shares a call
SMALL_ROWS = 32
SMALL_BYTES = 65_536  # of text, which may be long and have few tokens


class Rows(NamedTuple):
    """The vectors of some texts: of a chunk, or of a whole request."""

    vectors: Vectors  # (texts, native dimensions)
    tokens: list[int]
    failed: dict[int, Failure]
    queue_s: float
    inference_s: float
    known: int = 0  # texts that nothing was sent for: cached, duplicate or already in flight


@dataclass(slots=True, eq=False)
class Chunk:
    """A part of one request, small enough for one engine batch."""

    ids: TokenIds | None  # flat
    lengths: npt.NDArray[np.int32]
    texts: list[str] | None
    input_type: Literal["query", "document"]
    tokens: int
    bulk: bool
    deadline_s: float | None
    future: "asyncio.Future[Rows]"
    tries: int = 0
    alone: bool = False
    queued_s: float = 0.0
    waiting: bool = False  # counted among what waits
    failed_at: str | None = None  # the replica that it was sent to in vain
    # the replica whose engine made no vector of a text in it, where others did not fail
    suspect: str | None = None
    lines_broken: int = 0  # that it was on, and that count for no try
    request_ids: tuple[str, ...] = ()
    origin: "SpanContext | None" = None  # of the request's span, where that is recorded

    def fail(self, error: RouterError) -> None:
        """Answer it with an error, unless it was answered or taken back."""
        if not self.future.done():
            self.future.set_exception(error)

    def tokens_sq(self, span: int | None) -> int:
        """The attention term of the curve, as `router.domain.attention` has it."""
        lengths = self.lengths.astype(np.int64)
        return int(np.dot(lengths, lengths if span is None else np.minimum(lengths, span)))

    @property
    def size(self) -> int:
        """At most so many bytes of text."""
        return 0 if self.texts is None else 4 * sum(map(len, self.texts))

    @property
    def small(self) -> bool:
        return (
            self.tokens <= SMALL_TOKENS
            and len(self.lengths) <= SMALL_ROWS
            and not self.alone
            and self.size <= SMALL_BYTES
        )


def cuts(
    counts: Sequence[int], texts: Sequence[str] | None, batch_tokens: int, most_rows: int
) -> "list[tuple[int, int]]":
    """Consecutive ranges of texts, each at most one batch of tokens, one reply of rows and one
    message of text.
    """
    cuts, start, tokens, size = [], 0, 0, 0
    for index, count in enumerate(counts):
        own = 0 if texts is None else 4 * len(texts[index])
        if index > start and (
            tokens + count > batch_tokens
            or index - start >= most_rows
            or size + own > MESSAGE_BYTES
        ):
            cuts.append((start, index))
            start, tokens, size = index, 0, 0
        tokens, size = tokens + count, size + own
    cuts.append((start, len(counts)))
    return cuts


def call_of(chunks: list[Chunk], now: float) -> Call:
    """One call that carries these chunks, in order."""
    only = chunks[0]
    if len(chunks) == 1:
        left_s = None if only.deadline_s is None else only.deadline_s - now
        return Call(
            only.ids,
            only.lengths,
            only.texts,
            only.input_type,
            [left_s] * len(only.lengths),
            only.request_ids,
        )
    return Call(
        None
        if only.ids is None
        else np.concatenate([chunk.ids for chunk in chunks if chunk.ids is not None]),
        np.concatenate([chunk.lengths for chunk in chunks]),
        None if only.texts is None else [text for chunk in chunks for text in chunk.texts or ()],
        only.input_type,
        [
            None if chunk.deadline_s is None else chunk.deadline_s - now
            for chunk in chunks
            for _ in chunk.lengths
        ],
        tuple(one for chunk in chunks for one in chunk.request_ids),
    )
