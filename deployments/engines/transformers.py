"""The reference engine: Hugging Face transformers, plain and slow; the others must match it.

Texts of similar length share a forward pass, padded on the right and masked, of at most
`batch_tokens` tokens including padding; passes.py chooses which. Pooling takes the last token, the
mean of all, or the first (cls), then scales to length 1, as sentence-transformers does.
"""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
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
from deployments.engines.passes import Passes
from router import engine_config
from router.arrays import TokenIds, Vectors

if TYPE_CHECKING:
    import torch


def create(settings: engine_config.TransformersEngineConfig, setup: Setup) -> "TransformersEngine":
    """Create the engine without starting it."""
    return TransformersEngine(
        settings, setup.dimensions, setup.max_tokens, setup.base_dir, setup.revision
    )


class TransformersEngine:
    """An AutoModel on its own thread."""

    def __init__(
        self,
        settings: engine_config.TransformersEngineConfig,
        dimensions: int,
        max_tokens: int,
        base_dir: str | None,
        revision: str | None = None,
    ) -> None:
        self.dimensions, self.max_tokens, self.batch_tokens = (
            dimensions,
            max_tokens,
            settings.batch_tokens,
        )
        self._settings, self._base_dir, self._revision = settings, base_dir, revision
        self.pooling: str = settings.pooling
        self.holds_card = settings.device != "cpu"
        self._model: Any = None
        self._vocabulary = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="transformers-engine")
        self.passes = Passes(settings.batch_tokens)
        self._queued_tokens = 0

    async def start(self) -> None:
        """Load the weights and embed one token; raises EngineError with the library's reason."""
        try:
            self._model = await asyncio.get_running_loop().run_in_executor(self._thread, self._load)
            require_dimensions(self._model.config.hidden_size, self.dimensions)
            await self.check_health()
        except EngineError:
            await self.stop()
            raise
        except Exception as error:
            await self.stop()
            raise EngineError(
                f"transformers could not load {self._settings.source}: {error}"
            ) from error

    def _load(self) -> Any:
        source = model_source(self._settings.source, self._base_dir)
        from transformers import AutoModel

        commit = self._revision if source == self._settings.source else None  # a folder has none
        model = (
            AutoModel.from_pretrained(source, dtype=self._settings.dtype, revision=commit)
            .eval()
            .to(self._settings.device)
        )
        self._vocabulary = model.get_input_embeddings().num_embeddings
        return model

    async def embed(self, batch: Batch) -> Embedded:
        """Embed token ids pass by pass; between passes other batches run and a cancelled one
        leaves.
        """
        if self._model is None:
            raise EngineDead("the model is not loaded")
        ids = token_ids(batch)
        failed = unreadable(ids, self.max_tokens, self._vocabulary)
        tokens = [len(text) for text in ids]
        # failed rows keep harmless values
        vectors = np.ones((len(ids), self.dimensions), np.float32)
        readable = sorted(
            (row for row in range(len(ids)) if row not in failed), key=tokens.__getitem__
        )
        left = sum(tokens[row] for row in readable)
        self._queued_tokens += left
        try:
            loop, lengths = asyncio.get_running_loop(), [tokens[row] for row in readable]
            for places in await loop.run_in_executor(self._thread, self.passes.cut, lengths):
                rows = [readable[place] for place in places]
                vectors[rows] = await loop.run_in_executor(
                    self._thread, self._forward, self._model, [ids[row] for row in rows]
                )
                done = sum(tokens[row] for row in rows)
                self._queued_tokens -= done
                left -= done
        except RuntimeError as error:  # from torch, including out of memory
            raise EngineError(f"the forward pass failed: {error}") from error
        finally:
            self._queued_tokens -= left
        return Embedded(vectors, tokens, normalise(vectors) | failed)

    def _forward(self, model: Any, ids: list[TokenIds]) -> Vectors:
        """The vectors of one pass. `passes` learns its time, and is used in this thread only."""
        import torch

        began_s = time.perf_counter()
        longest = max(map(len, ids))
        padded = np.zeros((len(ids), longest), np.int64)
        mask = np.zeros_like(padded)
        for row, text in enumerate(ids):
            padded[row, : len(text)], mask[row, : len(text)] = text, 1
        with torch.inference_mode():
            attention = torch.from_numpy(mask).to(model.device)
            states = model(
                input_ids=torch.from_numpy(padded).to(model.device), attention_mask=attention
            ).last_hidden_state
            pooled: Vectors = self._pool(states.float(), attention).cpu().numpy()
        self.passes.observe(len(ids), longest, time.perf_counter() - began_s)
        return pooled

    def _pool(self, states: "torch.Tensor", mask: "torch.Tensor") -> "torch.Tensor":
        """(texts, tokens, dimensions) to (texts, dimensions)."""
        match self._settings.pooling:
            case "last":
                return states[range(len(states)), mask.sum(1) - 1]
            case "mean":
                return (states * mask[:, :, None]).sum(1) / mask.sum(1)[:, None]
            case "cls":
                return states[:, 0]

    def queued_tokens(self) -> int:
        """Tokens of the batches in progress that have had no forward pass yet."""
        return self._queued_tokens

    async def check_health(self) -> None:
        """Embed one token, queued among the passes of other batches."""
        await probe(self.embed, Batch(ids=[np.zeros(1, np.int32)]))

    async def stop(self) -> None:
        """Drop the model; the running pass still finishes."""
        self._model = None
        self._thread.shutdown(wait=False, cancel_futures=True)
