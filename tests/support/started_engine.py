"""Engines that run during a block, and token ids and texts for them."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from deployments.engines import create
from deployments.engines.base import Engine
from router.model_config import ModelConfig

TEXTS = ["How do I bake bread?", "中国的首都是北京。", "naïve café 🙂", "x", "a longer text " * 40]


def ids(*texts: Sequence[int]) -> list[npt.NDArray[np.int32]]:
    return [np.array(text, np.int32) for text in texts]


@asynccontextmanager
async def started(
    engine: dict[str, Any], dimensions: int = 8, max_tokens: int = 100, tokenizer: str | None = None
) -> AsyncIterator[Engine]:
    model = {
        "engine": engine,
        "dimensions": dimensions,
        "max_tokens": max_tokens,
        "tokenizer": tokenizer,
    }
    made = create(ModelConfig.model_validate(model), None)
    await made.start()
    try:
        yield made
        assert made.queued_tokens() == 0
    finally:
        await made.stop()
        await made.stop()
