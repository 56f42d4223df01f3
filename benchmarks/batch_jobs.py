"""Measure a batch's effect on other requests, and its survival when processes are killed.

Fake engines in a real Ray Serve behind HAProxy (benchmarks/chaos_stage.py). Interactive requests
with a budget arrive at a steady rate, first alone and then beside the batch. They continue while
the router that runs the batch and replicas that answer it are killed alternately with SIGKILL,
until the batch ends. Each of its lines must then be in its output exactly once.
"""

import asyncio
import json
import math
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import aiohttp
import click
import numpy as np
import psutil

from benchmarks.chaos_stage import RECOVER_S, stage
from benchmarks.marks import Row, at_least, at_most, conclude, show, to_file
from router.limits_config import Limits

KILLED = ("router", "large")  # alternately
BUDGETS_MS = (100.0, 250.0, 1000.0)
PIECES = 1.2  # of the longest piece of bulk work, by which an interactive request may take longer
POINTS = 1.0  # by which the share that is in time may fall
ENDED = ("completed", "failed", "expired", "cancelled")
PIECE_MS = Limits().bulk_call_ms
ANSWER_S = 60.0  # within which a request is answered, or counts as not answered


class Phase(NamedTuple):
    """Interactive requests of one phase."""

    sent: int
    failed: int
    p50_ms: float
    p95_ms: float
    in_time: float  # of 100


class Result(NamedTuple):
    """The measurements of one run."""

    lines: int
    kills: int  # that were to be
    seconds: float
    completed: bool
    done_beside: int  # lines, while interactive requests were measured
    left: int  # lines, when the first process was killed
    killed: Counter[str]
    found: Counter[str]
    refused: int  # of the lines found
    alone: Phase
    beside: Phase
    under_kills: Phase


def line(number: int) -> str:
    """One line of the batch."""
    body = {"model": "large", "input": f"line {number} of a batch", "encoding_format": "base64"}
    request = {"method": "POST", "url": "/v1/embeddings", "body": body}
    return json.dumps({"custom_id": f"c{number}", **request})


async def interactive(
    session: aiohttp.ClientSession,
    url: str,
    rate: float,
    seconds: float = math.inf,
    stop: asyncio.Event | None = None,
) -> Phase:
    """Send requests at a steady rate for `seconds`, or until `stop` is set."""
    took_ms, budgets_ms = list[float](), list[float]()

    async def one(number: int) -> None:
        budget_ms = BUDGETS_MS[number % len(BUDGETS_MS)]
        begun_s = time.monotonic()
        text = f"interactive {time.time_ns()}"
        body = {"model": "large", "input": text, "latency_budget_ms": budget_ms}
        answered = False
        with suppress(aiohttp.ClientError, TimeoutError):
            async with session.post(f"{url}/v1/embeddings", json=body) as answer:
                await answer.read()
                answered = answer.status == 200
        took_ms.append((time.monotonic() - begun_s) * 1000 if answered else math.inf)
        budgets_ms.append(budget_ms)

    start_s, number = time.monotonic(), 0
    async with asyncio.TaskGroup() as group:
        while not number or (number < rate * seconds and not (stop is not None and stop.is_set())):
            await asyncio.sleep(max(0.0, start_s + number / rate - time.monotonic()))
            group.create_task(one(number))
            number += 1
    return phase(took_ms, budgets_ms)


def phase(took_ms: list[float], budgets_ms: list[float]) -> Phase:
    """Sum up requests; an unanswered one counts as infinitely late."""
    in_time = 100 * float(np.mean(np.array(took_ms) <= np.array(budgets_ms)))
    ordered = sorted(took_ms)
    p50, p95 = (ordered[math.ceil(share * len(ordered)) - 1] for share in (0.5, 0.95))
    return Phase(len(ordered), ordered.count(math.inf), p50, p95, in_time)


