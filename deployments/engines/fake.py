"""The engine of tests: vectors made from a hash, after a delay that follows the latency model; never a default.

Batches are served one after another in the order they came (FCFS), each in base_s + s_per_token * tokens seconds, so that
waits, cancellation and queues behave as they do at a real engine.
"""

import asyncio
from hashlib import blake2b

import numpy as np

from deployments.engines.base import Batch, Embedded, EngineDead, EngineError, TextTooLong, Vectors
from deployments.engines.common import normalise
from router import config


class FakeEngine:
    """Equal texts with an equal seed give equal vectors; other texts give nearly orthogonal ones."""

    def __init__(self, settings: config.FakeEngine, dimensions: int, max_tokens: int, batch_tokens: int) -> None:
        self.dimensions, self.max_tokens, self.batch_tokens = dimensions, max_tokens, batch_tokens
        self._settings = settings
        self._turn = asyncio.Lock()
        self._queued_tokens = 0
        self._stopped = False

    async def start(self) -> None:
        """Nothing to load."""

    async def embed(self, batch: Batch) -> Embedded:
        """Hash the batch after its delay; texts count one token per four characters, as no tokenizer is known here."""
        if self._stopped:
            raise EngineDead("the fake engine was stopped")
        if batch.ids is not None:
            keys = [np.ascontiguousarray(text, np.int32).tobytes() for text in batch.ids]
            tokens = [len(text) for text in batch.ids]
        else:
            keys = [f"{batch.input_type}:{text}".encode() for text in batch.texts or ()]
            tokens = [-(-len(text) // 4) for text in batch.texts or ()]
        failed: dict[int, EngineError] = {
            row: TextTooLong(row, count, self.max_tokens) for row, count in enumerate(tokens) if count > self.max_tokens
        }
        work = sum(count for row, count in enumerate(tokens) if row not in failed)
        self._queued_tokens += work
        try:
            async with self._turn:
                await asyncio.sleep(self._settings.base_s + self._settings.s_per_token * work)
        finally:
            self._queued_tokens -= work
        if self._stopped:
            raise EngineDead("the fake engine was stopped")
        return Embedded(self._vectors(keys), tokens, failed)

    def _vectors(self, keys: list[bytes]) -> Vectors:
        vectors = np.empty((len(keys), self.dimensions), np.float32)
        for row, key in enumerate(keys):
            digest = blake2b(key, digest_size=8, salt=self._settings.seed.to_bytes(16, "little", signed=True)).digest()
            vectors[row] = np.random.default_rng(int.from_bytes(digest, "little")).standard_normal(self.dimensions)
        normalise(vectors)
        return vectors

    def queued_tokens(self) -> int:
        """Tokens of the batches that wait or are served."""
        return self._queued_tokens

    async def check_health(self) -> None:
        """Raise EngineDead once stopped."""
        if self._stopped:
            raise EngineDead("the fake engine was stopped")

    async def stop(self) -> None:
        """Answer no more."""
        self._stopped = True
