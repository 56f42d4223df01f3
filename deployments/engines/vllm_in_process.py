"""vLLM's engine in this process, stepped by a thread.

The event loop makes engine requests from a call's texts while the thread waits for the device.
Between two steps the thread takes new and cancelled jobs, so that texts join and leave a running
batch (continuous batching). It passes what a step finished to the event loop in one wake-up. Only
the thread touches the engine; it also writes a job's vectors, remaining count and times. After an
exception in a step the engine's state is unknown: all jobs, also later ones, fail with EngineDead.

Texts bypass the objects that LLMEngine makes of each, which take longer than the core's own work to
add one. Only vLLM's own spans need them. A step holds whole texts, unless vLLM holds one that is
longer than a step: vLLM copies a step's vectors at once only if every text in it is finished.

On a CPU a step of few tokens runs on one thread: between kernels, a second thread would spin on a
core that the router needs. Steps of many tokens run on all threads.
"""

import asyncio
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from deployments.engines.base import EngineDead, EngineError, InvalidText, Times
from deployments.engines.vllm_backends import EMBED, Answers, Encoded, Facts, facts_of, log_options
from deployments.telemetry.metrics import EngineStats
from router.arrays import TokenIds, Vectors

if TYPE_CHECKING:
    import torch
    from vllm import PoolingParams
    from vllm.config import VllmConfig
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest
    from vllm.v1.engine.llm_engine import LLMEngine
    from vllm.v1.request import Request

SMALL_STEP_TOKENS = 512  # up to here one CPU thread is enough
STOP_S = 30.0  # how long `stop` waits for a running step
# Seconds for which a preparing thread can keep the interpreter from the stepping thread. Python's
# own 5 ms are a tenth of a step of short texts, and a step needs the interpreter hundreds of times.
SWITCH_S = 0.0005
SLICE = 64  # texts that are prepared before the event loop runs other tasks


class _Job:
    """The texts of one call, by row; the stepping thread writes their vectors."""

    __slots__ = (
        "cancelled", "failed", "future", "left", "prepared_s", "requests", "running_tokens",
        "stepped_s", "taken_s", "tokens", "vectors",
    )  # fmt: skip

    def __init__(self, tokens: int, vectors: Vectors, future: "asyncio.Future[None]") -> None:
        self.tokens, self.vectors, self.future = tokens, vectors, future
        self.requests: list[tuple[int, Request]] = []
        self.left = 0  # texts that the engine has not finished
        self.failed: dict[int, EngineError] = {}
        self.cancelled = False
        self.prepared_s = self.taken_s = self.stepped_s = 0.0
        self.running_tokens: int | None = None  # of other steps in flight when it was done


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
        self._inbox: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._jobs: set[_Job] = set()
        self._answers = Answers()
        self._dead: EngineDead | None = None
        self._thread: threading.Thread | None = None
        self._requests: _Requests | None = None

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
        if not ids or self._requests is None:
            return Encoded({})
        tokens = sum(map(len, ids.values()))
        job = _Job(tokens, vectors, asyncio.get_running_loop().create_future())
        self._jobs.add(job)
        self.queued_tokens += tokens
        sent = False
        try:
            for number, (row, text) in enumerate(ids.items()):
                if number and not number % SLICE:
                    await asyncio.sleep(0)
                try:
                    job.requests.append((row, self._requests.make(text)))
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

    def _finish(self, jobs: list[_Job]) -> None:
        self._answers.seen()
        for job in jobs:
            self._leave(job)
            if not job.future.done():
                job.future.set_result(None)

    def _leave(self, job: _Job) -> None:
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
        def tell(function: Callable[..., Any], *args: object) -> None:
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
            self._requests = _Requests(engine, self._pooling)
            core = _Core(engine, self._requests, self._stats)
            facts = facts_of(engine.vllm_config, core.probe())
        except Exception as error:
            tell(start, None, error)
            return
        tell(start, facts, None)
        failed = False
        try:
            self._step(core, tell)
        except Exception as error:
            failed = True
            dead = EngineDead(
                f"a step of vLLM failed with {type(error).__name__}, the replica must be replaced"
            )
            dead.__cause__ = error
            tell(self._die, dead)
        finally:
            self.engine = None
            # a failed device fails again here
            with suppress(*((Exception,) if failed else ())):
                engine.engine_core.shutdown()

    def _load(self) -> "LLMEngine":
        from vllm.v1.engine.llm_engine import LLMEngine

        config = self._make_config()  # imports vLLM, which then reads the environment
        if config.scheduler_config.async_scheduling:
            sys.setswitchinterval(SWITCH_S)
        return LLMEngine.from_vllm_config(config, **log_options(self._stats, config))

    def _step(self, core: "_Core", tell: Callable[..., None]) -> None:
        """Take new jobs, run a step and deliver finished jobs, until stopped."""
        while True:
            wait = not core.running
            while wait or not self._inbox.empty():
                wait = False
                job = self._inbox.get()
                if job is None:
                    return
                if job.cancelled:
                    core.abort(job)
                    tell(self._leave, job)
                else:
                    core.add(job)
            if core.running:
                answered, done = core.step()
                if answered:
                    tell(self._finish, done)