async def _json(session: aiohttp.ClientSession, method: str, url: str, **sent: Any) -> Any:
    """Response of a router; retried while the proxy still lists a killed router."""
    end_s = time.monotonic() + RECOVER_S
    while time.monotonic() < end_s:
        with suppress(aiohttp.ClientError, TimeoutError):
            async with session.request(method, url, **sent) as answer:
                if answer.status == 200:
                    return await answer.json()
        await asyncio.sleep(0.2)
    raise click.ClickException(f"{method} {url} was not answered within {RECOVER_S:g} s")


class HasProcesses(Protocol):
    """A running service whose processes can be killed."""

    @property
    def url(self) -> str: ...

    def replicas(self, deployment: str) -> list[psutil.Process]: ...


class ObservedBatch:
    """The batch as a client sees it."""

    def __init__(self, on: HasProcesses, session: aiohttp.ClientSession, lines: int) -> None:
        self._on, self._session, self.lines = on, session, lines
        self.id, self.state = "", dict[str, Any]()

    async def begin(self) -> None:
        """Upload the lines, create a batch, and wait until some are done."""
        form = aiohttp.FormData({"purpose": "batch"})
        form.add_field("file", "\n".join(map(line, range(self.lines))), filename="in.jsonl")
        async with self._session.post(f"{self._on.url}/v1/files", data=form) as answer:
            answer.raise_for_status()
            file = await answer.json()
        body = {
            "input_file_id": file["id"],
            "endpoint": "/v1/embeddings",
            "completion_window": "24h",
        }
        async with self._session.post(f"{self._on.url}/v1/batches", json=body) as answer:
            answer.raise_for_status()
            self.id = (await answer.json())["id"]
        await self.until(lambda: self.done > 0)

    @property
    def done(self) -> int:
        """Number of finished lines at the last poll."""
        counts = self.state["request_counts"]
        return int(counts["completed"] + counts["failed"])

    @property
    def ended(self) -> bool:
        """Whether the batch had ended at the last poll."""
        return self.state["status"] in ENDED

    async def look(self) -> None:
        """Poll the batch."""
        url = f"{self._on.url}/v1/batches/{self.id}"
        self.state = await _json(self._session, "GET", url)

    async def until(self, reached: Callable[[], bool]) -> None:
        """Wait until a condition holds or the batch has ended; raise if it makes no progress."""
        await self.look()
        last, since_s = self.done, time.monotonic()
        while not self.ended and not reached():
            if self.done > last:
                last, since_s = self.done, time.monotonic()
            elif time.monotonic() - since_s > RECOVER_S:
                raise click.ClickException(f"no line was done in {RECOVER_S:g} s: {self.state}")
            await asyncio.sleep(0.5)
            await self.look()

    async def killed(self, kills: int) -> Counter[str]:
        """Kill this many processes, one after each equal part of the remaining lines, and wait
        until the batch has ended.
        """
        killed: Counter[str] = Counter()
        await self.look()
        begun = self.done
        every = (self.lines - begun) / (kills + 1)
        for number in range(kills):
            name = KILLED[number % len(KILLED)]
            await self.until(partial(self._killed, name, begun + every * number))
            if self.ended:
                break
            killed[name] += 1
        await self.until(lambda: False)
        return killed

    def _killed(self, name: str, due: float) -> bool:
        """Kill one process of this name once this many lines are done; False until then."""
        victim = None if self.done < due else self._victim(name)
        with suppress(psutil.NoSuchProcess):
            if victim is not None:
                victim.kill()
                return True
        return False

    def _victim(self, name: str) -> psutil.Process | None:
        """The router that runs the batch, or any replica of a model; None while there is none."""
        found = self._on.replicas(name)
        return next((one for one in found if name != "router" or self._runs(one)), None)

    def _runs(self, router: psutil.Process) -> bool:
        """Whether a router has files of the batch open."""
        with suppress(psutil.Error):
            return any(f"/{self.id}/" in file.path for file in router.open_files())
        return False

    async def found(self) -> tuple[Counter[str], int]:
        """How often each line is in the output, and how many were refused."""
        found: Counter[str] = Counter()
        refused = 0
        for id in filter(None, (self.state["output_file_id"], self.state["error_file_id"])):
            async with self._session.get(f"{self._on.url}/v1/files/{id}/content") as answer:
                answer.raise_for_status()
                async for raw in answer.content:
                    row = json.loads(raw)
                    found[row["custom_id"]] += 1
                    refused += (row["response"] or {}).get("status_code") != 200
        return found, refused


