"""The dispatcher of one model as a state machine: events in, instructions out.

A request is cut into chunks of at most one engine batch. Small chunks of many requests share a call
to a replica; a large chunk has its own call. `router.sending` decides when and where each call is
sent; this module handles its outcome.

Each event is a method. It takes the time, changes the state, and returns instructions for the shell
in order. The module reads no clock and starts nothing, so that a test can replay any order of
events. Every chunk ends once: by CompleteChunk, by FailChunk, or by `chunk_cancelled`.
"""

import math
from collections.abc import Sequence

from router.admission import RETRY_AFTER_S
from router.calls import (
    LARGE,
    C,
    CallInFlight,
)
from router.capacity import DemandReport
from router.errors import ModelUnavailable, RouterError
from router.instructions import (
    CallReply,
    CancelCall,
    CompleteChunk,
    Instruction,
    R,
    Timer,
)
from router.sending import TIMER_S, Sending
from router.steps import Step

LONGER = 0.5


class DispatcherState(Sending[C, R]):
    """One model's queue in this router, and the calls it has in flight."""

    __slots__ = ()

    @property
    def replicas_out(self) -> int:
        """The number of replicas that are ejected now."""
        return len(self._replicas.ejected)

    @property
    def calls_open(self) -> int:
        """The number of calls that have not ended."""
        return len(self._calls)

    def demand(self, now: float) -> DemandReport:
        """This router's demand for the model, for the autoscaler."""
        backlog_tokens = self.ledger.backlog_tokens(self.model) + self._queues.bulk.tokens
        return self.feedback.demand(backlog_tokens, now)

    # Events

    def submit(self, chunks: Sequence[C], now: float) -> list[Instruction[C, R]]:
        """The chunks of one admitted request arrive, in this order."""
        at_once = not self.limits.steps
        for chunk in chunks:
            self._queues.put(chunk)
            at_once = at_once or chunk.kind is LARGE
        if at_once:
            return self._send(now)
        self._send_after_turn()
        return self._drain()

    def chunk_cancelled(self, chunk: C) -> list[Instruction[C, R]]:
        """The caller of a chunk has left."""
        if not chunk.done:
            chunk.done = True
            self._queues.uncount(chunk)
            call = chunk.call
            if call is None:  # it can stay in the queue for long
                chunk.drop()
            elif call.open:
                call.live -= 1
                if not call.live:
                    self.counters.cancelled_calls += 1
                    self._out.append(CancelCall(call))
        return self._drain()

    def replied(self, call: CallInFlight[C], reply: R, now: float) -> list[Instruction[C, R]]:
        """A replica has answered a call."""
        if not self._close(call):
            return self._drain()
        try:
            self._answer(call, reply, now)
        finally:  # otherwise the slot would never be free again
            self._answered.append(call)
            self._send_after_turn()
        return self._drain()

    def connection_lost(
        self, call: CallInFlight[C], why: str, now: float
    ) -> list[Instruction[C, R]]:
        """The connection broke during a call. The first time does not count as a try: if the
        replica died, the next call to it reports that.
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

        `unreachable`: the engine could not reach its server, so the texts are not to blame.
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
        """A call ended with an error for all of its callers; each gets its own instance."""
        self._end(call)
        for chunk in call.chunks:
            if chunk.call is call:  # and was not put back into the queue
                self._fail(chunk, error.copied())
        return self._send(now)

    def call_cancelled(self, call: CallInFlight[C], now: float) -> list[Instruction[C, R]]:
        """A call ended because the shell cancelled it."""
        return self.refused(call, self._stopping(), now)

    def replicas_changed(self, posted: Sequence[str], now: float) -> list[Instruction[C, R]]:
        """The deployment has these replicas now."""
        self._replicas.change(posted)
        return self._send(now)

    def timer_ended(self, timer: Timer, now: float) -> list[Instruction[C, R]]:
        """A timer that SetTimer set has ended, perhaps a little early."""
        if timer is Timer.GATHER:
            self._gather_s = math.inf
        elif timer is Timer.TURN:
            self._turn = False
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
        """The request for a replica failed: the next request makes a new one."""
        self.feedback.awake()

    def close(self) -> list[Instruction[C, R]]:
        """The router stops: fail all waiting chunks. The shell cancels the calls."""
        return self.fail_waiting(self._stopping())

    def fail_waiting(self, error: RouterError) -> list[Instruction[C, R]]:
        """No replica will take the waiting chunks: each gets its own instance of the error."""
        for chunk in self._queues.take_all():
            self._fail(chunk, error.copied())
        return self._drain()

    def _learn(self, call: CallInFlight[C], reply: R) -> None:
        """Learn how long the step of a reply took."""
        if any(one.code == "expired" for one in reply.failed.values()):
            return  # the engine did not read all of it
        ahead, tokens = call.dispatch.ahead_tokens, call.dispatch.tokens
        at_replica_s = reply.queue_s + reply.inference_s
        if not self.limits.steps:  # calls run side by side
            self.feedback.stepped(ahead + tokens, call.tokens_sq, at_replica_s, call.texts)
            return
        step = Step(tokens, call.tokens_sq, at_replica_s, call.texts)
        idle = not reply.outstanding_tokens
        self.feedback.replied(reply.replica, step, reply.counters, alone=not ahead, idle=idle)

    # Ends of calls

    def _end(self, call: CallInFlight[C]) -> bool:
        """End a call and free its slot; False if it had ended already."""
        if closed := self._close(call):
            self._replicas.call_ended(call)
        return closed

    def _close(self, call: CallInFlight[C]) -> bool:
        """End a call, but keep its slot; False if it had ended already."""
        if not call.open:
            return False
        call.open = False
        self.ledger.completed(call.dispatch)
        self._calls.pop(call, None)
        return True

    def _answer(self, call: CallInFlight[C], reply: R, now: float) -> None:
        """Learn from the reply to a call, and give each chunk its part."""
        at, model = call.at, self.model
        at.answered(now)
        faults = 0
        if reply.failed:
            faults = sum(failure.code == "engine" for failure in reply.failed.values())
        if faults < call.texts:
            at.failures = 0
            self._replicas.ejected.answered(reply.replica)
        held, running = reply.outstanding_tokens, reply.running_tokens
        self.ledger.reported(model, reply.replica, held, now, running_tokens=running)
        left = held + self._queues.tokens // max(1, len(self._replicas.ready))
        if reply.replica in self._replicas.at:  # otherwise it is gone and must stay forgotten
            full = left >= self.limits.call_size.tokens
            self.feedback.served(reply.replica, reply.counters, full=full)
            self._learn(call, reply)
        self._deliver(call, reply, now)

    def _deliver(self, call: CallInFlight[C], reply: R, now: float) -> None:
        stop = tokens = 0
        for chunk in call.chunks:
            start, stop = stop, stop + len(chunk.lengths)
            tokens += chunk.tokens
            if chunk.done:
                chunk.call = None
                continue
            fault = _engine_fault(reply, start, stop) if reply.failed else None
            if fault is not None and not chunk.tries:  # perhaps only this replica fails
                chunk.suspect, chunk.engine_failed = reply.replica, True
                self._retry([chunk], fault, reply.replica, alone=True)
                continue
            if fault is None and chunk.suspect not in (None, reply.replica):
                self._replicas.blame(chunk.suspect, now)
            waited_s = call.sent_s - chunk.queued_s + reply.queue_s
            joined = stop < call.texts and self._longer(call, tokens, stop)
            # a call and its chunks would otherwise keep each other, and their vectors, in memory
            chunk.done, chunk.call = True, None
            self._out.append(CompleteChunk(chunk, call, reply, start, stop, waited_s, joined))

    def _longer(self, call: CallInFlight[C], tokens: int, texts: int) -> bool:
        """Whether a call takes longer by LONGER than its first `texts` texts would alone."""
        step = self.feedback.model.curve.step
        all_s = step(call.dispatch.tokens, 0.0, call.texts)
        return all_s > (1.0 + LONGER) * step(tokens, 0.0, texts)

    def _retry(
        self,
        chunks: Sequence[C],
        why: str,
        replica: str,
        alone: bool = False,
        connection_broken: bool = False,
    ) -> None:
        """Queue each chunk again, in front and for another replica; a second failure is returned to
        its caller.
        """
        for chunk in reversed(chunks):  # each is put in front of the previous one
            if chunk.done:
                chunk.call = None
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

    def _stopping(self) -> ModelUnavailable:
        return ModelUnavailable([f"{self.model}: this router is stopping"], RETRY_AFTER_S)

    # Health of replicas

    def _lose(self, call: CallInFlight[C], why: str, now: float) -> None:
        if self._end(call):
            self._replicas.eject(call.replica, now)
            self._retry(call.chunks, why, call.replica)

    def _give_up_hung(self, now: float) -> None:
        self._hang_s = math.inf
        for call in [call for call in self._calls if call.hangs_at_s - now < TIMER_S]:
            call.hung = f"it answered nothing for {call.limit_s:g} s"
            self._out.append(CancelCall(call))
            self._lose(call, call.hung, now)
        if self._calls:
            self._time_hangs(min(call.hangs_at_s for call in self._calls), now)


def _engine_fault(reply: CallReply, start: int, stop: int) -> str | None:
    """The engine's error for the first failed text in these rows; None without one."""
    for row, failure in reply.failed.items():
        if start <= row < stop and failure.code == "engine":
            return failure.message
    return None
