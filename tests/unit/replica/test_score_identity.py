"""A reranker without a fingerprint: later replicas make the scores of the first one."""

from typing import Any

import pytest

from deployments.engines import create
from deployments.engines.base import Batch, Embedded
from deployments.engines.fake_rerank import FakeRerankEngine
from deployments.replica.first_vectors import OfThisProcess
from deployments.replica.identity import WrongModel
from deployments.replica.score_identity import ScoreIdentity, any_proof_of
from router.rerank_config import FakeRerankEngineConfig, RerankerConfig


def reranker(seed: int = 0, **more: Any) -> RerankerConfig:
    return RerankerConfig.model_validate(
        {
            "engine": {"kind": "fake", "seed": seed},
            "template": "{query}{document}",
            "max_tokens": 512,
            **more,
        }
    )


async def prove(config: RerankerConfig, first: OfThisProcess, name: str = "pairs") -> None:
    engine = create(config, None)
    await engine.start()
    proof = any_proof_of(engine, name, config, None, first)
    assert isinstance(proof, ScoreIdentity)
    await proof.prove()
    await engine.stop()


async def test_the_same_weights_pass_again_and_others_do_not() -> None:
    first = OfThisProcess()
    await prove(reranker(), first)
    await prove(reranker(), first)
    with pytest.raises(WrongModel, match="what this reranker's first replica made"):
        await prove(reranker(seed=1), first)
    await prove(reranker(seed=1), first, "another")  # a name of its own has scores of its own


@pytest.mark.parametrize(
    "change",
    [
        {"revision": "0" * 40},
        {"template": "{document} {query}"},
        {"score": "raw"},
    ],
    ids=["another commit", "another template", "another scale"],
)
async def test_another_reading_or_commit_starts_anew(change: dict[str, Any]) -> None:
    first = OfThisProcess()
    await prove(reranker(), first)
    await prove(reranker(seed=1, **change), first)


class Spread(FakeRerankEngine):
    """Gives half of the pairs one score and the others a slightly higher one."""

    spread = 0.0

    async def embed(self, batch: Batch) -> Embedded:
        embedded = await super().embed(batch)
        embedded.vectors[:] = 0.5
        embedded.vectors[::2] += self.spread
        return embedded


@pytest.mark.parametrize(("spread", "ranks"), [(0.0, False), (0.0009, False), (0.0011, True)])
async def test_scores_that_are_all_alike_are_refused(spread: float, ranks: bool) -> None:
    """Whether a first replica is known or not."""
    engine = Spread(FakeRerankEngineConfig(kind="fake"), 1, 512, 512)
    engine.spread = spread
    for first in (None, OfThisProcess()):
        identity = ScoreIdentity(engine, "even", reranker(), None, lambda: 0.0, first)
        if ranks:
            await identity.prove()
            continue
        with pytest.raises(WrongModel, match=r"about the same score, 0\.50.*it would rank nothing"):
            await identity.prove()


async def test_a_store_that_is_away_puts_the_proof_off() -> None:
    from deployments.engines.base import EngineError

    class Away(OfThisProcess):
        def keep(self, key: str, vectors: bytes) -> bytes:
            raise ConnectionError(key)

    with pytest.raises(EngineError, match="first replica's scores cannot be read: Connection"):
        await prove(reranker(), Away())
