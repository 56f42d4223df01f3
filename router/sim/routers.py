"""A router on the virtual clock.

It does what deployments/service and deployments/dispatch do around the decisions, without sockets,
texts and caches.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol, TypeAlias

from router.admission import RETRY_AFTER_S
from router.calls import MESSAGE_BYTES, CallInFlight, CallSize, DispatchLimits, max_rows
from router.config import RouterArgs
from router.dispatching import DispatcherState
from router.domain import Decision, Load, Model, Request
from router.errors import ModelUnavailable, Overloaded, RouterError
from router.fair import Sender
from router.feedback import Feedback, record_demand
from router.instructions import (
    CancelCall,
    CompleteChunk,
    FailChunk,
    Instruction,
    LaunchCall,
    SetTimer,
    Timer,
)
from router.latency import AIM_ETA, Correction
from router.ledger import Ledger
from router.ledger import Random as Source
from router.queues import bulk_size
from router.rules import Policy
from router.sim.pending import Pending, SimChunk
from router.sim.replicas import SimCall, SimReply
from router.sim.traffic import Arrival, Piece, Shape, pieces_of

Chooser: TypeAlias = Callable[
    [Policy, Request, Mapping[str, Model], Mapping[str, Load], float], Decision
]
MANY = 1_000_000
Call: TypeAlias = "CallInFlight[SimChunk]"


class SimulationView(Protocol):
    """The simulation, as routers see it."""

    def launch(self, dispatcher: "SimDispatcher", call: Call, now: float) -> None:
        """Send a call to its replica."""

    def cancel(self, dispatcher: "SimDispatcher", call: Call, now: float) -> None:
        """Cancel a call."""

    def set_timer(self, dispatcher: "SimDispatcher", timer: Timer, at_s: float) -> None:
        """Call `timer_ended` at `at_s`, unless the timer is set again before."""

    def end_turn(self, dispatcher: "SimDispatcher") -> None:
        """End the timer TURN when this event is over."""

    def wake(self, model: str, now: float) -> None:
        """Start a first replica."""

    def last_lost(self, model: str) -> None:
        """A router lost the last replica of a model."""

    def answered(self, pending: Pending, now: float) -> float:
        """Count a request that has its vectors; return the seconds that it took."""

    def refused(self, shape: Shape, decision: Decision, at_s: float, code: str) -> None:
        """Count a request that got an error instead."""


@dataclass(frozen=True, slots=True)
class Corrections:
    """Which of the learned corrections are applied; for ablations."""

    bias: bool = True
    margin: bool = True
    aim: bool = True  # the outer loop of the margin
    crowding: bool = True
    doubt: bool = True
    overhead: bool = True
    curve: bool = True  # learned from steps, where the config has no profile


ALL = Corrections()


class PartialCorrection(Correction):
    """A correction that learns only some of its factors."""

    def __init__(self, miss_share: float, kept: Corrections) -> None:
        super().__init__(miss_share)
        self._kept = kept

    def observe(
        self,
        actual_s: float,
        predicted_s: float,
        bias: float,
        margin: float | None = None,
        joined: bool = False,
    ) -> None:
        if not self._kept.aim:  # what `observe` will add, so that it then counts 0
            missed = actual_s > predicted_s * (self.margin if margin is None else margin)
            self._missed = -AIM_ETA * (missed - self._share)
        super().observe(actual_s, predicted_s, bias, margin, joined)
        self._reset()

    def doubt(self) -> None:
        """Lower the factors that are learned, unless doubts are left out."""
        if self._kept.doubt:
            super().doubt()
            self._reset()

    def _reset(self) -> None:
        if not self._kept.bias:
            self.bias = 1.0
        if not self._kept.margin:
            self.margin = self._margin.value = 1.0
        if not self._kept.crowding:
            self.crowding = self._crowding.value = 1.0


class OldReports(Ledger):
    """A ledger that ignores the loads in replies and uses only the replicas' separate reports."""

    __slots__ = ()

    def reported(
        self,
        model: str,
        replica: str,
        held_tokens: int,
        now: float,
        in_reply: bool = True,
        running_tokens: int | None = None,
    ) -> None:
        if not in_reply:
            super().reported(model, replica, held_tokens, now, in_reply, running_tokens)


class TwoChoices(Ledger):
    """A ledger that treats small texts as large ones: the less loaded of two replicas."""

    __slots__ = ()

    def pick(
        self,
        model: str,
        now: float,
        rng: Source,
        exclude: str | None = None,
        prefer_idle: bool = False,
        among: Sequence[str] | None = None,
    ) -> str | None:
        return super().pick(model, now, rng, exclude, False, among)


