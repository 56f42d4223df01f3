"""Code shared by both ways to run vLLM, and one of them: vLLM's own worker processes. The other way
is vllm_in_process.py.
"""

import asyncio
from collections.abc import Callable, Mapping
from itertools import count
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from deployments.engines.base import EngineDead, EngineError, InvalidText, Times
from deployments.telemetry.metrics import OF_VLLM, EngineStats, ProcessMetrics
from router.arrays import TokenIds, Vectors

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.engine.async_llm import AsyncLLM

EMBED: Mapping[str, Any] = MappingProxyType({"task": "embed"})


class Facts(NamedTuple):
    """Facts about the model that vLLM loaded."""

    dimensions: int
    max_tokens: int
    batch_tokens: int
    vocabulary: int
    pooling: str | None  # last, mean or cls
    on_card: bool


def facts_of(config: "VllmConfig", dimensions: int) -> Facts:
    """Read the facts from the configuration; `dimensions` is the width of a vector."""
    model = config.model_config
    return Facts(
        dimensions,
        model.max_model_len,
        config.scheduler_config.max_num_batched_tokens,
        model.get_vocab_size(),
        None if (kind := model.pooler_config.seq_pooling_type) is None else kind.lower(),
        config.device_config.device_type != "cpu",
    )


def log_options(stats: EngineStats | None, config: "VllmConfig") -> dict[str, Any]:
    """The arguments with which vLLM's engines record our statistics, or none.

    vLLM's spans need its records, so with spans it counts even if nothing is published.
    """
    traced = config.observability_config.otlp_traces_endpoint is not None
    if stats is None and not traced:
        return {"disable_log_stats": True}
    from deployments.engines.vllm_stats import stat_logger

    counted = stats or EngineStats(ProcessMetrics(OF_VLLM), "")
    return {"disable_log_stats": False, "stat_loggers": [stat_logger(counted)]}


class Encoded(NamedTuple):
    """The outcome of a call: the rows that vLLM refused, and fields of Embedded."""

    failed: dict[int, EngineError]
    times: Times | None = None
    running_tokens: int | None = None


class Answers:
    """Lets a health check wait for the next answer of any kind."""

    def __init__(self) -> None:
        self._next: asyncio.Future[None] | None = None

    def next(self) -> "asyncio.Future[None]":
        """Return a future that is done at the next answer."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        return self._next

    def seen(self) -> None:
        """Complete that future."""
        if self._next is not None:
            self._next.set_result(None)
            self._next = None


class Workers:
    """vLLM's AsyncLLM: an engine process and one worker process per device."""

    def __init__(
        self,
        make_config: Callable[[], "VllmConfig"],
        stats: EngineStats | None = None,
        pooling: Mapping[str, Any] = EMBED,
    ) -> None:
        """`pooling` holds the arguments of vLLM's PoolingParams."""
        self.queued_tokens = 0
        self._stats, self._pooling = stats, pooling
        self._make_config = make_config
        self._answers = Answers()
        self._names = map(str, count())
        self._dead: EngineDead | None = None
        self._llm: AsyncLLM | None = None

    async def start(self) -> Facts:
        """Start the processes and embed one token."""
        llm = await asyncio.to_thread(self._load)
        self._llm = llm
        width = int(llm.model_config.embedding_size) if self._pooling == EMBED else 1
        await self.encode({0: np.zeros(1, np.int32)}, np.empty((1, width), np.float32))
        return facts_of(llm.vllm_config, width)

    def _load(self) -> "AsyncLLM":
        from vllm.v1.engine.async_llm import AsyncLLM

        config = self._make_config()
        return AsyncLLM.from_vllm_config(
            config, enable_log_requests=False, **log_options(self._stats, config)
        )

    async def encode(self, ids: Mapping[int, TokenIds], vectors: Vectors) -> Encoded:
        """Write the vectors of `ids` into their rows."""
        failed: dict[int, EngineError] = {}
        tasks = [
            asyncio.ensure_future(self._encode(row, text.tolist(), vectors, failed))
            for row, text in ids.items()
        ]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        return Encoded(failed)

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
        """Return a future that is done when any text is answered."""
        return self._answers.next()

    async def stop(self) -> None:
        """End the processes; unanswered texts fail with EngineDead."""
        self._dead = self._dead or EngineDead("the engine was stopped")
        if self._llm is not None:
            llm, self._llm = self._llm, None
            await asyncio.to_thread(llm.shutdown)
