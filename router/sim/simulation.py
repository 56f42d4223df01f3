"""The event loop: one heap and one virtual clock.

    ARRIVE     a request arrives; only the next one is held in memory
    STEP_DONE  a step of a replica ends: its calls are answered, and the next step begins
    TIMER      a dispatcher's timer ends (calls gathered long enough, hanging calls, ejections)
    REPORT     replicas report their outstanding tokens, if the scenario enables it
    SCALE      the autoscaler decides on the routers' demand
    READY      a replica has started
    FAULT      a replica dies, slows down or recovers

Only REPORT and SCALE look at all replicas.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from random import Random
from typing import Any, Protocol

from router.calls import CallInFlight
from router.config import RouterArgs
from router.domain import Curve, Decision, Model
from router.instructions import Timer
from router.policy import decide
from router.rules import Policy
from router.sim.outcome import Outcome
from router.sim.pending import Pending, SimChunk
from router.sim.replicas import EXACT, Noise, SimCall, SimReplica
from router.sim.routers import ALL, Chooser, Corrections, SimDispatcher, SimRouter
from router.sim.traffic import Arrival, Shape

NOTICED_S = 1.0  # from a replica's death to its removal from the list of replicas


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of a model's replicas."""

    at_s: float
    model: str
    replicas: int = 1
    factor: float | None = None  # times slower; None: they die
    seconds: float = 0.0  # duration of the slowdown
    restart_s: float | None = None  # until a dead one is replaced; None: never


@dataclass(frozen=True, slots=True)
class SimulationInputs:
    """The inputs of a run."""

    args: RouterArgs
    models: Mapping[str, Model]  # as the routers know them
    policy: Policy
    replicas: Mapping[str, int]
    packs: Mapping[str, bool] = field(default_factory=dict)  # steps take texts of several calls
    curves: Mapping[str, Curve] = field(default_factory=dict)  # the true ones where they differ
    choose: Chooser = decide
    routers: int = 1
    noise: Noise = EXACT
    report_every_s: float | None = None  # None: in replies only
    reports_in_replies: bool = True
    corrections: Corrections = ALL
    faults: tuple[Fault, ...] = ()
    plain: bool = False  # every request is dispatched at once, to any replica
    two_choices: bool = False  # small texts go to the less loaded of two replicas
    warm_up_s: float = 0.0
    moments: int = 60
    seed: int = 0


class Scaler(Protocol):
    """Starts and stops replicas."""

    every_s: float

    def decide(self, simulation: "Simulation", now: float) -> None:
        """Read the demand, and call `start` and `stop`."""


