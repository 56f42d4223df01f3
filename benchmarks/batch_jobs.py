"""What do others notice of a batch, and what is left of it under kills? `python -m benchmarks
batch_jobs [--json FILE]`.

Fake engines in a real Ray Serve behind HAProxy (benchmarks/chaos_stage.py). Interactive requests
with a budget come at a steady rate, first alone and then beside the batch. Then routers and
replicas are killed until the batch ends. Each of its lines must be in one of its two files, once.
"""

import asyncio
import json
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import click
import numpy as np
import psutil

from benchmarks.chaos_stage import Stage, stage
from benchmarks.marks import Row, at_least, at_most, conclude, show, to_file
from router.limits_config import Limits

KILLED = ("router", "small", "router", "large")
BUDGETS_MS = (100.0, 250.0, 1000.0)
PIECES = 1.2  # of the longest piece of bulk work, by which an interactive request may take longer
POINTS = 1.0  # by which the share that is in time may fall
ENDED = ("completed", "failed", "expired", "cancelled")
PIECE_MS = Limits().bulk_call_ms


class Phase(NamedTuple):
    """Interactive requests of one phase."""

    sent: int
    failed: int
    p50_ms: float
    p95_ms: float
    in_time: float  # of 100


class Result(NamedTuple):
    """What was measured."""

    lines: int
    seconds: float
    done_beside: int  # lines, while interactive requests were measured
    killed: Counter[str]
    found: Counter[str]
    alone: Phase
    beside: Phase


def line(number: int) -> str:
    """One line of the batch."""
    body = {"model": "large", "input": f"line {number} of a batch", "encoding_format": "base64"}
    request = {"method": "POST", "url": "/v1/embeddings", "body": body}
    return json.dumps({"custom_id": f"c{number}", **request})


async def interactive(
    session: aiohttp.ClientSession, url: str, rate: float, seconds: float
) -> Phase:
    """Send requests at a steady rate."""
    took_ms, budgets_ms = list[float](), list[float]()

    async def one(number: int) -> bool:
        budget_ms = BUDGETS_MS[number % len(BUDGETS_MS)]
        begun_s = time.monotonic()
        text = f"interactive {time.time_ns()}"
        body = {"model": "large", "input": text, "latency_budget_ms": budget_ms}
        answered = False
        with suppress(aiohttp.ClientError):
            async with session.post(f"{url}/v1/embeddings", json=body) as answer:
                await answer.read()
                answered = answer.status == 200
        took_ms.append((time.monotonic() - begun_s) * 1000 if answered else np.inf)
        budgets_ms.append(budget_ms)
        return answered

    start_s = time.monotonic()
    async with asyncio.TaskGroup() as group:
        tasks = []
        for number in range(round(rate * seconds)):
            await asyncio.sleep(max(0.0, start_s + number / rate - time.monotonic()))
            tasks.append(group.create_task(one(number)))
    p50, p95 = np.percentile(took_ms, (50, 95), method="higher")
    in_time = 100 * float(np.mean(np.array(took_ms) <= np.array(budgets_ms)))
    failed = sum(not task.result() for task in tasks)
    return Phase(len(tasks), failed, float(p50), float(p95), in_time)


async def _json(session: aiohttp.ClientSession, method: str, url: str, **sent: Any) -> Any:
    """The answer of a router, asked again while one that was killed is still in the proxy."""
    for _ in range(600):
        with suppress(aiohttp.ClientError, TimeoutError):
            async with session.request(method, url, **sent) as answer:
                if answer.status == 200:
                    return await answer.json()
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


async def _state(on: Stage, session: aiohttp.ClientSession, batch: str) -> tuple[Any, int]:
    """The batch, and how many of its lines are done."""
    now = await _json(session, "GET", f"{on.url}/v1/batches/{batch}")
    return now, now["request_counts"]["completed"] + now["request_counts"]["failed"]


