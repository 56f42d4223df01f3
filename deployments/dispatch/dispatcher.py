"""The asyncio shell of one model's dispatcher: it executes what `router.dispatching` decides.

It makes chunks of texts, reports events with their time, and executes the instructions: it runs
calls as tasks, sets timers and completes futures. Only `router.dispatching` decides when and where
a call is sent, what is retried and which replica is ejected.
"""

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable, Iterable, Sequence
from contextvars import Context
from functools import partial
from typing import Literal

from deployments.dispatch.chunks import SENDER, Rows, TextChunk, call_of, cut_chunk, text_bytes
from deployments.dispatch.transport import ConnectionLost, ReplicaLost, Transport
from deployments.dispatch.wire import Reply
from deployments.engines.base import EngineFailed, EngineOverloaded, ServerUnreachable
from deployments.telemetry.logs import REQUEST_IDS, where
from deployments.telemetry.tracing import Tracing
from router.arrays import TokenIds
from router.calls import (
    MESSAGE_BYTES,
    CallInFlight,
    CallSize,
    DispatchCounters,
    DispatchLimits,
    cuts,
    max_rows,
)
from router.capacity import DemandReport
from router.dispatching import DispatcherState
from router.errors import InternalError, Overloaded, RouterError
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
from router.queues import bulk_size

log = logging.getLogger("ray.serve")

ChunkCall = CallInFlight[TextChunk]


