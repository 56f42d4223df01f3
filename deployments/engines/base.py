"""What every engine is: texts of one model in, one float32 array out.

The caller is the model's deployment (deployments/replica/host.py), on the event loop of its
replica. An engine never cuts a text, never returns fewer rows than texts, and never answers after
it was told to stop.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from deployments.telemetry.metrics import EngineStats
from router.arrays import TokenIds, Vectors


class Setup(NamedTuple):
    """What an engine is made from, beside its own section of the config."""

    dimensions: int
    max_tokens: int
    batch_tokens: int  # for an engine that has no limit of its own
    base_dir: str | None = None  # where relative paths start
    stats: EngineStats | None = None  # for vLLM's own metrics
    revision: str | None = None  # the commit of a hub id
    score: str | None = None  # of a reranker: what its scores are


class EngineError(Exception):
    """The engine could not embed this batch; the message says what to do."""


class EngineDead(EngineError):
    """The engine will not embed anything again: the replica must be replaced. Its words are ours:
    they are logged and told.
    """


class EngineUnreachable(EngineError):
    """What the engine calls is away and may come back; `reached`: it answered, with a failure that
    may be due to the text.
    """

    def __init__(self, message: str, reached: bool = False) -> None:
        super().__init__(message)
        self.reached = reached


class EngineOverloaded(EngineError):
    """What is behind the engine takes no more work for now; the caller is told when to come
    back.
    """

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[type["EngineOverloaded"], tuple[str, float]]:
        """Travel between processes with the time."""
        return type(self), (str(self), self.retry_after_s)


class EngineFailed(EngineError):
    """A failure on its way to the router: the message is fit for every log, `detail` may quote a
    text and goes to its caller.
    """

    def __init__(self, message: str, detail: str) -> None:
        super().__init__(message)
        self.detail = detail

    def __reduce__(self) -> tuple[type["EngineFailed"], tuple[str, str]]:
        return type(self), (str(self), self.detail)


class ServerUnreachable(EngineFailed):
    """A failure that is not due to the texts: what the engine calls is away."""


class InvalidText(EngineError):
    """No engine of this model can embed this text, however often it is sent."""


class TextTooLong(EngineError):
    """One text has more tokens than the model reads (raised by engines that tokenise
    themselves).
    """

    def __init__(self, index: int, tokens: int, limit: int) -> None:
        super().__init__(f"text {index} has {tokens} tokens, the model reads {limit}")
        self.index, self.tokens, self.limit = index, tokens, limit

    def __reduce__(self) -> tuple[type["TextTooLong"], tuple[int, int, int]]:
        """Travel between processes: Exception's own pickling would call the class with the message
        alone.
        """
        return type(self), (self.index, self.tokens, self.limit)


@dataclass(slots=True)
class Batch:
    """Texts that travel together: token ids where the router tokenised for this model, else the
    prompted texts.
    """

    ids: Sequence[TokenIds] | None = None
    texts: Sequence[str] | None = None
    input_type: Literal["query", "document"] = "document"

    def __len__(self) -> int:
        return len(self.ids if self.ids is not None else self.texts or ())


class Times(NamedTuple):
    """When a batch passed the points of router/stamps.py, on time.monotonic's clock."""

    prepared_s: float
    in_step_s: float
    stepped_s: float


@dataclass(slots=True)
class Embedded:
    """The engine's answer, in the order of the batch."""

    vectors: Vectors
    tokens: list[int]  # what the model read of each text, special tokens included
    # rows that failed alone; their vectors are undefined
    failed: dict[int, EngineError] = field(default_factory=dict)
    # for the batches before it, where the engine takes one after another
    waited_s: float = 0.0
    times: Times | None = None  # where the engine knows them
    # in the step that ran on when the last of these texts was done; None: one step at a time
    running_tokens: int | None = None


class Engine(Protocol):
    """Life: start, embed many times at once, stop. All but `queued_tokens` run on the replica's
    event loop.
    """

    dimensions: int
    max_tokens: int
    batch_tokens: int  # most tokens one step takes

    async def start(self) -> None:
        """Load the model and embed something; raises EngineError saying what is missing."""

    async def embed(self, batch: Batch) -> Embedded:
        """Embed the batch; cancelling the awaiting task takes its texts out of the engine. Raises
        EngineError.
        """

    def queued_tokens(self) -> int:
        """Tokens taken and not finished, those in the running step included."""

    async def check_health(self) -> None:
        """Embed a short text; raises EngineDead when the engine will not answer again."""

    async def stop(self) -> None:
        """Give back memory, processes and files; safe to call twice."""
