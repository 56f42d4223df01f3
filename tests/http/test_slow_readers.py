"""Which readers of an answer are cut off: real sockets, real uvicorn and real time."""

import asyncio
import socket
from contextlib import suppress

import pytest

from deployments.ingress import asgi
from deployments.ingress.asgi import HttpAnswer, Receive, Scope
from deployments.ingress.outgoing import Outgoing
from router.config import Limits
from tests.support.fast_path_stage import Replica, post, staged, until


@pytest.mark.parametrize("size", [200_000, 30_000_000])
async def test_a_reader_that_takes_nothing_is_cut_off_and_a_slow_one_is_not(size: int) -> None:
    outgoing, limits = Outgoing(), Limits(send_timeout_s=1.0)
    async with staged(Replica()) as stage:
        length = {"content-length": str(size)}

        def answer() -> HttpAnswer:
            held = outgoing.hold("a", size, limits)
            return HttpAnswer(200, b"a" * size, headers=length, held=held)

        request = post()
        with socket.socket() as mute:
            mute.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            mute.connect(("127.0.0.1", stage.port))
            for _ in range(40 if size < 1_000_000 else 1):  # more than the kernel takes
                stage.echo.answer = answer()
                mute.sendall(request)
                await asyncio.sleep(0.01)
            await until(lambda: not stage.counts.running)
            outgoing.bytes_of.clear()
        stage.echo.answer = answer()
        async with stage.connected() as (reader, writer):
            writer.write(request)
            got = 0
            while got < size:
                got += len(await reader.read(500_000))
                await asyncio.sleep(0.02)
        await until(lambda: not outgoing.bytes_of)


async def test_a_reader_that_takes_next_to_nothing_is_cut_off() -> None:
    outgoing, limits = Outgoing(), Limits(send_timeout_s=1.0)
    size, ended = 30_000_000, asyncio.Event()
    async with staged(Replica()) as stage:
        held = outgoing.hold("a", size, limits)
        stage.echo.answer = HttpAnswer(
            200, b"a" * size, headers={"content-length": str(size)}, held=held
        )
        with socket.socket() as drip:
            drip.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            drip.connect(("127.0.0.1", stage.port))
            drip.sendall(post())
            drip.setblocking(False)

            async def take() -> None:
                while not ended.is_set():
                    with suppress(BlockingIOError, ConnectionError):
                        drip.recv(20)
                    await asyncio.sleep(0.1)

            taking = asyncio.create_task(take())
            await until(lambda: not outgoing.bytes_of)
            ended.set()
            await taking
    assert not stage.counts.running


class Large(Replica):
    """A replica whose own answers are more than the kernel takes."""

    async def asgi(self, scope: Scope, receive: Receive, send: asgi.Send) -> None:
        body = b"x" * 30_000_000
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-length", str(len(body)).encode())],
            }
        )
        await send({"type": "http.response.body", "body": body})


async def test_a_reader_that_takes_nothing_of_serves_answer_holds_none_of_ours() -> None:
    outgoing = Outgoing()
    async with staged(Large()) as stage:
        held = outgoing.hold("a", 1000, Limits(send_timeout_s=0.2))
        stage.echo.answer = HttpAnswer(
            200, b"a" * 1000, headers={"content-length": "1000"}, held=held
        )
        with socket.socket() as mute:
            mute.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            mute.connect(("127.0.0.1", stage.port))
            mute.sendall(post("/v1/models") + post())
            await until(lambda: not outgoing.bytes_of)
            assert stage.echo.ids


@pytest.mark.parametrize(("bytes_per_s", "stays"), [(50_000, True), (500, False)])
async def test_a_reader_may_be_slow_but_not_slower_than_the_least(
    bytes_per_s: int, stays: bool
) -> None:
    """Its kernel takes parts of about 100 kB, the server's asks for more after about 1.3 MB."""
    outgoing, limits, size = Outgoing(), Limits(send_timeout_s=1.0), 20_000_000
    async with staged(Replica()) as stage:
        stage.echo.answer = HttpAnswer(
            200,
            b"a" * size,
            headers={"content-length": str(size)},
            held=outgoing.hold("a", size, limits),
        )
        with socket.socket() as slow:
            slow.connect(("127.0.0.1", stage.port))
            slow.sendall(post())
            slow.setblocking(False)
            got = 0
            while (got < 5 * bytes_per_s) if stays else outgoing.bytes_of:
                with suppress(BlockingIOError, *(() if stays else (ConnectionError,))):
                    part = slow.recv(bytes_per_s // 10)
                    assert part or not stays, f"cut off after {got} bytes"
                    got += len(part)
                await asyncio.sleep(0.1)
            assert bool(outgoing.bytes_of) == stays
        await until(lambda: not outgoing.bytes_of)
