"""Measure how often Python keeps the device idle.

A simulated device runs behind vLLM's real scheduler: its steps take as long as those of
Qwen3-Embedding-0.6B on an H200 (`SECONDS`), and compute nothing. Two engines alternate, round by
round, each in its own process: the current one (`now`), and one that prepares texts on the stepping
thread, one step at a time, as version 0.1 did (`before`, device_before.py). Calls are those of a
saturated dispatcher: three in flight, each a full step. Of calls with one large
chunk (more than 512 tokens) it sends only two, as at the point `two calls`.

Busy is the share of the time that the device worked. Microseconds are CPU time of the whole process
per text. A ratio is of the best round of each, as worse rounds reflect other load on a shared
machine; `median` is the median of the ratios of the rounds.
"""

import asyncio
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import numpy as np

from benchmarks.marks import Row, at_least, at_most, to_file, write
from benchmarks.servers import kept
from router.arrays import TokenIds

if TYPE_CHECKING:
    from deployments.engines.vllm_in_process import InProcess

STEP_TOKENS, WIDTH, MAX_TOKENS, VOCABULARY = 8192, 1024, 2048, 150_000
SECONDS = (0.005, 4.64e-6, 1.3e-5)  # of a step, and for each token and text in it
CALLS = 3  # in flight
TWO_CALLS = "256 tokens, two calls"
ALONE, ALONE_TOKENS = 60, 16
MIXED_S, MIXED_TOKENS, SHORT_EACH_S = 1.5, 256, 0.02
# point: its texts' tokens, and the ratio of texts a second to be reached
MARKS = {16: 1.6, 32: 1.35, 256: 1.04}
# of the time before: one text alone may take a little longer, short texts in a mixed queue not
MAX_RATIOS = {"one alone": 1.05, "short in a mixed queue": 1.0}


class DriveMode(NamedTuple):
    """One way to drive the device."""

    before: bool = False
    two_steps: bool = True  # vLLM's async_scheduling
    switch_s: float | None = None  # of sys.setswitchinterval


WAYS = {
    "before": DriveMode(before=True, two_steps=False),
    "now": DriveMode(),
    "now, one step": DriveMode(two_steps=False),
    "now, switch 5 ms": DriveMode(switch_s=0.005),
    "before, two steps": DriveMode(before=True),
}


def device() -> type[Any]:
    """The simulated device, as an executor of vLLM; imports vLLM."""
    import torch
    from vllm.v1.executor.uniproc_executor import UniProcExecutor
    from vllm.v1.outputs import ModelRunnerOutput

    class Pending(Future[Any]):
        """A step that ends when the device has finished it."""

        def __init__(self, done_s: float, output: object) -> None:
            super().__init__()
            self.done_s, self.output = done_s, output

        def result(self, timeout: float | None = None) -> Any:
            time.sleep(max(0.0, self.done_s - time.perf_counter()))
            return self.output

    class PretendDevice(UniProcExecutor):  # type: ignore[misc,unused-ignore]
        """Runs one step after another, each for as long as its tokens and texts take."""

        free_s = busy_s = 0.0
        steps = cut = 0
        prompts: dict[str, int] = {}  # noqa: RUF012  # one engine in each process
        made = torch.ones(1024, WIDTH)

        def execute_model(self, scheduler_output: Any, non_block: bool = False) -> Any:
            cls, step = type(self), scheduler_output.num_scheduled_tokens
            computed = {}
            for new in scheduler_output.scheduled_new_reqs:
                cls.prompts[new.req_id] = len(new.prompt_token_ids)
                computed[new.req_id] = new.num_computed_tokens
            old = scheduler_output.scheduled_cached_reqs
            computed |= dict(zip(old.req_ids, old.num_computed_tokens, strict=True))
            rows: list[Any] = list(cls.made[: len(step)].unbind(0))
            for place, (name, tokens) in enumerate(step.items()):
                if computed[name] + tokens < cls.prompts[name]:
                    rows[place] = None
                    cls.cut += 1
                else:
                    del cls.prompts[name]
            base_s, token_s, text_s = SECONDS
            took_s = base_s + token_s * sum(step.values()) + text_s * len(step) if step else 0.0
            cls.free_s = max(time.perf_counter(), cls.free_s) + took_s
            cls.busy_s += took_s
            cls.steps += bool(step)
            places = {name: place for place, name in enumerate(step)}
            output = ModelRunnerOutput(
                req_ids=list(step), req_id_to_index=places, pooler_output=rows
            )
            pending = Pending(cls.free_s, output)
            return pending if non_block else pending.result()

    return PretendDevice


