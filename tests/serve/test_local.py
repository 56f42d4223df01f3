"""`make run` with the three local models: real Ray Serve, real weights, the plain openai client."""

import inspect
import json
import socket
import textwrap
import threading
from contextlib import closing
from http.client import HTTPResponse
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from openai import OpenAI

from benchmarks import clients
from benchmarks.fuzz_cases import ODD_HEADERS
from tests.http.test_clients import check
from tests.support import node
from tests.support.launched import ROOT, Launched
from tests.support.notebook import executed, outputs_of, read
from tests.support.waiting import WAIT_S, wait_for

pytestmark = [pytest.mark.serve, pytest.mark.models]


@pytest.mark.parametrize(
    ("text", "model", "reason", "language"),
    [
        ("How are you today", "all-minilm-l6-v2", "auto", "en"),
        ("你今天怎么样", "multilingual-e5-small", "rule:not-english", "zh"),
        ("كيف حالك اليوم يا صديقي؟", "multilingual-e5-small", "rule:not-english", "ar"),
        ("วันนี้คุณเป็นอย่างไรบ้าง", "multilingual-e5-small", "rule:not-english", "th"),
        ("Как у тебя сегодня дела?", "multilingual-e5-small", "rule:not-english", "ru"),
        (
            "The committee discussed the annual report in detail. " * 250,
            "multilingual-e5-small",
            "rule:long",
            "en",
        ),
        (inspect.getsource(textwrap.dedent)[:600], "all-minilm-l6-v2", "auto", None),
    ],
    ids=["english", "chinese", "arabic", "thai", "russian", "2000-words", "python-function"],
)
def test_each_text_goes_to_the_model_for_it(
    openai_client: OpenAI, local: Launched, text: str, model: str, reason: str, language: str | None
) -> None:
    answer = openai_client.embeddings.create(model="auto", input=text)
    routing: dict[str, Any] = answer.model_extra["routing"]  # type: ignore[index]
    assert answer.model == model
    assert (routing["model"], routing["reason"], routing["space"]) == (
        model,
        reason,
        f"{model}/384",
    )
    if language is not None:
        assert routing["language"] == language
    assert np.linalg.norm(answer.data[0].embedding) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("name", clients.CLIENTS)
def test_unmodified_clients_can_say_what_the_page_says(local: Launched, name: str) -> None:
    try:
        check(name, local.url)
    except node.Unreachable:
        pytest.skip("npm's registry is out of reach")


def test_a_list_of_2048_items_is_answered_in_order(openai_client: OpenAI) -> None:
    texts = [f"item {index}" for index in range(2048)]
    answer = openai_client.embeddings.create(model="fast", input=texts)
    assert [item.index for item in answer.data] == list(range(2048))
    again = openai_client.embeddings.create(model="fast", input=texts[1000])
    assert again.data[0].embedding == answer.data[1000].embedding


@pytest.mark.parametrize(
    ("texts", "model"),
    [
        (
            [
                "A man is playing a guitar.",
                "Someone plays an instrument.",
                "The stock market fell sharply.",
            ],
            "all-minilm-l6-v2",
        ),
        (
            ["一个男人正在弹吉他。", "有人在演奏乐器。", "股票市场大幅下跌。"],
            "multilingual-e5-small",
        ),
    ],
    ids=["english", "chinese"],
)
def test_related_sentences_are_closer_than_unrelated_ones(
    openai_client: OpenAI, texts: list[str], model: str
) -> None:
    answer = openai_client.embeddings.create(model="auto", input=texts)
    assert answer.model == model
    vectors = np.array([item.embedding for item in answer.data])
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.02


@pytest.mark.parametrize(
    ("query", "documents", "model", "reason"),
    [
        (
            "capital of France",
            ["Cats sleep a lot.", "Paris is the capital of France."],
            "all-minilm-l6-v2-similarity",
            "auto",
        ),
        (
            "法国的首都",
            ["猫很爱睡觉。", "巴黎是法国的首都。"],
            "multilingual-e5-small-similarity",
            "rule:not-english",
        ),
    ],
    ids=["english", "chinese"],
)
def test_documents_are_ranked_by_similarity_of_the_larger_models(
    local: Launched, query: str, documents: list[str], model: str, reason: str
) -> None:
    body = {"query": query, "documents": documents}
    answer = httpx.post(f"{local.url}/v1/rerank", json=body, timeout=60).json()
    first, second = answer["results"]
    assert [first["index"], second["index"]] == [1, 0]
    assert first["relevance_score"] > second["relevance_score"] + 0.02
    routing = answer["routing"]
    assert (routing["model"], routing["reason"], routing["score"]) == (model, reason, "cosine")


def test_every_tier_answers_and_says_its_space(local: Launched) -> None:
    for tier, space in {
        "fast": "wordllama-256/256",
        "balanced": "all-minilm-l6-v2/384",
        "best": "multilingual-e5-small/384",
    }.items():
        answer = httpx.post(
            f"{local.url}/v1/embeddings", json={"input": "hello there", "model": tier}, timeout=60
        )
        assert answer.headers["x-embedding-space"] == space
        assert answer.headers.get_list("x-request-id") == [answer.headers["x-request-id"]]


def test_bad_requests_are_the_contracts_errors_through_serve(local: Launched) -> None:
    for body, status, code in (
        (b"{", 400, "invalid_json"),
        (json.dumps({"input": ["a"] * 2049}).encode(), 400, "invalid_value"),
        (json.dumps({"input": "word " * 40_000}).encode(), 400, "context_length_exceeded"),
        (b'{"input": "' + b"a" * 10_000_000 + b'"}', 413, "request_too_large"),
    ):
        answer = httpx.post(f"{local.url}/v1/embeddings", content=body, timeout=60)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def answer_to(url: str, sent: bytes) -> tuple[int, bytes]:
    """The status and the body of the answer to bytes that a client of HTTP would not send."""
    address = httpx.URL(url)
    assert address.port is not None
    with socket.create_connection((address.host, address.port), timeout=WAIT_S) as connection:
        connection.sendall(sent)
        with closing(HTTPResponse(connection)) as answer:
            answer.begin()
            return answer.status, answer.read()