async def _kill_until_ended(
    on: Stage, session: aiohttp.ClientSession, batch: str, lines: int, kills: int
) -> tuple[dict[str, Any], Counter[str]]:
    """Kill one process each time that a part of what is left is done."""
    killed: Counter[str] = Counter()
    now, done = await _state(on, session, batch)
    every = max(1, (lines - done) // (kills + 1))
    due = done
    while now["status"] not in ENDED:
        if done >= due and killed.total() < kills:
            name = KILLED[killed.total() % len(KILLED)]
            with suppress(IndexError, psutil.NoSuchProcess):  # one is still being replaced
                on.replicas(name)[0].kill()
                killed[name] += 1
                due += every
        await asyncio.sleep(0.5)
        now, done = await _state(on, session, batch)
    return now, killed


async def _found(session: aiohttp.ClientSession, url: str, batch: dict[str, Any]) -> Counter[str]:
    found: Counter[str] = Counter()
    for id in filter(None, (batch["output_file_id"], batch["error_file_id"])):
        async with session.get(f"{url}/v1/files/{id}/content") as answer:
            answer.raise_for_status()
            async for raw in answer.content:
                found[json.loads(raw)["custom_id"]] += 1
    return found


async def measure(lines: int, rate: float, seconds: float, kills: int, port: int) -> Result:
    """One run."""
    with tempfile.TemporaryDirectory(prefix="er-batches-", dir="/tmp") as scratch:
        folder = {"folder": str(Path(scratch) / "shared")}
        async with (
            stage(Path(scratch), port, batches=folder) as on,
            aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=60), read_bufsize=2**20
            ) as session,
        ):
            await interactive(session, on.url, rate, min(seconds, 5.0))  # warm
            alone = await interactive(session, on.url, rate, seconds)
            begun_s, batch = time.monotonic(), await _begun(session, on.url, lines)
            beside = await interactive(session, on.url, rate, seconds)
            _, done = await _state(on, session, batch)
            ended, killed = await _kill_until_ended(on, session, batch, lines, kills)
            took_s = time.monotonic() - begun_s
            found = await _found(session, on.url, ended)
    return Result(lines, took_s, done, killed, found, alone, beside)


def judged(result: Result) -> list[Row]:
    """The figures, each with what it was to be."""
    alone, beside, found = result.alone, result.beside, result.found
    wanted = {f"c{number}" for number in range(result.lines)}
    missing, more = len(wanted - found.keys()), found.total() - len(wanted & found.keys())
    slowest_ms, least = alone.p95_ms + PIECES * PIECE_MS, alone.in_time - POINTS
    return [
        Row("lines", result.lines),
        Row("seconds until the batch ended", result.seconds),
        *(Row(f"killed: {name}", count) for name, count in result.killed.items()),
        at_most("lines missing", missing, 0),
        at_most("lines twice or of no batch", more, 0),
        Row("interactive requests, alone", alone.sent),
        Row("interactive p50, alone, ms", alone.p50_ms),
        Row("interactive p95, alone, ms", alone.p95_ms),
        Row("in time, alone, %", alone.in_time),
        Row("lines done beside them", result.done_beside),
        Row("interactive requests, beside", beside.sent),
        Row("interactive p50, beside, ms", beside.p50_ms),
        at_most("interactive p95, beside, ms", beside.p95_ms, slowest_ms),
        at_least("in time, beside, %", beside.in_time, least),
        Row("interactive requests not answered", alone.failed + beside.failed),
    ]


@click.command()
@click.option("--lines", default=50_000, show_default=True, type=click.IntRange(1, 50_000))
@click.option("--rate", default=20.0, show_default=True, help="Interactive requests a second.")
@click.option("--seconds", default=60.0, show_default=True, help="Of each interactive phase.")
@click.option("--kills", default=8, show_default=True, help="Processes that are killed.")
@to_file
@click.option("--port", default=8150, show_default=True, help="This one and the next are used.")
def main(lines: int, rate: float, seconds: float, kills: int, file: Path | None, port: int) -> None:
    """Run a batch beside interactive requests and under kills; exits 1 where a mark was missed."""
    rows = judged(asyncio.run(measure(lines, rate, seconds, kills, port)))
    show(rows)
    conclude(rows, file)
