"""the fast path of a request for embeddings: real sockets, real uvicorn, and an application that
says what it was given.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from itertools import product
from logging.handlers import MemoryHandler
from typing import Any
from urllib.parse import unquote

import pytest
from ray.serve._private import http_util
from ray.serve._private.logging_utils import log_access_log_filter

from deployments.ingress import asgi, fast_path, responses
from deployments.ingress.application import Application
from deployments.ingress.asgi import HttpAnswer, Receive, Scope
from router.strict import parse_args
from tests.support.fast_path_stage import Replica, Stage, post, read, staged, until
from tests.support.local_service import LocalRouter

ONE_FAKE: dict[str, Any] = {
    "models": {"small": {"engine": {"kind": "fake"}, "dimensions": 8, "max_tokens": 512}},
    "tiers": {"fast": "small"},
}
HANDSHAKE = (
    b"GET %s HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with staged(Replica()) as made:
        yield made
        made.echo.gate.set()
        await until(lambda: not made.counts.running)


@pytest.mark.parametrize("path", ["/v1/embeddings", "/embeddings"])
async def test_embeddings_go_to_the_application_at_once(stage: Stage, path: str) -> None:
    ((status, headers, body),) = await stage.ask(post(path))
    assert status == b"HTTP/1.1 200 OK"
    assert json.loads(body) == {"body": 5, "path": path, "client": "127.0.0.1"}
    assert headers[b"x-echo"] == "ä".encode("latin-1")
    assert b"date" in headers
    assert (stage.counts.running, stage.counts.ended, stage.counts.statuses) == (0, 1, ["200"])


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("/v2/embed", "/v2/embed"),
        ("/embed", "/embed"),
        ("/api/embed", "/api/embed"),
        ("/in/docs/v1/embeddings", "/v1/embeddings"),
        ("/in/my%20docs/query/v2/embed", "/v2/embed"),
        ("/openai/deployments/a%2Fb/embeddings?api-version=1", None),
        ("/in/docs/openai/deployments/a/embeddings?api-version=1", None),
    ],
)
async def test_what_models_answer_goes_there_by_whatever_path(
    stage: Stage, url: str, path: str | None
) -> None:
    ((status, _, body),) = await stage.ask(post(url))
    assert status == b"HTTP/1.1 200 OK"
    assert json.loads(body)["path"] == path or path is None
    (scope,) = stage.echo.scopes
    assert scope["query_string"] == url.partition("?")[2].encode()
    assert scope["raw_path"] == url.partition("?")[0].encode()
    assert scope["path"] == unquote(url.partition("?")[0])
    assert stage.counts.statuses == ["200"]


@pytest.mark.parametrize(
    "request_",
    [
        post("/v1/models"),
        post("/in/docs/v1/models"),
        post("/in/docs"),
        post("/in/docs/v1/embeddings/"),
        post("/openai/deployments//embeddings"),
        post("/v1/embeddings?a=b"),
        post("/v1/embeddings/"),
        post(method="PUT"),
        post("//v1/embeddings"),
        post(more="x-request-timeout-seconds: 3\r\n"),
        post(more="X-Request-Timeout-Seconds: 3\r\n"),
        post(more="connection: upgrade\r\nupgrade: h2c\r\n"),
        b"GET /v1/embeddings HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET /-/healthz HTTP/1.1\r\nhost: localhost\r\n\r\n",
    ],
)
async def test_everything_else_goes_serves_way(stage: Stage, request_: bytes) -> None:
    ((status, headers, body),) = await stage.ask(request_)
    assert (status, body) == (b"HTTP/1.1 200 OK", b"slow")
    assert b"x-request-id" in headers
    assert not stage.echo.scopes


class Reads(Replica):
    """A replica that reads the headers as Serve's does, and answers with its request's id."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[dict[bytes, bytes]] = []

    async def asgi(self, scope: Scope, receive: Receive, send: asgi.Send) -> None:
        headers = dict(scope["headers"])
        self.seen.append(headers)
        http_util.parse_disconnect_disabled_header(headers)
        http_util.parse_request_timeout_header(headers, None)
        http_util.parse_session_id_header(headers)
        for name, value in headers.items():
            if name.decode().replace("-", "_") in ("serve_multiplexed_model_id", "traceparent"):
                value.decode()
        own = headers[b"x-request-id"].decode()
        await responses.respond(send, 200, own.encode(), {"content-length": str(len(own))})


