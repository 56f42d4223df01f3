"""The engine interface: texts of one model in, one float32 array out.

The model's deployment (deployments/replica/host.py) calls the engine on its replica's event loop.
An engine never truncates a text, never returns fewer rows than texts, and never answers after
`stop`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from deployments.telemetry.metrics import EngineStats
from router.arrays import TokenIds, Vectors


class Setup(NamedTuple):
    """The parameters of an engine besides its own section of the config."""

    dimensions: int
    max_tokens: int
    batch_tokens: int  # for engines that have no limit of their own
    base_dir: str | None = None  # where relative paths start
    stats: EngineStats | None = None  # for vLLM's own metrics
    revision: str | None = None  # the commit of a hub id
    score: str | None = None  # for rerankers: the kind of score


class EngineError(Exception):
    """The engine could not embed this batch; the message says what to do."""


class EngineDead(EngineError):
    """The engine cannot embed anything again; the replica must be replaced.

    The message is our own text, so it is logged and reported.
    """


class EngineUnreachable(EngineError):
    """The engine's server is unavailable and can come back.

    `reached`: the server answered, with a failure that the text can have caused.
    """

    def __init__(self, message: str, reached: bool = False) -> None:
        super().__init__(message)
        self.reached = reached


class EngineOverloaded(EngineError):
    """The engine's server accepts no more work for now; the caller receives `retry_after_s`."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[type["EngineOverloaded"], tuple[str, float]]:
        """Pickle with the time."""
        return type(self), (str(self), self.retry_after_s)


class EngineFailed(EngineError):
    """A failure reported to the router: the message can be logged anywhere; `detail` can quote a
    text and goes to its caller.
    """

    def __init__(self, message: str, detail: str) -> None:
        super().__init__(message)
        self.detail = detail

    def __reduce__(self) -> tuple[type["EngineFailed"], tuple[str, str]]:
        return type(self), (str(self), self.detail)


class ServerUnreachable(EngineFailed):
    """A failure that the texts did not cause: the engine's server is unavailable."""


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
        """Pickle with all arguments: Exception's own pickling would pass the message alone."""
        return type(self), (self.index, self.tokens, self.limit)


@dataclass(slots=True)
class Batch:
    """Texts sent together: token ids if the router tokenised for this model, otherwise the
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
    tokens: list[int]  # that the model read of each text, including special tokens
    # rows that failed alone; their vectors are undefined
    failed: dict[int, EngineError] = field(default_factory=dict)
    # behind earlier batches, in engines that run one batch at a time
    waited_s: float = 0.0
    times: Times | None = None  # if the engine measures them
    # in the step still running when the last of these texts was done; None: one step at a time
    running_tokens: int | None = None


class Engine(Protocol):
    """An engine: start it, embed concurrently, stop it. All methods except `queued_tokens` run on
    the replica's event loop.
    """

    dimensions: int
    max_tokens: int
    batch_tokens: int  # maximum tokens of one step

    async def start(self) -> None:
        """Load the model and embed something; raises EngineError that says what is missing."""

    async def embed(self, batch: Batch) -> Embedded:
        """Embed the batch; raises EngineError. Cancelling the awaiting task removes its texts from
        the engine.
        """

    def queued_tokens(self) -> int:
        """Tokens accepted and not finished, including those in the running step."""

    async def check_health(self) -> None:
        """Embed a short text; raises EngineDead when the engine will not answer again."""

    async def stop(self) -> None:
        """Release memory, processes and files; safe to call twice."""
