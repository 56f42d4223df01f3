"""The two ways to run vLLM behind one face: stepped by a thread of this process, or in vLLM's
worker processes.

InProcess: one thread owns the engine. It takes new and cancelled requests from a queue between two
steps, so that texts join and leave a running batch (continuous batching), and hands what a step
finished to the event loop in one wake-up. Nothing else touches the engine; everything about a job
but its vectors changes on the event loop alone. An exception in a step leaves the engine in an
unknown state: all jobs fail with EngineDead and so does every later one.

On a CPU a step of few tokens runs on one thread: a second one waits for the first in a spin between
kernels, on a core that the router needs. Steps of many tokens run on all.
"""

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import count
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from deployments.engines.base import EngineDead, EngineError, InvalidText
from deployments.telemetry.metrics import OF_VLLM, EngineStats, Tally
from router.arrays import Vectors

if TYPE_CHECKING:
    from vllm import PoolingParams
    from vllm.config import VllmConfig
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.llm_engine import LLMEngine

SMALL_STEP_TOKENS = 512  # up to here one CPU thread is enough
EMBED: Mapping[str, Any] = MappingProxyType({"task": "embed"})
STOP_S = 30.0  # how long a step that runs may keep `stop` waiting


class Facts(NamedTuple):
    """What vLLM says of the model it loaded."""

    dimensions: int
    max_tokens: int
    batch_tokens: int
    vocabulary: int
    pooling: str | None  # last, mean or cls
    on_card: bool


def _facts(config: "VllmConfig", dimensions: int) -> Facts:
    model = config.model_config
    return Facts(
        dimensions,
        model.max_model_len,
        config.scheduler_config.max_num_batched_tokens,
        model.get_vocab_size(),
        None if (kind := model.pooler_config.seq_pooling_type) is None else kind.lower(),
        config.device_config.device_type != "cpu",
    )


def _counting(stats: EngineStats | None, config: "VllmConfig") -> dict[str, Any]:
    """vLLM's spans need its records, so with them it counts where nothing is published too."""
    traced = config.observability_config.otlp_traces_endpoint is not None
    if stats is None and not traced:
        return {"disable_log_stats": True}
    from deployments.engines.vllm_stats import stat_logger

    counted = stats or EngineStats(Tally(OF_VLLM), "")
    return {"disable_log_stats": False, "stat_loggers": [stat_logger(counted)]}


class _Answers:
    """Lets a health check wait for the next answer of any kind."""

    def __init__(self) -> None:
        self._next: asyncio.Future[None] | None = None

    def next(self) -> "asyncio.Future[None]":
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        return self._next

    def seen(self) -> None:
        if self._next is not None:
            self._next.set_result(None)
            self._next = None


class _Job:
    """The texts of one call, by row; the stepping thread writes their vectors."""

    __slots__ = ("cancelled", "failed", "future", "ids", "left", "tokens", "vectors")

    def __init__(
        self, ids: dict[int, list[int]], vectors: Vectors, future: "asyncio.Future[None]"
    ) -> None:
        self.ids, self.vectors, self.future = ids, vectors, future
        self.tokens = sum(map(len, ids.values()))
        self.left = len(ids)
        self.failed: dict[int, EngineError] = {}
        self.cancelled = False


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
        self._answers = _Answers()
        self._dead: EngineDead | None = None
        self._thread: threading.Thread | None = None

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

    async def encode(self, ids: dict[int, list[int]], vectors: Vectors) -> dict[int, EngineError]:
        """Write the vectors of `ids` into their rows; returns the rows that vLLM refused."""
        if self._dead is not None:
            raise self._dead
        if not ids:
            return {}
        job = _Job(ids, vectors, asyncio.get_running_loop().create_future())
        self._jobs.add(job)
        self.queued_tokens += job.tokens
        self._inbox.put(job)
        try:
            await job.future
        except asyncio.CancelledError:
            job.cancelled = True
            self._inbox.put(job)
            raise
        return job.failed

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
            facts = _facts(engine.vllm_config, self._probe(engine))
        except Exception as error:
            tell(start, None, error)
            return
        tell(start, facts, None)
        failed = False
        try:
            self._step(engine, tell)
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
        engine = LLMEngine.from_vllm_config(config, **_counting(self._stats, config))
        if self._stats is not None:
            from deployments.engines.vllm_stats import Texts

            Texts(self._stats).watch(engine)
        return engine

    def _probe(self, engine: "LLMEngine") -> int:
        """Embed one token; returns the width of its vector."""
        from vllm import PoolingParams
        from vllm.inputs import tokens_input

        engine.add_request("probe", tokens_input([0]), PoolingParams(**self._pooling))
        while engine.has_unfinished_requests():
            for output in engine.step():
                return int(output.outputs.data.shape[-1])
        raise EngineError("vLLM ended its probe without an answer")

    def _step(self, engine: "LLMEngine", tell: Callable[..., None]) -> None:
        """Take what came in, step, hand out what is done, until told to stop."""
        params = _same_for_all(engine.vllm_config, self._pooling)
        names = map(str, count())
        running: dict[str, tuple[_Job, int]] = {}
        set_threads = _thread_setter(engine.vllm_config)
        while True:
            done: list[_Job] = []
            wait = not running
            while wait or not self._inbox.empty():
                wait = False
                job = self._inbox.get()
                if job is None:
                    return
                if job.cancelled:
                    _abort(engine, job, running)
                    tell(self._leave, job)
                    continue
                _add(engine, job, names, params, running)
                if not job.left:
                    done.append(job)
            if set_threads is not None:
                set_threads(sum(len(owner.ids[row]) for owner, row in running.values()))
            answered = False
            for output in engine.step() if running else ():
                owner, row = running.pop(output.request_id)
                owner.vectors[row] = output.outputs.data.float().numpy()
                owner.left -= 1
                answered = True
                if not owner.left:
                    done.append(owner)
            if answered or done:
                tell(self._finish, done)


