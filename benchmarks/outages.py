"""Measure the outage after each process is killed.

Runs the real models of `configs/local.yaml`, or engines that sleep with --fakes, and two routers.
Short texts with `model: auto` and a budget of 500 ms are sent twenty times a second while one
process after another is killed. The killed replica is that of the model that `auto` chooses.

If a replica, a router or Serve's controller dies, every request must be answered, 95 % of them
within their budget, and no second may pass without an answer. Without HAProxy, its manager or Ray's
agent the service is down; the marks limit the time. After each death everything must be whole again
within three minutes: the process has a successor, and every router has all replicas.
"""

import asyncio
import contextlib
import random
import re
import tempfile
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import click
import psutil
import yaml

from benchmarks.chaos_stage import REPLICAS
from benchmarks.chaos_stage import config as fake_config
from benchmarks.live import LOCAL, ROOT, Router, processes, router
from benchmarks.marks import Row, at_least, at_most, conclude, show, to_file

BUDGET_MS = 500
EVERY_S = 0.05  # a request is sent
BEFORE_S, AFTER_S = 4.0, 2.0
WHOLE_S = 180.0
STEADY_POLLS = 4  # in a row, as each is answered by another router
ANSWER_S = 30.0
ANSWERED = "answered"
REPLICA = r"^ray::ServeReplica:[^:]*:{}(\.\w+)?( |$)"
WORDS = ("index", "vector", "space", "query", "cluster", "shard", "recall", "latency", "token")


class Victim(NamedTuple):
    """A kind of process, and the allowed effect of its death."""

    title: str  # a pattern; {} is the model that `auto` chooses
    silent_s: float  # without any answer, at most
    serves_on: bool  # whether every request is to be answered
    one: bool = False  # of several processes only one is killed


VICTIMS = {
    "replica": Victim(REPLICA, 1.0, True, one=True),
    "router": Victim(REPLICA.format("router"), 1.0, True, one=True),
    "controller": Victim(r"^ray::ServeController", 1.0, True),
    "haproxy": Victim(r"(^|/)haproxy .*-f ", 15.0, False),
    "haproxy-manager": Victim(r"^ray::HAProxyManager", 15.0, False),
    "agent": Victim(r"DashboardAgent", 120.0, False),
}
IN_BUDGET = 95.0  # percent, where the service goes on


class Sent(NamedTuple):
    """Outcome of one request."""

    at_s: float  # when it had ended
    took_s: float
    outcome: str  # ANSWERED, status and code, or the error of a connection

    @property
    def in_budget(self) -> bool:
        return self.outcome == ANSWERED and self.took_s <= BUDGET_MS / 1000


