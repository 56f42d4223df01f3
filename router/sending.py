"""Decide what a dispatcher sends, when and where: the half of its state that turns waiting chunks
into calls. `router.dispatching` handles the results.

- Each replica has a few calls in flight; the rest waits here, where it can still be reordered.
- Small chunks are gathered until the calls before them should be nearly done, or a batch is full.
- Chunks whose texts begin alike go to the replica that has read that prefix, while it has room.
- Nothing is sent before the current turn of the shell's loop ends, so that requests that were read
  together share a call.

docs/internals.md has the reasons.
"""

import math
from collections.abc import Sequence
from typing import Generic

from router.admission import Admission
from router.calls import LARGE, SMALL, C, CallInFlight, DispatchCounters, DispatchLimits
from router.errors import RouterError
from router.feedback import Feedback
from router.instructions import (
    FailChunk,
    Instruction,
    LaunchCall,
    R,
    SetTimer,
    Timer,
    WakeReplica,
)
from router.ledger import SCANNED, Ledger, Random
from router.prefixes import PrefixHomes
from router.queues import Queues
from router.replica_health import ReplicaSet

HANGS_AFTER = 5.0  # times the expected time of a call
NEARLY_DONE = 0.9  # of a call's expected time, so that the next call arrives in time
DECAY = 0.995  # decay of `_worked_s` per call
FEW = 0.02  # least seconds of small calls, relative to large ones
TIMER_S = 0.001  # uvloop's timers count milliseconds: shorter waits get none
END_OF_TURN = SetTimer(Timer.TURN, 0.0)


