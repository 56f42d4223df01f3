"""The reranker of tests: scores made from a hash, after the delay and with the faults of the fake
engine; never a default.
"""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from deployments.engines.base import Setup
from deployments.engines.fake import FakeEngine
from router import rerank_config
from router.arrays import Vectors


def create(settings: rerank_config.FakeRerankEngine, setup: Setup) -> "FakeRerankEngine":
    """Make the engine of a config, not yet started."""
    return FakeRerankEngine(settings, 1, setup.max_tokens, setup.batch_tokens)


class FakeRerankEngine(FakeEngine):
    """Equal pairs with an equal seed have equal scores."""

    scores = True

    def _made(self, keys: Sequence[bytes]) -> Vectors:
        return hashed(keys, self._settings.seed)


def hashed(keys: Sequence[bytes], seed: int) -> Vectors:
    """The scores of keys of the fake engine: (keys, 1) numbers from 0 to 1."""
    salt = seed.to_bytes(16, "little", signed=True)
    digests = (blake2b(key, digest_size=4, salt=salt).digest() for key in keys)
    return np.array([[int.from_bytes(one, "big") / 2**32] for one in digests], np.float32)