@pytest.mark.parametrize(
    "name",
    [
        "x-request-id",
        "X-Request-ID",
        "serve_multiplexed_model_id",
        "Serve-Multiplexed-Model-Id",
        "x-request-timeout-seconds",
        "x-request-disconnect-disabled",
        "x-session-id",
        "x_session_id",
        "traceparent",
        "tracestate",
    ],
)
async def test_no_byte_in_a_header_that_serve_reads_is_an_error(name: str) -> None:
    reads = Reads()
    async with staged(reads) as stage:
        for path, value in product(
            ("/v1/models", "/health", "/v1/embeddings/"),
            (b"\xff", b"a\xe4", b"\xc3\xa4", b"?1\x80"),
        ):
            sent = post(path).replace(
                b"\r\n\r\n", b"\r\n" + name.encode() + b": " + value + b"\r\n\r\n", 1
            )
            ((status, headers, body),) = await stage.ask(sent)
            assert status == b"HTTP/1.1 200 OK", (path, value)
            assert re.fullmatch(rb"[0-9a-f]{32}", body), (path, value)
            assert headers[b"x-request-id"] == body, (path, value)
            assert value not in reads.seen[-1].values(), path
    assert len(reads.seen) == 12


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (["mine-1"], "mine-1"),
        (["first", "last"], "last"),
        (["a b"], None),
        ([""], None),
        (["x" * 128], "x" * 128),
        (["x" * 129], None),
        (["mine", "\xff"], None),
    ],
)
async def test_request_ids_follow_one_rule_on_both_ways(sent: list[str], kept: str | None) -> None:
    more = "".join(f"x-request-id: {one}\r\n" for one in sent).encode("latin-1")
    reads = Reads()
    async with staged(reads) as stage:
        for path in ("/v1/models", "/v1/embeddings"):
            await stage.ask(post(path).replace(b"\r\n\r\n", b"\r\n" + more + b"\r\n", 1))
        slow = reads.seen[0][b"x-request-id"].decode()
        fast = stage.echo.ids[0]
    if kept is None:
        assert all(re.fullmatch("[0-9a-f]{32}", one) for one in (slow, fast))
    else:
        assert (slow, fast) == (kept, kept)


@pytest.mark.parametrize(
    "sent", [b"GET\r\n\r\n", b"\x16\x03\x01\x00\r\n\r\n", post(more="no colon\r\n")]
)
async def test_what_is_not_http_is_an_error_in_json(stage: Stage, sent: bytes) -> None:
    ((status, headers, body),) = await stage.ask(sent)
    assert status == b"HTTP/1.1 400 Bad Request"
    assert headers[b"content-type"] == b"application/json"
    assert json.loads(body)["error"]["code"] == "invalid_value"


@pytest.mark.parametrize("path", ["/v1/models", "/v1/embeddings", "/nowhere"])
async def test_a_websocket_handshake_is_a_request_for_the_application(path: str) -> None:
    replica = Replica()
    router = LocalRouter(parse_args(ONE_FAKE))
    replica.asgi = Application(router, alone=True).__call__  # type: ignore[method-assign, arg-type]
    async with staged(replica) as stage:
        ((status, _, body),) = await stage.ask(HANDSHAKE % path.encode())
    assert status == b"HTTP/1.1 426 Upgrade Required"
    assert json.loads(body)["error"]["code"] == "not_supported"


async def test_a_client_that_asks_whether_to_send_its_body_is_serves(stage: Stage) -> None:
    async with stage.connected() as (reader, writer):
        writer.write(post(body=b"", more="expect: 100-continue\r\n"))
        assert (await read(reader))[2] == b"slow"


async def test_a_connection_takes_many_requests_of_both_ways(stage: Stage) -> None:
    async with stage.connected() as (reader, writer):
        for number in range(20):
            writer.write(post("/v1/embeddings" if number % 2 else "/v1/models", b"x" * number))
            status, _, body = await read(reader)
            assert status == b"HTTP/1.1 200 OK"
            assert body == b"slow" if number % 2 == 0 else json.loads(body)["body"] == number
    assert stage.counts.ended == 10


async def test_requests_that_do_not_wait_for_answers_are_answered_in_order(stage: Stage) -> None:
    sizes = [1, 70_000, 3, 200_000, 5]
    sent = b"".join(post(body=b"x" * size) + post("/v1/models") for size in sizes)
    found = await stage.ask(sent, 2 * len(sizes))
    assert [body for _, _, body in found[1::2]] == [b"slow"] * len(sizes)
    assert [json.loads(body)["body"] for _, _, body in found[::2]] == sizes


async def test_a_body_may_come_in_pieces(stage: Stage) -> None:
    async with stage.connected() as (reader, writer):
        chunked = post(body=b"", more="transfer-encoding: chunked\r\n").replace(
            b"content-length: 0\r\n", b""
        )
        for part in (chunked[:30], chunked[30:], b"5\r\nhel", b"lo\r\n", b"3\r\nyou\r\n0\r\n\r\n"):
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.01)
        assert json.loads((await read(reader))[2])["body"] == 8


@pytest.mark.parametrize(
    "request_",
    [post(more="connection: close\r\n"), post(version="1.0")],
    ids=["asked for", "HTTP/1.0"],
)
async def test_a_connection_is_closed_after_the_answer_where_it_shall_be(
    stage: Stage, request_: bytes
) -> None:
    async with stage.connected() as (reader, writer):
        writer.write(request_)
        _, headers, _ = await read(reader)
        assert headers[b"connection"] == b"close"
        assert await reader.read() == b""


