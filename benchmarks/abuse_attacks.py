"""The attacks of `python -m benchmarks abuse`, in their own process, so that the cost of sending
does not slow down the client that measures.
"""

import asyncio
import contextlib
import gzip
import json
import os
import random
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, NamedTuple

import aiohttp

MODEL = "wordllama-256"
WHOLE_S = 60.0  # for one request of an attacker
LOWEST_PRIORITY = 19  # attackers have machines of their own; here they only get what is left


class Target:
    """The attacked service, the attacker's key and a rate-limited key."""

    def __init__(self, url: str, key: str, limited_key: str) -> None:
        self.key, self.limited_key = key, limited_key
        self.host, _, port = url.removeprefix("http://").partition(":")
        self.port = int(port)
        self.statuses = Counter[int]()
        self._session = aiohttp.ClientSession(
            url,
            timeout=aiohttp.ClientTimeout(WHOLE_S),
            connector=aiohttp.TCPConnector(limit=0),
        )

    async def close(self) -> None:
        await self._session.close()

    async def post(
        self,
        body: bytes,
        path: str = "/v1/embeddings",
        within_s: float = WHOLE_S,
        key: str | None = None,
        encoding: str = "identity",
    ) -> None:
        """Send one request and count its status, or 0 without an answer in time."""
        status = 0
        headers = {"authorization": f"Bearer {key or self.key}", "content-encoding": encoding}
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with (
                asyncio.timeout(within_s),
                self._session.post(path, data=body, headers=headers) as answer,
            ):
                await answer.read()
                status = answer.status
        self.statuses[status] += 1

    @contextlib.asynccontextmanager
    async def connected(self, body: bytes) -> AsyncIterator[socket.socket]:
        """Open a connection with a small buffer and send this request over it."""
        head = (
            f"POST /v1/embeddings HTTP/1.1\r\nhost: {self.host}\r\n"
            f"authorization: Bearer {self.key}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        loop = asyncio.get_running_loop()
        with socket.socket() as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.setblocking(False)
            await loop.sock_connect(one, (self.host, self.port))
            await loop.sock_sendall(one, head.encode() + body)
            yield one


class Attack(NamedTuple):
    """A repeated action and its number of concurrent clients."""

    row: str  # what it costs a service without a limit for it
    once: Callable[[Target], Coroutine[Any, Any, None]]
    at_once: int


def _body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def _new(words: str) -> str:
    """Text that is in no cache."""
    return f"{random.getrandbits(64):x} {words}"


INSTRUCTION = _body(input=["ab"] * 500, input_type="query", instruction="z" * 50_000)
BOMB = gzip.compress(b'{"input": "' + b"a " * 4_000_000 + b'"}')
TOO_MANY = _body(input="a " * 2_000_000)
PROSE = "word and word "


async def long_instruction(target: Target) -> None:
    await target.post(INSTRUCTION)


async def gzip_bomb(target: Target) -> None:
    await target.post(BOMB, encoding="gzip")


async def too_many_tokens(target: Target) -> None:
    await target.post(TOO_MANY)


async def long_texts(target: Target) -> None:
    await target.post(_body(input=_new(PROSE * 28_000)), "/v1/route")


async def truncated(target: Target) -> None:
    text = _new(PROSE * 20_000)
    await target.post(
        _body(input=text, truncate="end", model="multilingual-e5-small"), within_s=3.0
    )


async def spent_limit(target: Target) -> None:
    await target.post(_body(input=_new("word " * 3_000), model=MODEL), key=target.limited_key)


def _large() -> bytes:
    return _body(input=[_new("")] * 2048, model=MODEL)


async def unread_answers(target: Target) -> None:
    async with target.connected(_large()):
        await asyncio.sleep(3)


async def dripped_answers(target: Target) -> None:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(TimeoutError, ConnectionError):
        async with target.connected(_large()) as one:
            async with asyncio.timeout(30):
                while True:
                    if not await loop.sock_recv(one, 512):
                        return
                    await asyncio.sleep(0.5)


async def idle_connections(target: Target) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(300):
            _, writer = await asyncio.open_connection(target.host, target.port)
            stack.callback(writer.close)
        await asyncio.sleep(5)


async def left_callers(target: Target) -> None:
    text = _new(PROSE * 2_500)
    await target.post(_body(input=text, model="multilingual-e5-small"), within_s=0.3)


ATTACKS = {
    "long-instruction": Attack("500 prompts of 50,000 characters", long_instruction, 2),
    "gzip-bomb": Attack("8 kB that become 8 MB", gzip_bomb, 4),
    "too-many-tokens": Attack("2 million tokens, refused", too_many_tokens, 2),
    "long-texts": Attack("16 texts of 400 kB at once", long_texts, 16),
    "truncated": Attack("280 kB to be cut", truncated, 2),
    "spent-limit": Attack("3,000 words of a key with 3,000 tokens a minute", spent_limit, 4),
    "unread-answers": Attack("answers that are not read", unread_answers, 30),
    "dripped-answers": Attack("answers that are read at 1 kB/s", dripped_answers, 30),
    "idle-connections": Attack("4,200 idle connections", idle_connections, 14),
    "left-callers": Attack("long texts whose callers leave", left_callers, 2),
}


async def attack(name: str, target: Target) -> Counter[int]:
    """Attack until SIGTERM; return the statuses of the answers."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)

    async def again() -> None:
        while True:
            with contextlib.suppress(OSError):
                await ATTACKS[name].once(target)

    running = [asyncio.ensure_future(again()) for _ in range(ATTACKS[name].at_once)]
    print("begun", flush=True)
    await ended.wait()
    for one in running:
        one.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    return target.statuses


async def _main(url: str, key: str, limited_key: str, name: str) -> None:
    target = Target(url, key, limited_key)
    try:
        print(json.dumps(await attack(name, target)))
    finally:
        await target.close()


if __name__ == "__main__":
    os.nice(LOWEST_PRIORITY)
    asyncio.run(_main(*sys.argv[1:]))
