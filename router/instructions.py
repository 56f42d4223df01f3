"""The instructions of a dispatcher's state for its shell, and the interface of a reply."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Generic, Protocol, TypeAlias, TypeVar

from router.calls import C, CallInFlight
from router.errors import RouterError
from router.steps import ReplicaCounters


class TextFailure(Protocol):
    """The reason why one text of a call has no vector."""

    @property
    def code(self) -> str: ...
    @property
    def message(self) -> str: ...


class CallReply(Protocol):
    """The attributes of a replica's answer to one call that a dispatcher reads."""

    @property
    def failed(self) -> Mapping[int, TextFailure]: ...
    @property
    def replica(self) -> str: ...
    @property
    def queue_s(self) -> float: ...
    @property
    def inference_s(self) -> float: ...
    @property
    def outstanding_tokens(self) -> int: ...
    @property
    def running_tokens(self) -> int | None: ...
    @property
    def counters(self) -> ReplicaCounters: ...


R = TypeVar("R", bound=CallReply)


class Timer(Enum):
    """The kinds of timers; there is at most one timer of each kind."""

    GATHER = "gather"  # small chunks have been gathered for long enough
    TURN = "turn"  # the current turn of the shell's loop ends: requests were read, callers answered
    HANG = "hang"  # a call could be without an answer for too long
    EJECTION = "ejection"  # an ejected replica can be tried again


@dataclass(slots=True, eq=False)
class LaunchCall(Generic[C]):
    """Send the call, and report the event that ends it."""

    call: CallInFlight[C]


@dataclass(slots=True, eq=False)
class CancelCall(Generic[C]):
    """Cancel the call: all its callers have left, or it hangs (`call.hung`)."""

    call: CallInFlight[C]


@dataclass(slots=True, eq=False)
class CompleteChunk(Generic[C, R]):
    """Answer the chunk with these rows of the reply to a call."""

    chunk: C
    call: CallInFlight[C]
    reply: R
    start: int
    stop: int
    waited_s: float  # in this router
    joined: bool  # texts that came later made its call longer


@dataclass(slots=True, eq=False)
class FailChunk(Generic[C]):
    """Answer the chunk with this error."""

    chunk: C
    error: RouterError


@dataclass(slots=True, eq=False)
class WakeReplica:
    """Request a first replica; report `wake_failed` if that fails."""


@dataclass(slots=True, eq=False)
class SetTimer:
    """Report `timer_ended` after `delay_s`; this replaces an earlier setting of the timer."""

    timer: Timer
    delay_s: float


Instruction: TypeAlias = (
    LaunchCall[C] | CancelCall[C] | CompleteChunk[C, R] | FailChunk[C] | WakeReplica | SetTimer
)
