"""Requests that end refused, on a real socket: what is done for them, and that their neighbours do
not notice.
"""

import gzip
import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import pytest

from deployments.service.prepare import PIECE_CHARACTERS
from tests.support.counted_tokenizer import Counted
from tests.support.local_service import ARGS, LocalRouter, served
from tests.support.refused import WAIT_S, Gated, ask, error

MINILM: dict[str, Any] = {
    **ARGS["models"]["all-minilm-l6-v2"],
    "prompts": {"query": "Instruct: {instruction}\nQuery: {text}"},
}


@pytest.fixture(scope="module")
def prompted() -> Iterator[tuple[str, LocalRouter]]:
    with served(
        {
            "models": {"wordllama-256": ARGS["models"]["wordllama-256"], "minilm": MINILM},
            "tiers": {"fast": "wordllama-256", "best": "minilm"},
            "limits": {"max_prompt_characters": 20_000},
        }
    ) as both:
        yield both


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/route"])
@pytest.mark.parametrize("characters", [2_001, 50_000])
def test_a_long_instruction_is_refused_before_anything_is_built(
    prompted: tuple[str, LocalRouter], path: str, characters: int
) -> None:
    body = {"input": ["ab"] * 500, "input_type": "query", "instruction": "z" * characters}
    answer = ask(prompted[0], path, json=body)
    assert error(answer) == (400, "invalid_value", "instruction")
    assert "limits.max_instruction_characters" in answer.json()["error"]["message"]
    assert "the limit is 2000" in answer.json()["error"]["message"]


@pytest.mark.parametrize("model", ["minilm", "auto"])
def test_prompts_of_many_texts_are_refused_before_they_are_built(
    prompted: tuple[str, LocalRouter], model: str
) -> None:
    body = {"input": ["ab"] * 500, "model": model, "instruction": "z" * 100}
    answer = ask(prompted[0], json=body)
    assert error(answer) == (400, "invalid_value", "instruction")
    told = answer.json()["error"]["message"]
    assert "500 texts with a prompt of 118 characters each have 59000 characters" in told
    assert "limits.max_prompt_characters" in told
    few = ask(prompted[0], json={**body, "input": ["ab"] * 100, "model": "minilm"})
    assert few.status_code == 200


def test_an_operators_own_prompt_is_bounded_by_the_number_of_texts(
    prompted: tuple[str, LocalRouter],
) -> None:
    body = {"input": ["ab"] * 2048, "model": "minilm", "input_type": "query"}
    assert error(ask(prompted[0], json=body)) == (400, "invalid_value", "input")
    assert ask(prompted[0], json={**body, "input_type": "document"}).status_code == 200


@pytest.fixture
def counted(prompted: tuple[str, LocalRouter]) -> Iterator[list[Counted]]:
    tokenizers = prompted[1].service.preparer.tokenizers
    before = dict(tokenizers)
    for name, one in before.items():
        assert one is not None
        tokenizers[name] = Counted(one)
    yield [one for one in tokenizers.values() if isinstance(one, Counted)]
    tokenizers.update(before)


@pytest.mark.parametrize("model", ["auto", "wordllama-256", "minilm"])
@pytest.mark.parametrize(
    "texts", [["a " * 2_000_000], ["a b c d e f " * 200] * 2000, ["好" * 1_500_000]], ids=len
)
def test_tokenising_stops_at_the_limit(
    prompted: tuple[str, LocalRouter], counted: list[Counted], model: str, texts: list[str]
) -> None:
    answer = ask(prompted[0], json={"input": texts, "model": model})
    assert error(answer) == (400, "max_tokens_per_request", "input")
    assert "limits.max_tokens_per_request" in answer.json()["error"]["message"]
    read = [one.characters for one in counted if one.characters]
    assert len(read) == (2 if model == "auto" else 1)
    # two characters a token at most here, and the piece in which the limit was passed
    assert all(characters <= 2 * 300_000 + 2 * PIECE_CHARACTERS for characters in read)


def test_a_long_text_below_the_limit_is_read_whole(prompted: tuple[str, LocalRouter]) -> None:
    text = "wonderful " * 20_000  # more than a piece, and than a model reads
    answer = ask(prompted[0], json={"input": ["hello", text], "model": "fast"})
    assert answer.status_code == 200
    assert answer.json()["usage"]["prompt_tokens"] >= 20_000


