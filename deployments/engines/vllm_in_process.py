"""vLLM's engine in this process, stepped by a thread.

The event loop makes engine requests of the texts of a call, while the thread waits for the device.
The thread takes those and cancelled ones between two steps, so that texts join and leave a running
batch (continuous batching), and hands what a step finished to the event loop in one wake-up.
Nothing else touches the engine; everything about a job but its vectors changes on the event loop
alone. An exception in a step leaves the engine in an unknown state: all jobs fail with EngineDead
and so does every later one.

Texts go to vLLM's core and come from it without the objects that LLMEngine makes of each for its
other callers, which take longer than the core's own work to add one. Only vLLM's own spans need
them.

A step holds whole texts, unless one that vLLM holds is longer than a step: vLLM copies the vectors
of a step at once only where every text in it is finished.

On a CPU a step of few tokens runs on one thread: a second one waits for the first in a spin between
kernels, on a core that the router needs. Steps of many tokens run on all.
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
    from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest
    from vllm.v1.engine.llm_engine import LLMEngine
    from vllm.v1.request import Request

SMALL_STEP_TOKENS = 512  # up to here one CPU thread is enough
STOP_S = 30.0  # how long a step that runs may keep `stop` waiting
# How long a thread that prepares may keep one that steps from the interpreter, in seconds. Python's
# own 5 ms are a tenth of a step of short texts, and a step needs the interpreter hundreds of times.
SWITCH_S = 0.0005
SLICE = 64  # texts that are prepared before the event loop does something else


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
        """`pooling` is what vLLM's PoolingParams are made of."""
        self.queued_tokens = 0
        self._stats, self._pooling = stats, pooling
        self.engine: LLMEngine | None = None  # the thread's; look, do not touch
        self._make_config = make_config
        # a job comes again when it was cancelled; None ends
        self._inbox: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._jobs: set[_Job] = set()
        self._answers = Answers()
        self._dead: EngineDead | None = None
        self._thread: threading.Thread | None = None
        self._requests: _Requests | None = None

    async def start(self) -> Facts:
        """Load on the thread that will step, as torch keeps the device and thread counts per
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
        """Done when any text is answered."""
        return self._answers.next()

    async def stop(self) -> None:
        """End the thread after the step that runs; what was not answered fails with EngineDead."""
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
            with suppress(RuntimeError):  # the loop is closed: nobody is left to tell
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
            # a device that failed fails here once more
            with suppress(*((Exception,) if failed else ())):
                engine.engine_core.shutdown()

    def _load(self) -> "LLMEngine":
        from vllm.v1.engine.llm_engine import LLMEngine

        config = self._make_config()  # the first to import vLLM, which reads the environment then
        if config.scheduler_config.async_scheduling:
            sys.setswitchinterval(SWITCH_S)
        return LLMEngine.from_vllm_config(config, **log_options(self._stats, config))

    def _step(self, core: "_Core", tell: Callable[..., None]) -> None:
        """Take what came in, step, hand out what is done, until told to stop."""
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
    """Makes engine requests, on any one thread: vLLM lets that run beside a step."""

    def __init__(self, engine: "LLMEngine", pooling: Mapping[str, Any]) -> None:
        from msgspec.structs import replace
        from vllm.inputs import tokens_input

        core: Any = engine.engine_core
        self._prepare = core.engine_core.preprocess_add_request
        self._names = map(str, count())
        self._most_tokens = engine.model_config.max_model_len
        self._replace = replace
        # vLLM's checks of a request's parameters, once for all
        self._pattern = engine.input_processor.process_inputs(
            "pattern",
            tokens_input([0]),
            _same_for_all(engine.vllm_config, pooling),
            supported_tasks=engine.get_supported_tasks(),
        )

    def make(self, ids: TokenIds) -> "Request":
        """One text's request; raises ValueError for one that the model cannot read."""
        if not 0 < len(ids) <= self._most_tokens:
            raise ValueError(f"it has {len(ids)} tokens, the model reads 1 to {self._most_tokens}")
        made: Request = self._prepare(self.described(next(self._names), ids.tolist()))[0]
        return made

    def described(self, name: str, ids: list[int]) -> "EngineCoreRequest":
        """What every part of vLLM makes its own objects of."""
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
        # LLMEngine's own objects of every text, where its spans need them
        self._spans = engine.output_processor if engine.output_processor.tracing_enabled else None
        self._client: Any = engine.engine_core
        self._core: Any = self._client.engine_core
        self._loggers, self._texts = engine.logger_manager, None
        if stats is not None:
            from deployments.engines.vllm_stats import Texts

            self._texts = Texts(stats)
        self._set_threads = _thread_setter(engine.vllm_config)
        scheduling = self._core.scheduler.scheduler_config
        # None where every step has whole texts, or may not
        self._cuts = scheduling if scheduling.enable_chunked_prefill else None
        self._step_tokens = self._core.scheduler.max_num_scheduled_tokens
        self._longer = 0  # texts that no step can hold
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
        """Give the texts of a job to vLLM."""
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
        """Take what is left of a job out of vLLM."""
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
        """Run one step; whether it finished a text, and the jobs that are done."""
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
        """Of the steps that the device has still to do; None where it has one at a time."""
        in_flight = self._core.batch_queue
        if in_flight is None:
            return None
        return sum(int(output.total_num_scheduled_tokens) for _, output, _ in in_flight)

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


def _write(job: _Job, rows: list[int], vectors: "list[torch.Tensor]") -> bool:
    """Write what a step made of a job; whether that was the last of it."""
    import torch

    job.vectors[rows] = torch.stack(vectors).float().numpy()
    job.left -= len(rows)
    if job.left:
        return False
    job.stepped_s = time.monotonic()
    return True


def _same_for_all(config: "VllmConfig", pooling: Mapping[str, Any]) -> "PoolingParams":
    """One object that all texts share: vLLM would copy it deeply for each, which takes a fifth of
    the time to add one.

    What vLLM writes into it follows from the task and the model, which are the same for every text.
    Where it has to reach other processes it is one of vLLM's own, as only those can be pickled.
    """
    from vllm import PoolingParams

    if config.parallel_config.world_size > 1:
        return PoolingParams(**pooling)

    class Same(PoolingParams):  # type: ignore[misc,unused-ignore]
        def clone(self) -> "PoolingParams":
            return self

    return Same(**pooling)


def _thread_setter(config: "VllmConfig") -> Callable[[int], None] | None:
    """Sets this thread's OpenMP threads for a step of so many tokens; None where the model does not
    run on several of a CPU.
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
            # vLLM replaces torch's own name by one that does nothing
            torch._C.set_num_threads(wanted)
            now = wanted

    return set_for