@pytest.mark.parametrize("odd", ODD_HEADERS, ids=lambda odd: repr(odd[:36])[2:-1])
def test_no_byte_in_a_header_and_no_handshake_is_an_error_of_the_service(
    local: Launched, odd: bytes
) -> None:
    body = b'{"input": "hello", "model": "fast"}'
    with_body = b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)
    for method, path, headers, content in (
        (b"GET", b"/v1/models", b"", b""),
        (b"POST", b"/v1/embeddings", with_body, body),
    ):
        head = b"%s %s HTTP/1.1\r\nhost: localhost\r\n%s" % (method, path, headers)
        kind = b"connection: close, upgrade\r\n" if b"upgrade" in odd else b"connection: close\r\n"
        status, answer = answer_to(local.url, head + kind + odd + b"\r\n" + content)
        if odd == b"upgrade: websocket\r\n":  # no whole handshake: HAProxy answers itself
            assert status == 400
        elif b"websocket" in odd:
            assert (status, json.loads(answer)["error"]["code"]) == (426, "not_supported")
        else:
            assert (status, json.loads(answer)["object"]) == (200, "list")
    usual = httpx.post(f"{local.url}/v1/embeddings", content=body, timeout=60)
    assert usual.status_code == 200


def test_a_client_that_leaves_takes_its_work_out_of_the_engine(local: Launched) -> None:
    texts = [f"{index} " + "слово " * 400 for index in range(300)]
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{local.url}/v1/embeddings", json={"input": texts, "model": "best"}, timeout=3)

    # All of it would take minutes; the queue is empty as soon as the router has noticed, and the
    # model answers at once.
    def queued_tokens() -> int:
        rows = httpx.get(f"{local.url}/v1/tiers", timeout=60).json()["data"]
        return int(
            next(
                row["load"]["queued_tokens"]
                for row in rows
                if row["model"] == "multilingual-e5-small"
            )
        )

    wait_for(lambda: queued_tokens() == 0, "the queue to be empty", 30)
    answer = httpx.post(
        f"{local.url}/v1/embeddings", json={"input": "коротко", "model": "best"}, timeout=60
    )
    assert answer.status_code == 200


def test_the_notebook_of_the_quick_start_says_what_it_said_when_it_was_written(
    local: Launched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BASE_URL", local.url)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    path = ROOT / "docs" / "quickstart.ipynb"
    written, again = (list(outputs_of(one)) for one in (read(path), executed(path)))
    assert "" not in (words for source, words in written if "print(" in source)
    assert again == written


def test_replicas_outlive_serves_controller(local: Launched) -> None:
    """Also the one that runs vLLM, whose import closes every log handler of its process, Serve's
    too.
    """
    replicas = {one.pid for one in local.processes("ray::ServeReplica:")}
    (controller,) = local.processes("ray::ServeController")
    controller.kill()

    def recovered() -> bool:
        return any(
            "Finished recovering deployments" in log.read_text()
            for log in local.logs.glob("controller_*.log")
        )

    wait_for(recovered, "another controller")
    assert {one.pid for one in local.processes("ray::ServeReplica:")} == replicas
    for tier in ("fast", "balanced", "best"):
        answer = httpx.post(
            f"{local.url}/v1/embeddings",
            json={"input": "who is there now?", "model": tier},
            timeout=60,
        )
        assert answer.status_code == 200


def wait_until_healthy(local: Launched) -> None:
    wait_for(
        lambda: httpx.get(f"{local.url}/health", timeout=60).status_code == 200,
        "a replica in place of the killed one",
    )


def test_a_killed_replica_gives_no_wrong_vector_and_no_hang(local: Launched) -> None:
    def ask(text: str) -> httpx.Response:
        return httpx.post(
            f"{local.url}/v1/embeddings",
            json={"input": text, "model": "multilingual-e5-small"},
            timeout=120,
        )

    expected = {
        text: ask(text).json()["data"][0]["embedding"]
        for text in (f"текст номер {index}" for index in range(5))
    }
    answers: list[tuple[str, httpx.Response]] = []
    killed = threading.Event()

    def load() -> None:
        for index in range(40):
            text = f"предложение {index} " + "и ещё слова " * 20
            answers.append((text, ask(text)))
            # what a client does with Retry-After: come back when the model is there
            if answers[-1][1].status_code == 503:
                wait_until_healthy(local)
            if index == 10:
                assert killed.wait(WAIT_S)

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    (victim,) = local.replicas("multilingual-e5-small")
    victim.kill()
    psutil.wait_procs([victim])
    killed.set()
    for thread in threads:
        thread.join()
    assert len(answers) == 120
    for _, answer in answers:
        assert answer.status_code in (200, 503), answer.text
        if answer.status_code == 200:
            assert answer.json()["routing"]["space"] == "multilingual-e5-small/384"
        else:
            assert answer.json()["error"]["code"] == "model_unavailable"
            assert int(answer.headers["retry-after"]) >= 1
    assert sum(answer.status_code == 200 for _, answer in answers) > 60
    for text, vector in expected.items():
        fresh = ask(text + " ").json()["data"][0]["embedding"]
        assert np.dot(fresh, vector) > 0.9
        assert ask(text).json()["data"][0]["embedding"] == vector