def test_a_gzip_body_may_not_become_any_size(prompted: tuple[str, LocalRouter]) -> None:
    body = gzip.compress(b'{"input": "' + b"a " * 4_000_000 + b'"}')
    assert len(body) < 10_000
    answer = ask(prompted[0], content=body, headers={"content-encoding": "gzip"})
    assert error(answer) == (413, "request_too_large", None)
    assert "limits.max_gzip_ratio" in answer.json()["error"]["message"]
    many = body[:0].join(gzip.compress(b" " * 500_000) for _ in range(4))
    assert ask(prompted[0], content=many, headers={"content-encoding": "gzip"}).status_code == 413
    small = gzip.compress(b'{"input": "' + b"a" * 5000 + b'", "model": "fast"}')
    assert len(small) * 20 < 5000
    assert ask(prompted[0], content=small, headers={"content-encoding": "gzip"}).status_code == 200


BOMB = gzip.compress(b'{"input": "' + b"a " * 4_000_000 + b'"}')
WHOLE = b'{"input": "' + b"word " * 20_000 + b'", "model": "fast"}'


def with_size(packed: bytes, size: int) -> bytes:
    """The same file, with another size in its trailer."""
    return packed[:-4] + size.to_bytes(4, "little")


@pytest.mark.parametrize(
    ("packed", "status", "code"),
    [
        (BOMB, 413, "request_too_large"),
        (with_size(BOMB, 5), 413, "request_too_large"),
        (gzip.compress(b" ") + BOMB, 413, "request_too_large"),
        (BOMB + gzip.compress(b" "), 413, "request_too_large"),
        (BOMB[:-2000], 413, "request_too_large"),
        (gzip.compress(WHOLE), 200, None),
        (gzip.compress(WHOLE[:100]) + gzip.compress(WHOLE[100:]), 200, None),
        (gzip.compress(WHOLE)[:-9], 400, "invalid_value"),
        (with_size(gzip.compress(WHOLE), 2**32 - 1), 400, "invalid_value"),
        (WHOLE, 400, "invalid_value"),
    ],
    ids=["bomb", "lies", "behind", "before", "cut", "whole", "two", "short", "wrong", "plain"],
)
def test_a_gzip_body_is_judged_by_what_it_becomes(
    prompted: tuple[str, LocalRouter], packed: bytes, status: int, code: str | None
) -> None:
    answer = ask(prompted[0], content=packed, headers={"content-encoding": "gzip"})
    assert answer.status_code == status, answer.text
    assert status == 200 or error(answer)[1] == code


