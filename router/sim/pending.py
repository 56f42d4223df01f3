"""Requests in flight, and the chunks that carry them."""

from dataclasses import dataclass

from router.calls import Chunk
from router.domain import Decision, Load
from router.sim.traffic import Shape


class Pending:
    """One request in flight."""

    __slots__ = (
        "arrived_s", "decision", "failed", "inference_s", "joined", "left", "load", "queue_s",
        "shape", "tried_s",
    )  # fmt: skip

    def __init__(
        self, shape: Shape, arrived_s: float, decision: Decision, load: Load, pieces: int
    ) -> None:
        self.shape, self.arrived_s, self.decision, self.load = shape, arrived_s, decision, load
        self.left = pieces  # pieces that are not done
        self.queue_s = self.inference_s = 0.0
        self.failed = False
        self.joined = False  # texts that came later made one of its calls longer
        self.tried_s: float | None = None  # time of the second decision


@dataclass(slots=True, eq=False, kw_only=True)
class SimChunk(Chunk):
    """A part of one request."""

    request: Pending
    squared: int  # its attention term

    def tokens_sq(self, span: int | None) -> int:
        """The attention term, which the traffic computed once for all requests of a shape."""
        return self.squared
