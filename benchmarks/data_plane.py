"""Compare the requests/s of the router with `vllm serve` and with other routers.

Installed peers take part: ray.serve.llm in this environment, LiteLLM's proxy in its own environment
(--litellm).

Every server is started once and all are measured alternately, point by point and round by round, so
that a noisy machine affects all of them. A ratio of requests/s or of CPU time is the median over
rounds of this server's figure to that of `vllm serve` in the same round. Three models twice do not
fit a small machine: there ours, ray.serve.llm and ours again run one after another, and the ratio
is of medians.

The model is Qwen3's architecture with random weights and one small block. A short text then costs
about as much on a CPU as it costs the real model on a GPU, so the benchmark measures everything
around the model. Texts are new in every request, except for points that repeat them. The client is
wrk if it is installed, else our own.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click

from benchmarks import load, servers
from benchmarks.load import Load, Shape
from benchmarks.marks import Row, at_least, at_most, to_file, verdict, write
from benchmarks.servers import ONE, NotReady, Server, kept

BARE, EVERY_CORE, OURS, LITELLM, RAY_LLM = (
    "vllm serve",
    "vllm serve, every core",
    "ours",
    "LiteLLM proxy",
    "ray.serve.llm, tuned",
)
SHORT = Shape((ONE,), 1, 12)
BATCH = Shape((ONE,), 32, 40)
WARM_S = 1.0


@dataclass(frozen=True)
class Point:
    """One row of the table, and its targets."""

    shape: Shape
    connections: int
    base: str = BARE  # that ratios are taken to
    requests: float | None = None  # at least so many times the base's
    cpu: float | None = None  # processor time of a request, at most so many times the base's


POINTS = {
    "short c=1": Point(SHORT, 1, requests=1.5),
    "short c=8": Point(SHORT, 8, requests=2.2),
    "short c=32": Point(SHORT, 32, requests=3.0, cpu=0.35),
    "batch c=8": Point(BATCH, 8, EVERY_CORE, requests=1.3),
    "batch float c=8": Point(replace(BATCH, encoding_format="float"), 8, EVERY_CORE, requests=1.5),
    "long c=8": Point(Shape((ONE,), 1, 2000), 8, EVERY_CORE, requests=1.2),
    "repeated c=32": Point(replace(SHORT, repeats=1.0), 32, requests=8.0),
    "Zipf 0 % repeats c=32": Point(SHORT, 32),
    "Zipf 50 % repeats c=32": Point(replace(SHORT, repeats=0.5), 32),
    "Zipf 90 % repeats c=32": Point(replace(SHORT, repeats=0.9), 32),
    "three models short c=32": Point(
        replace(SHORT, models=tuple(servers.WIDTHS)), 32, RAY_LLM, requests=5.0
    ),
}


@dataclass(frozen=True)
class Measured:
    """One server in one round of a point."""

    load: Load
    cpu_ms: float  # of the server's whole process tree, for each request
    memory_bytes: int
    router_ms: float = 0.0  # of the router, for each request; 0: the server has none

    @property
    def per_s(self) -> float:
        """Successful requests per second."""
        return (self.load.requests - self.load.failures) / self.load.seconds


def measure(server: Server, point: Point, seconds: float, seed: int, word_file: Path) -> Measured:
    """Warm up, then load one server."""
    load.run(server.url, point.shape, point.connections, WARM_S, seed + 1_000_000, word_file)
    before_s, router_s = server.cpu_s(), server.router_s()
    got = load.run(server.url, point.shape, point.connections, seconds, seed, word_file)
    each = 1000 / max(1, got.requests)
    cpu_ms, router_ms = (server.cpu_s() - before_s) * each, (server.router_s() - router_s) * each
    return Measured(got, cpu_ms, server.memory_bytes(), router_ms)


def row(point: Point, rounds: dict[str, list[Measured]]) -> dict[str, Any]:
    """Medians over rounds by server, ratios to the point's base, and targets met or missed."""
    base = rounds.get(point.base, [])
    found: dict[str, Any] = {}
    for name, seen in rounds.items():
        found[name] = {
            "requests_per_s": round(statistics.median(one.per_s for one in seen), 1),
            "ratio": _ratio([one.per_s for one in seen], [one.per_s for one in base]),
            "cpu_ms": round(statistics.median(one.cpu_ms for one in seen), 3),
            "cpu_ratio": _ratio([one.cpu_ms for one in seen], [one.cpu_ms for one in base]),
            **{
                key: round(statistics.median(asdict(one.load)[key] for one in seen), 2)
                for key in ("p50_ms", "p95_ms", "p99_ms")
            },
            "memory_bytes": max(one.memory_bytes for one in seen),
            "failures": sum(one.load.failures for one in seen),
        }
    ours = found.get(OURS, {})
    requests, cpu = ours.get("ratio"), ours.get("cpu_ratio")
    return {
        "ratio": requests,
        "mark": point.requests,
        "met": None if requests is None else at_least("", requests, point.requests).met,
        "cpu_ratio": cpu,
        "cpu_mark": point.cpu,
        "cpu_met": None if cpu is None else at_most("", cpu, point.cpu).met,
        "base": point.base,
        "servers": found,
    }


