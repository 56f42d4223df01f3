"""Limits on a real socket: what is too large, too many, too slow or too deep is refused by name,
and nobody else notices.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.local_service import ARGS, LocalRouter, served

pytestmark = pytest.mark.models

WAIT_S = 60.0
LIMITS = {
    "max_requests": 6,
    "max_requests_per_client": 4,
    "client_address_header": "x-forwarded-for",
    "max_headers": 20,
    "max_header_bytes": 4000,
    "max_items": 4,
    "max_body_bytes": 10_000,
    "max_tokens_per_request": 200,
}


@pytest.fixture(scope="module")
def switch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """While it says `hang`, the slow model answers nothing."""
    return tmp_path_factory.mktemp("faults") / str(os.getpid())


@pytest.fixture(scope="module")
def small(switch: Path) -> Iterator[tuple[str, LocalRouter]]:
    slow = {
        "engine": {"kind": "fake", "faults": str(switch.parent)},
        "dimensions": 8,
        "max_tokens": 1000,
    }
    models = {"wordllama-256": ARGS["models"]["wordllama-256"], "slow": slow}
    # Clients of other addresses are played by a header, so the service may not be one for its own
    # machine only.
    with served(
        {
            "models": models,
            "tiers": {"fast": "wordllama-256", "best": "slow"},
            "limits": LIMITS,
            "auth": "none",
        }
    ) as both:
        yield both


@pytest.fixture
def url(small: tuple[str, LocalRouter]) -> str:
    return small[0]


@pytest.fixture(scope="module")
def impatient() -> Iterator[str]:
    """The URL of a service that waits for no body: the others are not cut off on a machine that is
    slow to send theirs.
    """
    args = {
        "models": {"wordllama-256": ARGS["models"]["wordllama-256"]},
        "tiers": {"fast": "wordllama-256"},
    }
    with served({**args, "limits": {"body_timeout_s": 0.5}, "auth": "none"}) as (url, _):
        yield url


def ask(url: str, **options: Any) -> httpx.Response:
    given: dict[str, Any] = {
        "json": {"input": "hello", "model": "fast"},
        "timeout": WAIT_S,
    } | options
    return httpx.post(f"{url}/v1/embeddings", **given)


def error(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def raw(url: str) -> socket.socket:
    host, _, port = url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=WAIT_S)


def head(length: int) -> bytes:
    return (
        f"POST /v1/embeddings HTTP/1.1\r\nhost: here\r\ncontent-length: {length}\r\n\r\n".encode()
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"json": {"input": ["a"] * 5}}, (400, "invalid_value")),
        ({"json": {"input": "word " * 300, "model": "fast"}}, (400, "max_tokens_per_request")),
        ({"content": b'{"input": "' + b"a" * 10_000 + b'"}'}, (413, "request_too_large")),
        ({"content": iter([b'{"input": "'] + [b"a" * 1000] * 20)}, (413, "request_too_large")),
        ({"headers": {f"x-{index}": "1" for index in range(30)}}, (431, "headers_too_large")),
        ({"headers": {"x-long": "1" * 5000}}, (431, "headers_too_large")),
        ({"content": b'{"input": ' + b"[" * 4000 + b"]" * 4000 + b"}"}, (400, "invalid_json")),
        (
            {"content": b'{"input": "a", "user": ' + b'{"a":' * 1500 + b"1" + b"}" * 1500 + b"}"},
            (400, "invalid_json"),
        ),
    ],
    ids=[
        "items",
        "tokens",
        "body",
        "chunked-body",
        "headers",
        "header-bytes",
        "deep-lists",
        "deep-objects",
    ],
)
def test_what_is_too_much_is_refused_by_name(
    url: str, options: dict[str, Any], expected: tuple[int, str]
) -> None:
    assert error(ask(url, **options)) == expected
    assert ask(url).status_code == 200


def test_a_body_that_does_not_come_is_ended_with_408(impatient: str) -> None:
    with raw(impatient) as slow:
        slow.sendall(head(100) + b'{"input"')
        answer = b""
        while part := slow.recv(4096):  # up to the end: the connection is closed with it
            answer += part
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"request_timeout" in answer


def test_a_body_that_comes_byte_by_byte_gets_no_more_time_than_one_that_does_not(
    impatient: str,
) -> None:
    with raw(impatient) as slow:
        slow.sendall(head(10_000))
        answer = b""
        slow.settimeout(0.05)
        until_s = time.monotonic() + WAIT_S
        while time.monotonic() < until_s:
            try:
                slow.sendall(b"a")
                answer += slow.recv(4096)
            except TimeoutError:
                continue
            except ConnectionError:
                break
            if answer:
                break
    assert answer.startswith(b"HTTP/1.1 408")


class Crowd:
    """Requests of one client that are under way at the slow model until `gone`.

    One that was refused, because a question of the test took its place, comes again.
    """

    def __init__(self, url: str, switch: Path, count: int, client: str) -> None:
        self._switch = switch
        switch.write_text("hang")
        self._threads = [
            threading.Thread(target=self._one, args=(url, client, index)) for index in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def _one(self, url: str, client: str, index: int) -> None:
        body = {"input": f"{client} {index} {time.monotonic()}", "model": "slow"}
        while (
            ask(
                url,
                json=body,
                headers={"x-forwarded-for": f"9.9.9.9, {client}"},
                timeout=2 * WAIT_S,
            ).status_code
            == 429
        ):
            time.sleep(0.05)

    def gone(self) -> None:
        self._switch.unlink(missing_ok=True)
        for thread in self._threads:
            thread.join()


def until_under_way(url: str, client: str, refused: bool) -> httpx.Response:
    until_s = time.monotonic() + WAIT_S
    while ((answer := ask(url, headers={"x-forwarded-for": client})).status_code == 429) != refused:
        assert time.monotonic() < until_s, (
            f"{'not refused' if refused else 'refused'} for {WAIT_S:g} s"
        )
        time.sleep(0.05)
    return answer


def test_one_client_cannot_take_all_places_and_its_neighbour_is_served(
    url: str, switch: Path
) -> None:
    crowd = Crowd(url, switch, 4, "10.0.0.1")
    refused = until_under_way(url, "10.0.0.1", refused=True)
    assert error(refused) == (429, "rate_limit_exceeded")
    assert int(refused.headers["retry-after"]) >= 1
    assert (
        "this client has reached its limit of 4 requests at once"
        in refused.json()["error"]["message"]
    )
    assert ask(url, headers={"x-forwarded-for": "10.0.0.2"}).status_code == 200
    crowd.gone()
    assert until_under_way(url, "10.0.0.1", refused=False).status_code == 200


def test_a_client_cannot_pass_for_another_in_front_of_the_proxy_s_own_word(
    url: str, switch: Path
) -> None:
    crowd = Crowd(url, switch, 4, "10.0.0.3")
    until_under_way(url, "1.2.3.4, 10.0.0.3", refused=True)
    crowd.gone()


def test_all_clients_together_have_a_limit(url: str, switch: Path) -> None:
    crowds = [Crowd(url, switch, 3, f"10.0.1.{index}") for index in range(2)]
    refused = until_under_way(url, "10.0.2.1", refused=True)
    assert "this router" in refused.json()["error"]["message"]
    for crowd in crowds:
        crowd.gone()
    assert until_under_way(url, "10.0.2.1", refused=False).status_code == 200


def test_a_request_ends_by_its_timeout_whatever_the_engine_does(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    hangs = {"engine": {"kind": "fake", "base_s": 3600.0}, "dimensions": 8, "max_tokens": 1000}
    with served(
        {
            "models": {"hangs": hangs},
            "tiers": {"fast": "hangs"},
            "limits": {"request_timeout_s": 0.5},
        }
    ) as (url, _):
        answer = ask(url)
        assert error(answer) == (504, "deadline_exceeded")
        assert answer.json()["error"]["message"].startswith("no answer within 500 ms;")


def test_json_of_every_kind_of_nesting_is_an_answer_and_never_a_crash(url: str) -> None:
    for depth in (1, 10, 100, 190, 210, 1000, 4000):
        body = json.dumps({"input": "a"})[:-1] + ', "user": ' + "[" * depth + "]" * depth + "}"
        assert error(ask(url, content=body.encode()))[0] == 400
