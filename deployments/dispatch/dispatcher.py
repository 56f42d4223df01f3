"""The async shell around the ledger: texts of many requests travel together in calls to a model's
replicas.

One lane per model. A request is cut into chunks of at most one engine batch; small chunks share a
call, a large one has a call of its own. Each replica has a few calls in flight: enough that the
engine never waits for the router, few enough that the rest stays in this router's queue, where it
can still be reordered, cancelled or sent elsewhere. Neither kind may take every slot: a small chunk
never waits behind more than the large calls already at the engines, and a stream of small ones
never starves a large one. `bulk` goes when nothing interactive waits.

A step of an engine costs much the same however few texts are in it. So while a replica works on
small chunks, the next ones are gathered, and go when those before them should be nearly done, or
when they fill a batch: sooner they would only wait there, in smaller company. Not so for an engine
that takes calls side by side, as a server elsewhere does.

A chunk whose caller has left is dropped when popped; a call is cancelled when all of its callers
have left. A call that fails because its replica died or hangs is sent once more elsewhere; one that
fails for another reason is sent again chunk by chunk, so that a bad chunk harms nobody else, and to
another replica where there is one. A text that fails alone is sent again too, and held against its
replica only where another one can embed it. What a server behind the engines refuses for now is not
sent again: its callers are told when to come back, as it said. A replica hangs when it has calls
and answers none of them for `replica_timeout_s`, or for several times what they should take. One
that failed is left alone for a while, and for longer each time it fails again. Every chunk ends
with rows or with an error that says why.
"""

import asyncio
import logging
import math
import random
from collections.abc import Callable, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from deployments.dispatch.chunks import Chunk, Rows, call_of, cuts
from deployments.dispatch.queues import LARGE, SMALL, Counters, Queues
from deployments.dispatch.replica_health import ReplicaEjection, ReplicaInFlight
from deployments.dispatch.transport import ConnectionLost, ReplicaLost, Transport
from deployments.dispatch.wire import Reply, max_rows
from deployments.engines.base import EngineFailed, EngineOverloaded
from deployments.telemetry.logs import REQUEST_IDS, where
from deployments.telemetry.tracing import Tracing
from router.arrays import TokenIds
from router.capacity import Demand, DemandReport
from router.errors import InternalError, ModelUnavailable, Overloaded, RouterError
from router.feedback import Feedback
from router.ledger import Dispatch, Ledger

# calls that an engine may fail, without an answer between, before its replica is left alone
FAILURES_IN_A_ROW = 5
HANGS_AFTER = 5.0  # times what its calls should take
RETRY_AFTER_S = 1.0  # what a caller is told when nothing better is known
NEARLY_DONE = 0.9  # of what a call should take: the next one is on its way before its engine waits
TIMER_S = 0.001  # uvloop's timers count milliseconds: less is not worth one
# of the capacity, whatever else there is to do: an estimate, for bulk gets what is left
LEAST_BULK_SHARE = 0.05

log = logging.getLogger("ray.serve")


