"""A replica on the virtual clock: calls run in order of arrival, in steps of at most a batch."""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import NamedTuple, Protocol

from router.calls import CallInFlight
from router.domain import Curve, attention
from router.instructions import TextFailure
from router.sim.pending import SimChunk
from router.steps import ReplicaCounters

NONE_FAILED: Mapping[int, TextFailure] = {}


@dataclass(frozen=True, slots=True)
class Noise:
    """Deviation of steps from their curve: a lognormal factor, and rare stalls."""

    sigma: float = 0.0
    stall_share: float = 0.0  # of steps
    stall_s: float = 0.0

    def seconds(self, step_s: float, rng: Random) -> float:
        """Draw the seconds of a step that takes `step_s` by the curve."""
        if self.sigma:  # with a mean of 1
            step_s *= math.exp(self.sigma * rng.gauss(0.0, 1.0) - 0.5 * self.sigma * self.sigma)
        if self.stall_share and rng.random() < self.stall_share:
            step_s += self.stall_s
        return step_s


EXACT = Noise()


class SimReply(NamedTuple):
    """The part of a replica's reply that a dispatcher reads."""

    replica: str
    queue_s: float
    inference_s: float
    outstanding_tokens: int
    counters: ReplicaCounters
    failed: Mapping[int, TextFailure] = NONE_FAILED
    running_tokens: int | None = None


class CallSender(Protocol):
    """The dispatcher of a call."""

    def replied(self, job: "SimCall", reply: SimReply, now: float) -> None:
        """Handle the reply of the call's replica."""

    def lost(self, job: "SimCall", now: float) -> None:
        """Handle the death of the call's replica."""


class SimCall:
    """One call at a replica."""

    __slots__ = ("arrived_s", "call", "dispatcher", "done", "dropped", "started_s")

    def __init__(self, call: CallInFlight[SimChunk], dispatcher: CallSender, now: float) -> None:
        self.call, self.dispatcher = call, dispatcher
        self.arrived_s, self.started_s = now, -1.0
        self.done = 0  # texts
        self.dropped = False

    def lengths(self) -> list[int]:
        """Tokens of each text that no step has taken yet."""
        counts = [count for chunk in self.call.chunks for count in chunk.lengths.tolist()]
        return counts[self.done :]


class SimReplica:
    """One replica; `begin` and `end` are called by the simulation's events."""

    __slots__ = (
        "_busy_s", "_busy_since_s", "_curve", "_jobs", "_noise", "_packs", "_rng", "_running",
        "_served_tokens", "_span", "dead", "draining", "factor", "id", "model", "outstanding",
        "since_s", "until_s",
    )  # fmt: skip

    def __init__(
        self,
        id: str,
        model: str,
        curve: Curve,
        span: int | None,
        packs: bool,
        noise: Noise,
        rng: Random,
        now: float,
    ) -> None:
        """`packs`: a step takes texts of several calls; otherwise each call is a step."""
        self.id, self.model, self._curve, self._span = id, model, curve, span
        self._packs, self._noise, self._rng = packs, noise, rng
        self._jobs: deque[SimCall] = deque()
        self._running: list[SimCall] | None = None  # calls that end with the running step
        self.outstanding = self._served_tokens = 0
        self._busy_s = self._busy_since_s = 0.0
        self.factor = 1.0  # multiplies every step's time
        self.dead = self.draining = False
        self.since_s, self.until_s = now, math.inf

    def busy_s(self, now: float) -> float:
        """Seconds with at least one call."""
        return self._busy_s + (now - self._busy_since_s if self.outstanding else 0.0)

    @property
    def idle(self) -> bool:
        """Whether no step runs."""
        return self._running is None

    def put(self, job: SimCall, now: float) -> None:
        """Queue a call."""
        if not self.outstanding:
            self._busy_since_s = now
        self.outstanding += job.call.dispatch.tokens
        self._jobs.append(job)

    def drop(self, call: CallInFlight[SimChunk], now: float) -> None:
        """Cancel a call; a step that already runs goes on."""
        for job in [*self._jobs, *(self._running or ())]:
            if job.call is call and not job.dropped:
                job.dropped = True
                self._leave(job, now)

    def begin(self, now: float) -> float | None:
        """Start a step with the waiting texts; return its seconds, None where nothing waits."""
        jobs, most = self._jobs, self._curve.batch_tokens
        tokens = tokens_sq = texts = 0
        ending: list[SimCall] = []
        while jobs:
            job = jobs[0]
            call = job.call
            if job.dropped:
                jobs.popleft()
                continue
            if not job.done and (not tokens or tokens + call.dispatch.tokens <= most):
                tokens += call.dispatch.tokens
                tokens_sq += call.tokens_sq
                texts += call.texts
            elif (part := self._part(job, most - tokens, first=not tokens)) is not None:
                tokens, tokens_sq, texts = tokens + part[0], tokens_sq + part[1], texts + part[2]
            else:
                break
            if job.started_s < 0.0:
                job.started_s = now
            if job.done and job.done < call.texts:  # the rest goes with the next step
                break
            ending.append(jobs.popleft())
            if not self._packs:
                break
        if not tokens:
            self._running = None
            return None
        self._running = ending
        return self._noise.seconds(self._seconds(tokens, tokens_sq, texts), self._rng) * self.factor

    def end(self, now: float) -> list[SimCall]:
        """End the running step; count the calls that end with it as served, and return them."""
        done, self._running = self._running or [], None
        self._served_tokens += sum(job.call.dispatch.tokens for job in done if not job.dropped)
        return done

    def reply(self, job: SimCall, now: float) -> SimReply:
        """Return the reply to a call whose step has ended."""
        counters = ReplicaCounters(self._served_tokens, self.busy_s(now))
        self._leave(job, now)
        started_s = job.started_s
        return SimReply(
            self.id, started_s - job.arrived_s, now - started_s, self.outstanding, counters
        )

    def die(self, now: float) -> list[SimCall]:
        """Mark the replica as dead; return the calls that are lost."""
        lost = [job for job in [*(self._running or ()), *self._jobs] if not job.dropped]
        self._jobs.clear()
        self._busy_s = self.busy_s(now)
        self._running, self.dead, self.outstanding = None, True, 0
        return lost

    def _leave(self, job: SimCall, now: float) -> None:
        self.outstanding -= job.call.dispatch.tokens
        if not self.outstanding:
            self._busy_s += now - self._busy_since_s

    def _part(self, job: SimCall, room: int, first: bool) -> tuple[int, int, int] | None:
        """Take the texts of a call that fit into the step; an empty step takes at least one."""
        if not self._packs:
            return None
        taken: list[int] = []
        for count in job.lengths():
            if count > room and not (first and not taken):
                break
            taken.append(count)
            room -= count
        if not taken:
            return None
        job.done += len(taken)
        return sum(taken), attention(taken, self._span), len(taken)

    def _seconds(self, tokens: int, tokens_sq: int, texts: int) -> float:
        """Seconds by the curve; a text that is longer than a batch takes several steps."""
        curve = self._curve
        most = curve.batch_tokens
        if tokens <= most:
            return curve.step(tokens, tokens_sq, texts)
        full = (tokens - 1) // most
        return full * curve.step(most) + curve.step(tokens - full * most, tokens_sq, texts)
