"""vLLM in pooling mode: token ids in, one float32 row per text out, at the model's full width.

By default the engine runs in the replica's process (vllm_in_process.InProcess), without vLLM's
tokenizer, and batches continuously. `in_process: false` starts vLLM's worker processes, for several
devices per replica. The same name under `args` overrides each default that this file sets:
- max_model_len is the config's `max_tokens`: no key-value memory for texts that the router refuses.
- On a CPU: eager, as compiling costs more than it saves, with kernels for norms (vllm_kernels.py).
  Key-value memory is for one longest text and a short one per sequence: vLLM would take nearly all
  memory and leave none for a second replica. No prefix cache: no prompt fills its blocks of 128
  tokens, and every lookup costs. A reranker has one, with blocks of 32 tokens, which the template
  and the query of its pairs fill.
- On a device, in this process: `async_scheduling`, which vLLM leaves off for pooling models.
- Chunked prefill, and prefix caching on a GPU, keep vLLM's defaults (on for causal models with
  last-token pooling); tests compare both with the reference.
"""

import asyncio
import os
import sys
from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from deployments.engines.base import Batch, Embedded, EngineDead, EngineError, Setup
from deployments.engines.common import (
    model_source,
    normalise,
    probe,
    require_dimensions,
    token_ids,
    unreadable,
)
from deployments.engines.vllm_backends import EMBED, Workers
from deployments.engines.vllm_in_process import InProcess
from deployments.engines.vllm_log import StartLog
from deployments.telemetry.logs import beside
from deployments.telemetry.metrics import EngineStats
from router import engine_config
from router.arrays import Vectors

if TYPE_CHECKING:
    from vllm.config import VllmConfig

CPU_BLOCK = 32  # tokens: the smallest block that vLLM's CPU kernels prefer
SHORT = 128  # tokens of a short text: vLLM's own block on a CPU
_SETTLED = {
    "model": "write it as `source`",
    "runner": "it is always pooling",
    "skip_tokenizer_init": "the router tokenises",
}


def create(settings: engine_config.VllmEngineConfig, setup: Setup) -> "VllmEngine":
    """Create the engine without starting it."""
    return VllmEngine(
        settings,
        setup.dimensions,
        setup.max_tokens,
        setup.base_dir,
        setup.stats,
        setup.revision,
    )


class VllmEngine:
    """One model on vLLM; `batch_tokens` is known after start."""

    pooling_params: Mapping[str, Any] = EMBED
    shares_prefixes = False  # whether its texts share a beginning of more than a few tokens

    def __init__(
        self,
        settings: engine_config.VllmEngineConfig,
        dimensions: int,
        max_tokens: int,
        base_dir: str | None,
        stats: EngineStats | None = None,
        revision: str | None = None,
    ) -> None:
        self.dimensions, self.max_tokens, self.batch_tokens = dimensions, max_tokens, max_tokens
        self._settings, self._base_dir, self._stats = settings, base_dir, stats
        self._revision = revision
        self.pooling: str | None = None  # what vLLM found in the checkpoint, known after start
        self.start_log = StartLog(beside("vllm"))
        self.phases: dict[str, float] = {}  # seconds of each part of the start
        self.holds_card = False  # whose memory is freed only when this process ends
        self._vocabulary = 0
        self.backend: InProcess | Workers | None = None

    async def start(self) -> None:
        """Load the model and embed one token; raises EngineError with vLLM's reason on failure."""
        chosen = InProcess if self._settings.in_process else Workers
        self.backend = chosen(self._config, self._stats, self.pooling_params)
        try:
            facts = await self.backend.start()
            require_dimensions(facts.dimensions, self.dimensions)
            if facts.max_tokens < self.max_tokens:
                raise EngineError(
                    f"vLLM reads {facts.max_tokens} tokens, the config says max_tokens: "
                    f"{self.max_tokens}"
                )
        except EngineError:
            await self.stop()
            raise
        except Exception as error:
            await self.stop()
            raise EngineError(f"vLLM could not start {self._settings.source}: {error}") from error
        self.batch_tokens, self._vocabulary = facts.batch_tokens, facts.vocabulary
        self.pooling, self.holds_card = facts.pooling, facts.on_card
        self.phases = self.start_log.phases()

    def _config(self) -> "VllmConfig":
        made = vllm_config(
            self._settings, self.max_tokens, self._base_dir, self._revision, self.shares_prefixes
        )
        self.start_log.attach()
        return made

    async def embed(self, batch: Batch) -> Embedded:
        """Embed token ids; texts that cannot be read or have no finite vector fail alone."""
        if self.backend is None:
            raise EngineDead("vLLM is not running")
        ids = token_ids(batch)
        failed = unreadable(ids, self.max_tokens, self._vocabulary)
        rows = [row for row in range(len(ids)) if row not in failed]
        # failed rows keep harmless values
        vectors = np.ones((len(ids), self.dimensions), np.float32)
        encoded = await self.backend.encode({row: ids[row] for row in rows}, vectors)
        failed |= encoded.failed
        tokens = [len(text) for text in ids]
        return Embedded(
            vectors,
            tokens,
            self._unusable(vectors) | failed,
            times=encoded.times,
            running_tokens=encoded.running_tokens,
        )

    def _unusable(self, vectors: Vectors) -> dict[int, EngineError]:
        """Prepare the rows for the answer, in place; returns the unusable ones."""
        return normalise(vectors)

    def queued_tokens(self) -> int:
        """Tokens in vLLM's queue and in its running step."""
        return 0 if self.backend is None else self.backend.queued_tokens

    async def check_health(self) -> None:
        """Wait for the answer to a probe or to any other text: behind a long queue, any answer
        shows that vLLM is alive.
        """
        if self.backend is None:
            raise EngineDead("vLLM is not running")
        answer = self.backend.next_answer()
        own = asyncio.ensure_future(probe(self.embed, Batch(ids=[np.zeros(1, np.int32)])))
        either: set[asyncio.Future[Any]] = {own, answer}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if own.done():
                own.result()
        finally:
            own.cancel()

    async def stop(self) -> None:
        """End the stepping thread or the workers and release their memory."""
        if self.backend is not None:
            backend, self.backend = self.backend, None
            await backend.stop()


