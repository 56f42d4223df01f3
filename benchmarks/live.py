"""Shared parts of live benchmarks: a router, uncached texts and load.

Texts are in the folder of `--data` (benchmarks/public_data.py): intents of bank customers and
scientific claims (short, English), abstracts (long, English), and short texts in 42 languages. Each
ends with a number, so that no text is sent twice.
"""

import asyncio
import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import aiohttp
import click
import httpx
import psutil
import yaml

from benchmarks.marks import Row, to_file
from benchmarks.public_data import read, require, sample
from deployments.launch.serve_config import application
from deployments.tools.calibrate import replicas
from router.config import RouterArgs
from router.decision_log import read as decisions
from tests.support.ports import free_port

ROOT = Path(__file__).resolve().parents[1]
LOCAL = ROOT / "configs" / "local.yaml"
# fewer than texts have here: a client must not send one that is too long for its model
CHARACTERS_A_TOKEN = 2.5
READY_S = 180.0
STOP_S = 30.0
ANSWER_S = 60.0
LOG_S = 30.0
Command = TypeVar("Command", bound=Callable[..., Any])

with_config = click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=LOCAL,
    show_default="configs/local.yaml",
    help="Config with the models.",
)


def of_turns(seconds: float, turns: int) -> Callable[[Command], Command]:
    """The options of a benchmark that loads a router with several strategies alternately."""
    options = (
        with_config,
        click.option("--base-url", help="URL of a running router with this config."),
        click.option(
            "--seconds",
            type=click.FloatRange(1.0),
            default=seconds,
            show_default=True,
            help="Seconds per turn.",
        ),
        click.option(
            "--turns",
            type=click.IntRange(1),
            default=turns,
            show_default=True,
            help="Turns per strategy and load.",
        ),
        sample,
        to_file,
        click.option("--seed", type=int, default=0, show_default=True),
    )

    def decorated(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorated


class Text(NamedTuple):
    """A text to embed, and its properties."""

    text: str
    language: str  # ISO 639-1
    kind: str  # "query", "passage" or "foreign"


class Ask(NamedTuple):
    """One request: a text, the other fields of the body, and the caller's time limit.

    With documents they are ranked for the text; else the text is embedded.
    """

    text: Text
    options: Mapping[str, Any]
    budget_s: float | None = None
    documents: tuple[str, ...] = ()


class RequestResult(NamedTuple):
    """Outcome of one request."""

    ask: Ask
    status: int  # 0: no answer
    model: str | None
    reason: str | None
    total_s: float  # since the request was due, until the last byte
    body: bytes = b""  # of an answer, where the client keeps it
    at_s: float = 0.0  # when it was due, since the start of its load
    lag_s: float = 0.0  # how much later the client sent it


def worst_lag(results: Iterable[RequestResult]) -> Row:
    """The longest time between a request's due time and its sending."""
    return Row("client's worst lag, ms", 1000 * max((one.lag_s for one in results), default=0.0))


class Router(NamedTuple):
    """A router that answers at `url`; `process` is None if this benchmark did not start it."""

    url: str
    args: RouterArgs
    process: psutil.Process | None

    def replica(self, model: str) -> psutil.Process | None:
        """The process of a model's replica, if this benchmark started it."""
        return (
            None
            if self.process is None
            else next(replicas(model, self.process.children(recursive=True)), None)
        )


@contextmanager
def router(
    config: Path,
    base_url: str | None,
    models: Mapping[str, Any] = MappingProxyType({}),
    **sections: Any,
) -> Iterator[Router]:
    """A router on a free port with `sections` in its `args:` and more `models`, stopped at the end;
    or the one at `base_url`, unchanged.
    """
    args, _ = application(config)
    if base_url is not None:
        yield Router(base_url.rstrip("/").removesuffix("/v1"), args, None)
        return
    data = yaml.safe_load(config.read_text())
    for one in data["applications"]:
        one["args"] |= sections
        one["args"]["models"] |= models
    with tempfile.TemporaryDirectory() as scratch:
        path, log = Path(scratch) / config.name, Path(scratch) / "log"
        for one in data["applications"]:
            if "batches" in one["args"]:  # not the user's own
                one["args"]["batches"]["folder"] = str(Path(scratch) / "batches")
        path.write_text(yaml.safe_dump(data, sort_keys=False))  # the order of models is their rank
        port = free_port()
        command = [
            sys.executable,
            "-m",
            "router.cli",
            "run",
            "--config",
            str(path),
            "--port",
            str(port),
        ]
        with log.open("wb") as out:
            started = subprocess.Popen(
                command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, env=os.environ | _OFFLINE
            )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_ready(url, started, log)
            yield Router(url, args, psutil.Process(started.pid))
        finally:
            started.send_signal(signal.SIGINT)
            try:
                started.wait(STOP_S)
            except subprocess.TimeoutExpired:
                started.send_signal(signal.SIGINT)  # the second one ends everything at once
                started.wait(STOP_S)


_OFFLINE = {"HF_HUB_OFFLINE": "1", "RAY_worker_niceness": "0"}


def _wait_until_ready(url: str, started: "subprocess.Popen[bytes]", log: Path) -> None:
    until_s = time.monotonic() + READY_S
    while time.monotonic() < until_s and started.poll() is None:
        with suppress(httpx.HTTPError):
            if httpx.get(f"{url}/health", timeout=5, verify=False).status_code == httpx.codes.OK:
                return
        time.sleep(0.5)
    raise click.ClickException(f"the router did not become ready:\n{log.read_text()[-2000:]}")


def written(log: Path, requests: int) -> bytes:
    """A decision log once it holds this many requests; raises click.ClickException."""
    until_s = time.monotonic() + LOG_S
    while True:
        data = log.read_bytes()
        if sum(1 for _ in decisions(data.splitlines(keepends=True))) >= requests:
            return data
        if time.monotonic() > until_s:
            raise click.ClickException(f"{log} does not hold {requests} requests")
        time.sleep(0.2)


def processes(root: psutil.Process, pattern: str) -> list[psutil.Process]:
    """Find the living processes below `root` whose title matches."""
    found: list[psutil.Process] = []
    try:
        below = root.children(recursive=True)
    except psutil.NoSuchProcess:
        return found
    for process in below:
        with suppress(psutil.Error):
            title = " ".join(process.cmdline()).strip() or process.name()
            if process.status() != psutil.STATUS_ZOMBIE and re.search(pattern, title):
                found.append(process)
    return found


class Texts:
    """New texts of three kinds, in a declared mix."""

    MIX: Mapping[str, float] = {"query": 0.6, "passage": 0.2, "foreign": 0.2}

    def __init__(self, rng: random.Random, folder: Path) -> None:
        require(folder, "banking77-test.csv", "language-id.jsonl")
        scifact = read(folder, "scifact-mini.json")
        with (folder / "banking77-test.csv").open() as lines:
            intents = [row["text"] for row in csv.DictReader(lines)]
        foreign = [
            json.loads(line) for line in (folder / "language-id.jsonl").read_text().splitlines()
        ]
        self._kinds: dict[str, list[tuple[str, str]]] = {
            "query": [(text, "en") for text in [*intents, *scifact["queries"].values()]],
            "passage": [(document["text"], "en") for document in scifact["corpus"].values()],
            "foreign": [(one["text"], one["lang"]) for one in foreign if one["lang"] != "en"],
        }
        self._rng, self._sent = rng, 0

    def __next__(self) -> Text:
        kind = self._rng.choices(list(self.MIX), list(self.MIX.values()))[0]
        text, language = self._rng.choice(self._kinds[kind])
        if kind == "passage":
            text = text[: self._rng.randrange(200, 1000)]
        self._sent += 1
        return Text(f"{text} {self._sent}", language, kind)

    def __iter__(self) -> "Texts":
        return self


class Client:
    """A client of one router; open it with `async with`."""

    def __init__(
        self,
        url: str,
        keeps_bodies: bool = False,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._url, self._keeps_bodies, self._headers = f"{url}/v1", keeps_bodies, headers

    async def __aenter__(self) -> "Client":
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=ANSWER_S),
            headers=self._headers,
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._session.close()

    async def send(self, ask: Ask, due_s: float | None = None) -> RequestResult:
        """Send one request and time it until the last byte, from `due_s` of `time.perf_counter`
        or from now.
        """
        path = "rerank" if ask.documents else "embeddings"
        body: dict[str, Any] = {"input": ask.text.text, "encoding_format": "base64"}
        if ask.documents:
            body = {"query": ask.text.text, "documents": ask.documents}
        sent_s = time.perf_counter()
        due_s = sent_s if due_s is None else due_s
        lag_s = sent_s - due_s
        try:
            async with self._session.post(
                f"{self._url}/{path}", json=body | dict(ask.options)
            ) as answer:
                read = await answer.read()
                status, headers = answer.status, answer.headers
        except (aiohttp.ClientError, TimeoutError):
            total_s = time.perf_counter() - due_s
            return RequestResult(ask, 0, None, None, total_s, lag_s=lag_s)
        model, reason = headers.get("x-embedding-model"), headers.get("x-routing-reason")
        total_s = time.perf_counter() - due_s
        kept = read if self._keeps_bodies else b""
        return RequestResult(ask, status, model, reason, total_s, kept, lag_s=lag_s)

    async def at_rate(
        self,
        make: Callable[[], Ask],
        rate: float,
        seconds: float,
        rng: random.Random,
        done: Callable[[RequestResult], None] | None = None,
    ) -> list[RequestResult]:
        """Send `rate` requests per second with random gaps (Poisson), whether or not they are
        answered; return when all are.

        The gaps depend on `rng` alone, and latency counts from the time that they give a request.
        """
        loop, tasks = asyncio.get_running_loop(), list[asyncio.Task[RequestResult]]()
        start_s, at_s = time.perf_counter(), 0.0

        async def one(ask: Ask, at_s: float) -> RequestResult:
            return (await self.send(ask, start_s + at_s))._replace(at_s=at_s)

        while (at_s := at_s + rng.expovariate(rate)) < seconds:
            await asyncio.sleep(max(0.0, start_s + at_s - time.perf_counter()))
            task = loop.create_task(one(make(), at_s))
            if done is not None:
                task.add_done_callback(lambda task: done(task.result()))
            tasks.append(task)
        return list(await asyncio.gather(*tasks))

    async def capacity(self, make: Callable[[], Ask], clients: int, seconds: float) -> float:
        """Answers per second when `clients` always have one request in flight."""
        until_s, answered = time.perf_counter() + seconds, 0

        async def one() -> None:
            nonlocal answered
            while time.perf_counter() < until_s:
                result = await self.send(make())
                answered += result.status == httpx.codes.OK and time.perf_counter() <= until_s

        await asyncio.gather(*(one() for _ in range(clients)))
        return answered / seconds
