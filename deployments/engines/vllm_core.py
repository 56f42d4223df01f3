"""vLLM's core in this process: requests made of texts, and the steps that answer them.

Texts bypass the objects that LLMEngine makes of each, which take longer than the core's own work to
add one. Only vLLM's own spans need them. A step holds whole texts, unless vLLM holds one that is
longer than a step: vLLM copies a step's vectors at once only if every text in it is finished.

On a CPU a step of few tokens runs on one thread: between kernels, a second thread would spin on a
core that the router needs. Steps of many tokens run on all threads.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from deployments.engines.base import EngineError
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


class EngineCall:
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


class Requests:
    """Makes engine requests, on any one thread; vLLM allows this during a step."""

    def __init__(self, engine: "LLMEngine", pooling: Mapping[str, Any]) -> None:
        from msgspec.structs import replace
        from vllm.inputs import tokens_input

        core: Any = engine.engine_core
        self._prepare = core.engine_core.preprocess_add_request
        self._names = map(str, count())
        self._max_tokens = engine.model_config.max_model_len
        self._replace = replace
        # vLLM's checks of a request's parameters, once for all texts
        self._pattern = engine.input_processor.process_inputs(
            "pattern",
            tokens_input([0]),
            same_for_all(engine.vllm_config, pooling),
            supported_tasks=engine.get_supported_tasks(),
        )

    def make(self, ids: TokenIds) -> "Request":
        """Make the request of a text; raises ValueError if the model cannot read it."""
        if not 0 < len(ids) <= self._max_tokens:
            raise ValueError(f"it has {len(ids)} tokens, the model reads 1 to {self._max_tokens}")
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


class Core:
    """The stepping thread's side of vLLM's core, and the texts that are in it."""

    def __init__(self, engine: "LLMEngine", requests: Requests, stats: EngineStats | None) -> None:
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
        self.running: dict[str, tuple[EngineCall, int, int]] = {}  # job, row, tokens

    def probe(self) -> int:
        """Embed one token; returns the width of its vector."""
        self._core.add_request(self._requests.make(np.zeros(1, np.int32)))
        while self._core.scheduler.has_requests():
            for output in self._outputs():
                return int(output.pooling_output.shape[-1])
        raise EngineError("vLLM ended its probe without an answer")

    def add(self, job: EngineCall) -> None:
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

    def abort(self, job: EngineCall) -> None:
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

    def step(self) -> tuple[bool, list[EngineCall]]:
        """Run one step; returns whether it finished a text, and the finished jobs."""
        if self._set_threads is not None:
            self._set_threads(self._tokens)
        if self._cuts is not None:
            self._cuts.enable_chunked_prefill = self._longer > 0
        finished: dict[EngineCall, tuple[list[int], list[torch.Tensor]]] = {}
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

    def has_work(self) -> bool:
        """Whether texts are unfinished, or a step of aborted ones is still in flight."""
        return bool(self.running) or bool(self._running_tokens())

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


def _write(job: EngineCall, rows: list[int], vectors: "list[torch.Tensor]") -> bool:
    """Write a step's vectors of a job; returns whether the job is finished."""
    import torch

    job.vectors[rows] = torch.stack(vectors).float().numpy()
    job.left -= len(rows)
    if job.left:
        return False
    job.stepped_s = time.monotonic()
    return True


def same_for_all(config: "VllmConfig", pooling: Mapping[str, Any]) -> "PoolingParams":
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
