"""The proof of a reranker's replica before it serves.

Its scores must differ from each other. They must also match its fingerprint if its config names
one, otherwise those of the reranker's first replica.

No published scores of Qwen3-Reranker's example are known, so nothing can be compared beforehand.
"""

import asyncio
import time
from collections.abc import Callable, Sequence

import numpy as np

from deployments.engines.base import Engine, EngineError
from deployments.replica.first_vectors import FirstVectors
from deployments.replica.identity import Identity, WrongModel, embedded, proof_of
from deployments.service.prepare import Preparer
from deployments.service.score_proofs import pair_probes
from router.arrays import Vectors
from router.config import RouterArgs
from router.fingerprint import Fingerprint, Probe, digest_of_probes
from router.model_config import FingerprintConfig, ModelConfig, resolve_path
from router.rerank_config import RerankerConfig, ScoreFingerprintConfig
from router.score_fingerprint import PairProbe, ScoreFingerprint, load, too_even

EVERY_S = 600.0  # between two proofs of a reranker without a fingerprint
MAX_DIFFERENCE: float = ScoreFingerprintConfig.model_fields["max_difference"].default


class ScoreIdentity(Identity):
    """A proof by scores."""

    def __init__(
        self,
        engine: Engine,
        name: str,
        reranker: RerankerConfig,
        base_dir: str | None,
        clock: Callable[[], float],
        first: FirstVectors | None = None,
    ) -> None:
        config = reranker.fingerprint
        self._stored: ScoreFingerprint | None = None
        self._max_difference = MAX_DIFFERENCE if config is None else config.max_difference
        self._raw = reranker.score_kind == "raw"
        if config is not None:
            self._stored = stored = load(resolve_path(config.file, base_dir))
            pairs = list(stored.probes)
        else:
            args = RouterArgs.model_construct(models={name: reranker}, base_dir=base_dir)
            pairs = pair_probes(Preparer(args), name, reranker)
        self._name, self._pairs, probes = name, pairs, probes_of_pairs(pairs)
        # another server can change its weights at any time
        self._first = None if config is not None or reranker.engine.runs_elsewhere else first
        # corrected overrides of a model make other scores
        engine_section = reranker.engine
        settings = [engine_section.hub_source, engine_section.vllm_args]
        reads = [*settings, reranker.revision, reranker.score_kind]
        self._key = f"{name}/scores/{digest_of_probes(probes, reads)}"
        nothing = np.zeros((len(probes), 1), np.float32)
        every_s = EVERY_S if config is None else config.every_s
        # Identity reads only `every_s` of it
        often = FingerprintConfig.model_construct(every_s=every_s)
        super().__init__(engine, Fingerprint(name, probes, nothing), often, clock)

    async def scores(self) -> Vectors:
        """Return the current scores of the probes."""
        return await embedded(self._engine, self._name, self._fingerprint.probes)

    async def _prove(self) -> None:
        doubts, scores = self._doubts, await self.scores()
        wrong = too_even(self._name, scores)
        if wrong is None and self._stored is not None:
            wrong = self._stored.mismatch(scores, self._max_difference)
        if wrong is None and self._first is not None:
            wrong = await self._unlike_first(self._first, scores)
        if wrong is not None:
            raise WrongModel(wrong)
        self._proved_s, self.doubted = self._clock(), self._doubts != doubts

    async def _unlike_first(self, first: FirstVectors, scores: Vectors) -> str | None:
        """Return a sentence on how scores differ from the first replica's; None if they match."""
        made = scores.astype("<f4").tobytes()
        try:
            kept = await asyncio.to_thread(first.keep, self._key, made)
        except Exception as error:  # Ray's store is away; its message is of no use to a caller
            raise EngineError(
                f"the first replica's scores cannot be read: {type(error).__name__}"
            ) from error
        stored = self._on_one_scale(np.frombuffer(kept, "<f4").reshape(scores.shape))
        known = ScoreFingerprint(self._name, self._pairs, stored[:, 0].tolist())
        wrong = known.mismatch(self._on_one_scale(scores), self._max_difference)
        if wrong is None:
            return None
        return f"{wrong} (its fingerprint here is what this reranker's first replica made)"

    def _on_one_scale(self, scores: Vectors) -> Vectors:
        """Return log-odds as probabilities, so that rounding moves large ones little too."""
        if not self._raw:
            return scores
        odds: Vectors = (1.0 / (1.0 + np.exp(-scores))).astype(np.float32)
        return odds


def probes_of_pairs(pairs: Sequence[PairProbe]) -> list[Probe]:
    """Return pairs as probes for an engine."""
    return [Probe(pair.document, "document", pair.ids, pair.text) for pair in pairs]


def any_proof_of(
    engine: Engine,
    name: str,
    model: ModelConfig,
    base_dir: str | None,
    first: FirstVectors,
    clock: Callable[[], float] = time.monotonic,
) -> Identity | None:
    """Return what `engine` must prove to serve as the model or reranker `name`."""
    if isinstance(model, RerankerConfig):
        return ScoreIdentity(engine, name, model, base_dir, clock, first)
    return proof_of(engine, name, model, base_dir, first, clock)
