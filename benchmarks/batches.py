"""`python -m benchmarks batches`: routers and replicas die under a batch; what others notice of it.

Fake engines in a real Ray Serve behind HAProxy (benchmarks/chaos_stage.py). Interactive requests
with a budget come at a steady rate, first alone and then beside a batch. Then routers and replicas
are killed in turn until the batch ends. Every line must be in one of its two files, once.
"""

import asyncio
import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import click
import numpy as np

from benchmarks.chaos_stage import Stage, stage

KILLED = ("router", "small", "router", "large")
BUDGET_MS = 200.0
ENDED = ("completed", "failed", "expired", "cancelled")


class Noticed(NamedTuple):
    """Interactive requests of one phase."""

    sent: int
    failed: int
    p50_ms: float
    p95_ms: float
    in_time: float


class Result(NamedTuple):
    """What was measured."""

    lines: int
    seconds: float
    killed: dict[str, int]
    missing: int
    twice: int
    alone: Noticed
    beside: Noticed


def line(number: int) -> str:
    """One line of the batch."""
    body = {"model": "large", "input": f"line {number} of a batch", "encoding_format": "base64"}
    request = {"method": "POST", "url": "/v1/embeddings", "body": body}
    return json.dumps({"custom_id": f"c{number}", **request})


async def interactive(
    session: aiohttp.ClientSession, url: str, rate: float, until: asyncio.Event
) -> Noticed:
    """Send requests at `rate` a second until the event."""
    took: list[float] = []
    failed, tasks, number = 0, set[asyncio.Task[None]](), 0

    async def one(text: str) -> None:
        nonlocal failed
        begun_s = time.monotonic()
        body = {"model": "large", "input": text, "latency_budget_ms": BUDGET_MS}
        try:
            async with session.post(f"{url}/v1/embeddings", json=body) as answer:
                await answer.read()
                failed += answer.status != 200
        except aiohttp.ClientError:
            failed += 1
        took.append((time.monotonic() - begun_s) * 1000)

    start_s = time.monotonic()
    while not until.is_set():
        task = asyncio.create_task(one(f"interactive {time.time_ns()}"))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        number += 1
        await asyncio.sleep(max(0.0, start_s + number / rate - time.monotonic()))
    await asyncio.gather(*tasks)
    p50, p95 = np.percentile(took, (50, 95))
    in_time = float(np.mean(np.array(took) <= BUDGET_MS))
    return Noticed(number, failed, float(p50), float(p95), in_time)


async def _json(session: aiohttp.ClientSession, method: str, url: str, **sent: Any) -> Any:
    """The answer, asked again while a router that is gone is still in the proxy."""
    for _ in range(600):
        try:
            async with session.request(method, url, **sent) as answer:
                if answer.status == 200:
                    return await answer.json()
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(0.2)
    raise click.ClickException(f"{method} {url} was not answered")


async def _begun(session: aiohttp.ClientSession, url: str, lines: int) -> str:
    form = aiohttp.FormData({"purpose": "batch"})
    form.add_field("file", "\n".join(map(line, range(lines))), filename="in.jsonl")
    async with session.post(f"{url}/v1/files", data=form) as answer:
        answer.raise_for_status()
        file = await answer.json()
    body = {
        "input_file_id": file["id"],
        "endpoint": "/v1/embeddings",
        "completion_window": "24h",
    }
    made = await _json(session, "POST", f"{url}/v1/batches", json=body)
    return str(made["id"])


async def _kill_until_ended(
    on: Stage, session: aiohttp.ClientSession, batch: str, every: int
) -> tuple[dict[str, Any], Counter[str]]:
    """Kill one process each time that so many more lines are done."""
    killed: Counter[str] = Counter()
    due = every
    while True:
        now = await _json(session, "GET", f"{on.url}/v1/batches/{batch}")
        if now["status"] in ENDED:
            return now, killed
        counts = now["request_counts"]
        if counts["completed"] + counts["failed"] >= due:
            name = KILLED[killed.total() % len(KILLED)]
            on.replicas(name)[0].kill()
            killed[name] += 1
            due += every
        await asyncio.sleep(0.5)


async def _found(session: aiohttp.ClientSession, url: str, batch: dict[str, Any]) -> Counter[str]:
    found: Counter[str] = Counter()
    for id in filter(None, (batch["output_file_id"], batch["error_file_id"])):
        async with session.get(f"{url}/v1/files/{id}/content") as answer:
            answer.raise_for_status()
            async for raw in answer.content:
                found[json.loads(raw)["custom_id"]] += 1
    return found


async def measure(lines: int, rate: float, alone_s: float, kills: int, port: int) -> Result:
    """One run."""
    with tempfile.TemporaryDirectory(prefix="er-batches-", dir="/tmp") as scratch:
        folder = {"folder": str(Path(scratch) / "shared")}
        async with (
            stage(Path(scratch), port, batches=folder) as on,
            aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=60), read_bufsize=2**20
            ) as session,
        ):
            over = asyncio.Event()
            asyncio.get_running_loop().call_later(alone_s, over.set)
            alone = await interactive(session, on.url, rate, over)
            over.clear()
            begun_s, batch = time.monotonic(), await _begun(session, on.url, lines)
            asyncio.get_running_loop().call_later(alone_s, over.set)
            beside = await interactive(session, on.url, rate, over)
            ended, killed = await _kill_until_ended(
                on, session, batch, max(1, lines // (kills + 1))
            )
            seconds = time.monotonic() - begun_s
            found = await _found(session, on.url, ended)
    wanted = {f"c{number}" for number in range(lines)}
    return Result(
        lines,
        seconds,
        dict(killed),
        len(wanted - found.keys()),
        sum(count > 1 for count in found.values()),
        alone,
        beside,
    )


@click.command()
@click.option("--lines", default=50_000, show_default=True, type=click.IntRange(1, 50_000))
@click.option("--rate", default=20.0, show_default=True, help="Interactive requests a second.")
@click.option("--seconds", default=60.0, show_default=True, help="Of each interactive phase.")
@click.option("--kills", default=8, show_default=True, help="Processes that are killed.")
@click.option("--json", "as_json", is_flag=True)
@click.option("--port", default=8150, show_default=True, help="This one and the next are used.")
def main(lines: int, rate: float, seconds: float, kills: int, as_json: bool, port: int) -> None:
    """Kill routers and replicas under a batch and look for every line; exits 1 where one is missing
    or there twice.
    """
    result = asyncio.run(measure(lines, rate, seconds, kills, port))
    if as_json:
        told = result._asdict()
        told |= {name: told[name]._asdict() for name in ("alone", "beside")}
        click.echo(json.dumps(told, indent=1))
    else:
        killed = ", ".join(f"{count} x {name}" for name, count in result.killed.items())
        click.echo(
            f"{result.lines} lines in {result.seconds:.0f} s, killed {killed or 'nothing'}: "
            f"{result.missing} missing, {result.twice} twice"
        )
        for name in ("alone", "beside"):
            one: Noticed = getattr(result, name)
            click.echo(
                f"interactive {name:<6} {one.sent:5} sent, {one.failed} failed, p50 "
                f"{one.p50_ms:.1f} ms, p95 {one.p95_ms:.1f} ms, {one.in_time:.1%} within "
                f"{BUDGET_MS:g} ms"
            )
    if result.missing or result.twice:
        raise click.ClickException("lines are missing or there twice")
