"""Chunks: parts of a request that are sent as one, joined with others in a call, and answered with
rows.
"""

import asyncio
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

import router.calls
from deployments.dispatch.wire import Call, Failure
from deployments.telemetry.logs import REQUEST_IDS
from router.arrays import TokenIds, Vectors
from router.fair import ANY_SENDER, Sender

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext


# the sender of the request that the current task handles, if any
SENDER: ContextVar[Sender | None] = ContextVar("SENDER", default=None)


class Rows(NamedTuple):
    """The vectors of some texts: of a chunk, or of a whole request."""

    vectors: Vectors  # (texts, native dimensions)
    tokens: list[int]
    failed: dict[int, Failure]
    queue_s: float
    inference_s: float
    known: int = 0  # texts that nothing was sent for: cached, duplicate or already in flight
    stamps: tuple[float, ...] = ()  # CALL of router/stamps.py, on the dispatcher's clock
    call_texts: int = 0  # of the call with these stamps
    known_aside: int = 0  # of the known texts, those without a row of their own
    joined: bool = False  # texts that came later made its call longer


@dataclass(slots=True, eq=False, kw_only=True)
class TextChunk(router.calls.Chunk):
    """A part of one request, with its texts and the future of its caller."""

    ids: TokenIds | None  # flat
    texts: list[str] | None
    input_type: Literal["query", "document"]
    future: "asyncio.Future[Rows]"
    request_ids: tuple[str, ...] = ()
    origin: "SpanContext | None" = None  # of the request's span, where that is recorded

    def drop(self) -> None:
        """Release the texts."""
        self.ids = self.texts = None


def text_bytes(texts: Sequence[str]) -> int:
    """An upper bound of the UTF-8 bytes of these texts."""
    return 4 * sum(map(len, texts))


def cut_chunk(
    ids: Sequence[TokenIds] | None,
    texts: Sequence[str] | None,
    counts: Sequence[int],
    start: int,
    stop: int,
    input_type: Literal["query", "document"],
    deadline_s: float | None,
    bulk: bool,
    now: float,
    origin: "SpanContext | None",
    prefix: bytes | None = None,
) -> TextChunk:
    """Cut the texts from `start` to `stop`, for the request of the current context."""
    own, flat = None if texts is None else list(texts[start:stop]), None
    if ids is not None:
        flat = ids[start] if stop - start == 1 else np.concatenate(ids[start:stop])
    return TextChunk(
        ids=flat,
        lengths=np.asarray(counts[start:stop], np.int32),
        texts=own,
        input_type=input_type,
        tokens=sum(counts[start:stop]),
        text_bytes=0 if own is None else text_bytes(own),
        group=None if own is None else input_type,  # its engine writes the prompt
        prefix=prefix,
        bulk=bulk,
        sender=SENDER.get() or ANY_SENDER,
        deadline_s=deadline_s,
        future=asyncio.get_running_loop().create_future(),
        queued_s=now,
        request_ids=REQUEST_IDS.get(),
        origin=origin,
    )


def call_of(chunks: list[TextChunk], now: float) -> Call:
    """Make one call of these chunks, in order."""
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
