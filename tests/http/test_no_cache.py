"""`Cache-Control: no-cache`: what a model makes now, whatever was made before."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result

from deployments import engines
from deployments.replica.host import Host
from router.cli import main
from router.strict import parse_args
from tests.support.local_service import FAKE, LocalRouter, served

ARGS: dict[str, Any] = {
    "models": {"m": {**FAKE, "dimensions": 64}},
    "tiers": {"fast": "m"},
    "collections": {"c": "m/64"},
    "rerankers": {
        "pairs": {"engine": {"kind": "fake"}, "template": "{query}\n{document}"},
        "alike": {"engine": {"kind": "similarity", "model": "m"}},
    },
    "rerank_tiers": {"fast": "pairs"},
}
NO_CACHE = {"cache-control": "max-age=0, No-Cache"}


@pytest.fixture
def running() -> Iterator[tuple[str, LocalRouter]]:
    with served(ARGS) as both:
        yield both


def swap(router: LocalRouter) -> None:
    """Serve the model with other weights behind the same name."""
    other = {**ARGS["models"]["m"], "engine": {"kind": "fake", "seed": 9}}
    config = parse_args({**ARGS, "models": {"m": other}}).models["m"]

    async def started() -> None:
        engine = engines.create(config, None)
        await engine.start()
        router.transport.hosts["m"] = Host(engine, "m")

    asyncio.run_coroutine_threadsafe(started(), router.loop).result(60)


def post(url: str, path: str, body: dict[str, Any], headers: dict[str, str]) -> dict[str, Any]:
    answer = httpx.post(url + path, json=body, headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    read: dict[str, Any] = answer.json()
    return read


@pytest.mark.parametrize("texts", ["one query", ["one", "two", "one"], ["w"] * 300], ids=str)
def test_a_model_makes_every_vector_and_what_is_cached_stays(
    running: tuple[str, LocalRouter], texts: str | list[str]
) -> None:
    url, router = running
    body = {"input": texts, "model": "m"}
    before = post(url, "/v1/embeddings", body, {})
    assert post(url, "/v1/embeddings", body, {})["routing"]["cached"] > 0
    swap(router)
    entries = len(router.service.cache)
    for _ in range(2):  # the second is read as a request that is known
        fresh = post(url, "/v1/embeddings", body, NO_CACHE)
        assert fresh["routing"]["cached"] == 0
        assert fresh["data"] != before["data"]
        work = post(url, "/v1/route", body, NO_CACHE)["models"]
        assert work != post(url, "/v1/route", body, {})["models"], "predicted as new"
    assert len(router.service.cache) == entries
    assert post(url, "/v1/embeddings", body, {})["data"] == before["data"]
    router.service.ledger.assert_empty()


def test_a_directive_counts_on_any_line(running: tuple[str, LocalRouter]) -> None:
    url, _ = running
    body = {"input": "one query", "model": "m"}
    post(url, "/v1/embeddings", body, {})
    lines = [("cache-control", "no-cache"), ("cache-control", "no-store")]
    for headers in (lines, lines[::-1]):
        answer = httpx.post(url + "/v1/embeddings", json=body, headers=headers, timeout=60)
        assert answer.json()["routing"]["cached"] == 0


@pytest.mark.parametrize("other", ["no-store", "max-age=0", "no-cached", ""])
def test_other_directives_change_nothing(running: tuple[str, LocalRouter], other: str) -> None:
    body = {"input": "a text", "model": "m"}
    post(running[0], "/v1/embeddings", body, {})
    answer = post(running[0], "/v1/embeddings", body, {"cache-control": other})
    assert answer["routing"]["cached"] == 1


@pytest.mark.parametrize("model", ["pairs", "alike"])
def test_scores_are_made_anew_too(running: tuple[str, LocalRouter], model: str) -> None:
    body = {"query": "a question", "documents": ["one", "two", "one"], "model": model}
    post(running[0], "/v1/rerank", body, {})
    assert post(running[0], "/v1/rerank", body, {})["routing"]["cached"] == 3
    assert post(running[0], "/v1/rerank", body, NO_CACHE)["routing"]["cached"] == 0


def command(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def test_verify_sees_other_weights_behind_a_name_whose_vectors_are_cached(
    running: tuple[str, LocalRouter], tmp_path: Path
) -> None:
    url, router = running
    corpus = tmp_path / "corpus.jsonl"
    rows = [{"id": f"d{number}", "text": f"the text of row {number}"} for number in range(150)]
    rows[7]["text"] = rows[8]["text"]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = command(
        "index", "--base-url", url, "--collection", "c", "--texts", str(corpus), "-o", str(tmp_path)
    )
    assert made.exit_code == 0, made.output
    arguments = ["--index", str(tmp_path / "m/64"), "--texts", str(corpus), "--space", "m/64"]

    def verdict() -> int:
        return command("verify", "--base-url", url, *arguments).exit_code

    assert verdict() == 0
    swap(router)
    assert verdict() == 4