class Simulation:
    """One run."""

    def __init__(
        self,
        setup: SimulationInputs,
        arrivals: Iterable[Arrival],
        seconds: float,
        scaler: Scaler | None = None,
        watch: Callable[[float], None] | None = None,
    ) -> None:
        """`watch` is called with the clock every 1,000 arrivals."""
        self.setup, self._scaler, self._watch = setup, scaler, watch
        self._arrivals = iter(arrivals)
        self.outcome = Outcome(seconds, setup.moments, setup.warm_up_s)
        self._heap: list[tuple[float, int, Callable[[Any, float], None], Any]] = []
        self._numbers = count()
        self._turns: deque[SimDispatcher] = deque()  # whose TURN ends with this event
        self._noise = Random(f"noise {setup.seed}")
        self._random = Random(f"routers {setup.seed}")
        self.now = 0.0
        self.events = 0
        self.arrived = self.ended = 0
        self._more = True  # arrivals are left
        self.replicas: dict[str, SimReplica] = {}
        self.ready: dict[str, list[str]] = {name: [] for name in setup.models}
        self.starting = dict.fromkeys(setup.models, 0)
        self.routers = [
            SimRouter(
                setup.args,
                setup.models,
                setup.policy,
                setup.choose,
                self,
                Random(f"router {setup.seed} {number}"),
                setup.routers,
                setup.corrections,
                setup.reports_in_replies,
                setup.plain,
                setup.two_choices,
            )
            for number in range(setup.routers)
        ]
        self._overheads = {name: self._curve(name).overhead_s for name in setup.models}
        for name, replicas in setup.replicas.items():
            for _ in range(replicas):
                self._join(name, 0.0)
            self._post(name, 0.0)
        for fault in setup.faults:
            self._at(fault.at_s, self._fault, fault)
        if setup.report_every_s is not None:
            self._at(setup.report_every_s, self._report, None)
        if scaler is not None:
            self._at(scaler.every_s, self._scale, None)

    def run(self) -> Outcome:
        """Run all events until every request has ended."""
        heap, routers, pick, turns = self._heap, self.routers, self._random.random, self._turns
        only = routers[0] if len(routers) == 1 else None
        arrival = next(self._arrivals, None)
        while True:
            if arrival is not None and (not heap or arrival.at_s <= heap[0][0]):
                self.now = arrival.at_s
                self.arrived += 1
                router = only or routers[int(pick() * len(routers))]
                router.arrive(arrival)
                if self._watch is not None and not self.arrived % 1000:
                    self._watch(self.now)
                arrival = next(self._arrivals, None)
                self._more = arrival is not None
            elif heap and (arrival is not None or self.ended < self.arrived):
                self.now, _, event, about = heappop(heap)
                self.events += 1
                event(about, self.now)
            else:
                break
            while turns:
                dispatcher = turns.popleft()
                ended = dispatcher.state.timer_ended(Timer.TURN, self.now)
                dispatcher.execute(ended, self.now)
        self._settle()
        return self.outcome

    # What routers call

    def launch(self, dispatcher: SimDispatcher, call: CallInFlight[SimChunk], now: float) -> None:
        """Deliver a call to its replica; the call is lost if the replica is dead."""
        job, replica = SimCall(call, dispatcher, now), self.replicas.get(call.replica)
        if replica is None or replica.dead:
            self._at(now, self._refuse, job)  # after the instructions that launched it
            return
        replica.put(job, now)
        if replica.idle:
            self._begin(replica, now)

    def cancel(self, dispatcher: SimDispatcher, call: CallInFlight[SimChunk], now: float) -> None:
        """Cancel a call."""
        if (replica := self.replicas.get(call.replica)) is not None:
            replica.drop(call, now)

    def set_timer(self, dispatcher: SimDispatcher, timer: Timer, at_s: float) -> None:
        """End the timer at `at_s`, unless it is set again before."""
        number = next(self._numbers)
        dispatcher.timers[timer] = number
        heappush(self._heap, (at_s, number, self._timer_ended, (dispatcher, timer, number)))

    def end_turn(self, dispatcher: SimDispatcher) -> None:
        """End the timer TURN when this event is over."""
        self._turns.append(dispatcher)

    def wake(self, model: str, now: float) -> None:
        """Start a first replica."""
        cold_s = self.setup.args.models[model].cold_start_s
        if not self.ready[model] and not self.starting[model]:
            self.start(model, 1, now, cold_s or 0.0)

    def last_lost(self, model: str) -> None:
        """Look, after the instructions that follow, whether anything can still take what waits."""
        self._at(self.now, self._end_waiting, model)

    def answered(self, pending: Pending, now: float) -> float:
        """Count an answer; returns the seconds that it took."""
        model = pending.decision.model
        assert model is not None
        actual_s = now - pending.arrived_s + self._overheads[model]
        self.ended += 1
        self.outcome.answered(pending.shape, pending.decision, pending.arrived_s, actual_s)
        return actual_s

    def refused(self, shape: Shape, decision: Decision, arrived_s: float, code: str) -> None:
        """Count an error."""
        self.ended += 1
        self.outcome.refused(shape, arrived_s, code)

    # What the autoscaler calls

    def start(self, model: str, replicas: int, now: float, start_s: float) -> None:
        """Start replicas: they cost from now on, and serve after `start_s`."""
        self.starting[model] += replicas
        for _ in range(replicas):
            self._at(now + start_s, self._ready, (model, now))

    def stop(self, model: str, replicas: int, now: float) -> None:
        """Stop replicas, the newest first; each ends when it has answered its calls."""
        for _ in range(replicas):
            replica = self.replicas[self.ready[model].pop()]
            replica.draining = True
            if replica.idle:
                self._leave(replica, now)
        self._post(model, now)

    # Events

    def _at(self, at_s: float, event: Callable[[Any, float], None], about: Any) -> None:
        heappush(self._heap, (at_s, next(self._numbers), event, about))

    def _begin(self, replica: SimReplica, now: float) -> None:
        seconds = replica.begin(now)
        if seconds is not None:
            heappush(self._heap, (now + seconds, next(self._numbers), self._step_done, replica))

    def _step_done(self, replica: SimReplica, now: float) -> None:
        if replica.dead:
            return
        jobs = replica.end(now)
        self._begin(replica, now)  # before the replies, which can launch new calls
        for job in jobs:
            if not job.dropped:
                job.dispatcher.replied(job, replica.reply(job, now), now)
        if replica.draining and replica.idle:
            self._leave(replica, now)

    def _refuse(self, job: SimCall, now: float) -> None:
        job.dispatcher.lost(job, now)

    def _timer_ended(self, about: tuple[SimDispatcher, Timer, int], now: float) -> None:
        dispatcher, timer, number = about
        if dispatcher.timers.get(timer) == number:
            dispatcher.execute(dispatcher.state.timer_ended(timer, now), now)

    def _report(self, _: None, now: float) -> None:
        for model, ready in self.ready.items():
            for id in ready:
                held = self.replicas[id].outstanding
                for router in self.routers:
                    router.ledger.reported(model, id, held, now, in_reply=False)
        assert self.setup.report_every_s is not None
        self._at(now + self.setup.report_every_s, self._report, None)

    def _scale(self, _: None, now: float) -> None:
        assert self._scaler is not None
        self._scaler.decide(self, now)
        self._at(now + self._scaler.every_s, self._scale, None)

    def _ready(self, about: tuple[str, float], now: float) -> None:
        model, since_s = about
        self.starting[model] -= 1
        self._join(model, now, since_s)
        self._post(model, now)

    def _fault(self, fault: Fault, now: float) -> None:
        hit = [self.replicas[id] for id in self.ready[fault.model][: fault.replicas]]
        for replica in hit:
            if fault.factor is None:
                self._kill(replica, fault.restart_s, now)
            else:
                replica.factor *= fault.factor
                self._at(now + fault.seconds, self._well, (replica, fault.factor))

    def _well(self, about: tuple[SimReplica, float], now: float) -> None:
        replica, factor = about
        replica.factor /= factor

    def _kill(self, replica: SimReplica, restart_s: float | None, now: float) -> None:
        lost = replica.die(now)
        self._spent(replica, now)
        self.ready[replica.model].remove(replica.id)
        if restart_s is not None:
            self.start(replica.model, 1, now, restart_s)
        for job in lost:
            job.dispatcher.lost(job, now)
        self._at(now + NOTICED_S, self._noticed, replica.model)

    def _noticed(self, model: str, now: float) -> None:
        self._post(model, now)
        self._end_waiting(model, now)

    def _end_waiting(self, model: str, now: float) -> None:
        if not self.ready[model] and not self.starting[model]:
            for router in self.routers:
                router.dispatchers[model].gone(now)

    # Replicas

    def _curve(self, model: str) -> Curve:
        return self.setup.curves.get(model, self.setup.models[model].curve)

    def _join(self, model: str, now: float, since_s: float | None = None) -> None:
        id = f"{model}#{next(self._numbers)}"
        self.replicas[id] = SimReplica(
            id,
            model,
            self._curve(model),
            self.setup.args.models[model].attention_tokens,
            self.setup.packs.get(model, True),
            self.setup.noise,
            self._noise,
            now if since_s is None else since_s,
        )
        self.ready[model].append(id)

    def _post(self, model: str, now: float) -> None:
        posted: Sequence[str] = tuple(self.ready[model])
        self.outcome.replicas.append((now, model, len(posted)))
        for router in self.routers:
            dispatcher = router.dispatchers[model]
            dispatcher.execute(dispatcher.state.replicas_changed(posted, now), now)

    def _leave(self, replica: SimReplica, now: float) -> None:
        replica.dead = True
        self._spent(replica, now)

    def _spent(self, replica: SimReplica, now: float) -> None:
        del self.replicas[replica.id]
        model, busy_s = replica.model, self.outcome.busy_s
        devices = self.setup.models[model].devices
        self.outcome.held(model, devices, replica.since_s, now)
        busy_s[model] = busy_s.get(model, 0.0) + devices * replica.busy_s(now)

    def _settle(self) -> None:
        """Account for the remaining replicas, and check that all ledgers are empty."""
        now = self.outcome.end_s = max(self.now, self.outcome.seconds)
        for replica in list(self.replicas.values()):
            self._spent(replica, now)
        for _, _, event, about in self._heap:
            if event == self._ready:
                model, since_s = about
                self.outcome.held(model, self.setup.models[model].devices, since_s, now)
        for router in self.routers:
            router.ledger.assert_empty()
        self.outcome.settle()
