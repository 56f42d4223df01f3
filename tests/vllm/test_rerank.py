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
from deployments.replica.identity import WrongModel
from deployments.replica.score_identity import ScoreIdentity
from deployments.service.pairs import PairPreparer
from deployments.service.prepare import Preparer
from router import score_fingerprint
from router.rerank_config import RerankerConfig
from router.rerank_schema import RerankRequest
from router.schema import EmbeddingsRequest
from tests.support.local_service import LocalRouter, served

pytestmark = [pytest.mark.vllm, pytest.mark.models]

ROOT = Path(__file__).parents[2]
PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and "
    'the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n"
)
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
SUFFIX_IDS = [151645, 198, 151644, 77091, 198, 151667, 271, 151668, 271]
TASK = "Given a web search query, retrieve relevant passages that answer the query"
YES, NO = 9693, 2152
QUERY = "What is the capital of China?"
DOCUMENTS = [
    "The capital of China is Beijing.",
    "Gravity attracts bodies towards each other.",
    "今天天气很好，我们去公园散步吧。",
    "def mean(values):\n    return sum(values) / len(values)",
    "word " * 300,
]
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


def body_of(document: str) -> str:
    return f"<Instruct>: {TASK}\n<Query>: {QUERY}\n<Document>: {document}"


@pytest.fixture(scope="module")
def pieces(tiny_qwen3: Path) -> Any:
    """Ids as Qwen's own example makes them: three pieces without special tokens, the middle one
    cut.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tiny_qwen3 / "tokenizer.json"))

    def ids(text: str) -> list[int]:
        found: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return found

    def pair(document: str) -> list[int]:
        room = MAX_TOKENS - len(ids(PREFIX)) - len(ids(SUFFIX))
        return ids(PREFIX) + ids(body_of(document))[:room] + ids(SUFFIX)

    assert ids(SUFFIX) == SUFFIX_IDS
    return pair


@pytest.fixture(scope="module")
def expected(tiny_qwen3: Path, pieces: Any) -> list[float]:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(tiny_qwen3), dtype=torch.float32).eval()
    scores = []
    with torch.no_grad():
        for document in DOCUMENTS:
            logits = model(torch.tensor([pieces(document)])).logits[0, -1]
            scores.append(float(torch.softmax(logits[[NO, YES]], 0)[1]))
    return scores


def test_scores_are_those_of_transformers(
    running: tuple[str, LocalRouter], expected: list[float]
) -> None:
    answer = rerank(running[0])
    found = {one["index"]: one["relevance_score"] for one in answer["results"]}
    np.testing.assert_allclose([found[place] for place in range(5)], expected, atol=0.003)
    assert np.ptp(expected) > 0.003, "the reference tells these documents apart"
    assert [one["index"] for one in answer["results"]] == sorted(found, key=lambda i: -found[i])
    assert answer["routing"]["score"] == "probability"


def test_the_ids_of_the_template_are_those_of_its_pieces(tiny_qwen3: Path, pieces: Any) -> None:
    from router.config import RouterArgs

    config = RerankerConfig.model_validate(reranker(tiny_qwen3))
    args = RouterArgs.model_construct(models={"tiny": config}, base_dir=None)
    request = RerankRequest(QUERY, EmbeddingsRequest(tuple(DOCUMENTS), None, side="document"))
    preparer = PairPreparer(Preparer(args), {"tiny": config}, request)
    read = preparer.prepare(DOCUMENTS, "document", None, ["tiny"])["tiny"]
    assert read.ids is not None
    for row, document in zip(read.ids, DOCUMENTS, strict=True):
        assert row.tolist() == pieces(document)


def test_the_order_does_not_depend_on_the_batch(running: tuple[str, LocalRouter]) -> None:
    whole = {one["index"]: one["relevance_score"] for one in rerank(running[0])["results"]}
    for place, document in enumerate(DOCUMENTS):
        alone = rerank(running[0], documents=[document])["results"][0]["relevance_score"]
        assert alone == pytest.approx(whole[place], abs=0.003)


def test_a_long_document_is_cut_alone_and_named(running: tuple[str, LocalRouter]) -> None:
    url, long = running[0], "gravity " * 2000
    refused = httpx.post(
        f"{url}/v1/rerank", json={"query": QUERY, "documents": [*DOCUMENTS, long]}, timeout=600
    )
    assert refused.json()["error"]["code"] == "context_length_exceeded"
    cut = rerank(url, documents=[*DOCUMENTS, long], truncate="end")
    assert cut["routing"]["truncated"] == [5]
    whole = {one["index"]: one["relevance_score"] for one in rerank(url)["results"]}
    found = {one["index"]: one["relevance_score"] for one in cut["results"]}
    for place in range(5):
        assert found[place] == pytest.approx(whole[place], abs=0.003)


def test_a_replica_proves_its_scores(
    tiny_qwen3: Path, running: tuple[str, LocalRouter], tmp_path: Path
) -> None:
    """With the engine that serves: the stored scores pass, others and equal ones do not."""
    _, router = running
    engine = router.transport.hosts["tiny"]._engine
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


def test_scores_that_are_all_alike_are_refused() -> None:
    config = RerankerConfig.model_validate(
        {"engine": {"kind": "fake"}, "template": "{query}{document}"}
    )
    engine = create(config, None)

    class Even(type(engine)):  # type: ignore[misc]
        def _made(self, keys: Any) -> Any:
            return np.full((len(keys), 1), 0.5, np.float32)

    engine.__class__ = Even
    identity = ScoreIdentity(engine, "even", config, None, lambda: 0.0)
    with pytest.raises(WrongModel, match="it would rank nothing"):
        asyncio.run(identity.prove())
