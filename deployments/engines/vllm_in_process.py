"""vLLM's engine in this process, stepped by a thread.

The event loop makes engine requests from a call's texts while the thread waits for the device.
Between two steps the thread takes new and cancelled jobs, so that texts join and leave a running
batch (continuous batching). It passes what a step finished to the event loop in one wake-up. Only
the thread touches the engine; it also writes a job's vectors, remaining count and times. After an
exception in a step the engine's state is unknown: all jobs, also later ones, fail with EngineDead.
"""

import asyncio
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from deployments.engines.base import EngineDead, InvalidText, Times
from deployments.engines.vllm_backends import EMBED, Answers, Encoded, Facts, facts_of, log_options
from deployments.engines.vllm_core import Core, EngineCall, Requests
from deployments.telemetry.metrics import EngineStats
from router.arrays import TokenIds, Vectors

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.engine.llm_engine import LLMEngine

STOP_S = 30.0  # how long `stop` waits for a running step
# Seconds for which a preparing thread can keep the interpreter from the stepping thread. Python's
# own 5 ms are a tenth of a step of short texts, and a step needs the interpreter hundreds of times.
SWITCH_S = 0.0005
SLICE = 64  # texts that are prepared before the event loop runs other tasks


def switch_early(config: "VllmConfig") -> None:
    """Shorten Python's switch interval where steps overlap with the device."""
    if config.scheduler_config.async_scheduling:
        sys.setswitchinterval(SWITCH_S)


def _read(future: "asyncio.Future[None]") -> None:
    """Read the error of a future that is not awaited, so that asyncio does not log it."""
    if future.done() and not future.cancelled():
        future.exception()


class InProcess:
    """vLLM's LLMEngine on a thread of this process."""

    def __init__(
        self,
        make_config: Callable[[], "VllmConfig"],
        stats: EngineStats | None = None,
        pooling: Mapping[str, Any] = EMBED,
    ) -> None:
        """`pooling` holds the arguments of vLLM's PoolingParams."""
        self.queued_tokens = 0
        self._stats, self._pooling = stats, pooling
        self.engine: LLMEngine | None = None  # owned by the thread; elsewhere only read
        self._make_config = make_config
        # a cancelled job is put in again; None ends the thread
        self._inbox: queue.SimpleQueue[EngineCall | None] = queue.SimpleQueue()
        self._jobs: set[EngineCall] = set()
        self._answers = Answers()
        self._dead: EngineDead | None = None
        self._thread: threading.Thread | None = None
        self.requests: Requests | None = None

    async def start(self) -> Facts:
        """Load on the thread that will step, because torch keeps the device and thread counts per
        thread.
        """
        loop = asyncio.get_running_loop()
        started: asyncio.Future[Facts] = loop.create_future()
        # A daemon, so that a step that never ends cannot keep the process alive.
        self._thread = threading.Thread(
            target=self._run, args=(loop, started), name="vllm-step", daemon=True
        )
        self._thread.start()
        return await started

    async def encode(self, ids: Mapping[int, TokenIds], vectors: Vectors) -> Encoded:
        """Write the vectors of `ids` into their rows."""
        if self._dead is not None:
            raise self._dead
        if self.requests is None:
            raise EngineDead("the engine has not started")
        if not ids:
            return Encoded({})
        tokens = sum(map(len, ids.values()))
        job = EngineCall(tokens, vectors, asyncio.get_running_loop().create_future())
        self._jobs.add(job)
        self.queued_tokens += tokens
        sent = False
        try:
            for number, (row, text) in enumerate(ids.items()):
                if number and not number % SLICE:
                    await asyncio.sleep(0)
                try:
                    job.requests.append((row, self.requests.make(text)))
                except ValueError as error:
                    job.failed[row] = InvalidText(f"vLLM refuses text {row}: {error}")
            job.left = len(job.requests)
            job.prepared_s = time.monotonic()
            if self._dead is None and job.left:
                self._inbox.put(job)
                sent = True
                await job.future
            elif self._dead is not None:
                raise self._dead
        except asyncio.CancelledError:
            job.cancelled = True
            if sent:
                self._inbox.put(job)
            raise
        finally:
            if not sent:
                self._leave(job)
                _read(job.future)
        times = Times(job.prepared_s, job.taken_s, job.stepped_s) if sent else None
        return Encoded(job.failed, times, job.running_tokens)

    def next_answer(self) -> "asyncio.Future[None]":
        """Return a future that is done when any text is answered."""
        return self._answers.next()

    async def stop(self) -> None:
        """End the thread after the running step; unanswered texts fail with EngineDead."""
        self._die(EngineDead("the engine was stopped"))
        self._inbox.put(None)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, STOP_S)

    def _finish(self, jobs: list[EngineCall]) -> None:
        self._answers.seen()
        for job in jobs:
            self._leave(job)
            if not job.future.done():
                job.future.set_result(None)

    def _leave(self, job: EngineCall) -> None:
        if job in self._jobs:
            self._jobs.remove(job)
            self.queued_tokens -= job.tokens

    def _die(self, error: EngineDead) -> None:
        self._dead = self._dead or error
        for job in list(self._jobs):
            self._leave(job)
            if not job.future.done():
                job.future.set_exception(self._dead)
        self._answers.seen()

    def _run(self, loop: asyncio.AbstractEventLoop, started: "asyncio.Future[Facts]") -> None:
        def in_loop(function: Callable[..., Any], *args: object) -> None:
            with suppress(RuntimeError):  # the loop is closed: no caller is left
                loop.call_soon_threadsafe(function, *args)

        def start(facts: Facts | None, error: BaseException | None) -> None:
            if started.done():
                return
            if error is None and facts is not None:
                started.set_result(facts)
            elif error is not None:
                started.set_exception(error)

        try:
            engine = self.engine = self._load()
            self.requests = Requests(engine, self._pooling)
            core = Core(engine, self.requests, self._stats)
            facts = facts_of(engine.vllm_config, core.probe())
        except Exception as error:
            in_loop(start, None, error)
            if self.engine is not None:
                with suppress(Exception):
                    self.engine.engine_core.shutdown()
                self.engine = None
            return
        in_loop(start, facts, None)
        failed = False
        try:
            self._step(core, in_loop)
        except Exception as error:
            failed = True
            dead = EngineDead(
                f"a step of vLLM failed with {type(error).__name__}, the replica must be replaced"
            )
            dead.__cause__ = error
            in_loop(self._die, dead)
        finally:
            self.engine = None
            # a failed device fails again here
            with suppress(*((Exception,) if failed else ())):
                engine.engine_core.shutdown()

    def _load(self) -> "LLMEngine":
        from vllm.v1.engine.llm_engine import LLMEngine

        config = self._make_config()  # imports vLLM, which then reads the environment
        switch_early(config)
        return LLMEngine.from_vllm_config(config, **log_options(self._stats, config))

    def _step(self, core: "Core", in_loop: Callable[..., None]) -> None:
        """Take new jobs, run a step and deliver finished jobs, until stopped."""
        while True:
            wait = not core.has_work()
            while wait or not self._inbox.empty():
                wait = False
                job = self._inbox.get()
                if job is None:
                    return
                if job.cancelled:
                    core.abort(job)
                    in_loop(self._leave, job)
                else:
                    core.add(job)
            if core.has_work():
                answered, done = core.step()
                if answered:
                    in_loop(self._finish, done)