def _add(
    engine: "LLMEngine",
    job: _Job,
    names: Iterator[str],
    params: "PoolingParams",
    running: dict[str, tuple[_Job, int]],
) -> None:
    """Give every text of a job to vLLM; one that it refuses fails alone."""
    from vllm.exceptions import VLLMClientError
    from vllm.inputs import tokens_input

    for row, ids in job.ids.items():
        name = next(names)
        try:
            engine.add_request(name, tokens_input(ids), params)
        except (ValueError, VLLMClientError) as error:
            job.failed[row] = InvalidText(f"vLLM refuses text {row}: {error}")
            job.left -= 1
        else:
            running[name] = job, row


def _abort(engine: "LLMEngine", job: _Job, running: dict[str, tuple[_Job, int]]) -> None:
    """Take what is left of a job out of vLLM."""
    gone = [name for name, (owner, _) in running.items() if owner is job]
    engine.abort_request(gone)
    for name in gone:
        del running[name]


def _same_for_all(config: "VllmConfig", pooling: Mapping[str, Any]) -> "PoolingParams":
    """One object that all texts share: vLLM would copy it deeply for each, which takes a fifth of
    the time to add one.

    What vLLM writes into it follows from the task and the model, which are the same for every text.
    Where it has to reach other processes it is one of vLLM's own, as only those can be pickled.
    """
    from vllm import PoolingParams

    if config.parallel_config.distributed_executor_backend != "uni":
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


class Workers:
    """vLLM's AsyncLLM: an engine process and one worker process a device."""

    def __init__(
        self,
        make_config: Callable[[], "VllmConfig"],
        stats: EngineStats | None = None,
        pooling: Mapping[str, Any] = EMBED,
    ) -> None:
        """`pooling` is what vLLM's PoolingParams are made of."""
        self.queued_tokens = 0
        self._stats, self._pooling = stats, pooling
        self._make_config = make_config
        self._answers = _Answers()
        self._names = map(str, count())
        self._dead: EngineDead | None = None
        self._llm: AsyncLLM | None = None

    async def start(self) -> Facts:
        """Start the processes and embed one token."""
        llm = await asyncio.to_thread(self._load)
        self._llm = llm
        width = int(llm.model_config.embedding_size) if self._pooling == EMBED else 1
        await self.encode({0: [0]}, np.empty((1, width), np.float32))
        return _facts(llm.vllm_config, width)

    def _load(self) -> "AsyncLLM":
        from vllm.v1.engine.async_llm import AsyncLLM

        config = self._make_config()
        return AsyncLLM.from_vllm_config(
            config, enable_log_requests=False, **_counting(self._stats, config)
        )

    async def encode(self, ids: dict[int, list[int]], vectors: Vectors) -> dict[int, EngineError]:
        """Write the vectors of `ids` into their rows; returns the rows that vLLM refused."""
        failed: dict[int, EngineError] = {}
        tasks = [
            asyncio.ensure_future(self._encode(row, text, vectors, failed))
            for row, text in ids.items()
        ]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        return failed

    async def _encode(
        self, row: int, ids: list[int], vectors: Vectors, failed: dict[int, EngineError]
    ) -> None:
        from vllm import PoolingParams
        from vllm.exceptions import VLLMClientError
        from vllm.inputs import tokens_input
        from vllm.v1.engine.exceptions import EngineDeadError

        if self._dead is not None or self._llm is None:
            raise self._dead or EngineDead("the engine is not running")
        self.queued_tokens += len(ids)
        try:
            async for output in self._llm.encode(
                tokens_input(ids), PoolingParams(**self._pooling), next(self._names)
            ):
                vectors[row] = output.outputs.data.float().numpy()
        except (ValueError, VLLMClientError) as error:
            failed[row] = InvalidText(f"vLLM refuses text {row}: {error}")
        except EngineDeadError as error:
            self._dead = EngineDead("vLLM's processes are gone, the replica must be replaced")
            raise self._dead from error
        finally:
            self.queued_tokens -= len(ids)
        self._answers.seen()

    def next_answer(self) -> "asyncio.Future[None]":
        """Done when any text is answered."""
        return self._answers.next()

    async def stop(self) -> None:
        """End the processes; what was not answered fails with EngineDead."""
        self._dead = self._dead or EngineDead("the engine was stopped")
        if self._llm is not None:
            llm, self._llm = self._llm, None
            await asyncio.to_thread(llm.shutdown)
