"""An engine on a card that can fail."""

import asyncio

import numpy as np

from deployments.dispatch.wire import Call
from deployments.engines.base import Batch, Embedded, EngineDead, EngineError

CALL = Call(None, np.array([3], np.int32), ["some text"], "document", [None])
DEAD = EngineDead("a step of vLLM failed with OutOfMemoryError, the replica must be replaced")


class Card:
    """An engine that embeds until its device fails."""

    dimensions, max_tokens, batch_tokens = 8, 64, 64

    def __init__(self, error: EngineError | None = None, slow_s: float = 0.0) -> None:
        self.error, self._slow_s = error, slow_s

    async def start(self) -> None: ...

    async def embed(self, batch: Batch) -> Embedded:
        await asyncio.sleep(self._slow_s)
        if self.error is not None:
            raise self.error
        vectors = np.zeros((len(batch), 8), np.float32)
        vectors[:, 0] = 1.0
        return Embedded(vectors, [3] * len(batch), {})

    def queued_tokens(self) -> int:
        return 0

    async def check_health(self) -> None:
        if self.error is not None:
            raise self.error

    async def stop(self) -> None: ...
