"""Messages between a router and a model's replica: a call carries texts of many requests, a reply
their vectors.

Messages are plain tuples of numpy arrays and lists. Over a Serve handle they are pickled; over a
socket (deployments/dispatch/socket_transport.py) they are packed here: two counts, the arrays as in
memory, the rest as JSON. Unpacking never runs code. A reply of `max_rows` rows stays below gRPC's
default limit of 4 MiB per message, whatever the environment of the replicas.
"""

import struct
import time
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

from router.arrays import TokenIds, Vectors
from router.steps import ReplicaCounters

FailureCode = Literal["too_long", "invalid", "expired", "engine"]


class Call(NamedTuple):
    """Texts for one model: flat `ids`, which `lengths` splits, or `texts` for engines that take
    text.
    """

    ids: TokenIds | None
    lengths: npt.NDArray[np.int32]  # (texts,) tokens of each, counted or estimated by the router
    texts: list[str] | None
    input_type: Literal["query", "document"]
    expires_in_s: list[float | None]  # per text: after this its vector is worthless
    request_ids: tuple[str, ...] = ()  # of the requests in it, for the replica's log
    traceparent: str | None = None  # W3C's, of the call's span where it is recorded
    stamped: bool = False  # the reply has the times of router/stamps.py


class Failure(NamedTuple):
    """The reason why one text of a call has no vector."""

    code: FailureCode
    message: str
    tokens: int = 0
    limit: int = 0


class Reply(NamedTuple):
    """The vectors of a call, row by row, and the state of the replica."""

    vectors: Vectors  # (texts, native dimensions)
    tokens: list[int]
    failed: dict[int, Failure]
    replica: str
    queue_s: float
    inference_s: float
    outstanding_tokens: int  # at this replica, from every router, when it replied
    counters: ReplicaCounters
    # tokens in the next step when this call's step ended; None: one step at a time
    running_tokens: int | None = None
    stamps: tuple[float, ...] = ()  # from `at_replica` on, in seconds since 1970


def stamped(reply: Reply) -> Reply:
    """Add the current time to the stamps of a reply, if it has any."""
    return reply._replace(stamps=(*reply.stamps, time.time())) if reply.stamps else reply


def split_ids(ids: TokenIds, lengths: npt.NDArray[np.int32]) -> list[TokenIds]:
    """Split the flat ids of a call into one array per text, without a copy."""
    return np.split(ids, np.cumsum(lengths)[:-1])


_COUNTS = struct.Struct("<ii")


def pack_call(call: Call) -> bytes:
    """Pack one call as bytes for `unpack_call`."""
    rows, tokens = len(call.lengths), -1 if call.ids is None else len(call.ids)
    parts = [_COUNTS.pack(rows, tokens), np.ascontiguousarray(call.lengths, "<i4").tobytes()]
    if call.ids is not None:
        parts.append(np.ascontiguousarray(call.ids, "<i4").tobytes())
    rest = (call.texts, call.input_type, call.expires_in_s, call.request_ids, call.traceparent)
    parts.append(orjson.dumps((*rest, True) if call.stamped else rest))
    return b"".join(parts)


def unpack_call(data: bytearray) -> Call:
    """Unpack the call in `data`, which its arrays keep alive. Raises ValueError for other data."""
    rows, tokens = _counts(data)
    lengths = np.frombuffer(data, "<i4", rows, _COUNTS.size)
    end = _COUNTS.size + 4 * rows
    ids = None
    if tokens >= 0:
        ids, end = np.frombuffer(data, "<i4", tokens, end), end + 4 * tokens
    texts, input_type, expires_in_s, request_ids, *rest = orjson.loads(memoryview(data)[end:])
    return Call(ids, lengths, texts, input_type, expires_in_s, tuple(request_ids), *rest)


def pack_reply(reply: Reply) -> bytes:
    """Pack one reply as bytes for `unpack_reply`."""
    rows, width = reply.vectors.shape
    more: tuple[float | None, ...] = ()  # without these, the reply is as in version 0.1
    if reply.running_tokens is not None or reply.stamps:
        more = (reply.running_tokens, *reply.stamps)
    rest = orjson.dumps(
        (
            reply.tokens,
            [(row, *failure) for row, failure in reply.failed.items()],
            reply.replica,
            reply.queue_s,
            reply.inference_s,
            reply.outstanding_tokens,
            tuple(reply.counters),
            *more,
        )
    )
    return b"".join(
        (_COUNTS.pack(rows, width), np.ascontiguousarray(reply.vectors, "<f4").data, rest)
    )


def unpack_reply(data: bytearray) -> Reply:
    """Unpack the reply in `data`, which its writable vectors keep alive. Raises ValueError for
    other data.
    """
    rows, width = _counts(data)
    vectors = np.frombuffer(data, "<f4", rows * width, _COUNTS.size).reshape(rows, width)
    rest = orjson.loads(memoryview(data)[_COUNTS.size + vectors.nbytes :])
    tokens, failed, replica, queue_s, inference_s, held, counters, *more = rest
    return Reply(
        vectors,
        tokens,
        {row: Failure(*failure) for row, *failure in failed},
        replica,
        queue_s,
        inference_s,
        held,
        ReplicaCounters(*counters),
        more[0] if more else None,
        tuple(more[1:]),
    )


def _counts(data: bytearray) -> tuple[int, int]:
    try:
        first, second = _COUNTS.unpack_from(data)
    except struct.error as error:
        raise ValueError(f"a message of {len(data)} bytes is too short") from error
    return first, second
