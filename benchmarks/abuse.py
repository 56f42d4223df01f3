"""What do the others notice of a client that means harm? `python -m benchmarks abuse [--attack
NAME]... [--json FILE]`.

One service on the models of `configs/local.yaml`. Beside a normal load of short and middle texts
each attack runs for a while: p99 of both before, during and after it, and the memory of the
routers. Short texts must stay within three times their p99 or 40 ms more, middle ones within five
times or 300 ms more, and memory must come back to within 20 % or 100 MB.
"""

import asyncio
import contextlib
import gzip
import json
import random
import socket
import statistics
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import click
import psutil

from benchmarks.live import ROOT, router

SHORT, MIDDLE = "short", "middle"
MODEL = "wordllama-256"
MIDDLE_CHARACTERS = 6_300
EVERY_S = {SHORT: 0.05, MIDDLE: 0.25}  # one text of each kind is sent
SETTLE_S = 5.0  # after an attack, before memory is looked at


class Mark(NamedTuple):
    """What p99 may become during an attack."""

    times: float
    plus_s: float

    def allows(self, before_s: float) -> float:
        return max(self.times * before_s, before_s + self.plus_s)


MARKS = {SHORT: Mark(3.0, 0.040), MIDDLE: Mark(5.0, 0.300)}
MEMORY_SHARE, MEMORY_MIB = 1.2, 100.0


class Row(NamedTuple):
    """One figure and what it was to be."""

    name: str
    value: float
    mark: float | None
    met: bool | None


