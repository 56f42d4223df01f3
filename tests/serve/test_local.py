"""`make run` with the three local models: real Ray Serve, real weights, the plain openai client."""

import json
import socket
import threading
from contextlib import closing
from http.client import HTTPResponse

import httpx
import numpy as np
import psutil
import pytest

from benchmarks import clients
from benchmarks.fuzz_cases import ODD_HEADERS
from tests.support import node
from tests.support.clients_page import check
from tests.support.launched import ROOT, Launched
from tests.support.local_contract import (  # noqa: F401  # run here with the fixture of conftest.py
    test_a_client_that_leaves_takes_its_work_out_of_the_engine,
    test_a_list_of_2048_items_is_answered_in_order,
    test_bad_requests_are_the_contracts_errors_through_serve,
    test_documents_are_ranked_by_similarity_of_the_larger_models,
    test_each_text_goes_to_the_model_for_it,
    test_every_tier_answers_and_says_its_space,
    test_related_sentences_are_closer_than_unrelated_ones,
)
from tests.support.notebook import executed, outputs_of, read
from tests.support.waiting import WAIT_S, wait_for

pytestmark = [pytest.mark.serve, pytest.mark.models]


@pytest.mark.parametrize("name", clients.CLIENTS)
def test_unmodified_clients_can_say_what_the_page_says(local: Launched, name: str) -> None:
    try:
        check(name, local.url)
    except node.Unreachable:
        pytest.skip("npm's registry is out of reach")


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
