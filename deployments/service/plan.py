"""A request's plan and its answer, as plain values."""

import time
from collections.abc import Callable, Container
from typing import NamedTuple, Protocol

from deployments.service.prepare import Prepared
from router.arrays import Vectors
from router.decision_log import DecisionContext, Entry
from router.domain import (
    NO_WORK,
    Decision,
    Features,
    Load,
    Model,
    Request,
    Work,
)
from router.encoders import NOTHING_TO_CHOOSE, Encoder, EncoderChoice
from router.schema import EmbeddingsRequest
from router.space import Space
from router.spaces import Constraints
from router.stamps import Stamps
from router.usage import Use, device_s


class Meter(Protocol):
    """What a caller's limits are charged with."""

    def reading(self, characters: int) -> None:
        """Texts of so many characters are tokenised from now on; what is refused later costs."""

    async def charge(self, tokens: int) -> None:
        """These are sent next; raises RouterError where they are too many."""


class Caller(NamedTuple):
    """Who a request is from, as far as its way depends on that."""

    permitted: frozenset[str] | None = None  # models; None: all
    meter: Meter | None = None
    client: str = ""  # its key, else its address: who has to take turns with himself
    scope: str = ""  # callers of one scope share what was read and embedded before
    key: str = ""  # its name in the config
    weight: float = 1.0  # against other keys, where their work waits
    # raises RouterError where an answer of so many vectors of so many dimensions cannot go out
    room: Callable[[int, int], None] | None = None
    stamps: Stamps | None = None  # of this request, where they are taken


ANYONE = Caller()


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
    tried: str | None = None  # the model that could not answer, where this is the second decision
    tried_s: float = 0.0  # from the first decision to this one
    choice: EncoderChoice = NOTHING_TO_CHOOSE  # what makes the vectors of the spaces

    @property
    def chosen(self) -> Prepared:
        """The texts as the model that was decided on reads them."""
        model = self.decision.model or self.decision.target or ""
        return self.prepared.get(model) or next(iter(self.prepared.values()))

    @property
    def tokens(self) -> int:
        """Of all texts, as that model counts them."""
        return sum(self.chosen.counts)

    @property
    def tokens_once_cut(self) -> int:
        """What an embedding would be charged: each text at most what the model reads, where the
        request has long ones cut.
        """
        model, chosen = self.decision.model, self.chosen
        if model is None or not chosen.exact or self.request.truncate not in ("end", "start"):
            return self.tokens
        most = self.models[model].max_tokens
        return sum(min(count, most) for count in chosen.counts)


class Answered(Protocol):
    """What is recorded of an answer, whatever it holds."""

    @property
    def prompt_tokens(self) -> int:
        """That were read."""

    @property
    def truncated(self) -> list[int]:
        """The texts that were cut."""

    @property
    def queue_s(self) -> float:
        """That it waited."""

    @property
    def inference_s(self) -> float:
        """That the engine took."""

    @property
    def total_s(self) -> float:
        """From arrival to the answer."""

    @property
    def encoder(self) -> Encoder | None:
        """What made its vectors; None where there are none."""


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
    encoder: Encoder  # what made the vectors of the space
    expected_recall: float | None  # of these texts; None where the model is the space's own
    canary: bool  # decided by the canary's rules
    unread: float  # share of the texts' tokens that the model does not know


def use_of(plan: Plan, answer: Answered, key: str, collections: Container[str]) -> Use:
    """What an answered request used."""
    model, space = plan.decision.model or "", plan.request.space or ""
    work = plan.work.get(model, NO_WORK)
    return Use(
        key,
        model,
        space if space in collections else "",
        plan.request.items,
        answer.prompt_tokens,
        device_s(plan.models[model], work) if model in plan.models else 0.0,
    )


def entry_of(
    plan: Plan,
    answer: Answered | None,
    outcome: str,
    use: Use | None = None,
    stamps: Stamps | None = None,
) -> Entry:
    """What the decision log says of a request that ended."""
    encoder = plan.choice.encoders.get(plan.decision.model or "")
    return Entry(
        time.time(),
        plan.arrived_s,
        plan.decided_s,
        plan.decision_input,
        plan.wanted.tier,
        plan.request.latency_budget_ms is not None,
        plan.models,
        plan.loads,
        plan.decision,
        outcome,
        None if answer is None else answer.total_s,
        None if encoder is None else str(encoder.space),
        None if encoder is None else encoder.kind,
        use,
        plan.request.priority,
        stamps,
    )
