"""A request's plan and its answer, as plain values."""

from typing import NamedTuple

from deployments.service.prepare import Prepared
from router.adapters import Adapter
from router.arrays import Vectors
from router.decision_log import DecisionContext
from router.domain import (
    Decision,
    Features,
    Load,
    Model,
    Request,
    Work,
)
from router.schema import EmbeddingsRequest
from router.space import Space
from router.spaces import Constraints


class Plan(NamedTuple):
    """A request decided and not yet sent."""

    request: EmbeddingsRequest
    wanted: Constraints
    features: Features
    prepared: dict[str, Prepared]
    work: dict[str, Work]
    loads: dict[str, Load]
    decision: Decision
    arrived_s: float
    decision_input: Request
    models: dict[str, Model]  # as they were decided on
    read_s: float
    decided_s: float
    setting: DecisionContext
    arm: str | None  # of the canary


class Answer(NamedTuple):
    """Vectors of one request, all of one space, and how they came to be."""

    vectors: Vectors  # (texts, dimensions of the space), rows of length 1
    space: Space
    decision: Decision
    features: Features
    prompt_tokens: int
    cached: int
    truncated: list[int]
    queue_s: float
    inference_s: float
    total_s: float
    adapter: Adapter | None  # that the vectors came over
    canary: bool  # decided by the canary's rules
    unread: float  # share of the texts' tokens that the model does not know
