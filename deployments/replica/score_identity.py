"""What a replica of a reranker must prove before it serves: scores that differ, and those of its
fingerprint where its config names one.
"""

import time
from collections.abc import Callable, Sequence

import numpy as np

from deployments.engines.base import Engine
from deployments.replica.first_vectors import FirstVectors
from deployments.replica.identity import Identity, WrongModel, embedded, proof_of
from deployments.service.prepare import Preparer
from deployments.service.score_proofs import pair_probes
from router.arrays import Vectors
from router.config import RouterArgs
from router.fingerprint import Fingerprint, Probe
from router.model_config import FingerprintConfig, ModelConfig, resolve_path
from router.rerank_config import RerankerConfig
from router.score_fingerprint import PairProbe, ScoreFingerprint, load, too_even

EVERY_S = 600.0  # how often a reranker without a fingerprint is asked again


class ScoreIdentity(Identity):
    """A proof by scores."""

    def __init__(
        self,
        engine: Engine,
        name: str,
        reranker: RerankerConfig,
        base_dir: str | None,
        clock: Callable[[], float],
    ) -> None:
        config = reranker.fingerprint
        self._stored: ScoreFingerprint | None = None
        self._max_difference = 0.0 if config is None else config.max_difference
        if config is not None:
            self._stored = stored = load(resolve_path(config.file, base_dir))
            pairs = list(stored.probes)
        else:
            args = RouterArgs.model_construct(models={name: reranker}, base_dir=base_dir)
            pairs = pair_probes(Preparer(args), name, reranker)
        self._name, probes = name, probes_of_pairs(pairs)
        nothing = np.zeros((len(probes), 1), np.float32)
        every_s = EVERY_S if config is None else config.every_s
        # of which Identity reads only how often
        often = FingerprintConfig.model_construct(every_s=every_s)
        super().__init__(engine, Fingerprint(name, probes, nothing), often, clock)

    async def scores(self) -> Vectors:
        """The scores of the probes as they are now."""
        return await embedded(self._engine, self._name, self._fingerprint.probes)

    async def _prove(self) -> None:
        doubts, scores = self._doubts, await self.scores()
        wrong = too_even(self._name, scores)
        if wrong is None and self._stored is not None:
            wrong = self._stored.mismatch(scores, self._max_difference)
        if wrong is not None:
            raise WrongModel(wrong)
        self._proved_s, self.doubted = self._clock(), self._doubts != doubts


def probes_of_pairs(pairs: Sequence[PairProbe]) -> list[Probe]:
    """Pairs as an engine gets them."""
    return [Probe(pair.document, "document", pair.ids, pair.text) for pair in pairs]


def any_proof_of(
    engine: Engine,
    name: str,
    model: ModelConfig,
    base_dir: str | None,
    first: FirstVectors,
    clock: Callable[[], float] = time.monotonic,
) -> Identity | None:
    """What `engine` must prove to answer as the model or reranker `name`."""
    if isinstance(model, RerankerConfig):
        return ScoreIdentity(engine, name, model, base_dir, clock)
    return proof_of(engine, name, model, base_dir, first, clock)
