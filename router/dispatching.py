"""The dispatcher of one model as a state machine: events in, instructions out. Texts of many
requests travel together in calls to its replicas.

A request is cut into chunks of at most one engine batch; small chunks share a call, a large one has
a call of its own. Each replica has a few calls in flight: enough that the engine never waits for
the router, few enough that the rest stays in this router's queue, where it can still be reordered,
cancelled or sent elsewhere. Neither kind may take every slot, so neither starves the other.

A step of an engine costs much the same however few texts are in it. While a replica works on small
chunks, the next ones are gathered. They go when the calls before them should be nearly done, or
when they fill a batch: sending earlier only moves the wait to the replica and shrinks the batch.
A call that was answered keeps its slot until its callers have run, so that the next call leaves
after them.

Each event is a method. It takes the time, changes the state, and returns what the shell must do, in
order. The module reads no clock and starts nothing, so that a test can replay any order of events.
Every chunk ends once: by CompleteChunk, by FailChunk, or by `chunk_cancelled`.
"""

import math
from collections.abc import Sequence
from typing import Generic

from router.admission import RETRY_AFTER_S, Admission
from router.calls import (
    LARGE,
    SMALL,
    C,
    CallInFlight,
    DispatchCounters,
    DispatchLimits,
)
from router.capacity import DemandReport
from router.errors import ModelUnavailable, RouterError
from router.feedback import Feedback
from router.instructions import (
    CancelCall,
    CompleteChunk,
    FailChunk,
    Instruction,
    LaunchCall,
    R,
    Reply,
    SetTimer,
    Timer,
    WakeReplica,
)
from router.ledger import Ledger, Random
from router.queues import Queues
from router.replica_health import ReplicaSet

HANGS_AFTER = 5.0  # times what its calls should take
NEARLY_DONE = 0.9  # of what a call should take: the next one is on its way before its engine waits
TIMER_S = 0.001  # uvloop's timers count milliseconds: less is not worth one


