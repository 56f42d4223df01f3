"""A dispatcher's state without a shell: a test reports events and sees what is in flight; its laws
are checked after every event.
"""

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

import router.calls
from router.calls import CallInFlight, CallSize, DispatchLimits
from router.dispatching import DispatcherState
from router.domain import Curve, Model
from router.errors import InternalError, RouterError
from router.fair import ANY_SENDER, Sender
from router.feedback import Feedback
from router.instructions import (
    CancelCall,
    CompleteChunk,
    FailChunk,
    Instruction,
    LaunchCall,
    SetTimer,
    Timer,
)
from router.ledger import Ledger
from router.routing_config import RoutingConfig
from router.steps import ReplicaCounters

BATCH = 1000
SHORT = Curve(0.001, 0.001, 0.0001, 0.0, BATCH)
TENTH = Curve(0.0, 0.1, 0.0, 0.0, BATCH)  # every step takes 0.1 s


@dataclass(slots=True, eq=False, kw_only=True)
class Chunk(router.calls.Chunk):
    """A chunk, identified by a number."""

    number: int


@dataclass(slots=True)
class Failure:
    """The reason why a text has no vector."""

    code: str
    message: str


@dataclass(slots=True)
class Reply:
    """A replica's answer."""

    replica: str
    failed: dict[int, Failure] = field(default_factory=dict)
    queue_s: float = 0.0
    inference_s: float = 0.0
    outstanding_tokens: int = 0
    running_tokens: int | None = None
    counters: ReplicaCounters = field(default_factory=lambda: ReplicaCounters(0, 0.0))


Call = CallInFlight[Chunk]