class RandomPick(Ledger):
    """A ledger that picks a replica at random."""

    __slots__ = ()

    def pick(
        self,
        model: str,
        now: float,
        rng: Source,
        exclude: str | None = None,
        prefer_idle: bool = False,
        among: Sequence[str] | None = None,
    ) -> str | None:
        members = self._pools[model].joined.members
        return members[int(rng.random() * len(members))].id if members else None


class SimDispatcher:
    """One model's dispatcher in one router: the shell around its state."""

    __slots__ = ("_host", "_router", "model", "state", "timers")

    def __init__(
        self,
        model: str,
        state: DispatcherState[SimChunk, SimReply],
        router: "SimRouter",
        host: SimulationView,
    ) -> None:
        self.model, self.state, self._router, self._host = model, state, router, host
        self.timers: dict[Timer, int] = {}  # the number of the event that ends each

    def execute(self, instructions: Iterable[Instruction[SimChunk, SimReply]], now: float) -> None:
        """Execute the state's instructions in order."""
        for one in instructions:
            if isinstance(one, CompleteChunk):
                self._router.completed(one, now)
            elif isinstance(one, LaunchCall):
                self._host.launch(self, one.call, now)
            elif isinstance(one, SetTimer):
                if one.timer is Timer.TURN:
                    self._host.end_turn(self)
                else:
                    self._host.set_timer(self, one.timer, now + max(0.0, one.delay_s))
            elif isinstance(one, FailChunk):
                self._router.failed(one.chunk.request, one.error, now)
            elif isinstance(one, CancelCall):
                self._host.cancel(self, one.call, now)
                self.execute(self.state.call_cancelled(one.call, now), now)
            else:
                self._host.wake(self.model, now)

    def replied(self, job: SimCall, reply: SimReply, now: float) -> None:
        """Pass a replica's reply to the state."""
        self.execute(self.state.replied(job.call, reply, now), now)

    def lost(self, job: SimCall, now: float) -> None:
        """Report to the state that the replica of a call died."""
        self.execute(self.state.replica_lost(job.call, "it died", now), now)

    def gone(self, now: float) -> None:
        """Fail what waits: the model has no replica, and none starts."""
        error = ModelUnavailable([f"{self.model}: no replica"], RETRY_AFTER_S, lost=True)
        self.execute(self.state.fail_waiting(error), now)


