"""What travels between a router and a model's replica: one call carries texts of many requests, one reply their vectors.

Plain tuples of numpy arrays and lists, so that pickle copies bytes and nothing else. A reply of `max_rows` rows stays below
gRPC's default limit of 4 MiB a message, whatever environment the replicas were started with.
"""

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from deployments.engines.base import TokenIds, Vectors
from router.feedback import Counters

MESSAGE_BYTES = 3_500_000  # of 4 MiB; the rest is for headers, counts and pickle


class Call(NamedTuple):
    """Texts for one model; `ids` is flat and `lengths` cuts it, or `texts` for engines that take text."""

    ids: TokenIds | None
    lengths: npt.NDArray[np.int32]  # (texts,) tokens of each, counted or estimated by the router
    texts: list[str] | None
    input_type: Literal["query", "document"]
    expires_in_s: list[float | None]  # per text: after this it is worth nothing to its caller


class Failure(NamedTuple):
    """Why one text of a call has no vector."""

    code: Literal["too_long", "invalid", "expired", "engine"]
    message: str
    tokens: int = 0
    limit: int = 0


class Reply(NamedTuple):
    """The vectors of a call, row by row, and what the replica knows of itself."""

    vectors: Vectors  # (texts, native dimensions)
    tokens: list[int]
    failed: dict[int, Failure]
    replica: str
    queue_s: float
    inference_s: float
    outstanding_tokens: int  # at this replica, from every router, when it replied
    counters: Counters


def max_rows(dimensions: int) -> int:
    """Most rows of `dimensions` float32 that one reply may carry."""
    return max(1, MESSAGE_BYTES // (4 * dimensions))


def split_ids(ids: TokenIds, lengths: npt.NDArray[np.int32]) -> list[TokenIds]:
    """The flat ids of a call as one array a text, without a copy."""
    return np.split(ids, np.cumsum(lengths)[:-1])