class DispatchMachine:
    """The state, and a shell that records instructions."""

    def __init__(
        self,
        *replicas: str,
        curve: Curve = SHORT,
        calls_in_flight: int = 3,
        replica_timeout_s: float = 1000.0,
        steps: bool = True,
        cold_start_s: float | None = None,
        seed: int = 1,
        bulk_share: float = 0.1,
    ) -> None:
        self.now = 100.0
        self.ledger = Ledger({"m": calls_in_flight})
        model = Model("m", 0, 100_000, curve, {})
        self.calls_in_flight = calls_in_flight
        limits = DispatchLimits(
            CallSize(BATCH, 1000, 1_000_000),
            calls_in_flight,
            50_000,
            1000.0,
            replica_timeout_s,
            steps=steps,
            bulk_share=bulk_share,
        )
        feedback = Feedback(model, True, RoutingConfig(), self.now, cold_start_s)
        self.state: DispatcherState[Chunk, Reply] = DispatcherState(
            "m", limits, self.ledger, feedback, random.Random(seed), self.now
        )
        self.chunks: list[Chunk] = []
        self.sent: list[tuple[str, list[int]]] = []  # replica, numbers of the chunks
        self.open: list[Call] = []  # the shell has not reported their end
        self.to_cancel: set[Call] = set()
        self.completed: dict[int, str] = {}  # by the number of the chunk; the replica
        self.failed: dict[int, RouterError] = {}
        self.cancelled: set[int] = set()
        self.timers: dict[Timer, float] = {}  # when they end
        self.timers_set = 0
        self.wakes = 0
        # last first launch of each kind and key
        self._launched: dict[tuple[int, bool, str], int] = {}
        self.replicas(*replicas)

    # Events

    def submit(
        self,
        *lengths: int,
        bulk: bool = False,
        deadline_s: float | None = None,
        group: str | None = None,
        prefix: bytes | None = None,
        end_turn: bool = True,
        sender: Sender = ANY_SENDER,
    ) -> list[Chunk]:
        """Submit one request; each length is a chunk of one text."""
        made = []
        for length in lengths:
            chunk = Chunk(
                number=len(self.chunks),
                lengths=np.array([length], np.int32),
                tokens=length,
                group=group,
                prefix=prefix,
                bulk=bulk,
                sender=sender,
                deadline_s=deadline_s,
                queued_s=self.now,
            )
            self.chunks.append(chunk)
            made.append(chunk)
        self.execute(self.state.submit(made, self.now))
        if end_turn:
            self.end_turn()
        return made

    def cancel(self, chunk: Chunk) -> None:
        """Cancel the caller's request, unless the chunk has ended."""
        if not chunk.done:
            self.cancelled.add(chunk.number)
            self.execute(self.state.chunk_cancelled(chunk))

    def answer(
        self, call: Call, failed: dict[int, Failure] | None = None, end_turn: bool = True
    ) -> None:
        self.open.remove(call)
        self.execute(self.state.replied(call, Reply(call.replica, failed or {}), self.now))
        if end_turn:
            self.end_turn()

    def end_turn(self) -> None:
        """End the turn of the event loop."""
        if self.timers.pop(Timer.TURN, None) is not None:
            self.execute(self.state.timer_ended(Timer.TURN, self.now))

    def fail(self, call: Call) -> None:
        self.open.remove(call)
        self.execute(self.state.engine_failed(call, "poison", self.now))

    def lose(self, call: Call) -> None:
        self.open.remove(call)
        self.execute(self.state.replica_lost(call, "killed", self.now))

    def hang_up(self, call: Call) -> None:
        self.open.remove(call)
        self.execute(self.state.connection_lost(call, "broken", self.now))

    def refuse(self, call: Call) -> None:
        self.open.remove(call)
        self.execute(self.state.refused(call, InternalError(), self.now))

    def end_cancelled(self, call: Call) -> None:
        self.open.remove(call)
        self.execute(self.state.call_cancelled(call, self.now))

    def replicas(self, *posted: str) -> None:
        self.execute(self.state.replicas_changed(posted, self.now))

    def move(self, seconds: float) -> None:
        """Advance the clock; due timers fire in order."""
        until_s = self.now + seconds
        while self.timers:
            timer = min(self.timers, key=lambda one: self.timers[one])
            if self.timers[timer] > until_s + 1e-9:  # sums of floats
                break
            self.now = max(self.now, self.timers.pop(timer))
            self.execute(self.state.timer_ended(timer, self.now))
        self.now = until_s

    def answer_all(self) -> None:
        """Answer open calls until none is left."""
        while self.open:
            if (call := self.open[0]) in self.to_cancel:
                self.end_cancelled(call)
            else:
                self.answer(call)

    def close(self) -> None:
        """Stop as the shell does, and check that nothing is left."""
        self.execute(self.state.close())
        for call in list(self.open):
            self.end_cancelled(call)
        assert len(self.completed) + len(self.failed) + len(self.cancelled) == len(self.chunks)
        assert not self.state.calls_open
        self.ledger.assert_empty()

    # What the shell does

    def execute(self, instructions: Iterable[Instruction[Chunk, Reply]]) -> None:
        for one in instructions:
            if isinstance(one, LaunchCall):
                self._launch(one.call)
            elif isinstance(one, CompleteChunk):
                assert one.stop - one.start == len(one.chunk.lengths)
                assert not self.ended(one.chunk)
                self.completed[one.chunk.number] = one.reply.replica
            elif isinstance(one, FailChunk):
                assert not self.ended(one.chunk)
                self.failed[one.chunk.number] = one.error
            elif isinstance(one, SetTimer):
                assert one.delay_s >= 0.0
                self.timers_set += 1
                self.timers[one.timer] = self.now + one.delay_s
            elif isinstance(one, CancelCall):
                assert one.call in self.open
                self.to_cancel.add(one.call)
            else:
                assert not self.state.replicas
                self.wakes += 1
        self._check()

    def ended(self, chunk: Chunk) -> bool:
        return (
            chunk.number in self.completed
            or chunk.number in self.failed
            or chunk.number in self.cancelled
        )

    def _launch(self, call: Call) -> None:
        self.open.append(call)
        self.sent.append((call.replica, [chunk.number for chunk in call.chunks]))
        assert call.chunks
        assert call.replica in self.state.replicas
        for chunk in call.chunks:
            assert not self.ended(chunk)
            assert call.replica != chunk.failed_at or len(self.state.replicas) == 1
            if chunk.failed_at is None:  # the order of a class is kept until a call fails
                kind = (chunk.kind, chunk.bulk, chunk.sender.key)
                assert self._launched.get(kind, -1) < chunk.number
                self._launched[kind] = chunk.number

    def _check(self) -> None:
        """Check the laws that hold after every event."""
        open_calls = [call for call in self.open if call.open]
        assert len(open_calls) == self.state.calls_open
        in_flight = Counter(call.at for call in open_calls)
        assert all(count <= self.calls_in_flight for count in in_flight.values())
        carried = {chunk for call in open_calls for chunk in call.chunks}
        waiting = 0
        for chunk in self.chunks:
            assert chunk.done == self.ended(chunk)
            if not chunk.done:
                assert chunk.waiting != (chunk in carried), "it waits, or one call carries it"
                waiting += chunk.tokens if chunk.waiting and not chunk.bulk else 0
        assert self.ledger.waiting_tokens("m") == waiting