class Sending(Generic[C, R]):
    """The chunks of one model that wait, and the replicas that they are sent to."""

    __slots__ = (
        "_answered", "_calls", "_ejection_s", "_gather_s", "_hang_s", "_homes", "_last", "_out",
        "_queues", "_replicas", "_rng", "_turn", "_worked_s",
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
        self._calls: dict[CallInFlight[C], None] = {}  # an ordered set: the same run every time
        self._homes = PrefixHomes()
        self._gather_s = math.inf  # when the timer GATHER ends
        self._answered: list[CallInFlight[C]] = []  # the timer TURN frees their slots
        self._hang_s = math.inf  # when the timer HANG ends
        self._turn = False  # whether the timer TURN runs
        self._ejection_s = math.inf  # when the timer EJECTION ends
        self._last = LARGE  # the kind of the last call
        self._worked_s = [0.0, 1e-9]  # recent seconds of small and of large calls

    @property
    def replicas(self) -> tuple[str, ...]:
        """The replicas that get calls now."""
        return self._replicas.ready

    def _drain(self) -> list[Instruction[C, R]]:
        out, self._out = self._out, []
        return out

    def _send(self, now: float) -> list[Instruction[C, R]]:
        """Launch what can be sent now."""
        queues = self._queues
        queues.stuck = [0, 0]
        blocked = [False, False]  # kinds without a chunk for the replicas with room
        # replicas that get all gathered small chunks, in as many calls as that takes
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
            chunks: list[C] = []
            if kind is LARGE:
                chunks = queues.take_large(now, self._free(replica))
            elif replica in ready or not self._gathers(replica, now):
                ready.add(replica)
                failed_at = replica if len(self._replicas.ready) > 1 else None
                chunks = queues.take_small(now, failed_at, self._free(replica))
            if aside:
                queues.put_back(aside)
            if chunks:
                self._launch(chunks, kind, replica, now)
            else:
                blocked[kind] = True
        if self._replicas.ejected:
            self._time_ejections(now)
        return self._drain()

    def _may_send(self, kind: int, other_waits: bool) -> bool:
        """Whether one more call of this kind leaves room for the other kind; large ones always
        leave some. With one call in flight, kinds that wait alternate.
        """
        replicas = len(self._replicas.ready)
        limit = self.limits.calls_in_flight * replicas
        if other_waits and self.limits.calls_in_flight == 1 and kind == self._last:
            return False
        if (kind is LARGE or other_waits) and self.limits.calls_in_flight > 1:
            limit -= max(1, replicas)
        return self._replicas.in_flight[kind] < limit

    def _pick(self, kind: int, now: float) -> tuple[str | None, list[C]]:
        """A replica with room for the next call, and the chunks set aside because it failed them:
        these wait for another replica without blocking the chunks behind them.
        """
        first = self._queues.first(kind)
        pick, idle = self.ledger.pick, kind is SMALL or first.bulk
        failed_at = first.failed_at if len(self._replicas.ready) > 1 else None
        if self._queues.needs_free(first) and self.limits.steps:
            return self._pick_free(kind, now, failed_at)
        among = None if idle else self._among_laden()
        replica = pick(self.model, now, self._rng, failed_at, prefer_idle=idle, among=among)
        home = None if first.prefix is None else self._homes.get(first.prefix)
        if home is not None and home != failed_at and self._goes_home(home, kind, now, replica):
            return home, []
        if replica is not None or failed_at is None:
            return replica, []
        replica = pick(self.model, now, self._rng, prefer_idle=idle)
        return replica, [] if replica is None else self._queues.set_aside(kind, replica)

    def _free(self, replica: str) -> bool:
        """Whether bulk at this replica delays no interactive work: there is none, or the replica
        works on its calls side by side.
        """
        return not self.limits.steps or not self._replicas.at[replica].interactive

    def _pick_free(
        self, kind: int, now: float, failed_at: str | None
    ) -> tuple[str | None, list[C]]:
        """The replica for bulk that is not due, and chunks set aside as by `_pick`: the home of its
        prefix, otherwise the least loaded of a few, among those with room and without interactive
        work.
        """
        ledger, free = self.ledger, self._replicas.free.members
        start = int(self._rng.random() * len(free)) - len(free)  # routers break ties differently
        looked = [free[place] for place in range(start, start + min(len(free), SCANNED))]
        roomy = [replica for replica in looked if ledger.has_room(self.model, replica)]
        among = [replica for replica in roomy if replica != failed_at]
        if not among:
            if not roomy:
                return None, []
            return failed_at, self._queues.set_aside(kind, roomy[0])
        least_loaded = ledger.least_loaded(self.model, among, now)
        home = self._homes.get(self._queues.first(kind).prefix)
        if home is None or home == failed_at or home not in self._replicas.at:
            return least_loaded, []
        goes = self._free(home) and self._goes_home(home, kind, now, least_loaded)
        return home if goes else least_loaded, []

    def _among_laden(self) -> Sequence[str] | None:
        """The replicas with large calls, if none is idle and they are enough for the large work: a
        small text that waits behind a large one takes many times as long as it should.
        """
        if self.ledger.any_idle(self.model):
            return None
        small_s, large_s = self._worked_s
        laden, replicas = self._replicas.laden.members, len(self._replicas.ready)
        limit = min(round(replicas * large_s / (small_s + large_s)), replicas - 1)
        return laden if small_s > FEW * large_s and len(laden) >= max(1, limit) else None

    def _goes_home(self, home: str, kind: int, now: float, other: str | None) -> bool:
        """Whether a call of this kind can go to the home of its prefix now, waits there behind no
        more calls than at `other`, and need not gather first.
        """
        if not self.ledger.has_room(self.model, home):
            return False
        at = self._replicas.at[home]
        if not any(at.calls) or self.ledger.any_idle(self.model):
            return not any(at.calls)
        if other is not None and sum(at.calls) > sum(self._replicas.at[other].calls):
            return False
        if kind is LARGE:
            return at.calls[LARGE] < max(1, self.limits.calls_in_flight - 1)
        return not self.limits.steps or not at.calls[SMALL] or at.nearly_done_s - now < TIMER_S

    def _gathers(self, replica: str, now: float) -> bool:
        """Whether small chunks should wait for the calls before them instead of being sent now;
        sets the timer for the end of that wait.
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
        tokens = texts = tokens_sq = 0
        interactive = False
        for chunk in chunks:
            tokens += chunk.tokens
            interactive = interactive or not chunk.bulk
            texts += len(chunk.lengths)
            tokens_sq += chunk.tokens_sq(self.limits.attention_tokens)
        bias = self.feedback.correction.bias
        if kind is SMALL:
            before_s = max(at.nearly_done_s, now) if at.calls[SMALL] else now
            at.nearly_done_s = before_s + NEARLY_DONE * curve.step(tokens, 0.0, texts) * bias
        seconds = curve.step(tokens, tokens_sq, texts) * bias
        small_s, large_s = self._worked_s
        self._worked_s = [DECAY * small_s, DECAY * large_s]
        self._worked_s[kind] += seconds
        self._queues.called(chunks, seconds, self._free(replica))
        self._last = kind
        dispatch = self.ledger.dispatched(self.model, replica, tokens, now)
        expected_s = curve.step(dispatch.ahead_tokens + tokens, tokens_sq, texts)
        limit_s = max(self.limits.replica_timeout_s, HANGS_AFTER * expected_s)
        call = CallInFlight(
            chunks, kind, replica, at, dispatch, texts, tokens_sq, now, limit_s, now + limit_s,
            len(chunks), interactive,
        )  # fmt: skip
        for chunk in chunks:
            chunk.call = call
            if chunk.prefix is not None:
                self._homes.sent(chunk.prefix, replica, self._replicas.at)
        self._replicas.call_began(call)
        self._calls[call] = None
        self.counters.calls += 1
        if call.hangs_at_s < self._hang_s:
            self._time_hangs(call.hangs_at_s, now)
        self._out.append(LaunchCall(call))

    def _wake(self, now: float) -> None:
        if not self._replicas.ready and self.feedback.wake(now):
            self.counters.wakes += 1
            self._out.append(WakeReplica())

    def _send_after_turn(self) -> None:
        if not self._turn:
            self._turn = True
            self._out.append(END_OF_TURN)

    def _time_ejections(self, now: float) -> None:
        end_s = self._replicas.ejected.next_end_s()
        if end_s < self._ejection_s:
            self._ejection_s = end_s
            self._out.append(SetTimer(Timer.EJECTION, end_s - now))

    def _time_hangs(self, first_s: float, now: float) -> None:
        self._hang_s = first_s
        self._out.append(SetTimer(Timer.HANG, first_s - now))

    def _fail(self, chunk: C, error: RouterError) -> None:
        """End the chunk with an error, unless it has ended."""
        chunk.call = None  # they would otherwise keep each other in memory
        if not chunk.done:
            chunk.done = True
            self._out.append(FailChunk(chunk, error))