def _ratio(seen: Sequence[float], base: Sequence[float]) -> float | None:
    """The median over rounds of a figure to the base's in the same round, or to its median where
    they did not take turns.
    """
    if len(seen) != len(base):
        base = [statistics.median(base) if base else 0.0] * len(seen)
    ratios = [one / other for one, other in zip(seen, base, strict=True) if other]
    return round(statistics.median(ratios), 3) if ratios else None


def judged(rows: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Two rows for JSON per point: its requests with all measurements, and its CPU time."""
    for name, found in rows.items():
        yield Row(name, found["ratio"], found["mark"], found["met"])._asdict() | found
        yield Row(f"{name}: CPU", found["cpu_ratio"], found["cpu_mark"], found["cpu_met"])._asdict()


HEAD = (
    "point",
    "server",
    "requests/s",
    "ratio",
    "goal",
    "CPU ms",
    "CPU ratio",
    "goal",
    "p50 ms",
    "p95 ms",
    "p99 ms",
    "MiB",
    "failed",
)


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The rows as text."""
    lines = [HEAD]
    for point, found in rows.items():
        for name, one in found["servers"].items():
            ours = name == OURS
            lines.append(
                (
                    point,
                    name,
                    f"{one['requests_per_s']:.1f}",
                    "" if one["ratio"] is None else f"{one['ratio']:.2f}",
                    _goal(">=", found["mark"], found["met"]) if ours else "",
                    f"{one['cpu_ms']:.2f}",
                    "" if one["cpu_ratio"] is None else f"{one['cpu_ratio']:.2f}",
                    _goal("<=", found["cpu_mark"], found["cpu_met"]) if ours else "",
                    f"{one['p50_ms']:.1f}",
                    f"{one['p95_ms']:.1f}",
                    f"{one['p99_ms']:.1f}",
                    f"{one['memory_bytes'] / 2**20:.0f}",
                    str(one["failures"]),
                )
            )
            point = ""
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def _goal(sign: str, mark: float | None, met: bool | None) -> str:
    return "" if mark is None else f"{sign} {mark:g} {verdict(met)}".rstrip()


@click.command()
@click.option(
    "--points",
    default=",".join(POINTS),
    help="Comma-separated names of points, or their beginnings.",
)
@click.option(
    "--seconds",
    default=4.0,
    type=click.FloatRange(1),
    show_default=True,
    help="Seconds of each measurement.",
)
@click.option("--rounds", default=3, type=click.IntRange(1), show_default=True)
@to_file
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw the results into this PNG.",
)
@kept
@click.option(
    "--litellm",
    envvar="BENCH_LITELLM",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Python interpreter of an environment with litellm[proxy].",
)
def main(
    points: str,
    seconds: float,
    rounds: int,
    file: Path | None,
    plot: Path | None,
    folder: Path,
    litellm: Path | None,
) -> None:
    """Compare the router with the engine's own server and with other routers."""
    chosen = chosen_points(points)
    one = [name for name in chosen if len(POINTS[name].shape.models) == 1]
    three = [name for name in chosen if name not in one]
    measurements = (2 * len(one) + 3 * len(three)) * rounds
    click.echo(_announcement(one, three, measurements, seconds, folder), err=True)
    done, started_s = 0, time.monotonic()
    rows: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        word_file = scratch / "words"
        word_file.write_text("\n".join(load.words(str(servers.checkpoints(folder)[ONE]))))
        blocks: list[tuple[list[str], str | None]] = [
            (one, None),
            *((three, alone) for alone in (OURS, RAY_LLM, OURS)),
        ]
        seen: dict[str, dict[str, list[Measured]]] = {name: {} for name in chosen}
        for names, alone in blocks:
            if not names:
                continue
            with ExitStack() as running:
                started = _start(running, names, alone, folder, scratch, litellm)
                for number in range(rounds):
                    for name in names:
                        # another point's texts may be cached
                        seed = 1 + number * len(POINTS) + list(POINTS).index(name)
                        for server in started:
                            if not _takes_part(server.name, name):
                                continue
                            got = measure(server, POINTS[name], seconds, seed, word_file)
                            seen[name].setdefault(server.name, []).append(got)
                            done += 1
                            click.echo(
                                f"{time.monotonic() - started_s:5.0f} s [{done:>3} of about "
                                f"{measurements}] "
                                f"{name:<26} {server.name:<24} {got.per_s:8.1f}/s  p99 "
                                f"{got.load.p99_ms:7.1f} ms"
                                f"  {got.cpu_ms:6.2f} ms CPU  {got.load.failures} failed",
                                err=True,
                            )
            rows |= {name: row(POINTS[name], seen[name]) for name in names}
            write(judged(rows), file)
    click.echo(table(rows))
    if plot is not None:
        from benchmarks.plot import draw

        draw(rows, plot)


