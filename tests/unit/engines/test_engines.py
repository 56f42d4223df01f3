"""What engines share, and the engines `fake` and `static`."""

import asyncio
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from deployments.engines import create
from deployments.engines.base import (
    Batch,
    EngineDead,
    EngineError,
    TextTooLong,
)
from deployments.engines.common import normalise, pieces_of, unreadable
from router.model_config import ModelConfig, resolve_path
from tests.support.started_engine import TEXTS, ids, started

WORDLLAMA_WEIGHTS = "package:wordllama/weights/l2_supercat_256.safetensors"
WORDLLAMA_TOKENIZER = "package:wordllama/tokenizers/l2_supercat_tokenizer_config.json"


# What engines share


def test_a_text_that_is_too_long_keeps_its_counts_between_processes() -> None:
    error = pickle.loads(pickle.dumps(TextTooLong(3, 300, 256)))
    assert (type(error), error.index, error.tokens, error.limit) == (TextTooLong, 3, 300, 256)
    assert str(error) == "text 3 has 300 tokens, the model reads 256"


def test_unreadable_texts_are_named_with_their_reason() -> None:
    failed = unreadable(ids([1, 2, 3], [], [0, 7], [-1], [0, 6]), 2, 7)
    assert list(failed) == [0, 1, 2, 3]
    assert isinstance(failed[0], TextTooLong)
    assert "no tokens" in str(failed[1])
    assert "token id 7, the model knows 0 to 6" in str(failed[2])
    assert "token id -1" in str(failed[3])


def test_rows_get_length_one_and_unusable_rows_are_named() -> None:
    vectors = np.array([[3, 4], [0, 0], [np.nan, 1], [np.inf, 0], [1, 0]], np.float32)
    failed = normalise(vectors)
    said = {row: str(error).rpartition(" is ")[2] for row, error in failed.items()}
    assert said == {1: "zero", 2: "not finite", 3: "not finite"}
    np.testing.assert_allclose(vectors[[0, 4]], np.array([[0.6, 0.8], [1.0, 0.0]]), rtol=1e-6)


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 100))
def test_pieces_hold_every_text_once_and_stay_within_a_batch(
    tokens: list[int], batch_tokens: int
) -> None:
    pieces = pieces_of(range(len(tokens)), tokens, batch_tokens)
    assert [row for piece in pieces for row in piece] == list(range(len(tokens)))
    assert all(
        len(piece) == 1 or sum(tokens[row] for row in piece) <= batch_tokens for piece in pieces
    )


@pytest.mark.parametrize(
    ("engine", "tokenizer", "message"),
    [
        pytest.param(
            {"kind": "static", "weights": "w"},
            None,
            "takes token ids",
            id="static without tokenizer",
        ),
        pytest.param(
            {"kind": "vllm", "source": "s"},
            "callable:a:b",
            "takes token ids",
            id="vllm with a counter",
        ),
    ],
)
def test_an_engine_and_a_tokenizer_that_do_not_fit_are_refused(
    engine: dict[str, Any], tokenizer: str | None, message: str
) -> None:
    model = ModelConfig.model_validate(
        {"engine": engine, "dimensions": 8, "max_tokens": 8, "tokenizer": tokenizer}
    )
    with pytest.raises(EngineError, match=message):
        create(model, None)


# fake


async def test_fake_vectors_depend_on_the_text_and_the_seed_alone() -> None:
    fake, reseeded = {"kind": "fake"}, {"kind": "fake", "seed": -1}
    async with started(fake, 64) as one, started(fake, 64) as same, started(reseeded, 64) as other:
        together = (await one.embed(Batch(ids=ids([1, 2], [3])))).vectors
        alone = (await same.embed(Batch(ids=ids([3])))).vectors
        seeded = (await other.embed(Batch(ids=ids([3])))).vectors
    np.testing.assert_array_equal(together[1], alone[0])
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, rtol=1e-5)
    assert abs(float(alone[0] @ seeded[0])) < 0.9
    assert abs(float(together[0] @ together[1])) < 0.9


