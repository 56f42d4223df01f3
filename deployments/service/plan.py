"""Plain values for a request's plan and its answer."""

import time
from collections.abc import Callable, Container
from typing import NamedTuple, Protocol

from deployments.service.prepare import Prepared
from router.arrays import Vectors
from router.decision_log import DecisionContext, LogEntry
from router.domain import (
    NO_WORK,
    Decision,
    Features,
    Load,
    Model,
    Request,
    Why,
    Work,
)
from router.encoders import NOTHING_TO_CHOOSE, Encoder, EncoderChoice
from router.resolving import Constraints
from router.schema import EmbeddingsRequest
from router.space import Space
from router.stamps import Stamps
from router.usage import Use, device_s


class RequestCharge(Protocol):
    """Charges a caller's limits."""

    def reading(self, characters: int) -> None:
        """Note that so many characters are tokenised; this is charged even after a refusal."""

    async def take(self, tokens: int) -> None:
        """Charge tokens that are sent next. Raises RouterError if they are too many."""


class Caller(NamedTuple):
    """The parts of a request's caller that its path depends on."""

    permitted: frozenset[str] | None = None  # models; None: all
    charge: RequestCharge | None = None
    client: str = ""  # its key, otherwise its address: one client's texts share a limit
    scope: str = ""  # callers of one scope share cached reads and vectors
    key: str = ""  # its name in the config
    weight: float = 1.0  # against other keys, when work waits
    # raises RouterError if an answer of so many vectors of so many dimensions cannot be sent
    room: Callable[[int, int], None] | None = None
    stamps: Stamps | None = None  # of this request, where they are taken
    collection: str = ""  # of the address of a ranking, whose request has no space


ANYONE = Caller()


class Plan(NamedTuple):
    """A request that is decided and not yet sent."""

    request: EmbeddingsRequest
    constraints: Constraints
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
    context: DecisionContext
    arm: str | None  # of the canary
    tried: str | None = None  # the model that could not answer, where this is the second decision
    tried_s: float = 0.0  # from the first decision to this one
    choice: EncoderChoice = NOTHING_TO_CHOOSE  # the encoders that it can go to

    @property
    def elapsed_s(self) -> float:
        """The time from arrival to decision, which was already gone from a latency budget."""
        return self.decided_s - self.arrived_s

    @property
    def has_faster(self) -> bool:
        """Whether a latency budget could choose another model, which is predicted to answer
        sooner.
        """
        tails = {
            name: prediction.total_s * self.loads[name].margin
            for name, prediction in self.decision.predictions.items()
        }
        own_s = tails.get(self.decision.model or "", 0.0)
        return any(
            why in (Why.LESS_QUALITY, Why.NOT_NAMED) and tails[name] < own_s
            for name, why in self.decision.whys.items()
        )

    @property
    def chosen(self) -> Prepared:
        """The texts as the chosen model reads them."""
        model = self.decision.model or self.decision.target or ""
        return self.prepared.get(model) or next(iter(self.prepared.values()))

    @property
    def tokens(self) -> int:
        """Tokens of all texts, by that model's count."""
        return sum(self.chosen.counts)

    @property
    def tokens_once_cut(self) -> int:
        """Tokens that an embedding is charged: each text at most what the model reads, if the
        request has long texts cut.
        """
        model, chosen = self.decision.model, self.chosen
        if model is None or not chosen.exact or self.request.truncate not in ("end", "start"):
            return self.tokens
        most = self.models[model].max_tokens
        return sum(min(count, most) for count in chosen.counts)


class Answered(Protocol):
    """The part of any answer that is recorded."""

    @property
    def prompt_tokens(self) -> int:
        """Tokens that were read."""

    @property
    def truncated(self) -> list[int]:
        """The texts that were cut."""

    @property
    def queue_s(self) -> float:
        """Seconds in the queue."""

    @property
    def inference_s(self) -> float:
        """Seconds in the engine."""

    @property
    def total_s(self) -> float:
        """Seconds from arrival to the answer."""

    @property
    def encoder(self) -> Encoder | None:
        """The encoder of its vectors; None if it has none."""


class Answer(NamedTuple):
    """Vectors of one request, all of one space, and how they were made."""

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
    encoder: Encoder  # that made the vectors of the space
    # of these texts; None where the model is the space's own, or a part was not measured
    expected_recall: float | None
    canary: bool  # decided by the canary's rules
    unread: float  # share of the texts' tokens that the model does not know
    elapsed_s: float = 0.0  # from the arrival to the decision


def use_of(plan: Plan, answer: Answered, caller: Caller, collections: Container[str]) -> Use:
    """The usage of an answered request."""
    model, space = plan.decision.model or "", plan.request.space or ""
    work = plan.work.get(model, NO_WORK)
    return Use(
        caller.key,
        model,
        space if space in collections else caller.collection,
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
) -> LogEntry:
    """The decision log's entry for a request that ended."""
    encoder = plan.choice.encoders.get(plan.decision.model or "")
    return LogEntry(
        time.time(),
        plan.arrived_s,
        plan.decided_s,
        plan.decision_input,
        plan.constraints.tier,
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
        frozenset(
            name
            for name, one in plan.choice.encoders.items()
            if name in plan.choice.recalls and one.assumed is not None
        ),
    )
