"""A Qwen3 reranker on vLLM behind /v1/rerank, held to transformers on the same random weights: the
two-way softmax of "yes" and "no" at the last position.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

from deployments.engines import create
from deployments.engines.base import Batch
from deployments.engines.vllm_core import step_tokens
from deployments.replica.identity import WrongModel
from deployments.replica.score_identity import ScoreIdentity
from deployments.service.pairs import PairPreparer
from deployments.service.prepare import Preparer
from deployments.telemetry.metrics import OF_VLLM, EngineStats, ProcessMetrics
from router import score_fingerprint
from router.rerank_config import RerankerConfig
from router.rerank_schema import RerankRequest
from router.schema import EmbeddingsRequest
from tests.support.local_service import LocalRouter, served
from tests.support.qwen3_reranking import DOCUMENTS, QUERY, WITHIN, pairs_of, scores_of

pytestmark = [pytest.mark.vllm, pytest.mark.models]

ROOT = Path(__file__).parents[2]
MAX_TOKENS = 512


def reranker(tiny_qwen3: Path) -> dict[str, Any]:
    """The 0.6B of configs/qwen3.yaml with its source and its sizes replaced."""
    config = yaml.safe_load((ROOT / "configs" / "qwen3.yaml").read_text())
    one: dict[str, Any] = config["applications"][0]["args"]["rerankers"]["qwen3-reranker-0.6b"]
    for name in ("revision", "cold_start_s"):
        one.pop(name, None)
    one["engine"]["source"] = one["tokenizer"] = str(tiny_qwen3)
    one["engine"]["args"] = {
        "hf_overrides": one["engine"]["args"]["hf_overrides"],
        "dtype": "float32",
        "kv_cache_memory_bytes": 256 * 1024 * 1024,
    }
    return one | {"max_tokens": MAX_TOKENS}


@pytest.fixture(scope="module")
def running(tiny_qwen3: Path) -> Iterator[tuple[str, LocalRouter]]:
    args = {
        "models": {"small": {"engine": {"kind": "fake"}, "dimensions": 8, "max_tokens": 64}},
        "tiers": {"fast": "small"},
        "rerankers": {"tiny": reranker(tiny_qwen3)},
        "rerank_tiers": {"fast": "tiny"},
        "cache": {"max_bytes": 0},
    }
    with served(args) as both:
        yield both


def rerank(url: str, **body: Any) -> dict[str, Any]:
    given = {"query": QUERY, "documents": DOCUMENTS} | body
    answer = httpx.post(f"{url}/v1/rerank", json=given, timeout=600)
    assert answer.status_code == 200, answer.text
    parsed: dict[str, Any] = answer.json()
    return parsed


@pytest.fixture(scope="module")
def expected(tiny_qwen3: Path) -> list[float]:
    return scores_of(tiny_qwen3, pairs_of(tiny_qwen3, DOCUMENTS, MAX_TOKENS))


def test_scores_are_those_of_transformers(
    running: tuple[str, LocalRouter], expected: list[float]
) -> None:
    answer = rerank(running[0])
    found = {one["index"]: one["relevance_score"] for one in answer["results"]}
    np.testing.assert_allclose(
        [found[place] for place in range(len(DOCUMENTS))], expected, atol=WITHIN
    )
    assert np.ptp(expected) > WITHIN, "the reference tells these documents apart"
    assert [one["index"] for one in answer["results"]] == sorted(found, key=lambda i: -found[i])
    assert answer["routing"]["score"] == "probability"


def test_the_ids_of_the_template_are_those_of_its_pieces(tiny_qwen3: Path) -> None:
    from router.config import RouterArgs

    config = RerankerConfig.model_validate(reranker(tiny_qwen3))
    args = RouterArgs.model_construct(models={"tiny": config}, base_dir=None)
    request = RerankRequest(QUERY, EmbeddingsRequest(tuple(DOCUMENTS), None, side="document"))
    preparer = PairPreparer(Preparer(args), {"tiny": config}, request)
    read = preparer.prepare(DOCUMENTS, "document", None, ["tiny"])["tiny"]
    assert read.ids is not None
    assert [row.tolist() for row in read.ids] == pairs_of(tiny_qwen3, DOCUMENTS, MAX_TOKENS)


def test_the_order_does_not_depend_on_the_batch(running: tuple[str, LocalRouter]) -> None:
    whole = {one["index"]: one["relevance_score"] for one in rerank(running[0])["results"]}
    for place, document in enumerate(DOCUMENTS):
        alone = rerank(running[0], documents=[document])["results"][0]["relevance_score"]
        assert alone == pytest.approx(whole[place], abs=WITHIN)


def test_a_long_document_is_cut_alone_and_named(running: tuple[str, LocalRouter]) -> None:
    url, long = running[0], "gravity " * 2000
    refused = httpx.post(
        f"{url}/v1/rerank", json={"query": QUERY, "documents": [*DOCUMENTS, long]}, timeout=600
    )
    assert refused.json()["error"]["code"] == "context_length_exceeded"
    cut = rerank(url, documents=[*DOCUMENTS, long], truncate="end")
    assert cut["routing"]["truncated"] == [len(DOCUMENTS)]
    whole = {one["index"]: one["relevance_score"] for one in rerank(url)["results"]}
    found = {one["index"]: one["relevance_score"] for one in cut["results"]}
    for place in range(len(DOCUMENTS)):
        assert found[place] == pytest.approx(whole[place], abs=WITHIN)


def test_a_replica_proves_its_scores(
    tiny_qwen3: Path, running: tuple[str, LocalRouter], tmp_path: Path
) -> None:
    """With the engine that serves: the stored scores pass, others and equal ones do not."""
    _, router = running
    engine = router.transport.engines["tiny"]
    config = RerankerConfig.model_validate(reranker(tiny_qwen3))

    def prove(config: RerankerConfig) -> ScoreIdentity:
        identity = ScoreIdentity(engine, "tiny", config, None, lambda: 0.0)
        asyncio.run_coroutine_threadsafe(identity.prove(), router.loop).result(600)
        return identity

    identity = prove(config)
    probes = score_fingerprint_probes(identity, tiny_qwen3, config)
    scores = asyncio.run_coroutine_threadsafe(identity.scores(), router.loop).result(600)
    path = tmp_path / "scores.json"
    score_fingerprint.save(score_fingerprint.make("tiny", probes, scores), path)
    named = RerankerConfig.model_validate(reranker(tiny_qwen3) | {"fingerprint": str(path)})
    prove(named)
    score_fingerprint.save(score_fingerprint.make("tiny", probes, scores + 0.1), path)
    with pytest.raises(WrongModel, match="the largest difference allowed"):
        prove(named)


def score_fingerprint_probes(
    identity: ScoreIdentity, tiny_qwen3: Path, config: RerankerConfig
) -> list[score_fingerprint.PairProbe]:
    from deployments.service.score_proofs import pair_probes
    from router.config import RouterArgs

    args = RouterArgs.model_construct(models={"tiny": config}, base_dir=None)
    return pair_probes(Preparer(args), "tiny", config)


async def test_pairs_of_one_query_share_what_was_computed_of_their_beginning(
    tiny_qwen3: Path,
) -> None:
    """On a CPU too, in blocks of 32 tokens; the scores are those without it."""
    ids = [np.array(one, np.int32) for one in pairs_of(tiny_qwen3, DOCUMENTS, MAX_TOKENS)]
    scores, found = dict[bool, Any](), dict[bool, float]()
    for shared in (True, False):
        one = reranker(tiny_qwen3)
        if not shared:
            one["engine"]["args"]["enable_prefix_caching"] = False
        tally = ProcessMetrics(OF_VLLM)
        engine = create(RerankerConfig.model_validate(one), None, EngineStats(tally, "m"))
        await engine.start()
        try:
            for _ in range(2):
                scores[shared] = (await engine.embed(Batch(ids=ids))).vectors
            assert scheduled(engine, ids[0]) == (len(ids[0]), shared)
        finally:
            await engine.stop()
        counts = {metric.name: sum(values.values()) for metric, values in tally.values.items()}
        found[shared] = counts["prefix_cache_hits"]
    assert found[False] == 0
    # the first 64 tokens of each pair are the same; at the second time all but the last block
    assert found[True] >= 2 * 64 * (len(ids) - 1)
    np.testing.assert_allclose(scores[True], scores[False], atol=WITHIN)


def scheduled(engine: Any, ids: Any) -> tuple[int, bool]:
    """The tokens of a step with this pair, and whether some of them are not computed again. Nothing
    else runs, so its engine steps no more.
    """
    backend = engine.backend
    scheduler = backend.engine.engine_core.engine_core.scheduler
    scheduler.add_request(backend.requests.make(ids))
    step = scheduler.schedule()
    return step_tokens(step), step.total_num_scheduled_tokens < len(ids)