async def measure(lines: int, rate: float, seconds: float, kills: int, port: int) -> Result:
    """Run the whole benchmark once."""
    with tempfile.TemporaryDirectory(prefix="er-batches-", dir="/tmp") as scratch:
        folder = {"folder": str(Path(scratch) / "shared")}
        async with (
            stage(Path(scratch), port, batches=folder) as on,
            aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=ANSWER_S), read_bufsize=2**20
            ) as session,
        ):
            await interactive(session, on.url, rate, min(seconds, 5.0))  # warm
            alone = await interactive(session, on.url, rate, seconds)
            job, begun_s = ObservedBatch(on, session, lines), time.monotonic()
            await job.begin()
            before = job.done
            beside = await interactive(session, on.url, rate, seconds)
            await job.look()
            done, left, stop = job.done - before, lines - job.done, asyncio.Event()
            load = asyncio.create_task(interactive(session, on.url, rate, stop=stop))
            try:
                killed = await job.killed(kills)
                took_s = time.monotonic() - begun_s
            finally:
                stop.set()
                under_kills = await load
            await on.recovered()
            found, refused = await job.found()
            completed = job.state["status"] == "completed"
    return Result(
        lines,
        kills,
        took_s,
        completed,
        done,
        left,
        killed,
        found,
        refused,
        alone,
        beside,
        under_kills,
    )


def judged(result: Result) -> list[Row]:
    """The figures and their marks."""
    alone, beside, found = result.alone, result.beside, result.found
    wanted = {f"c{number}" for number in range(result.lines)}
    missing, more = len(wanted - found.keys()), found.total() - len(wanted & found.keys())
    return [
        Row("lines", result.lines),
        Row("seconds until the batch ended", result.seconds),
        *(Row(f"killed: {name}", count) for name, count in result.killed.items()),
        at_least("kills before its end", result.killed.total(), result.kills),
        at_least("batches completed", result.completed, 1),
        at_most("lines missing", missing, 0),
        at_most("lines twice or of no batch", more, 0),
        at_most("lines refused", result.refused, 0),
        Row("interactive requests, alone", alone.sent),
        Row("interactive p50, alone, ms", alone.p50_ms),
        Row("interactive p95, alone, ms", alone.p95_ms),
        Row("in time, alone, %", alone.in_time),
        at_least("lines left after those beside", result.left, 1),
        at_least("lines done beside", result.done_beside, 1),
        Row("interactive requests, beside", beside.sent),
        Row("interactive p50, beside, ms", beside.p50_ms),
        at_most("interactive p95, beside, ms", beside.p95_ms, alone.p95_ms + PIECES * PIECE_MS),
        at_least("in time, beside, %", beside.in_time, alone.in_time - POINTS),
        at_most("interactive requests not answered", alone.failed + beside.failed, 0),
        Row("interactive requests, under kills", result.under_kills.sent),
        Row("not answered, under kills", result.under_kills.failed),
        Row("interactive p95, under kills, ms", result.under_kills.p95_ms),
        Row("in time, under kills, %", result.under_kills.in_time),
    ]


@click.command()
@click.option("--lines", default=50_000, show_default=True, type=click.IntRange(1, 50_000))
@click.option("--rate", default=20.0, show_default=True, help="Interactive requests per second.")
@click.option(
    "--seconds", default=60.0, show_default=True, help="Seconds of each interactive phase."
)
@click.option("--kills", default=8, show_default=True, help="Number of processes to kill.")
@to_file
@click.option("--port", default=8150, show_default=True, help="First of two ports to use.")
def main(lines: int, rate: float, seconds: float, kills: int, file: Path | None, port: int) -> None:
    """Run a batch beside interactive requests and while processes are killed; exit 1 if a mark is
    missed.
    """
    rows = judged(asyncio.run(measure(lines, rate, seconds, kills, port)))
    show(rows)
    conclude(rows, file)
