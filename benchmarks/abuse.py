"""Measure the effect of an abusive client on other clients.

One service on the models of `configs/local.yaml`, with keys. Each attack runs for a while beside a
normal load of short and medium texts, with its own key. Measured are the p99 of both kinds before,
during and after the attack, and the memory of the routers. Short texts must stay within three times
their p99 or 40 ms more, medium ones within five times or 300 ms more, and memory must return to
within 20 % or 100 MB.
"""

import asyncio
import contextlib
import random
import signal
import statistics
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import aiohttp
import click
import psutil

from benchmarks.abuse_attacks import ATTACKS, MODEL
from benchmarks.live import LOCAL, ROOT, router
from benchmarks.marks import Row, at_most, conclude, show, to_file
from deployments.tools.calibrate import replicas
from router.keys import hash_of, new_key

SHORT, MIDDLE = "short", "middle"
MIDDLE_CHARACTERS = 6_300
EVERY_S = {SHORT: 0.05, MIDDLE: 0.25}  # one text of each kind is sent
SETTLE_S = 5.0  # after an attack, before memory is looked at
OWN, ATTACKER, LIMITED = (new_key(bytes([place] * 32)) for place in range(3))
KEYS = {
    "own": {"hash": hash_of(OWN)},
    "attacker": {"hash": hash_of(ATTACKER)},
    "limited": {
        "hash": hash_of(LIMITED),
        "requests_per_minute": 60,
        "tokens_per_minute": 3000,
    },
}


class Mark(NamedTuple):
    """Limit on p99 during an attack."""

    times: float
    plus_s: float

    def allows(self, before_s: float) -> float:
        return max(self.times * before_s, before_s + self.plus_s)


MARKS = {SHORT: Mark(3.0, 0.040), MIDDLE: Mark(5.0, 0.300)}
MEMORY_SHARE, MEMORY_MIB = 1.2, 100.0


class Load:
    """Steady background load of short and medium texts; no text repeats."""

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
        """Send requests for `seconds`; return p99 of each kind over all of them."""
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
    """p99, or the maximum of fewer than 100 values."""
    if len(seconds) < 100:
        return max(seconds)
    return statistics.quantiles(seconds, n=100)[98]


def memory_mib(process: psutil.Process) -> float:
    """Memory of all routers in MiB."""
    total = 0.0
    for one in replicas("router", process.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            total += one.memory_info().rss / 2**20
    return total


@contextlib.asynccontextmanager
async def under(name: str, url: str) -> AsyncIterator[None]:
    """Repeat the attack while the block runs; print its answers at the end."""
    command = [sys.executable, "-m", "benchmarks.abuse_attacks", url, ATTACKER, LIMITED, name]
    attacker = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert attacker.stdout is not None
    await attacker.stdout.readline()
    try:
        yield
    finally:
        attacker.send_signal(signal.SIGTERM)
        printed, _ = await attacker.communicate()
        click.echo(
            f"{name} ({ATTACKS[name].row}); its answers by status: {printed.decode().strip()}"
        )


async def play(
    name: str, url: str, load: Load, process: psutil.Process, seconds: float
) -> list[Row]:
    """Measure one attack."""
    before_mib, before_s = memory_mib(process), await load.run(seconds)
    async with under(name, url):
        during_s = await load.run(seconds)
    await asyncio.sleep(SETTLE_S)
    after_s, after_mib = await load.run(seconds), memory_mib(process)
    rows = []
    for kind, mark in MARKS.items():
        allowed_ms = mark.allows(before_s[kind]) * 1000
        rows += [
            Row(f"{name}: {kind} p99 before, ms", before_s[kind] * 1000),
            at_most(f"{name}: {kind} p99 during, ms", during_s[kind] * 1000, allowed_ms),
            Row(f"{name}: {kind} p99 after, ms", after_s[kind] * 1000),
        ]
    allowed_mib = max(before_mib * MEMORY_SHARE, before_mib + MEMORY_MIB)
    rows.append(Row(f"{name}: memory before, MiB", before_mib))
    rows.append(at_most(f"{name}: memory after, MiB", after_mib, allowed_mib))
    return rows


async def play_all(names: tuple[str, ...], seconds: float) -> list[Row]:
    """Run all attacks on one service, one after another."""
    rows = list[Row]()
    with router(LOCAL, None, keys=KEYS) as service:
        assert service.process is not None
        async with aiohttp.ClientSession(
            service.url,
            timeout=aiohttp.ClientTimeout(60),
            headers={"authorization": f"Bearer {OWN}"},
        ) as own:
            load = Load(own)
            await load.run(seconds)  # warm
            for name in names:
                rows += await play(name, service.url, load, service.process, seconds)
                show(rows[-8:])
            rows.append(at_most("requests of the load that failed", load.failed, 0))
            show(rows[-1:])
    return rows


@click.command()
@click.option(
    "--attack",
    "names",
    multiple=True,
    type=click.Choice(list(ATTACKS)),
    help="Attack to run; repeatable. [default: all]",
)
@click.option(
    "--seconds",
    default=10.0,
    show_default=True,
    help="Seconds before, during and after each attack.",
)
@to_file
def main(names: tuple[str, ...], seconds: float, file: Path | None) -> None:
    """Attack a service and measure the effect on its other clients; exit 1 if a mark is missed."""
    conclude(asyncio.run(play_all(names or tuple(ATTACKS), seconds)), file)
