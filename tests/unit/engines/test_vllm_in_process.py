"""vLLM's engine in this process, before it has started. tests/vllm has the rest."""

import numpy as np
import pytest

from deployments.engines.base import EngineDead
from deployments.engines.vllm_in_process import InProcess


def no_config() -> None:
    """An engine that never starts reads no config."""


async def test_texts_before_the_start_are_refused_and_not_answered_without_vectors() -> None:
    engine = InProcess(no_config)
    vectors = np.zeros((1, 4), np.float32)
    with pytest.raises(EngineDead, match="has not started"):
        await engine.encode({0: np.ones(3, np.int32)}, vectors)
    assert not engine.queued_tokens