async def test_fake_serves_in_order_and_a_cancelled_batch_leaves_the_queue() -> None:
    order: list[int] = []
    async with started({"kind": "fake", "base_s": 0.01, "s_per_token": 0.001}) as engine:

        async def embed(number: int) -> None:
            await engine.embed(Batch(ids=ids([number] * number)))
            order.append(number)

        tasks = [asyncio.create_task(embed(number)) for number in (9, 1, 5)]
        await asyncio.sleep(0)
        assert engine.queued_tokens() == 15
        tasks[1].cancel()
        await asyncio.wait(tasks)
    assert order == [9, 5]


async def test_fake_refuses_long_texts_alone_and_everything_once_stopped() -> None:
    async with started({"kind": "fake"}, max_tokens=2) as engine:
        answer = await engine.embed(Batch(texts=["short", "much too long"]))
        assert list(answer.failed) == [1]
    with pytest.raises(EngineDead):
        await engine.embed(Batch(texts=["short"]))
    with pytest.raises(EngineDead):
        await engine.check_health()


# static


STATIC = {"kind": "static", "weights": WORDLLAMA_WEIGHTS}


def wordllama_ids(texts: Sequence[str]) -> list[npt.NDArray[np.int32]]:
    tokenizer = tokenizers.Tokenizer.from_file(str(resolve_path(WORDLLAMA_TOKENIZER)))
    return ids(*(tokenizer.encode(text, add_special_tokens=False).ids for text in texts))


@pytest.mark.models
async def test_static_gives_wordllamas_own_vectors() -> None:
    from safetensors.numpy import load_file
    from wordllama.inference import WordLlamaInference

    table = load_file(resolve_path(WORDLLAMA_WEIGHTS))["embedding.weight"]
    own = WordLlamaInference(
        table, tokenizers.Tokenizer.from_file(str(resolve_path(WORDLLAMA_TOKENIZER)))
    )
    texts = [*TEXTS, "many words " * 3000]  # the last ones go through threads, in pieces
    async with started(STATIC, 256, 32768, WORDLLAMA_TOKENIZER) as engine:
        small = await engine.embed(Batch(ids=wordllama_ids(TEXTS)))
        large = await engine.embed(Batch(ids=wordllama_ids(texts)))
    np.testing.assert_allclose(small.vectors, own.embed(TEXTS, norm=True), atol=1e-5)
    np.testing.assert_allclose(large.vectors, own.embed(texts, norm=True), atol=1e-5)
    assert large.tokens[-1] > 4096


@pytest.mark.models
async def test_static_says_that_a_text_without_tokens_has_no_vector() -> None:
    async with started(STATIC, 256, 100, WORDLLAMA_TOKENIZER) as engine:
        answer = await engine.embed(Batch(ids=ids([5], [])))
        with pytest.raises(EngineError, match="tokenizer"):
            await engine.embed(Batch(texts=["text"]))
    assert list(answer.failed) == [1]
    assert np.isfinite(answer.vectors).all()


@pytest.mark.models
@pytest.mark.parametrize(
    ("change", "dimensions", "message"),
    [
        pytest.param({"weights": "nowhere.safetensors"}, 256, "no such file", id="no file"),
        pytest.param({"tensor": "weight"}, 256, "embedding.weight", id="no such tensor"),
        pytest.param({}, 128, "set `dimensions: 256`", id="other width"),
        pytest.param({"weights": WORDLLAMA_TOKENIZER}, 256, "weights:", id="not safetensors"),
    ],
)
async def test_static_says_what_is_wrong_with_its_file(
    change: dict[str, Any], dimensions: int, message: str
) -> None:
    with pytest.raises(EngineError, match=message):
        async with started(STATIC | change, dimensions, 100, WORDLLAMA_TOKENIZER):
            pass
