"""The test engine: vectors made from a hash, after a delay that follows the latency model; never a
default.

Batches run one at a time in order of arrival (FCFS), each for base_s + s_per_token * tokens
seconds, so that waits, cancellation and queues behave as in a real engine. Faults do too. A file
switches them, one per process:

    hang      no batch ends; the event loop keeps running
    block     the event loop is blocked, as by a step that never returns
    fail      every batch fails
    die       the engine is dead
    nonsense  vectors are not of length 1

With fault switches, `start` also configures logging for the whole process, as vLLM does.
"""

import asyncio
import logging.config
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

import numpy as np

from deployments.engines.base import Batch, Embedded, EngineDead, EngineError, Setup, TextTooLong
from deployments.engines.common import normalise, probe
from router import engine_config
from router.arrays import Vectors


def create(settings: engine_config.FakeEngineConfig, setup: Setup) -> "FakeEngine":
    """Create the engine without starting it."""
    return FakeEngine(settings, setup.dimensions, setup.max_tokens, setup.batch_tokens)


class FakeEngine:
    """Hash vectors: equal texts and seeds give equal vectors, others nearly orthogonal ones."""

    def __init__(
        self,
        settings: engine_config.FakeEngineConfig,
        dimensions: int,
        max_tokens: int,
        batch_tokens: int,
    ) -> None:
        self.dimensions, self.max_tokens, self.batch_tokens = dimensions, max_tokens, batch_tokens
        self._settings = settings
        self._turn = asyncio.Lock()
        self._queued_tokens = 0
        self._stopped = False
        self._faults = None if settings.faults is None else Path(settings.faults) / str(os.getpid())

    async def start(self) -> None:
        """Load nothing."""
        if self._faults is not None:
            logging.config.dictConfig({"version": 1, "disable_existing_loggers": False})

    async def embed(self, batch: Batch) -> Embedded:
        """Hash the batch after its delay; a text counts one token per four characters, as there is
        no tokenizer.
        """
        if self._stopped:
            raise EngineDead("the fake engine was stopped")
        if batch.ids is not None:
            keys = [np.ascontiguousarray(text, np.int32).tobytes() for text in batch.ids]
            tokens = [len(text) for text in batch.ids]
        else:
            keys = [f"{batch.input_type}:{text}".encode() for text in batch.texts or ()]
            tokens = [-(-len(text) // 4) for text in batch.texts or ()]
        failed: dict[int, EngineError] = {
            row: TextTooLong(row, count, self.max_tokens)
            for row, count in enumerate(tokens)
            if count > self.max_tokens
        }
        work = sum(count for row, count in enumerate(tokens) if row not in failed)
        self._queued_tokens += work
        try:
            async with self._turn:
                await asyncio.sleep(self._settings.base_s + self._settings.s_per_token * work)
                vectors = self._made(keys)
                if self._faults is not None:
                    await self._misbehave(self._faults, vectors)
        finally:
            self._queued_tokens -= work
        if self._stopped:
            raise EngineDead("the fake engine was stopped")
        return Embedded(vectors, tokens, failed)

    def _made(self, keys: Sequence[bytes]) -> Vectors:
        return hashed(keys, self.dimensions, self._settings.seed)

    async def _misbehave(self, switch: Path, vectors: Vectors) -> None:
        while (fault := _read(switch)) in ("hang", "block"):
            if fault == "block":
                time.sleep(0.05)  # noqa: ASYNC251
            else:
                await asyncio.sleep(0.05)
        if fault == "fail":
            raise EngineError("the fake engine fails: its faults file says `fail`")
        if fault == "die":
            self._stopped = True
        elif fault == "nonsense":
            vectors *= np.nan

    def queued_tokens(self) -> int:
        """Tokens of the waiting and running batches."""
        return self._queued_tokens

    async def check_health(self) -> None:
        """Embed a word after the batches ahead of it; raises EngineDead once stopped."""
        await probe(self.embed, Batch(texts=["health"]))

    async def stop(self) -> None:
        """Fail all batches from now on."""
        self._stopped = True


def hashed(keys: Sequence[bytes], dimensions: int, seed: int) -> Vectors:
    """Return one vector per key: `SIDE:TEXT` in UTF-8 for a text, int32 bytes for token ids."""
    vectors = np.empty((len(keys), dimensions), np.float32)
    salt = seed.to_bytes(16, "little", signed=True)
    for row, key in enumerate(keys):
        digest = blake2b(key, digest_size=8, salt=salt).digest()
        vectors[row] = np.random.default_rng(int.from_bytes(digest, "little")).standard_normal(
            dimensions
        )
    normalise(vectors)
    return vectors


def _read(switch: Path) -> str:
    with suppress(FileNotFoundError):
        return switch.read_text().strip()
    return ""