def vllm_config(
    settings: engine_config.VllmEngineConfig,
    max_tokens: int,
    base_dir: str | None,
    revision: str | None = None,
    shares_prefixes: bool = False,
) -> "VllmConfig":
    """Import vLLM and create its whole configuration; blocks for seconds.

    Raises EngineError for an argument that vLLM does not have, and FileNotFoundError if `source`
    does not exist.
    """
    source = model_source(settings.source, base_dir)
    # vLLM reads these while it is imported or configured; the engine's own parameter for the first
    # does not switch it off.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0" if settings.in_process else "1"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # it would send model, card and provider
    # InProcess names its texts itself: vLLM would randomise each name with a system call
    if settings.in_process:
        os.environ["VLLM_DISABLE_REQUEST_ID_RANDOMIZATION"] = "1"
    _hide_broken_torchvision()
    from vllm.engine.arg_utils import EngineArgs
    from vllm.platforms import current_platform
    from vllm.usage.usage_lib import UsageContext

    known = [field.name for field in fields(EngineArgs)]
    for name in settings.args:
        if name in _SETTLED:
            raise EngineError(f"engine.args.{name} cannot be set here: {_SETTLED[name]}")
        if name not in known:
            near = get_close_matches(name, known, 1)
            raise EngineError(
                f"engine.args.{name}: vLLM has no such argument"
                + (f"; did you mean {near[0]}?" if near else "")
            )
    on_cpu = current_platform.is_cpu()
    defaults = engine_defaults(settings, max_tokens, on_cpu, shares_prefixes)
    if revision is not None and source == settings.source:  # a folder has none
        defaults["revision"] = revision
    if on_cpu and settings.in_process and settings.args.get("enforce_eager", True):
        from deployments.engines.vllm_kernels import fast_norms

        defaults["ir_op_priority"] = fast_norms()
    args = EngineArgs(
        model=source, runner="pooling", skip_tokenizer_init=True, **(defaults | settings.args)
    )
    # this context has the batch sizes for serving
    made = args.create_engine_config(UsageContext.OPENAI_API_SERVER)
    if (
        on_cpu
        and made.cache_config.kv_cache_memory_bytes is None
        and "gpu_memory_utilization" not in settings.args
    ):
        made.cache_config.kv_cache_memory_bytes = _cache_bytes(made)
    return made


def engine_defaults(
    settings: engine_config.VllmEngineConfig,
    max_tokens: int,
    on_cpu: bool,
    shares_prefixes: bool = False,
) -> dict[str, Any]:
    """The arguments of vLLM that differ from its own defaults; `args` of the config override
    them.
    """
    defaults: dict[str, Any] = {
        "max_model_len": max_tokens,
        "enforce_eager": on_cpu,
        "use_tqdm_on_load": False,
    }
    if not settings.in_process and settings.args.get("tensor_parallel_size", 1) != 1:
        # in a placement group vLLM would choose Ray and wait for devices that this replica holds
        defaults["distributed_executor_backend"] = "mp"
    if on_cpu:
        defaults["enable_prefix_caching"] = shares_prefixes
        if shares_prefixes:
            defaults["block_size"] = CPU_BLOCK
    elif settings.in_process:
        defaults["async_scheduling"] = True
    return defaults


def _cache_bytes(made: "VllmConfig") -> int:
    """Key-value memory for one longest text and a short one for each other sequence."""
    model, parallel = made.model_config, made.parallel_config
    heads = model.get_num_layers(parallel) * model.get_num_kv_heads(parallel)
    per_token = 2 * heads * model.get_head_size() * model.dtype.itemsize
    return int(per_token * (model.max_model_len + made.scheduler_config.max_num_seqs * SHORT))


def _hide_broken_torchvision() -> None:
    """Hide torchvision from vLLM if it cannot be imported.

    Installing a CPU build of torch over a CUDA one leaves a torchvision that fails on import, and
    `import vllm` fails with it.
    """
    import torch

    if torch.version.cuda is None and find_spec("torchvision") is not None:
        try:
            import torchvision  # type: ignore[import-not-found,unused-ignore]  # noqa: F401
        except Exception:
            sys.modules["torchvision"] = None  # type: ignore[assignment]
