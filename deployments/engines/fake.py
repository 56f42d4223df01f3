"""The engine of tests: vectors made from a hash, after a delay that follows the latency model;
never a default.

Batches are served one after another in the order they came (FCFS), each in base_s + s_per_token *
tokens seconds, so that waits, cancellation and queues behave as they do at a real engine. So do
faults, one per process, switched by a file:

    hang      no batch ends, the event loop lives
    block     the event loop stands still, as in a step that never returns
    fail      every batch fails
    die       the engine is gone
    nonsense  vectors that are not of length 1

An engine with such switches also sets up logging for its whole process when it starts, as vLLM
does.
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


def create(settings: engine_config.FakeEngine, setup: Setup) -> "FakeEngine":
    """Make the engine of a config, not yet started."""
    return FakeEngine(settings, setup.dimensions, setup.max_tokens, setup.batch_tokens)


class FakeEngine:
    """Equal texts with an equal seed give equal vectors; other texts give nearly orthogonal
    ones.
    """

    def __init__(
        self,
        settings: engine_config.FakeEngine,
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
        """Nothing to load."""
        if self._faults is not None:
            logging.config.dictConfig({"version": 1, "disable_existing_loggers": False})

    async def embed(self, batch: Batch) -> Embedded:
        """Hash the batch after its delay; texts count one token per four characters, as no
        tokenizer is known here.
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
            raise EngineError("the fake engine was told to fail")
        if fault == "die":
            self._stopped = True
        elif fault == "nonsense":
            vectors *= np.nan

    def queued_tokens(self) -> int:
        """Tokens of the batches that wait or are served."""
        return self._queued_tokens

    async def check_health(self) -> None:
        """Embed a word in its turn; raises EngineDead once stopped."""
        await probe(self.embed, Batch(texts=["health"]))

    async def stop(self) -> None:
        """Answer no more."""
        self._stopped = True


def hashed(keys: Sequence[bytes], dimensions: int, seed: int) -> Vectors:
    """The vectors of these keys: a text's is `SIDE:TEXT` in UTF-8, that of token ids their int32
    bytes.
    """
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