class SimRouter:
    """One router: its ledger, its learned corrections and a dispatcher for each model."""

    def __init__(
        self,
        args: RouterArgs,
        models: Mapping[str, Model],
        policy: Policy,
        choose: Chooser,
        host: SimulationView,
        rng: Random,
        routers: int = 1,
        corrections: Corrections = ALL,
        reports_in_replies: bool = True,
        plain: bool = False,
        two_choices: bool = False,
    ) -> None:
        """`plain` dispatches every request at once, to any replica; `two_choices` picks the less
        loaded of two replicas for small texts too.
        """
        self._plain = plain
        self._args, self._policy, self._choose, self._host = args, policy, choose, host
        self._rng, self._learns = rng, corrections
        made: type[Ledger] = Ledger if reports_in_replies else OldReports
        if plain or two_choices:
            made = RandomPick if plain else TwoChoices
        calls = {
            name: MANY if plain else config.calls_in_flight for name, config in args.models.items()
        }
        self.ledger = made(calls, routers)
        self.ledger.on_last_lost = host.last_lost
        routing, self.feedback = args.routing, dict[str, Feedback]()
        for name, model in models.items():
            config = args.models[name]
            measured = config.profile is not None or not corrections.curve
            feedback = Feedback(model, measured, routing, 0.0, config.cold_start_s)
            if corrections != ALL:
                feedback.correction = PartialCorrection(routing.miss_share, corrections)
            self.feedback[name] = feedback
        self.dispatchers = {
            name: SimDispatcher(name, self._state(name), self, host) for name in models
        }

    def _state(self, name: str) -> DispatcherState[SimChunk, SimReply]:
        args, config = self._args, self._args.models[name]
        batch_tokens = self.feedback[name].model.curve.batch_tokens
        limits = DispatchLimits(
            CallSize(batch_tokens, max_rows(config.dimensions), MESSAGE_BYTES),
            MANY if self._plain else config.calls_in_flight,
            args.limits.max_queued_tokens,
            args.limits.max_queue_s,
            args.limits.replica_timeout_s,
            config.attention_tokens,
            not config.engine.runs_elsewhere and not self._plain,
            args.limits.bulk_call_ms / 1000.0,
            args.limits.bulk_share,
        )
        return DispatcherState(name, limits, self.ledger, self.feedback[name], self._rng, 0.0)

    def arrive(self, arrival: Arrival) -> None:
        """Decide one request, and dispatch it."""
        now, shape = arrival.at_s, arrival.shape
        self._decide(shape, shape.request(now), now, self.loads(now, shape.sender), None)

    def loads(self, now: float, sender: Sender) -> dict[str, Load]:
        """The current load of each model as seen by this router, for the next request of this
        sender.
        """
        ledger, rng = self.ledger, self._rng
        return {
            name: feedback.load(ledger, now, rng, sender)
            for name, feedback in self.feedback.items()
        }

    def _decide(
        self,
        shape: Shape,
        request: Request,
        now: float,
        loads: Mapping[str, Load],
        again: Pending | None,
    ) -> None:
        models = {name: feedback.model for name, feedback in self.feedback.items()}
        decision = self._choose(self._policy, request, models, loads, now)
        arrived_s = now
        if again is None:
            missed = record_demand(
                self.feedback, decision, shape.work, loads, now, request.deadline_s
            )
            if missed is not None:
                dispatcher = self.dispatchers[missed]
                dispatcher.execute(dispatcher.state.warm(now), now)
        else:
            arrived_s = again.arrived_s
        if decision.model is None:
            self._host.refused(shape, decision, arrived_s, str(decision.reason))
            return
        pieces = self._pieces(shape, decision.model)
        pending = Pending(shape, arrived_s, decision, loads[decision.model], len(pieces))
        pending.tried_s = None if again is None else now
        if not pieces:  # every text is in the cache
            self._host.answered(pending, now)
            return
        self._submit(pending, pieces, request, now)

    def _pieces(self, shape: Shape, model: str) -> Sequence[Piece]:
        """The chunks of a request; those of bulk are cut by the current curve of the model."""
        pieces, state = shape.pieces[model], self.dispatchers[model].state
        if not shape.bulk or not pieces:
            return pieces
        counts = [count for piece in pieces for count in piece.lengths.tolist()]
        size = bulk_size(state.limits, state.feedback)
        return pieces_of(counts, state.limits.call_size.tokens, self._args.models[model], size)

    def _submit(
        self, pending: Pending, pieces: Sequence[Piece], request: Request, now: float
    ) -> None:
        shape, model = pending.shape, pending.decision.model
        assert model is not None
        dispatcher, limits = self.dispatchers[model], self._args.limits
        deadline_s = pending.arrived_s + limits.request_timeout_s
        if shape.on_miss == "reject" and request.deadline_s is not None:
            deadline_s = min(deadline_s, request.deadline_s)
        try:
            dispatcher.state.admission.admit(
                shape.sent[model], deadline_s, shape.bulk, now, shape.sender
            )
        except Overloaded as error:
            self._host.refused(shape, pending.decision, pending.arrived_s, error.code)
            return
        chunks = [
            SimChunk(
                lengths=piece.lengths,
                tokens=piece.tokens,
                squared=piece.tokens_sq,
                bulk=shape.bulk,
                sender=shape.sender,
                deadline_s=deadline_s,
                queued_s=now,
                request=pending,
            )
            for piece in pieces
        ]
        dispatcher.execute(dispatcher.state.submit(chunks, now), now)

    def completed(self, one: CompleteChunk[SimChunk, SimReply], now: float) -> None:
        """Complete a chunk; the last one answers its request."""
        chunk, reply = one.chunk, one.reply
        chunk.call = None  # otherwise it and its call are a cycle, and wait for the collector
        pending = chunk.request
        pending.queue_s = max(pending.queue_s, one.waited_s)
        pending.inference_s = max(pending.inference_s, reply.inference_s)
        pending.joined = pending.joined or one.joined
        pending.left -= 1
        if pending.left or pending.failed:
            return
        decision, shape, load = pending.decision, pending.shape, pending.load
        model = decision.model
        assert model is not None
        engine_s = pending.queue_s + pending.inference_s
        actual_s = self._host.answered(pending, now)
        if not shape.bulk and decision.predicted_s is not None and pending.tried_s is None:
            self.feedback[model].completed(
                actual_s,
                decision.predicted_s,
                load.bias,
                now,
                load.margin / load.crowding,
                engine_s if self._learns.overhead else None,
                pending.joined,
            )

    def failed(self, pending: Pending, error: RouterError, now: float) -> None:
        """Handle a failed chunk. A request whose model was lost is decided again, once, if another
        model can serve it; otherwise it is refused.
        """
        if pending.failed:
            return
        pending.failed = True
        lost = isinstance(error, ModelUnavailable) and error.lost
        if not lost or pending.tried_s is not None or len(pending.shape.work) < 2:
            self._host.refused(pending.shape, pending.decision, pending.arrived_s, error.code)
            return
        shape, model = pending.shape, pending.decision.model
        assert model is not None
        loads = self.loads(now, shape.sender)
        loads[model] = loads[model]._replace(ready_replicas=0, cold_start_s=None)
        request = shape.request(pending.arrived_s)
        self._decide(shape, request, now, loads, pending)
