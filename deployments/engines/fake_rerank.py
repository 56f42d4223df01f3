"""The test reranker: scores made from a hash, with the delay and the faults of the fake engine;
never a default.
"""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from deployments.engines.base import Setup
from deployments.engines.fake import FakeEngine
from router import rerank_config
from router.arrays import Vectors


def create(settings: rerank_config.FakeRerankEngineConfig, setup: Setup) -> "FakeRerankEngine":
    """Create the engine without starting it."""
    return FakeRerankEngine(settings, 1, setup.max_tokens, setup.batch_tokens)


class FakeRerankEngine(FakeEngine):
    """Hash scores: equal pairs and seeds give equal scores."""

    scores = True

    def _made(self, keys: Sequence[bytes]) -> Vectors:
        return hashed(keys, self._settings.seed)


def hashed(keys: Sequence[bytes], seed: int) -> Vectors:
    """Scores from 0 to 1 for keys of the fake engine, of shape (keys, 1)."""
    salt = seed.to_bytes(16, "little", signed=True)
    digests = (blake2b(key, digest_size=4, salt=salt).digest() for key in keys)
    return np.array([[int.from_bytes(digest, "big") / 2**32] for digest in digests], np.float32)