class _Requests:
    """Makes engine requests, on any one thread; vLLM allows this during a step."""

    def __init__(self, engine: "LLMEngine", pooling: Mapping[str, Any]) -> None:
        from msgspec.structs import replace
        from vllm.inputs import tokens_input

        core: Any = engine.engine_core
        self._prepare = core.engine_core.preprocess_add_request
        self._names = map(str, count())
        self._most_tokens = engine.model_config.max_model_len
        self._replace = replace
        # vLLM's checks of a request's parameters, once for all texts
        self._pattern = engine.input_processor.process_inputs(
            "pattern",
            tokens_input([0]),
            _same_for_all(engine.vllm_config, pooling),
            supported_tasks=engine.get_supported_tasks(),
        )

    def make(self, ids: TokenIds) -> "Request":
        """Make the request of a text; raises ValueError if the model cannot read it."""
        if not 0 < len(ids) <= self._most_tokens:
            raise ValueError(f"it has {len(ids)} tokens, the model reads 1 to {self._most_tokens}")
        made: Request = self._prepare(self.described(next(self._names), ids.tolist()))[0]
        return made

    def described(self, name: str, ids: list[int]) -> "EngineCoreRequest":
        """The request from which every part of vLLM makes its own objects."""
        return self._replace(
            self._pattern,
            request_id=name,
            external_req_id=name,
            prompt_token_ids=ids,
            arrival_time=time.time(),
        )