def _announcement(
    one: list[str], three: list[str], measurements: int, seconds: float, folder: Path
) -> str:
    """Announce the run and its expected duration."""
    starting_s = 120 * bool(one) + 300 * bool(three)  # ray.serve.llm alone takes half of the latter
    first = "" if folder.exists() else f" Writes three random checkpoints (2.3 GB) into {folder}."
    return (
        f"{len(one) + len(three)} points, each server {seconds:g} s a point, {measurements} "
        "measurements: about "
        f"{(measurements * (seconds + WARM_S) + starting_s) / 60:.0f} minutes, "
        f"{starting_s / 60:.0f} of them to start servers. "
        "Uses every core." + first
    )


def chosen_points(points: str) -> list[str]:
    """The points whose names begin with one of these comma-separated names."""
    wanted = [part.strip() for part in points.split(",") if part.strip()]
    found = [name for name in POINTS if any(name.startswith(part) for part in wanted)]
    for part in wanted:
        if not any(name.startswith(part) for name in POINTS):
            raise click.BadParameter(
                f"{part!r} is none of {', '.join(POINTS)}", param_hint="--points"
            )
    return found


def _takes_part(server: str, point: str) -> bool:
    """Whether a peer takes part: all-cores peers are the baseline of model-bound points only."""
    if server in (BARE, EVERY_CORE):
        return POINTS[point].base == server
    return True


def _start(
    running: ExitStack,
    names: list[str],
    alone: str | None,
    folder: Path,
    scratch: Path,
    python: Path | None,
) -> list[Server]:
    """Start every available server that these points need, or only the one named `alone`."""
    made: dict[str, Callable[[], AbstractContextManager[Server]]] = {}
    bases = {POINTS[name].base for name in names}
    models = [
        model
        for model in servers.WIDTHS
        if any(model in POINTS[name].shape.models for name in names)
    ]
    if BARE in bases:
        made[BARE] = lambda: servers.vllm_serve(folder, scratch)
    if EVERY_CORE in bases:
        made[EVERY_CORE] = lambda: servers.vllm_serve(folder, scratch, every_core=True)
    made[OURS] = lambda: servers.ours(folder, models, scratch)
    if RAY_LLM in bases:
        made[RAY_LLM] = lambda: servers.ray_llm(folder, models, scratch)
    started = []
    for name, start in made.items():
        if alone not in (None, name):
            continue
        try:
            server = running.enter_context(start())
        except NotReady as error:
            if name in (OURS, BARE, EVERY_CORE):
                raise click.ClickException(f"{name} did not start: {error}") from error
            click.echo(f"without {name}: {error}", err=True)
            continue
        click.echo(f"{name} ready after {server.ready_s:.1f} s", err=True)
        started.append(server)
    bare = next((server for server in started if server.name == BARE), None)
    if python is not None and bare is not None:
        started.append(running.enter_context(servers.litellm(python, bare, scratch)))
    if python is None and bare is not None:
        click.echo(
            f"without {LITELLM}: not installed; --litellm takes the Python of an environment "
            "that has it",
            err=True,
        )
    return started