class DispatcherState(Generic[C, R]):
    """One model's queue in this router, and the calls it has in flight."""

    __slots__ = (
        "_answered", "_calls", "_ejection_s", "_gather_s", "_hang_s", "_out", "_queues",
        "_replicas", "_rng",
        "admission", "counters", "feedback", "ledger", "limits", "model",
    )  # fmt: skip

    def __init__(
        self,
        model: str,
        limits: DispatchLimits,
        ledger: Ledger,
        feedback: Feedback,
        rng: Random,
        now: float,
    ) -> None:
        self.model, self.limits, self.ledger, self.feedback = model, limits, ledger, feedback
        self.counters = DispatchCounters()
        self._rng = rng
        self._out: list[Instruction[C, R]] = []
        self._queues: Queues[C] = Queues(model, limits, feedback, ledger, self.counters, self._fail)
        self._replicas = ReplicaSet(model, ledger, feedback)
        self.admission = Admission(self._queues, self._replicas, limits, feedback, ledger, now)
        self._calls: set[CallInFlight[C]] = set()
        self._gather_s = math.inf  # when the timer GATHER ends
        self._answered: list[CallInFlight[C]] = []  # the timer TURN frees their slots
        self._hang_s = math.inf  # when the timer HANG ends
        self._ejection_s = math.inf  # when the timer EJECTION ends

    @property
    def replicas(self) -> tuple[str, ...]:
        """The replicas that get calls now."""
        return self._replicas.ready

    @property
    def replicas_out(self) -> int:
        """Replicas that are ejected now."""
        return len(self._replicas.ejected)

    @property
    def calls_open(self) -> int:
        """Calls that have not ended."""
        return len(self._calls)

    def demand(self, now: float) -> DemandReport:
        """What this router needs of the model, for the autoscaler."""
        backlog_tokens = self.ledger.backlog_tokens(self.model) + self._queues.bulk_tokens
        return self.feedback.ask(backlog_tokens, now)

    # Events

    def submit(self, chunks: Sequence[C], now: float) -> list[Instruction[C, R]]:
        """The chunks of one request, which was admitted, arrive in this order."""
        for chunk in chunks:
            self._queues.put(chunk)
        return self._send(now)

    def chunk_cancelled(self, chunk: C) -> list[Instruction[C, R]]:
        """The caller of a chunk has left."""
        if not chunk.done:
            chunk.done = True
            self._queues.uncount(chunk)
            call = chunk.call
            if call is not None and call.open:
                call.live -= 1
                if not call.live:
                    self.counters.cancelled_calls += 1
                    self._out.append(CancelCall(call))
        return self._drain()

    def replied(self, call: CallInFlight[C], reply: R, now: float) -> list[Instruction[C, R]]:
        """A replica has answered a call."""
        if not self._close(call):
            return self._drain()
        at, model, dispatch = call.at, self.model, call.dispatch
        at.answered(now)
        faults = sum(failure.code == "engine" for failure in reply.failed.values())
        if faults < call.texts:
            at.failures = 0
            self._replicas.ejected.answered(reply.replica)
        self.ledger.reported(model, reply.replica, reply.outstanding_tokens, now)
        left = reply.outstanding_tokens + self._queues.tokens // max(1, len(self.replicas))
        if reply.replica in self._replicas.at:  # one that is gone since is not remembered again
            full = left >= self.limits.call_size.tokens
            self.feedback.served(reply.replica, reply.counters, full=full)
        self.feedback.stepped(
            dispatch.ahead_tokens + dispatch.tokens,
            call.tokens_sq,
            reply.queue_s + reply.inference_s,
            call.texts,
        )
        self._deliver(call, reply, now)
        self._answered.append(call)
        if len(self._answered) == 1:
            self._out.append(SetTimer(Timer.TURN, 0.0))
        return self._drain()

    def connection_lost(
        self, call: CallInFlight[C], why: str, now: float
    ) -> list[Instruction[C, R]]:
        """The connection broke under a call. A first time counts for no try: if the replica died,
        the next call to it reports that.
        """
        if self._end(call):
            self._retry(call.chunks, why, call.replica, connection_broken=True)
        return self._send(now)

    def replica_lost(self, call: CallInFlight[C], why: str, now: float) -> list[Instruction[C, R]]:
        """The replica of a call died or cannot be reached: retry the chunks elsewhere."""
        self._lose(call, why, now)
        return self._send(now)

    def engine_failed(
        self, call: CallInFlight[C], why: str, now: float, unreachable: bool = False
    ) -> list[Instruction[C, R]]:
        """The engine raised an error: retry chunk by chunk, so that a bad chunk harms no other.
        `unreachable`: what the engine calls is away, whatever the texts are.
        """
        if self._end(call):
            self._replicas.blame(call.replica, now)
            if not unreachable:
                for chunk in call.chunks:
                    chunk.engine_failed = True
            self._retry(call.chunks, why, call.replica, alone=True)
        return self._send(now)

    def refused(
        self, call: CallInFlight[C], error: RouterError, now: float
    ) -> list[Instruction[C, R]]:
        """A call ended with an error for all of its callers."""
        self._end(call)
        for chunk in call.chunks:
            if chunk.call is call:  # and was not put back into the queue
                self._fail(chunk, error)
        return self._send(now)

    def call_cancelled(self, call: CallInFlight[C], now: float) -> list[Instruction[C, R]]:
        """A call ended because the shell cancelled it."""
        return self.refused(call, self._stopping(), now)

    def replicas_changed(self, posted: Sequence[str], now: float) -> list[Instruction[C, R]]:
        """These are the replicas now."""
        self._replicas.change(posted)
        return self._send(now)

    def timer_ended(self, timer: Timer, now: float) -> list[Instruction[C, R]]:
        """A timer that SetTimer set has ended, perhaps a little early."""
        if timer is Timer.GATHER:
            self._gather_s = math.inf
        elif timer is Timer.TURN:
            for call in self._answered:
                self._replicas.call_ended(call)
            self._answered.clear()
        elif timer is Timer.HANG:
            self._give_up_hung(now)
        else:
            self._ejection_s = math.inf
            self._replicas.end_ejections(now + TIMER_S)
        return self._send(now)

    def warm(self, now: float) -> list[Instruction[C, R]]:
        """A request went elsewhere because this model has no replica."""
        self._wake(now)
        return self._drain()

    def wake_failed(self) -> None:
        """No replica will come: the next request asks again."""
        self.feedback.awake()

    def close(self) -> list[Instruction[C, R]]:
        """The router stops: fail what waits. The shell cancels the calls."""
        for chunk in self._queues.take_all():
            self._fail(chunk, self._stopping())
        return self._drain()

    # Sending

    def _drain(self) -> list[Instruction[C, R]]:
        out, self._out = self._out, []
        return out

    def _send(self, now: float) -> list[Instruction[C, R]]:
        """Launch what can be sent now."""
        queues = self._queues
        blocked = [False, False]  # kinds of which nothing may go to a replica that has room
        # replicas to which everything small goes that was gathered, in however many calls
        ready: set[str] = set()
        while True:
            small = not blocked[SMALL] and queues.waits(SMALL, now)
            large = not blocked[LARGE] and queues.waits(LARGE, now)
            if small and self._may_send(SMALL, large):
                kind = SMALL
            elif large and self._may_send(LARGE, small):
                kind = LARGE
            else:
                if small or large:
                    self._wake(now)
                break
            replica, aside = self._pick(kind, now)
            if replica is None:
                break
            gathers = kind is SMALL and replica not in ready and self._gathers(replica, now)
            chunks: list[C] = []
            if kind is LARGE:
                chunks = queues.take_large(now)
            elif not gathers:
                ready.add(replica)
                chunks = queues.take_small(now, replica if len(self.replicas) > 1 else None)
            if aside:
                queues.put_back(aside)
            if chunks:
                self._launch(chunks, kind, replica, now)
            elif aside or gathers:
                blocked[kind] = True
        if self._replicas.ejected:
            self._time_ejections(now)
        return self._drain()

    def _may_send(self, kind: int, other_waits: bool) -> bool:
        """Whether one more call of this kind leaves room for the other kind; large ones always
        leave some.
        """
        replicas = len(self.replicas)
        most = self.limits.calls_in_flight * replicas
        if (kind is LARGE or other_waits) and self.limits.calls_in_flight > 1:
            most -= max(1, replicas)
        return self._replicas.in_flight[kind] < most

    def _pick(self, kind: int, now: float) -> tuple[str | None, list[C]]:
        """A replica with room for the next call, and the chunks taken aside that may not go to it:
        they wait for another replica, and no chunk waits behind them.
        """
        pick, idle = self.ledger.pick, kind is SMALL
        failed_at = self._queues.first(kind).failed_at if len(self.replicas) > 1 else None
        replica = pick(self.model, now, self._rng, failed_at, prefer_idle=idle)
        if replica is not None or failed_at is None:
            return replica, []
        replica = pick(self.model, now, self._rng, prefer_idle=idle)
        return replica, [] if replica is None else self._queues.set_aside(kind, replica)

    def _gathers(self, replica: str, now: float) -> bool:
        """Whether small chunks do better to wait for those before them than to follow them now;
        sets the timer for when they do not.
        """
        at = self._replicas.at[replica]
        left_s = at.nearly_done_s - now
        if (
            not self.limits.steps
            or not at.calls[SMALL]
            or left_s < TIMER_S
            or self._queues.small_tokens >= self.limits.call_size.tokens
        ):
            return False
        if at.nearly_done_s < self._gather_s:
            self._gather_s = at.nearly_done_s
            self._out.append(SetTimer(Timer.GATHER, left_s))
        return True

    def _launch(self, chunks: list[C], kind: int, replica: str, now: float) -> None:
        at, curve = self._replicas.at[replica], self.feedback.model.curve
        tokens = sum(chunk.tokens for chunk in chunks)
        texts = sum(len(chunk.lengths) for chunk in chunks)
        tokens_sq = sum(chunk.tokens_sq(self.limits.attention_tokens) for chunk in chunks)
        if kind is SMALL:
            before_s = max(at.nearly_done_s, now) if at.calls[SMALL] else now
            step_s = curve.step(tokens, 0.0, texts) * self.feedback.correction.bias
            at.nearly_done_s = before_s + NEARLY_DONE * step_s
        dispatch = self.ledger.dispatched(self.model, replica, tokens, now)
        expected_s = curve.step(dispatch.ahead_tokens + tokens, tokens_sq, texts)
        limit_s = max(self.limits.replica_timeout_s, HANGS_AFTER * expected_s)
        call = CallInFlight(
            chunks, kind, at, dispatch, texts, tokens_sq, now, limit_s, now + limit_s, len(chunks)
        )
        for chunk in chunks:
            chunk.call = call
        self._replicas.call_began(call)
        self._calls.add(call)
        self.counters.calls += 1
        if call.hangs_at_s < self._hang_s:
            self._time_hangs(call.hangs_at_s, now)
        self._out.append(LaunchCall(call))

    def _wake(self, now: float) -> None:
        if not self.replicas and self.feedback.wake(now):
            self.counters.wakes += 1
            self._out.append(WakeReplica())

    # Ends of calls

    def _end(self, call: CallInFlight[C]) -> bool:
        """End a call and free its slot; whether that was still to do."""
        if closed := self._close(call):
            self._replicas.call_ended(call)
        return closed

    def _close(self, call: CallInFlight[C]) -> bool:
        """End a call, but for its slot; whether that was still to do."""
        if not call.open:
            return False
        call.open = False
        self.ledger.completed(call.dispatch)
        self._calls.discard(call)
        return True

    def _deliver(self, call: CallInFlight[C], reply: R, now: float) -> None:
        stop = 0
        for chunk in call.chunks:
            start, stop = stop, stop + len(chunk.lengths)
            if chunk.done:
                continue
            fault = _engine_fault(reply, start, stop) if reply.failed else None
            if fault is not None and not chunk.tries:  # perhaps of this replica alone
                chunk.suspect, chunk.engine_failed = reply.replica, True
                self._retry([chunk], fault, reply.replica, alone=True)
                continue
            if fault is None and chunk.suspect not in (None, reply.replica):
                self._replicas.blame(chunk.suspect, now)
            chunk.done = True
            waited_s = call.sent_s - chunk.queued_s + reply.queue_s
            self._out.append(CompleteChunk(chunk, reply, start, stop, waited_s))

    def _retry(
        self,
        chunks: Sequence[C],
        why: str,
        replica: str,
        alone: bool = False,
        connection_broken: bool = False,
    ) -> None:
        """Queue each chunk once more, in front and for another replica; a second failure is its
        caller's.
        """
        for chunk in reversed(chunks):  # each goes in front of the one before
            if chunk.done:
                continue
            if connection_broken and not chunk.connections_broken:
                chunk.connections_broken += 1
            elif chunk.tries:
                why_not = f"{self.model} failed twice: {why}"
                lost = not chunk.engine_failed
                self._fail(chunk, ModelUnavailable([why_not], RETRY_AFTER_S, lost, sent=True))
                continue
            else:
                chunk.tries += 1
            chunk.failed_at, chunk.call = replica, None
            if alone:
                chunk.kind = LARGE
            self.counters.retries += 1
            self._queues.put(chunk, front=True)

    def _fail(self, chunk: C, error: RouterError) -> None:
        """End the chunk with an error, unless it has ended."""
        if not chunk.done:
            chunk.done = True
            self._out.append(FailChunk(chunk, error))

    def _stopping(self) -> ModelUnavailable:
        return ModelUnavailable([f"{self.model}: this router is stopping"], RETRY_AFTER_S)

    # Health of replicas

    def _lose(self, call: CallInFlight[C], why: str, now: float) -> None:
        if self._end(call):
            self._replicas.eject(call.replica, now)
            self._retry(call.chunks, why, call.replica)

    def _time_ejections(self, now: float) -> None:
        end_s = self._replicas.ejected.next_end_s()
        if end_s < self._ejection_s:
            self._ejection_s = end_s
            self._out.append(SetTimer(Timer.EJECTION, end_s - now))

    def _give_up_hung(self, now: float) -> None:
        self._hang_s = math.inf
        for call in [call for call in self._calls if call.hangs_at_s - now < TIMER_S]:
            call.hung = f"it answered nothing for {call.limit_s:g} s"
            self._out.append(CancelCall(call))
            self._lose(call, call.hung, now)
        if self._calls:
            self._time_hangs(min(call.hangs_at_s for call in self._calls), now)

    def _time_hangs(self, first_s: float, now: float) -> None:
        self._hang_s = first_s
        self._out.append(SetTimer(Timer.HANG, first_s - now))


def _engine_fault(reply: Reply, start: int, stop: int) -> str | None:
    """What the engine says of the first text of these rows that it failed on."""
    for row, failure in reply.failed.items():
        if start <= row < stop and failure.code == "engine":
            return failure.message
    return None