def started(
    way: DriveMode, folder: Path, executor: type[Any] | None = None
) -> tuple["InProcess", type[Any]]:
    """An engine that has not started yet, and its device: `executor` or a simulated one."""
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    from benchmarks.device_before import Before
    from deployments.engines.vllm import vllm_config
    from deployments.engines.vllm_in_process import InProcess
    from router.engine_config import VllmEngineConfig

    pretend = executor or device()
    settings = VllmEngineConfig(
        kind="vllm",
        source=str(folder),
        args={
            "max_num_batched_tokens": STEP_TOKENS,
            "max_num_seqs": 1024,
            "kv_cache_memory_bytes": 1_000_000_000,
            "distributed_executor_backend": pretend,
        },
    )

    def config() -> Any:
        made = vllm_config(settings, MAX_TOKENS, None)
        # vLLM turns it off for a CPU, which is what it believes to run on
        made.scheduler_config.async_scheduling = way.two_steps
        return made

    return (Before if way.before else InProcess)(config), pretend


class Driver:
    """One engine under the loads of the points."""

    def __init__(self, engine: "InProcess", pretend: type[Any]) -> None:
        self._engine, self._device, self._rng = engine, pretend, np.random.default_rng(0)

    async def embed(self, texts: int, tokens: int) -> float:
        """Make one call; return its seconds."""
        ids: dict[int, TokenIds] = {
            row: self._rng.integers(VOCABULARY, size=tokens, dtype=np.int32) for row in range(texts)
        }
        vectors, began = np.empty((texts, WIDTH), np.float32), time.perf_counter()
        await self._engine.encode(ids, vectors)
        return time.perf_counter() - began

    async def full(self, tokens: int, seconds: float, calls: int = CALLS) -> dict[str, float]:
        """An endless series of texts of one length."""
        each, done = STEP_TOKENS // tokens, 0
        ends = time.perf_counter() + seconds

        async def caller() -> None:
            nonlocal done
            while time.perf_counter() < ends:
                await self.embed(each, tokens)
                done += each

        pretend, began, cpu_s = self._device, time.perf_counter(), time.process_time()
        busy_s, steps, cut = pretend.busy_s, pretend.steps, pretend.cut
        await asyncio.gather(*(caller() for _ in range(calls)))
        took_s = time.perf_counter() - began
        return {
            "texts_per_s": done / took_s,
            "busy": (pretend.busy_s - busy_s) / took_s,
            "cpu_us_a_text": (time.process_time() - cpu_s) / done * 1e6,
            "texts_a_step": done / max(1, pretend.steps - steps),
            "cut_a_step": (pretend.cut - cut) / max(1, pretend.steps - steps),
        }

    async def alone(self) -> dict[str, float]:
        """One short text after another."""
        return {
            "p50_ms": 1000
            * statistics.median([await self.embed(1, ALONE_TOKENS) for _ in range(ALONE)])
        }

    async def mixed(self) -> dict[str, float]:
        """Short texts among calls that fill the device."""
        short: list[asyncio.Task[float]] = []
        ends = time.perf_counter() + MIXED_S

        async def long() -> None:
            while time.perf_counter() < ends:
                await self.embed(STEP_TOKENS // MIXED_TOKENS, MIXED_TOKENS)

        calls = [asyncio.create_task(long()) for _ in range(CALLS - 1)]
        while time.perf_counter() < ends:
            await asyncio.sleep(self._rng.exponential(SHORT_EACH_S))
            short.append(asyncio.create_task(self.embed(1, ALONE_TOKENS)))
        seconds = await asyncio.gather(*short)
        await asyncio.gather(*calls)
        return {
            "p50_ms": 1000 * float(np.percentile(seconds, 50)),
            "p95_ms": 1000 * float(np.percentile(seconds, 95)),
        }


def drive(way: DriveMode, folder: str, line: Connection) -> None:
    """Run in a separate process: measure each item received on `line` until None."""

    async def all_of_it() -> None:
        engine, pretend = started(way, Path(folder))
        await engine.start()
        if way.switch_s is not None:
            sys.setswitchinterval(way.switch_s)
        driver = Driver(engine, pretend)
        line.send("ready")
        while (named := await asyncio.to_thread(line.recv)) is not None:
            point, *arguments = named
            line.send(await getattr(driver, point)(*arguments))
        await engine.stop()

    asyncio.run(all_of_it())


Rounds = dict[str, dict[str, list[dict[str, float]]]]  # by point, by way


def measure(ways: list[str], folder: Path, rounds: int, seconds: float) -> Rounds:
    """Measure every point of every variant alternately, round by round."""
    points: dict[str, tuple[object, ...]] = {
        **{f"{tokens} tokens": ("full", tokens, seconds) for tokens in MARKS},
        TWO_CALLS: ("full", 256, seconds, 2),
        "one alone": ("alone",),
        "short in a mixed queue": ("mixed",),
    }
    spawn = multiprocessing.get_context("spawn")
    lines: dict[str, Connection] = {}
    for name in ways:
        lines[name], theirs = spawn.Pipe()
        spawn.Process(target=drive, args=(WAYS[name], str(folder), theirs), daemon=True).start()
        theirs.close()
        lines[name].recv()
    seen: Rounds = {point: {name: [] for name in ways} for point in points}
    for number in range(rounds + 1):
        for point, named in points.items():
            for name in ways if number % 2 else reversed(ways):
                lines[name].send(named)
                measured = lines[name].recv()
                if number:  # the first is to warm up
                    seen[point][name].append(measured)
    for line in lines.values():
        line.send(None)
    return seen


def rows_of(seen: Rounds) -> list[dict[str, Any]]:
    """Medians of every point and variant, with the ratio to `before` and its mark."""
    rows = []
    for point, by_way in seen.items():
        tokens, key = point.removesuffix(" tokens"), "texts_per_s"
        least, most = MARKS.get(int(tokens)) if tokens.isdigit() else None, MAX_RATIOS.get(point)
        if most is not None:
            key = "p50_ms" if point == "one alone" else "p95_ms"
        base = by_way["before"]
        best = max if most is None else min
        for name, measured in by_way.items():
            values = [one[key] for one in measured]
            ratio = best(values) / best(one[key] for one in base)
            each = [one[key] / other[key] for one, other in zip(measured, base, strict=True)]
            title = f"{point}, {name}"
            if least is not None:
                judged = at_least(title, ratio, least)
            else:
                judged = Row(title, ratio) if most is None else at_most(title, ratio, most)
            rows.append(
                {
                    "point": point,
                    "way": name,
                    **measured[values.index(best(values))],
                    "median": statistics.median(each),
                    **judged._asdict(),
                    "met": judged.met if name == "now" else None,
                }
            )
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as text."""
    lines = []
    for row in rows:
        details = ", ".join(
            f"{key} {value:.2f}" if value < 20 else f"{key} {value:.0f}"
            for key, value in row.items()
            if isinstance(value, float) and key not in ("value", "mark")
        )
        mark = {
            None: "",
            True: f" (mark {row['mark']}: ok)",
            False: f" (mark {row['mark']}: missed)",
        }
        lines.append(
            f"{row['point']:<23} {row['way']:<17} {row['value']:5.2f}{mark[row['met']]}  {details}"
        )
    return "\n".join(lines)


@click.command()
@click.option("--rounds", default=12, type=click.IntRange(1), show_default=True)
@click.option("--seconds", default=0.6, type=click.FloatRange(0.1), show_default=True)
@click.option(
    "--also",
    multiple=True,
    type=click.Choice([name for name in WAYS if name not in ("before", "now")]),
)
@to_file
@kept
def main(
    rounds: int, seconds: float, also: tuple[str, ...], file: Path | None, folder: Path
) -> None:
    """Compare the engine's use of a device with the loop of version 0.1, alternately."""
    from tests.support.tiny_qwen3 import write_tiny_qwen3

    checkpoint = write_tiny_qwen3(folder / "pretend-device", heads=2)
    rows = rows_of(measure(["before", "now", *also], checkpoint, rounds, seconds))
    click.echo(table(rows))
    write(rows, file)
    if any(row["met"] is False for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