class ModelDispatcher:
    """One model's queue in this router, and the calls it has in flight."""

    def __init__(
        self,
        model: str,
        dimensions: int,
        batch_tokens: int,
        calls_in_flight: int,
        max_queued_tokens: int,
        max_queue_s: float,
        replica_timeout_s: float,
        transport: Transport,
        ledger: Ledger,
        feedback: Feedback,
        clock: Callable[[], float],
        rng: random.Random,
        tracing: Tracing | None = None,
        attention_tokens: int | None = None,
        steps: bool = True,
        bulk_call_s: float = math.inf,
        bulk_share: float = 0.1,
        stamps: bool = False,
    ) -> None:
        """`attention_tokens` and the parameters after it are those of DispatchLimits; `stamps`
        stamps every call, not only those that are traced.
        """
        self._stamps = stamps
        self.model, self.dimensions, self.batch_tokens = model, dimensions, batch_tokens
        self.transport, self.clock, self.tracing = transport, clock, tracing
        limits = DispatchLimits(
            CallSize(batch_tokens, max_rows(dimensions), MESSAGE_BYTES),
            calls_in_flight,
            max_queued_tokens,
            max_queue_s,
            replica_timeout_s,
            attention_tokens,
            steps,
            bulk_call_s,
            bulk_share,
        )
        self._state: DispatcherState[TextChunk, Reply] = DispatcherState(
            model, limits, ledger, feedback, rng, clock()
        )
        self._bulk_size = partial(bulk_size, limits, feedback)
        self._calls: dict[ChunkCall, asyncio.Task[None]] = {}
        self._wakes: set[asyncio.Task[None]] = set()
        self._timers: dict[Timer, asyncio.TimerHandle] = {}

    @property
    def counters(self) -> DispatchCounters:
        """Counters of this dispatcher's work."""
        return self._state.counters

    @property
    def replicas(self) -> tuple[str, ...]:
        """The replicas that get calls now."""
        return self._state.replicas

    @property
    def replicas_out(self) -> int:
        """The number of replicas that failed recently and get no calls now."""
        return self._state.replicas_out

    def submit(
        self,
        ids: Sequence[TokenIds] | None,
        texts: Sequence[str] | None,
        counts: Sequence[int],
        input_type: Literal["query", "document"],
        deadline_s: float | None,
        bulk: bool = False,
        prefix: bytes | None = None,
    ) -> list[TextChunk]:
        """Queue the texts of one request; return its chunks, in order. Cancel their futures to
        withdraw the work.

        Texts with an equal `prefix` begin alike, and go to one replica while it has room.
        `deadline_s` is on this dispatcher's clock: text that was not sent by then is dropped with
        DeadlineExceeded. Raises Overloaded when the queue of this router is full, or so long that
        the text would wait longer than allowed.
        """
        now = self.clock()
        self._state.admission.admit(sum(counts), deadline_s, bulk, now, SENDER.get())
        origin = None if self.tracing is None else self.tracing.current()
        sizes = None if texts is None else [text_bytes((text,)) for text in texts]
        size = self._bulk_size() if bulk else None
        ranges = cuts(counts, sizes, self.batch_tokens, max_rows(self.dimensions), size)
        chunks = [
            cut_chunk(
                ids, texts, counts, start, stop, input_type, deadline_s, bulk, now, origin, prefix
            )
            for start, stop in ranges
        ]
        for chunk in chunks:
            chunk.future.add_done_callback(partial(self._on_chunk_done, chunk))
        self._execute(self._state.submit(chunks, now))
        return chunks

    def would_admit(
        self,
        tokens: int,
        deadline_s: float | None,
        bulk: bool = False,
        coming: tuple[int, int] = (0, 0),
    ) -> bool:
        """Whether `submit` would admit texts of this many tokens, after `coming` interactive and
        bulk tokens that will be submitted first.
        """
        admission, now = self._state.admission, self.clock()
        return admission.refusal(tokens, deadline_s, bulk, now, coming, SENDER.get()) is None

    def replicas_changed(self, posted: Sequence[str]) -> None:
        """Send to these replicas from now on."""
        self._execute(self._state.replicas_changed(posted, self.clock()))

    def warm(self) -> None:
        """Request a first replica: a request went elsewhere because there is none."""
        self._execute(self._state.warm(self.clock()))

    def demand(self) -> DemandReport:
        """This router's demand for the model, for the autoscaler."""
        return self._state.demand(self.clock())

    async def close(self) -> None:
        """Cancel the calls in flight, and fail the queued texts."""
        for timer in self._timers.values():
            timer.cancel()
        self._execute(self._state.close())
        tasks = [*self._calls.values(), *self._wakes]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _execute(self, instructions: Iterable[Instruction[TextChunk, Reply]]) -> None:
        for one in instructions:
            try:
                self._execute_one(one)
            except Exception as error:  # the rest concerns other callers and the timers
                log.error("%s: an instruction failed:\n%s", self.model, where(error))
                if isinstance(one, CompleteChunk) and not one.chunk.future.done():
                    one.chunk.future.set_exception(InternalError())
                elif isinstance(one, LaunchCall):
                    self._execute(self._state.refused(one.call, InternalError(), self.clock()))

    def _execute_one(self, one: Instruction[TextChunk, Reply]) -> None:
        if isinstance(one, LaunchCall):
            self._launch(one.call)
        elif isinstance(one, CompleteChunk):
            self._answer(one)
        elif isinstance(one, SetTimer):
            self._set_timer(one)
        elif isinstance(one, FailChunk):
            if not one.chunk.future.done():
                one.chunk.future.set_exception(one.error)
        elif isinstance(one, CancelCall):
            self._calls[one.call].cancel()
        else:
            self._wake()

    def _answer(self, one: CompleteChunk[TextChunk, Reply]) -> None:
        future, reply, start, stop = one.chunk.future, one.reply, one.start, one.stop
        if future.done():  # its caller left just now
            return
        failed = {row - start: why for row, why in reply.failed.items() if start <= row < stop}
        vectors, tokens = reply.vectors[start:stop], reply.tokens[start:stop]
        rows = Rows(vectors, tokens, failed, one.waited_s, reply.inference_s, joined=one.joined)
        if reply.stamps:
            behind_s = time.time() - self.clock()
            of_replica = (at_s - behind_s for at_s in reply.stamps)
            stamps = (one.chunk.queued_s, one.call.sent_s, *of_replica)
            rows = rows._replace(stamps=stamps, call_texts=one.call.texts)
        future.set_result(rows)

    def _launch(self, call: ChunkCall) -> None:
        # An empty context: Serve reads the request id from it, and its replica choice needs a
        # unique id per call.
        task = asyncio.get_running_loop().create_task(self._run_call(call), context=Context())
        self._calls[call] = task
        task.add_done_callback(partial(self._on_call_done, call))

    async def _run_call(self, call: ChunkCall) -> None:
        tracing, span = self.tracing, None
        if tracing is not None:
            origins = [chunk.origin for chunk in call.chunks]
            span = tracing.call(self.model, call.texts, call.dispatch.tokens, origins)
        try:
            reply = await self._send(call, None if span is None else tracing)
        except asyncio.CancelledError:
            if call.hung is not None:
                self._note(call, ReplicaLost(call.hung), call.hung)
            raise
        except Exception as error:
            self._on_error(call, error)
        else:
            self._execute(self._state.replied(call, reply, self.clock()))
        finally:
            if span is not None:
                span.end()

    async def _send(self, call: ChunkCall, tracing: Tracing | None) -> Reply:
        packed = call_of(call.chunks, self.clock())
        if tracing is not None:
            packed = packed._replace(traceparent=tracing.traceparent(), stamped=True)
        elif self._stamps:
            packed = packed._replace(stamped=True)
        reply = await self.transport.send(self.model, packed, call.replica)
        if reply.vectors.shape != (call.texts, self.dimensions):
            raise ValueError(
                f"{self.model} answered {reply.vectors.shape} for {call.texts} texts of "
                f"{self.dimensions} dimensions"
            )
        return reply

    def _on_error(self, call: ChunkCall, error: Exception) -> None:
        """Report the event for the error of a call."""
        state, why, now = self._state, str(error), self.clock()
        if isinstance(error, ReplicaLost):
            self._note(call, error, why)
            broken = isinstance(error, ConnectionLost)
            lost = state.connection_lost if broken else state.replica_lost
            self._execute(lost(call, why, now))
        elif isinstance(error, EngineOverloaded):
            overloaded = Overloaded(self.model, error.retry_after_s, at_server=True)
            self._execute(state.refused(call, overloaded, now))
        elif isinstance(error, RouterError):
            self._execute(state.refused(call, error, now))
        elif isinstance(error, EngineFailed):
            self._note(call, error, why)
            away = isinstance(error, ServerUnreachable)
            self._execute(state.engine_failed(call, error.detail, now, away))
        else:
            name = type(error).__name__
            self._note(call, error, name)
            self._execute(state.engine_failed(call, f"{name}: {why}", now))

    def _note(self, call: ChunkCall, error: Exception, message: str) -> None:
        """Log the failure of a call for its requests, and mark its span, in the call's context.
        `message` quotes no text.
        """
        REQUEST_IDS.set(tuple(one for chunk in call.chunks for one in chunk.request_ids))
        log.warning("a call to replica %s of %s failed: %s", call.replica, self.model, message)
        if self.tracing is not None:
            self.tracing.failed(error)

    def _on_call_done(self, call: ChunkCall, task: "asyncio.Task[None]") -> None:
        # Not in the task, which never runs if it is cancelled before it starts.
        del self._calls[call]
        if task.cancelled():
            self._execute(self._state.call_cancelled(call, self.clock()))
        elif (error := task.exception()) is not None:
            log.error("an answer of %s could not be read:\n%s", self.model, where(error))
            self._execute(self._state.refused(call, InternalError(), self.clock()))

    def _on_chunk_done(self, chunk: TextChunk, future: "asyncio.Future[Rows]") -> None:
        if future.cancelled():
            self._execute(self._state.chunk_cancelled(chunk))

    def _set_timer(self, one: SetTimer) -> None:
        if (before := self._timers.get(one.timer)) is not None:
            before.cancel()
        loop = asyncio.get_running_loop()
        self._timers[one.timer] = loop.call_later(one.delay_s, self._on_timer, one.timer)

    def _on_timer(self, timer: Timer) -> None:
        self._execute(self._state.timer_ended(timer, self.clock()))

    def _wake(self) -> None:
        loop = asyncio.get_running_loop()
        task = loop.create_task(self.transport.wake(self.model), context=Context())
        self._wakes.add(task)
        task.add_done_callback(self._on_wake_done)

    def _on_wake_done(self, task: "asyncio.Task[None]") -> None:
        self._wakes.discard(task)
        if task.cancelled() or task.exception() is not None:
            self._state.wake_failed()