async def test_a_large_answer_arrives_whole(stage: Stage) -> None:
    body = bytes(range(256)) * 20_000
    stage.echo.answer = HttpAnswer(200, body, headers={"content-length": str(len(body))})
    assert (await stage.ask(post()))[0][2] == body


async def test_an_answer_waits_until_the_client_reads(stage: Stage) -> None:
    body = b"x" * 20_000_000
    stage.echo.answer = HttpAnswer(200, body, headers={"content-length": str(len(body))})
    found = await stage.ask(post() * 3, 3)
    assert [len(answer) for _, _, answer in found] == [len(body)] * 3


async def test_a_client_that_leaves_is_noticed_while_its_request_runs(stage: Stage) -> None:
    stage.echo.gate.clear()
    async with stage.connected() as (_, writer):
        writer.write(post())
        await until(lambda: stage.counts.running)
    await until(lambda: stage.echo.left and not stage.counts.running)
    assert stage.counts.statuses == ["499"]


@pytest.mark.parametrize("value", ["a\r\nset-cookie: b", "a\nb", "a\x00b", "☃"])
async def test_no_header_can_end_a_header(
    stage: Stage, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    stage.echo.answer = HttpAnswer(200, b"", headers={"content-length": "0", "x-model": value})
    with caplog.at_level("ERROR", logger="ray.serve"):
        ((status, headers, body),) = await stage.ask(post())
    assert status == b"HTTP/1.1 500 Internal Server Error"
    assert b"x-model" not in headers
    assert json.loads(body)["error"]["code"] == "internal_error"
    assert "could not be sent" in caplog.text
    assert (stage.counts.running, stage.counts.statuses) == (0, ["500"])


async def test_what_the_application_raises_is_an_answer_and_harms_no_other(stage: Stage) -> None:
    async with stage.connected() as (reader, writer):
        stage.echo.error = KeyError("secret")
        writer.write(post())
        status, headers, body = await read(reader)
        assert (status, b"connection" in headers) == (b"HTTP/1.1 500 Internal Server Error", False)
        assert b"secret" not in body
        stage.echo.error = None
        writer.write(post())
        assert json.loads((await read(reader))[2])["body"] == 5
    assert stage.counts.statuses == ["500", "200"]


async def test_a_body_that_came_with_its_headers_is_held_to_the_limit_too(stage: Stage) -> None:
    stage.echo.max_bytes = 4
    assert (await stage.ask(post()))[0][0] == b"HTTP/1.1 413 Request Entity Too Large"
    chunked = post(body=b"", more="transfer-encoding: chunked\r\n").replace(
        b"content-length: 0\r\n", b""
    )
    assert (await stage.ask(chunked + b"5\r\nhello\r\n0\r\n\r\n"))[0][
        0
    ] == b"HTTP/1.1 413 Request Entity Too Large"


async def test_the_client_is_who_a_trusted_proxy_says(stage: Stage) -> None:
    ((_, _, body),) = await stage.ask(post(more="x-forwarded-for: 9.9.9.9, 8.8.8.8\r\n"))
    assert json.loads(body)["client"] == "8.8.8.8"


async def test_nobody_else_says_who_the_client_is() -> None:
    async with staged(Replica(), forwarded_allow_ips="10.0.0.1") as stage:
        ((_, _, body),) = await stage.ask(post(more="x-forwarded-for: 9.9.9.9\r\n"))
        assert json.loads(body)["client"] == "127.0.0.1"
        twice = "x-forwarded-for: 9.9.9.9\r\nX-Forwarded-For: 8.8.8.8\r\n"
        assert json.loads((await stage.ask(post(more=twice)))[0][2])["client"] == "127.0.0.1"


async def test_of_two_headers_about_the_client_the_last_counts(stage: Stage) -> None:
    ((_, _, body),) = await stage.ask(
        post(more="x-forwarded-for: 9.9.9.9\r\nX-Forwarded-For: 8.8.8.8, 127.0.0.1\r\n")
    )
    assert json.loads(body)["client"] == "8.8.8.8"


async def test_a_request_goes_serves_way_as_long_as_serve_logs_each(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    serves = MemoryHandler(1000)
    fast_path.log.addHandler(serves)
    caplog.set_level("WARNING", logger="ray.serve")
    try:
        assert (await stage.ask(post()))[0][2] == b"slow"
        serves.addFilter(log_access_log_filter)
        assert json.loads((await stage.ask(post()))[0][2])["body"] == 5
        assert "enable_access_log: false" in caplog.text
    finally:
        fast_path.log.removeHandler(serves)


async def test_a_server_that_stops_answers_what_is_under_way(stage: Stage) -> None:
    stage.echo.gate.clear()
    async with stage.connected() as (reader, writer):
        writer.write(post())
        await until(lambda: stage.counts.running)
        stage.server.should_exit = True
        await until(lambda: not stage.server.servers[0].is_serving())
        stage.echo.gate.set()
        status, headers, _ = await read(reader)
    assert (status, headers[b"connection"]) == (b"HTTP/1.1 200 OK", b"close")