class _Core:
    """The stepping thread's side of vLLM's core, and the texts that are in it."""

    def __init__(self, engine: "LLMEngine", requests: _Requests, stats: EngineStats | None) -> None:
        self._requests = requests
        # LLMEngine's own objects of every text, if its spans need them
        self._spans = engine.output_processor if engine.output_processor.tracing_enabled else None
        self._client: Any = engine.engine_core
        self._core: Any = self._client.engine_core
        self._loggers, self._texts = engine.logger_manager, None
        if stats is not None:
            from deployments.engines.vllm_stats import Texts

            self._texts = Texts(stats)
        self._set_threads = _thread_setter(engine.vllm_config)
        scheduling = self._core.scheduler.scheduler_config
        # None without chunked prefill: then a step never cuts a text
        self._cuts = scheduling if scheduling.enable_chunked_prefill else None
        self._step_tokens = self._core.scheduler.max_num_scheduled_tokens
        self._longer = 0  # number of texts that no step can hold
        self._tokens = 0
        self.running: dict[str, tuple[_Job, int, int]] = {}  # job, row, tokens

    def probe(self) -> int:
        """Embed one token; returns the width of its vector."""
        self._core.add_request(self._requests.make(np.zeros(1, np.int32)))
        while self._core.scheduler.has_requests():
            for output in self._outputs():
                return int(output.pooling_output.shape[-1])
        raise EngineError("vLLM ended its probe without an answer")

    def add(self, job: _Job) -> None:
        """Add the texts of a job to vLLM."""
        job.taken_s = time.monotonic()
        for row, request in job.requests:
            tokens = request.num_prompt_tokens
            self.running[request.request_id] = job, row, tokens
            self._count(tokens, 1)
            if self._spans is not None:
                described = self._requests.described(request.request_id, request.prompt_token_ids)
                self._spans.add_request(described, None, None, 0)
            self._core.add_request(request)

    def abort(self, job: _Job) -> None:
        """Remove the unfinished texts of a job from vLLM."""
        gone = [name for _, request in job.requests if (name := request.request_id) in self.running]
        self._client.abort_requests(gone)
        if self._spans is not None:
            self._spans.abort_requests(gone, internal=True)
        for name in gone:
            self._count(self.running.pop(name)[2], -1)

    def _count(self, tokens: int, texts: int) -> None:
        self._tokens += texts * tokens
        if tokens > self._step_tokens:
            self._longer += texts

    def step(self) -> tuple[bool, list[_Job]]:
        """Run one step; returns whether it finished a text, and the finished jobs."""
        if self._set_threads is not None:
            self._set_threads(self._tokens)
        if self._cuts is not None:
            self._cuts.enable_chunked_prefill = self._longer > 0
        finished: dict[_Job, tuple[list[int], list[torch.Tensor]]] = {}
        for output in self._outputs():
            if output.finish_reason is None:
                continue
            job, row, tokens = self.running.pop(output.request_id)
            self._count(tokens, -1)
            rows, vectors = finished.setdefault(job, ([], []))
            rows.append(row)
            vectors.append(output.pooling_output)
        done = [job for job, (rows, vectors) in finished.items() if _write(job, rows, vectors)]
        for job in done:
            job.running_tokens = self._running_tokens()
        return bool(finished), done

    def _running_tokens(self) -> int | None:
        """Tokens of the steps that the device still has to run; None: one step at a time."""
        in_flight = self._core.batch_queue
        if in_flight is None:
            return None
        return sum(step_tokens(step) for _, step, _ in in_flight)

    def _outputs(self) -> "list[EngineCoreOutput]":
        outputs = self._client.get_output()
        if outputs.scheduler_stats is not None and self._loggers is not None:
            self._loggers.record(scheduler_stats=outputs.scheduler_stats, iteration_stats=None)
            if self._texts is not None and outputs.outputs:
                self._texts.count(outputs.outputs, outputs.timestamp)
        made: list[EngineCoreOutput] = outputs.outputs
        if self._spans is not None:
            from vllm.v1.metrics.stats import IterationStats

            self._spans.process_outputs(made, outputs.timestamp, IterationStats())
        return made


def step_tokens(step: "SchedulerOutput") -> int:
    """Tokens of a step's texts, with those that its texts found in the prefix cache: calls and the
    tokens that a replica holds are counted so too.
    """
    found = sum(text.num_computed_tokens for text in step.scheduled_new_reqs)
    return int(step.total_num_scheduled_tokens + found)


def _write(job: _Job, rows: list[int], vectors: "list[torch.Tensor]") -> bool:
    """Write a step's vectors of a job; returns whether the job is finished."""
    import torch

    job.vectors[rows] = torch.stack(vectors).float().numpy()
    job.left -= len(rows)
    if job.left:
        return False
    job.stepped_s = time.monotonic()
    return True


def _same_for_all(config: "VllmConfig", pooling: Mapping[str, Any]) -> "PoolingParams":
    """One object that all texts share: vLLM would deep-copy it for each, which takes a fifth of the
    time to add one.

    What vLLM writes into it follows from the task and the model, which are the same for every text.
    If other processes need it, it is of vLLM's own class, because only that can be pickled.
    """
    from vllm import PoolingParams

    if config.parallel_config.world_size > 1:
        return PoolingParams(**pooling)

    class Same(PoolingParams):  # type: ignore[misc,unused-ignore]
        def clone(self) -> "PoolingParams":
            return self

    return Same(**pooling)


def _thread_setter(config: "VllmConfig") -> Callable[[int], None] | None:
    """Return a function that sets this thread's OpenMP threads for a step of so many tokens; None
    unless the model runs on several CPU threads.
    """
    import torch

    every = torch.get_num_threads()
    if config.device_config.device_type != "cpu" or every == 1:
        return None
    now = every

    def set_for(tokens: int) -> None:
        nonlocal now
        wanted = 1 if tokens <= SMALL_STEP_TOKENS else every
        if wanted != now:
            # vLLM replaces torch.set_num_threads with a function that does nothing
            torch._C.set_num_threads(wanted)
            now = wanted

    return set_for