@dataclass(slots=True)
class ModelDispatcher:
    """One model's queue in this router, and the calls it has in flight."""

    model: str
    dimensions: int
    batch_tokens: int
    calls_in_flight: int
    max_queued_tokens: int
    max_queue_s: float
    replica_timeout_s: float
    transport: Transport
    ledger: Ledger
    feedback: Feedback
    clock: Callable[[], float]
    rng: random.Random
    replicas: tuple[str, ...] = ()
    counters: Counters = field(default_factory=Counters)
    tracing: Tracing | None = None
    attention_tokens: int | None = None  # how far a token sees, where that is less than the text
    # whether an engine does one step after another: then small chunks are gathered
    steps: bool = True
    _queues: Queues = field(init=False)
    # calls at the replicas there are: small, large
    _in_flight: list[int] = field(default_factory=lambda: [0, 0])
    _at: dict[str, ReplicaInFlight] = field(default_factory=dict)  # the same for each of them
    _interactive: Demand = field(init=False)  # what goes before bulk
    _posted: tuple[str, ...] = ()
    # pumps when small chunks were gathered for long enough
    _gathered: asyncio.TimerHandle | None = None
    _gathered_s: float = 0.0  # when that is
    _ejections: ReplicaEjection = field(init=False)
    _flights: set["asyncio.Task[None]"] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._interactive = Demand(self.clock())
        self._ejections = ReplicaEjection(lambda: self.replicas_changed(self._posted))
        self._queues = Queues(
            self.model,
            self.batch_tokens,
            self.dimensions,
            self.ledger,
            self.counters,
            lambda: self.clock(),
        )

    @property
    def replicas_out(self) -> int:
        """Replicas that failed a moment ago and get no calls now."""
        return len(self._ejections)

    def submit(
        self,
        ids: Sequence[TokenIds] | None,
        texts: Sequence[str] | None,
        counts: Sequence[int],
        input_type: Literal["query", "document"],
        deadline_s: float | None,
        bulk: bool = False,
    ) -> "list[asyncio.Future[Rows]]":
        """Queue the texts of one request; one future per chunk, in order. Cancel the futures to
        take the work back.

        `deadline_s` is on this lane's clock: text that was not sent by then is dropped with
        DeadlineExceeded. Raises Overloaded when the queue of this router is full, or so long that
        the text would wait longer than it may.
        """
        self._admit(tokens := sum(counts), deadline_s, bulk)
        if not bulk:
            self._interactive.add(tokens, self.clock())
        loop = asyncio.get_running_loop()
        request_ids, origin = (
            REQUEST_IDS.get(),
            None if self.tracing is None else self.tracing.current(),
        )
        chunks = []
        for start, stop in cuts(counts, texts, self.batch_tokens, max_rows(self.dimensions)):
            lengths = np.asarray(counts[start:stop], np.int32)
            chunk = Chunk(
                ids=None
                if ids is None
                else (ids[start] if stop - start == 1 else np.concatenate(ids[start:stop])),
                lengths=lengths,
                texts=None if texts is None else list(texts[start:stop]),
                input_type=input_type,
                tokens=int(lengths.sum()),
                bulk=bulk,
                deadline_s=deadline_s,
                future=loop.create_future(),
                queued_s=self.clock(),
                request_ids=request_ids,
                origin=origin,
            )
            chunks.append(chunk)
            # One that its caller takes back stops counting at once, wherever it stands in the
            # queue.
            chunk.future.add_done_callback(lambda _, chunk=chunk: self._queues.uncount(chunk))  # type: ignore[misc]
            self._queues.put(chunk)
        self.pump()
        return [chunk.future for chunk in chunks]

    def _admit(self, tokens: int, deadline_s: float | None, bulk: bool) -> None:
        waiting = self.ledger.waiting_tokens(self.model)
        same = self._queues.bulk_tokens if bulk else waiting
        if same and same + tokens > self.max_queued_tokens:
            raise Overloaded(self.model, RETRY_AFTER_S)
        if (waiting or same) and self.replicas:
            now, rate = (
                self.clock(),
                self.feedback.tokens_per_s * len(self.replicas) / self.ledger.routers,
            )
            if bulk:  # what is interactive goes before it, also what comes while it waits
                waiting = self._queues.tokens
                rate = max(LEAST_BULK_SHARE * rate, rate - self._interactive.tokens_per_s(now))
            wait_s = waiting / rate
            left_s = math.inf if deadline_s is None else deadline_s - now
            most_s = left_s if bulk else min(self.max_queue_s, left_s)
            if wait_s > most_s:
                raise Overloaded(self.model, max(RETRY_AFTER_S, wait_s - most_s))

    def replicas_changed(self, posted: Sequence[str]) -> None:
        """The replicas there are now; those that are gone take their share of the ledger
        with them.
        """
        self._posted = tuple(posted)
        self._ejections.keep(posted)
        replicas = [replica for replica in posted if replica not in self._ejections]
        for gone in set(self.replicas) - set(replicas):
            self.ledger.lost(self.model, gone)
            self.feedback.lost(gone)
            for kind, calls in enumerate(
                self._at.pop(gone).calls
            ):  # what it still does takes no room from the others
                self._in_flight[kind] -= calls
        for new in replicas:
            self.ledger.joined(self.model, new)
            self._at.setdefault(new, ReplicaInFlight())
        self.replicas = tuple(replicas)
        if replicas:
            self.feedback.awake()
        self.pump()

    def _take_out(self, replica: str) -> None:
        """Send nothing to a replica that just failed, until Serve has replaced it or some time has
        passed.
        """
        if replica in self._posted and replica not in self._ejections:
            self._ejections.add(replica)
            self.replicas_changed(self._posted)

    def pump(self) -> None:
        """Send what can be sent now."""
        stuck: set[int] = set()  # kinds of which nothing may go to a replica that has room
        # replicas to which everything small goes that was gathered, in however many calls
        ready: set[str] = set()
        while True:
            small_waits = SMALL not in stuck and self._queues.waits(SMALL)
            large_waits = LARGE not in stuck and self._queues.waits(LARGE)
            if small_waits and self._may_send(SMALL, large_waits):
                kind = SMALL
            elif large_waits and self._may_send(LARGE, small_waits):
                kind = LARGE
            else:
                if (
                    not self.replicas
                    and (small_waits or large_waits)
                    and self.feedback.wake(self.clock())
                ):
                    self._wake()
                return
            several = len(self.replicas) > 1
            failed_at = self._queues.first(kind).failed_at if several else None
            replica, aside = (
                self.ledger.pick(self.model, self.clock(), self.rng, failed_at),
                list[Chunk](),
            )
            # it waits for another replica, and nobody waits behind it
            if replica is None and failed_at is not None:
                replica = self.ledger.pick(self.model, self.clock(), self.rng)
                aside = [] if replica is None else self._queues.set_aside(kind, replica)
            if replica is None:
                return
            chunks, gathers = (
                list[Chunk](),
                kind is SMALL and replica not in ready and self._gathers(self._at[replica]),
            )
            if kind is LARGE:
                chunks = self._queues.take_large()
            elif not gathers:
                ready.add(replica)
                chunks = self._queues.take_small(but_of=replica if several else None)
            self._queues.put_back(aside)
            if chunks:
                self._launch(chunks, replica)
            elif aside or gathers:
                stuck.add(kind)

    def _gathers(self, at: ReplicaInFlight) -> bool:
        """Whether small chunks do better to wait for those before them than to follow them now;
        comes back when they do not.
        """
        left_s = at.nearly_done_s - self.clock()
        if (
            not self.steps
            or not at.calls[SMALL]
            or left_s < TIMER_S
            or self._queues.small_tokens >= self.batch_tokens
        ):
            return False
        if self._gathered is None or at.nearly_done_s < self._gathered_s:
            self._stop_gathering()
            self._gathered_s = at.nearly_done_s
            self._gathered = asyncio.get_running_loop().call_later(left_s, self._pump_gathered)
        return True

    def _pump_gathered(self) -> None:
        self._gathered = None
        self.pump()

    def _stop_gathering(self) -> None:
        if self._gathered is not None:
            self._gathered.cancel()
            self._gathered = None

    def warm(self) -> None:
        """Work went elsewhere because this model has no replica: ask for one."""
        if not self.replicas and self.feedback.wake(self.clock()):
            self._wake()

    def ask(self) -> DemandReport:
        """What this router asks of the model, for the autoscaler."""
        return self.feedback.ask(
            self.ledger.backlog_tokens(self.model) + self._queues.bulk_tokens, self.clock()
        )

    def _wake(self) -> None:
        self.counters.wakes += 1
        task = asyncio.get_running_loop().create_task(
            self.transport.wake(self.model), context=Context()
        )
        self._flights.add(task)

        def done(_: "asyncio.Task[None]") -> None:
            self._flights.discard(task)
            if task.cancelled() or task.exception() is not None:
                self.feedback.awake()  # nobody is on the way: the next request asks again

        task.add_done_callback(done)

    async def close(self) -> None:
        """Cancel what is in flight and fail what waits."""
        self._stop_gathering()
        for chunk in self._queues.take_all():
            chunk.fail(self._stopping())
        for task in list(self._flights):
            task.cancel()
        await asyncio.gather(*self._flights, return_exceptions=True)

    def _may_send(self, kind: int, other_waits: bool) -> bool:
        """Whether one more call of this kind leaves room for the other kind; large ones always
        leave some.
        """
        most = self.calls_in_flight * len(self.replicas)
        if kind is LARGE or other_waits:
            most -= max(1, len(self.replicas)) if self.calls_in_flight > 1 else 0
        return self._in_flight[kind] < most

    def _launch(self, chunks: list[Chunk], replica: str) -> None:
        kind, at = SMALL if chunks[0].small else LARGE, self._at[replica]
        if kind is SMALL:
            before_s = max(at.nearly_done_s, self.clock()) if at.calls[SMALL] else self.clock()
            at.nearly_done_s = before_s + NEARLY_DONE * self._step_s(chunks)
        self._in_flight[kind] += 1
        at.calls[kind] += 1
        ahead_tokens = self.ledger.outstanding_tokens(self.model, self.clock())[replica]
        dispatch = self.ledger.dispatched(
            self.model, replica, sum(chunk.tokens for chunk in chunks), self.clock()
        )
        self.counters.calls += 1
        # An empty context: Serve takes the request id of the current one, and its replica choice
        # needs a unique id per call.
        context, span = Context(), None
        if self.tracing is not None:
            origins = [chunk.origin for chunk in chunks]
            span = context.run(
                self.tracing.call,
                self.model,
                sum(len(c.lengths) for c in chunks),
                dispatch.tokens,
                origins,
            )
        task = asyncio.get_running_loop().create_task(
            self._run_call(chunks, at, dispatch, ahead_tokens, span is not None), context=context
        )
        self._flights.add(task)

        def landed(_: "asyncio.Task[None]") -> None:
            # Not a `finally` in the task: one that is cancelled before it first runs never gets
            # there.
            if span is not None:
                span.end()
            self.ledger.completed(dispatch)
            if self._at.get(replica) is at:
                self._in_flight[kind] -= 1
                at.calls[kind] -= 1
            self._flights.discard(task)
            if task.cancelled():
                for chunk in chunks:
                    chunk.fail(self._stopping())
            elif (error := task.exception()) is not None:
                log.error("what %s answered could not be handed out:\n%s", self.model, where(error))
                for chunk in chunks:
                    chunk.fail(InternalError())
            self.pump()

        task.add_done_callback(landed)

        def left(_: "asyncio.Future[Rows]") -> None:
            if not task.done() and all(chunk.future.cancelled() for chunk in chunks):
                self.counters.cancelled_calls += 1
                task.cancel()

        for chunk in chunks:
            chunk.future.add_done_callback(left)

    def _step_s(self, chunks: list[Chunk]) -> float:
        """Seconds that an idle engine should take for these chunks."""
        tokens, texts = (
            sum(chunk.tokens for chunk in chunks),
            sum(len(chunk.lengths) for chunk in chunks),
        )
        return self.feedback.model.curve.step(tokens, 0.0, texts) * self.feedback.correction.bias

    async def _run_call(
        self,
        chunks: list[Chunk],
        at: ReplicaInFlight,
        dispatch: Dispatch,
        ahead_tokens: int,
        traced: bool,
    ) -> None:
        sent_s, replica = self.clock(), dispatch.replica.id
        tokens_sq, texts = (
            sum(c.tokens_sq(self.attention_tokens) for c in chunks),
            sum(len(c.lengths) for c in chunks),
        )
        try:
            expected_s = self.feedback.model.curve.step(
                ahead_tokens + dispatch.tokens, tokens_sq, texts
            )
            async with at.limit(max(self.replica_timeout_s, HANGS_AFTER * expected_s)):
                call = call_of(chunks, sent_s)
                if traced and self.tracing is not None:
                    call = call._replace(traceparent=self.tracing.traceparent())
                reply = await self.transport.send(self.model, call, replica)
            if reply.vectors.shape != (
                rows := sum(len(chunk.lengths) for chunk in chunks),
                self.dimensions,
            ):
                raise ValueError(
                    f"{self.model} answered {reply.vectors.shape} for {rows} texts of "
                    f"{self.dimensions} dimensions"
                )
        except ConnectionLost as error:
            self._note(chunks, replica, error, str(error))
            self._again(chunks, str(error), replica, alone=False, broken_line=True)
        except ReplicaLost as error:
            self._note(chunks, replica, error, str(error))
            self._take_out(replica)
            self._again(chunks, str(error), replica, alone=False)
        except EngineOverloaded as error:
            for chunk in chunks:
                chunk.fail(Overloaded(self.model, error.retry_after_s))
        except RouterError as error:
            for chunk in chunks:
                chunk.fail(error)
        except Exception as error:
            self._note(
                chunks,
                replica,
                error,
                str(error) if isinstance(error, EngineFailed) else type(error).__name__,
            )
            self._failed(at, replica)
            why = (
                error.detail
                if isinstance(error, EngineFailed)
                else f"{type(error).__name__}: {error}"
            )
            self._again(chunks, why, replica, alone=True)
        else:
            now = self.clock()
            if sum(failure.code == "engine" for failure in reply.failed.values()) < rows:
                at.failures = 0
                self._ejections.answered(reply.replica)
            self.ledger.completed(dispatch)
            self.ledger.reported(self.model, reply.replica, reply.outstanding_tokens, now)
            left = reply.outstanding_tokens + self._queues.tokens // max(1, len(self.replicas))
            if reply.replica in self._at:  # one that is gone since is not remembered again
                self.feedback.served(reply.replica, reply.counters, full=left >= self.batch_tokens)
            self.feedback.stepped(
                ahead_tokens + dispatch.tokens, tokens_sq, reply.queue_s + reply.inference_s, texts
            )
            self._deliver(chunks, reply, sent_s)

    def _note(self, chunks: list[Chunk], replica: str, error: Exception, said: str) -> None:
        """In the flight's own context: log that its call failed, for these requests, and mark its
        span; `said` quotes no text.
        """
        REQUEST_IDS.set(tuple(one for chunk in chunks for one in chunk.request_ids))
        log.warning("a call to replica %s of %s failed: %s", replica, self.model, said)
        if self.tracing is not None:
            self.tracing.failed(error)

    def _failed(self, at: ReplicaInFlight, replica: str) -> None:
        at.failures += 1
        if at.failures >= FAILURES_IN_A_ROW:
            self._take_out(replica)

    def _deliver(self, chunks: list[Chunk], reply: Reply, sent_s: float) -> None:
        stop = 0
        for chunk in chunks:
            start, stop = stop, stop + len(chunk.lengths)
            if chunk.future.done():
                continue
            failed = {
                row - start: failure for row, failure in reply.failed.items() if start <= row < stop
            }
            faults = [failure.message for failure in failed.values() if failure.code == "engine"]
            if faults and not chunk.tries:  # the engine's fault, perhaps of this replica alone
                chunk.suspect = reply.replica
                self._again([chunk], faults[0], reply.replica, alone=True)
                continue
            if (
                not faults
                and (suspect := chunk.suspect) not in (None, reply.replica)
                and suspect in self._at
            ):
                self._failed(self._at[suspect], suspect)
            chunk.future.set_result(
                Rows(
                    reply.vectors[start:stop],
                    reply.tokens[start:stop],
                    failed,
                    sent_s - chunk.queued_s + reply.queue_s,
                    reply.inference_s,
                )
            )

    def _again(
        self,
        chunks: Sequence[Chunk],
        why: str,
        replica: str,
        alone: bool,
        broken_line: bool = False,
    ) -> None:
        """Send each chunk once more, in front of the queue and to another replica; a second failure
        is its caller's.

        A first broken line counts for none: where the replica died the next call to it says so.
        """
        for chunk in reversed(chunks):  # each goes in front of the one before
            if chunk.future.done():
                continue
            if broken_line and not chunk.lines_broken:
                chunk.lines_broken += 1
            elif chunk.tries:
                chunk.fail(ModelUnavailable([f"{self.model} failed twice: {why}"], RETRY_AFTER_S))
                continue
            else:
                chunk.tries += 1
            chunk.failed_at = replica
            chunk.alone = chunk.alone or alone
            self.counters.retries += 1
            self._queues.put(chunk, front=True)

    def _stopping(self) -> ModelUnavailable:
        return ModelUnavailable([f"{self.model}: this router is stopping"], RETRY_AFTER_S)