class Load:
    """Short uncached texts at a steady rate, each with a budget."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session, self._rng = session, random.Random(3)
        self.sent = list[Sent]()

    async def _one(self) -> None:
        text = f"{self._rng.getrandbits(48):x} {' '.join(self._rng.choices(WORDS, k=8))}"
        body = {"input": text, "model": "auto", "latency_budget_ms": BUDGET_MS}
        start_s, outcome = time.monotonic(), ANSWERED
        try:
            async with self._session.post("/v1/embeddings", json=body) as answer:
                data = await answer.json(content_type=None)
            if answer.status != 200:
                outcome = f"{answer.status} {data['error']['code']}"
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError) as error:
            outcome = type(error).__name__
        end_s = time.monotonic()
        self.sent.append(Sent(end_s, end_s - start_s, outcome))

    async def run(self, stop: asyncio.Event) -> None:
        """Send until `stop` is set, whether or not requests are answered."""
        tasks = set[asyncio.Task[None]]()
        while not stop.is_set():
            tasks.add(asyncio.create_task(self._one()))
            await asyncio.sleep(EVERY_S)
        await asyncio.gather(*tasks)


class Service(NamedTuple):
    """The service whose processes are killed."""

    running: Router
    replicas: dict[str, int]  # of each deployment
    target: str  # the model that `auto` chooses

    def living(self, title: str, gone: set[int]) -> list[psutil.Process]:
        """The processes with this title that are not `gone`."""
        assert self.running.process is not None
        return [one for one in processes(self.running.process, title) if one.pid not in gone]

    async def whole(self, title: str, gone: set[int]) -> float | None:
        """Seconds until the killed processes have successors and every router has all replicas;
        None if that takes too long.
        """
        start_s, steady = time.monotonic(), 0
        timeout = aiohttp.ClientTimeout(5)
        async with aiohttp.ClientSession(self.running.url, timeout=timeout) as session:
            while (spent_s := time.monotonic() - start_s) < WHOLE_S:
                there = len(self.living(title, gone)) >= len(gone) and all(
                    len(self.living(REPLICA.format(re.escape(name)), gone)) >= count
                    for name, count in self.replicas.items()
                )
                steady = steady + 1 if there and await self._ready(session) else 0
                if steady == STEADY_POLLS:
                    return spent_s
                await asyncio.sleep(0.25)
        return None

    async def _ready(self, session: aiohttp.ClientSession) -> bool:
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, KeyError, ValueError):
            async with session.get("/v1/tiers") as answer:
                rows = (await answer.json())["data"]
                return all(
                    row["replicas_ready"] >= self.replicas.get(row["model"], 0) for row in rows
                )
        return False


async def play(service: Service, name: str) -> list[Row]:
    """Kill one process under load."""
    victim = VICTIMS[name]
    title = victim.title.format(re.escape(service.target))
    async with aiohttp.ClientSession(
        service.running.url,
        timeout=aiohttp.ClientTimeout(ANSWER_S),
        connector=aiohttp.TCPConnector(limit=0),
    ) as session:
        load, stop = Load(session), asyncio.Event()
        sending = asyncio.create_task(load.run(stop))
        await asyncio.sleep(BEFORE_S)
        found = service.living(title, set())
        if not found:
            raise click.ClickException(f"there is no process of {name}")
        killed = found[:1] if victim.one else found
        killed_s = time.monotonic()
        for process in killed:
            process.kill()
        whole_s = await service.whole(title, {process.pid for process in killed})
        await asyncio.sleep(AFTER_S)
        ended_s = time.monotonic()
        stop.set()
        await sending
    for outcome, count in Counter(one.outcome for one in load.sent).items():
        click.echo(f"{name}: {count} x {outcome}")
    return judged(name, load.sent, killed_s, ended_s, whole_s)


def judged(
    name: str, sent: list[Sent], killed_s: float, ended_s: float, whole_s: float | None
) -> list[Row]:
    """The outcome of requests that had not ended when `name` was killed."""
    victim = VICTIMS[name]
    before = [one for one in sent if one.at_s < killed_s]
    after = [one for one in sent if one.at_s >= killed_s]
    answers = sorted(one.at_s for one in after if one.outcome == ANSWERED)
    times = [killed_s, *answers, max([ended_s, *answers])]
    silent_s = max(later - sooner for sooner, later in pairwise(times))
    lost = sum(one.outcome != ANSWERED for one in after)
    longest_s = max((one.took_s for one in after if one.outcome == ANSWERED), default=0.0)
    return [
        Row(f"{name}: in budget before, %", _share(before)),
        at_least(
            f"{name}: in budget after, %", _share(after), IN_BUDGET if victim.serves_on else None
        ),
        at_most(f"{name}: not answered", lost, 0 if victim.serves_on else None),
        at_most(f"{name}: seconds without answers", silent_s, victim.silent_s),
        Row(f"{name}: longest answer, s", longest_s),
        at_most(
            f"{name}: whole again after, s", WHOLE_S + 1 if whole_s is None else whole_s, WHOLE_S
        ),
    ]


def _share(sent: list[Sent]) -> float:
    return 100 * sum(one.in_budget for one in sent) / max(1, len(sent))


def local_config(file: Path) -> dict[str, int]:
    """Write `configs/local.yaml` with two routers; returns the replicas of each deployment."""
    data: dict[str, Any] = yaml.safe_load(LOCAL.read_text())
    application = data["applications"][0]
    application["args"]["base_dir"] = str(ROOT)
    application["deployments"][0]["num_replicas"] = REPLICAS["router"]
    file.write_text(yaml.safe_dump(data, sort_keys=False))
    return {"router": REPLICAS["router"], **dict.fromkeys(application["args"]["tiers"].values(), 1)}


async def play_all(running: Router, names: tuple[str, ...], replicas: dict[str, int]) -> list[Row]:
    """Kill the processes in the order of VICTIMS; the last one restarts the whole service."""
    async with aiohttp.ClientSession(running.url) as session:
        body = {"input": " ".join(WORDS), "latency_budget_ms": BUDGET_MS}
        async with session.post("/v1/route", json=body) as answer:
            target = (await answer.json())["decision"]["model"]
    rows = list[Row]()
    for name in sorted(names, key=list(VICTIMS).index):
        found = await play(Service(running, replicas, target), name)
        show(found)
        rows += found
    return rows


@click.command()
@click.option(
    "--kill",
    "names",
    multiple=True,
    type=click.Choice(list(VICTIMS)),
    help="Process to kill; repeatable. [default: all]",
)
@click.option(
    "--fakes", is_flag=True, help="Use engines that sleep instead of the models of local.yaml."
)
@to_file
def main(names: tuple[str, ...], fakes: bool, file: Path | None) -> None:
    """Kill one process after another and measure the time without answers; exit 1 if a mark is
    missed.
    """
    with tempfile.TemporaryDirectory(prefix="er-outages-", dir="/tmp") as scratch:
        path, replicas = Path(scratch) / "outages.yaml", REPLICAS
        if fakes:
            path.write_text(yaml.safe_dump(fake_config(Path(scratch)), sort_keys=False))
        else:
            replicas = local_config(path)
        with router(path, None) as running:
            rows = asyncio.run(play_all(running, names or tuple(VICTIMS), replicas))
    conclude(rows, file)