def test_long_texts_of_one_client_leave_the_others_their_turn() -> None:
    limits = {"max_reading_characters": 1_000_000, "client_address_header": "x-forwarded-for"}
    model = ARGS["models"]["all-minilm-l6-v2"]
    with served(
        {"models": {"m": model}, "tiers": {"fast": "m"}, "limits": limits, "auth": "none"}
    ) as (url, router):
        tokenizer = router.service.preparer.tokenizers["m"]
        assert tokenizer is not None
        router.service.preparer.tokenizers["m"] = gated = Gated(tokenizer)
        at_once = router.service.reader.pool.long_of_a_client

        def send(client: str, characters: int) -> httpx.Response:
            body = {"input": "a b c d " * (characters // 8)}
            return ask(url, "/v1/route", json=body, headers={"x-forwarded-for": client})

        with ThreadPoolExecutor(5) as pool:
            long_ones = [pool.submit(send, "1.1.1.1", 120_000) for _ in range(4)]
            while gated.waiting < at_once:
                time.sleep(0.01)
            assert send("2.2.2.2", 6_400).status_code == 200  # and nothing was let go
            full = send("1.1.1.1", 400_000)
            assert error(full) == (429, "rate_limit_exceeded", None)
            assert "limits.max_reading_characters" in full.json()["error"]["message"]
            assert "this client" in full.json()["error"]["message"]
            assert int(full.headers["retry-after"]) >= 1
            assert gated.waiting == at_once
            gated.go.set()
            assert {one.result().status_code for one in long_ones} == {200}


@contextmanager
def unread(url: str, body: bytes, count: int, buffer: int = 4096) -> Iterator[list[socket.socket]]:
    """Connections that ask and read nothing."""
    host, _, port = url.removeprefix("http://").partition(":")
    head = f"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n"
    opened = list[socket.socket]()
    try:
        for _ in range(count):
            one = socket.socket()
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            one.connect((host, int(port)))
            one.sendall(head.encode() + b"\r\n" + body)
            opened.append(one)
        yield opened
    finally:
        for one in opened:
            one.close()


def test_answers_that_nobody_reads_are_bounded_and_their_readers_cut_off() -> None:
    limits = {"max_answer_bytes": 40_000_000, "send_timeout_s": 1.0}
    model = {"engine": {"kind": "fake"}, "dimensions": 2000, "max_tokens": 100}
    with served({"models": {"m": model}, "tiers": {"fast": "m"}, "limits": limits}) as (url, _):
        large = {"input": [f"t{index}" for index in range(600)]}  # 14 MB
        with unread(url, json.dumps(large).encode(), 3):
            until_s = time.monotonic() + WAIT_S
            while (refused := ask(url, json=large)).status_code != 429:
                assert time.monotonic() < until_s
            assert error(refused) == (429, "rate_limit_exceeded", None)
            assert "limits.max_answer_bytes" in refused.json()["error"]["message"]
            assert int(refused.headers["retry-after"]) >= 1
            assert ask(url, json={"input": "hello"}).status_code == 200
            while ask(url, json=large).status_code != 200:  # once they are cut off
                assert time.monotonic() < until_s
                time.sleep(0.1)


EMBEDDED = list[int]()


class Noting:
    """An engine that notes how many texts it was given."""

    dimensions, max_tokens, batch_tokens = 2000, 100, 4096

    def count(self, texts: Sequence[str], input_type: str) -> list[int]:
        return [1] * len(texts)

    def embed(self, texts: Sequence[str], input_type: str) -> Any:
        EMBEDDED.append(len(texts))
        return np.ones((len(texts), self.dimensions), np.float32)


def noting() -> Noting:
    return Noting()


def test_an_answer_that_would_be_too_large_is_refused_before_it_is_computed() -> None:
    target = {"kind": "callable", "target": f"{__name__}:noting"}
    args = {
        "models": {"m": {"engine": target, "dimensions": 2000, "max_tokens": 100}},
        "tiers": {"fast": "m"},
        "limits": {"max_answer_bytes": 1_000_000},
    }
    texts = {"input": [f"t{index}" for index in range(60)]}
    with served(args) as (url, _):
        EMBEDDED.clear()
        refused = ask(url, json=texts)
        assert error(refused) == (413, "request_too_large", "input")
        assert "limits.max_answer_bytes" in refused.json()["error"]["message"]
        assert EMBEDDED == []
        smaller = ask(url, json={**texts, "encoding_format": "base64"})
        assert smaller.status_code == 200
        assert sum(EMBEDDED) == 60


def test_a_slow_reader_is_not_cut_off() -> None:
    model = {"engine": {"kind": "fake"}, "dimensions": 2000, "max_tokens": 100}
    args = {"models": {"m": model}, "tiers": {"fast": "m"}, "limits": {"send_timeout_s": 2.0}}
    body = json.dumps({"input": [f"t{index}" for index in range(300)]}).encode()
    with served(args) as (url, _), unread(url, body, 1, 262_144) as (one,):
        got, length = b"", 0
        while not length or len(got) < length:
            part = one.recv(65536)
            assert part, "cut off"
            got += part
            time.sleep(0.02)
            if not length and b"\r\n\r\n" in got:
                head, _, got = got.partition(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].split()[0])
        assert len(json.loads(got)["data"]) == 300


EMBEDDING = threading.Event()


class Slowly:
    """An engine of one thread, as many are."""

    dimensions, max_tokens, batch_tokens = 4, 100_000, 16

    def count(self, texts: Sequence[str], input_type: str) -> list[int]:
        return [max(1, len(text) // 4) for text in texts]

    def embed(self, texts: Sequence[str], input_type: str) -> Any:
        if len(texts[0]) > 1000:
            EMBEDDING.set()
            time.sleep(0.5)
        return np.ones((len(texts), 4), np.float32)


def slowly() -> Slowly:
    return Slowly()


def test_the_wait_at_a_replica_is_in_the_time_of_the_queue() -> None:
    target = {"kind": "callable", "target": f"{__name__}:slowly"}
    model = {"engine": target, "dimensions": 4, "max_tokens": 100_000}
    with (
        served({"models": {"m": model}, "tiers": {"fast": "m"}}) as (url, _),
        ThreadPoolExecutor(1) as pool,
    ):
        long_one = pool.submit(ask, url, json={"input": "word " * 1000})
        assert EMBEDDING.wait(WAIT_S)
        short = ask(url, json={"input": "hello"})
        assert long_one.result().status_code == 200
        waited_ms = float(short.headers["x-queue-ms"])
        assert waited_ms > float(short.headers["x-inference-ms"])
        assert waited_ms > float(short.headers["x-total-ms"]) / 2