class Load:
    """Short and middle texts at a steady rate, whoever else is there; no text is sent twice."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session, self._rng = session, random.Random(7)
        self.took_s: dict[str, list[float]] = {SHORT: [], MIDDLE: []}
        self.failed = 0

    def _text(self, kind: str) -> str:
        words = "".join(f"{self._rng.getrandbits(32):x} " for _ in range(800))
        return words[: 40 if kind == SHORT else MIDDLE_CHARACTERS]

    async def _one(self, kind: str) -> None:
        start_s = time.perf_counter()
        try:
            async with self._session.post(
                "/v1/embeddings", json={"input": self._text(kind), "model": MODEL}
            ) as answer:
                await answer.read()
                self.failed += answer.status != 200
        except (aiohttp.ClientError, TimeoutError):
            self.failed += 1
        self.took_s[kind].append(time.perf_counter() - start_s)

    async def run(self, seconds: float) -> dict[str, float]:
        """p99 of each kind, of all requests that were sent in so many seconds."""
        self.took_s = {SHORT: [], MIDDLE: []}
        sent = list[asyncio.Task[None]]()
        until_s = time.monotonic() + seconds

        async def every(kind: str) -> None:
            while time.monotonic() < until_s:
                sent.append(asyncio.ensure_future(self._one(kind)))
                await asyncio.sleep(EVERY_S[kind])

        await asyncio.gather(every(SHORT), every(MIDDLE))
        await asyncio.gather(*sent)
        return {kind: p99(times) for kind, times in self.took_s.items()}


def p99(seconds: list[float]) -> float:
    """Of fewer than a hundred the largest."""
    if len(seconds) < 100:
        return max(seconds)
    return statistics.quantiles(seconds, n=100)[98]


class Target(NamedTuple):
    """What is attacked."""

    url: str
    session: aiohttp.ClientSession

    async def post(self, **options: Any) -> int:
        """Status of an answer that is read, 0 where there was none."""
        path = options.pop("path", "/v1/embeddings")
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with self.session.post(path, **options) as answer:
                await answer.read()
                return answer.status
        return 0


Attack = Callable[[Target], Coroutine[Any, Any, object]]


async def long_instruction(target: Target) -> object:
    body = {"input": ["ab"] * 500, "input_type": "query", "instruction": "z" * 50_000}
    return await target.post(json=body)


async def gzip_bomb(target: Target) -> object:
    packed = gzip.compress(b'{"input": "' + b"a " * 4_000_000 + b'"}')
    return await target.post(data=packed, headers={"content-encoding": "gzip"})


async def too_many_tokens(target: Target) -> object:
    return await target.post(json={"input": "a " * 2_000_000})


async def long_texts(target: Target) -> object:
    text = f"{random.getrandbits(64):x} " + "word and word " * 28_000
    return await target.post(path="/v1/route", json={"input": text})


async def truncated(target: Target) -> object:
    text = f"{random.getrandbits(64):x} " + "word and word " * 20_000
    body = {"input": text, "truncate": "end", "model": "multilingual-e5-small"}
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(3):
            return await target.post(json=body)
    return None


async def unread_answers(target: Target) -> object:
    texts = [f"{random.getrandbits(64):x}" for _ in range(2048)]
    body = json.dumps({"input": texts, "model": MODEL}).encode()
    host, _, port = target.url.removeprefix("http://").partition(":")
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(one, (host, int(port)))
        head = (
            f"POST /v1/embeddings HTTP/1.1\r\nhost: {host}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        await loop.sock_sendall(one, head.encode() + body)
        await asyncio.sleep(3)
    return None


async def idle_connections(target: Target) -> object:
    host, _, port = target.url.removeprefix("http://").partition(":")
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(300):
            _, writer = await asyncio.open_connection(host, int(port))
            stack.callback(writer.close)
        await asyncio.sleep(5)
    return None


async def left_callers(target: Target) -> object:
    text = f"{random.getrandbits(64):x} " + "word and word " * 4_000
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.3):
            return await target.post(json={"input": text, "model": "multilingual-e5-small"})
    return None


# by the rows of the attack, each with how many of it run at once
ATTACKS: dict[str, tuple[Attack, int]] = {
    "long-instruction": (long_instruction, 2),
    "gzip-bomb": (gzip_bomb, 4),
    "too-many-tokens": (too_many_tokens, 2),
    "long-texts": (long_texts, 16),
    "truncated": (truncated, 2),
    "unread-answers": (unread_answers, 30),
    "idle-connections": (idle_connections, 14),
    "left-callers": (left_callers, 2),
}


@contextlib.asynccontextmanager
async def under(attack: Attack, at_once: int, target: Target) -> AsyncIterator[None]:
    """The attack, over and over, as long as the block runs."""

    async def again() -> None:
        while True:
            await attack(target)

    running = [asyncio.ensure_future(again()) for _ in range(at_once)]
    try:
        yield
    finally:
        for one in running:
            one.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def memory_mib(process: psutil.Process) -> float:
    """Of all routers of the service."""
    total = 0.0
    for one in process.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "router" in " ".join(one.cmdline()) and "ServeReplica" in " ".join(one.cmdline()):
                total += one.memory_info().rss / 2**20
    return total


async def play(
    name: str, target: Target, load: Load, process: psutil.Process, seconds: float
) -> list[Row]:
    """The figures of one attack."""
    attack, at_once = ATTACKS[name]
    before_mib, before_s = memory_mib(process), await load.run(seconds)
    async with under(attack, at_once, target):
        during_s = await load.run(seconds)
    await asyncio.sleep(SETTLE_S)
    after_s, after_mib = await load.run(seconds), memory_mib(process)
    rows = []
    for kind, mark in MARKS.items():
        allowed_s = mark.allows(before_s[kind])
        rows += [
            Row(f"{name}: {kind} p99 before, ms", before_s[kind] * 1000, None, None),
            Row(
                f"{name}: {kind} p99 during, ms",
                during_s[kind] * 1000,
                allowed_s * 1000,
                during_s[kind] <= allowed_s,
            ),
            Row(f"{name}: {kind} p99 after, ms", after_s[kind] * 1000, None, None),
        ]
    allowed_mib = max(before_mib * MEMORY_SHARE, before_mib + MEMORY_MIB)
    rows.append(Row(f"{name}: memory before, MiB", before_mib, None, None))
    met = after_mib <= allowed_mib
    rows.append(Row(f"{name}: memory after, MiB", after_mib, allowed_mib, met))
    return rows


async def play_all(names: tuple[str, ...], seconds: float) -> list[Row]:
    """All attacks on one service, one after another."""
    rows = list[Row]()
    with router(ROOT / "configs" / "local.yaml", None) as service:
        assert service.process is not None
        timeout, connector = aiohttp.ClientTimeout(60), aiohttp.TCPConnector(limit=0)
        async with (
            aiohttp.ClientSession(service.url, timeout=timeout) as own,
            aiohttp.ClientSession(service.url, timeout=timeout, connector=connector) as attackers,
        ):
            load = Load(own)
            await load.run(seconds)  # warm
            for name in names:
                target = Target(service.url, attackers)
                rows += await play(name, target, load, service.process, seconds)
                for row in rows[-8:]:
                    mark = "" if row.mark is None else f"  <= {row.mark:.1f}"
                    click.echo(f"{row.name:<45} {row.value:10.1f}{mark}")
            rows.append(Row("requests of the load that failed", load.failed, 0, not load.failed))
            click.echo(f"{load.failed} requests of the load failed")
    return rows


@click.command()
@click.option(
    "--attack", "names", multiple=True, type=click.Choice(list(ATTACKS)), help="All without it."
)
@click.option("--seconds", default=10.0, show_default=True, help="Before, during and after each.")
@click.option("--json", "file", type=click.Path(path_type=Path), help="Write the rows to FILE.")
def main(names: tuple[str, ...], seconds: float, file: Path | None) -> None:
    """Attack a service and say what its other clients noticed; exits 1 where a mark was missed."""
    rows = asyncio.run(play_all(names or tuple(ATTACKS), seconds))
    if file is not None:
        file.write_text(json.dumps([row._asdict() for row in rows], indent=1))
    if missed := [row.name for row in rows if row.met is False]:
        raise click.ClickException(f"missed: {', '.join(missed)}")
