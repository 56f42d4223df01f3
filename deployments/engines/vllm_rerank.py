"""vLLM as a reranker: token ids of a pair in, one score out.

A causal model such as Qwen3-Reranker scores by how much more likely "yes" is than "no" as its next
token. With `args.hf_overrides`, vLLM makes a classifier of one label from the rows of those two
words and reads the tokenizer once for their ids. A score is never scaled to length 1, which would
turn it into 1 or -1.
"""

from typing import Any

import numpy as np

from deployments.engines.base import EngineError, Setup
from deployments.engines.vllm import VllmEngine
from router import engine_config
from router.arrays import Vectors


def create(settings: engine_config.VllmEngineConfig, setup: Setup) -> "VllmRerankEngine":
    """Create the engine without starting it."""
    return VllmRerankEngine(settings, setup)


class VllmRerankEngine(VllmEngine):
    """One reranker on vLLM."""

    scores = True
    shares_prefixes = True

    def __init__(self, settings: engine_config.VllmEngineConfig, setup: Setup) -> None:
        super().__init__(settings, 1, setup.max_tokens, setup.base_dir, setup.stats, setup.revision)
        self.pooling_params: dict[str, Any] = {
            "task": "classify",
            "use_activation": setup.score != "raw",
        }

    def _unusable(self, vectors: Vectors) -> dict[int, EngineError]:
        return not_finite(vectors)


def not_finite(scores: Vectors) -> dict[int, EngineError]:
    """The rows whose score is not finite."""
    return {
        int(row): EngineError(f"the model's score for pair {row} is not finite")
        for row in np.flatnonzero(~np.isfinite(scores[:, 0]))
    }
