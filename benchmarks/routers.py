"""Measure the CPU time of a router per request, and the routers that a card needs.

One router in front of a model of 1,024 dimensions whose engine costs almost nothing, with Qwen3's
tokenizer. Only the router's process is counted, without HAProxy and replicas. Texts are new in
every request and vectors are sent as base64, as the OpenAI client requests them.

The table shows how many routers keep one card busy: the card's rate with full steps, by the curves
of configs/qwen3.yaml, times the CPU time of a request. A router has one core. `--from FILE` uses
earlier measurements.
"""

import json
import math
import platform
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import psutil
import yaml

from benchmarks import load, servers
from benchmarks.load import Shape
from benchmarks.marks import flat, numbers, to_file, write
from benchmarks.servers import ONE
from router.domain import Curve
from router.router_cost import Card, RouterCost
from router.router_cost import RequestKind as Request
from router.router_cost import demand as demand_of

TOKENS, TEXTS = (16, 128, 512, 2048), (1, 8, 32, 128)
MAX_TOKENS = 70_000  # of a request: longer ones are few
CONNECTIONS = 16
MIN_REQUESTS, TRIES = 40, 8  # fewer requests show what a router does beside them
WARM_S = 0.5


class Point(NamedTuple):
    """Cost of one request shape."""

    texts: int
    tokens: int
    requests: int
    failures: int
    cpu_ms: float  # of the router, for each request


def _router(server: servers.Server) -> psutil.Process:
    (found,) = server.routers()
    return found


def _used_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def measure(seconds: float, folder: Path) -> list[Point]:
    """Measure every shape; skip those with too few requests."""
    config = servers.ours_config(folder, [ONE], {"limits": {"max_queue_s": 600.0}}, fake=True)
    word_file = folder / "words"
    tokenizer = config["applications"][0]["args"]["models"][ONE]["tokenizer"]
    word_file.write_text("\n".join(load.words(tokenizer)))
    points = []
    with servers.configured("routers", config, [ONE], folder) as server:
        router = _router(server)
        for tokens in TOKENS:
            for texts in TEXTS if tokens * TEXTS[-1] <= MAX_TOKENS else TEXTS[:-1]:
                shape = Shape((ONE,), texts, tokens)
                load.run(server.url, shape, CONNECTIONS, WARM_S, 1, word_file)
                requests, failures, before_s = 0, 0, _used_s(router)
                for seed in range(2, 2 + TRIES):
                    got = load.run(server.url, shape, CONNECTIONS, seconds, seed, word_file)
                    requests, failures = requests + got.requests, failures + got.failures
                    if requests >= MIN_REQUESTS:
                        break
                cpu_ms = (_used_s(router) - before_s) * 1000 / max(1, requests)
                point = Point(texts, tokens, requests, failures, round(cpu_ms, 3))
                click.echo(f"{point}", err=True)
                if requests >= MIN_REQUESTS:
                    points.append(point)
    return points


def fit(points: Sequence[Point]) -> RouterCost:
    """The costs that fit the points best by relative error, none of them below 0."""
    rows = np.array([[1.0, p.texts, p.texts * p.tokens] for p in points])
    wanted = np.array([p.cpu_ms / 1000 for p in points])
    rows, used = rows / wanted[:, None], list(range(rows.shape[1]))
    while True:
        found = np.linalg.lstsq(rows[:, used], np.ones(len(points)), rcond=None)[0]
        if (found >= 0).all():
            break
        del used[int(found.argmin())]
    costs = dict(zip(used, map(float, found), strict=True))
    return RouterCost(*(float(f"{costs.get(place, 0.0):.2g}") for place in range(3)))


def curves() -> dict[str, Curve]:
    """The latency curves of configs/qwen3.yaml."""
    data = yaml.safe_load((servers.ROOT / "configs" / "qwen3.yaml").read_text())
    models = data["applications"][0]["args"]["models"]
    return {name: Curve(**models[name]["curve"]) for name in servers.WIDTHS}


def table(points: Sequence[Point], known: Mapping[str, Curve]) -> str:
    """Markdown: the time of a request, and routers for a card of each model."""
    sizes = [name.rpartition("-")[2].upper() for name in known]
    head = ["texts of", "texts a request", "ms a request", *(f"routers, {one}" for one in sizes)]
    lines = [head, ["---"] * len(head)]
    for point in points:
        spent = RouterCost(point.cpu_ms / 1000, 0.0, 0.0)
        request = Request(point.texts, point.tokens)
        needed = [demand_of([Card(one, 1.0)], request, spent).routers for one in known.values()]
        cells = [f"{one:.1f}" if one >= 0.1 else f"{one:.2f}" for one in needed]
        lines.append([f"{point.tokens:,} tokens", str(point.texts), f"{point.cpu_ms:.1f}", *cells])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def read(path: Path) -> list[Point]:
    """The points of a file written by this command."""
    return [Point(**one) for one in json.loads(path.read_text())["points"]]


def report(points: Sequence[Point]) -> dict[str, Any]:
    """The report as JSON."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": _processor(),
        "python": platform.python_version(),
        "cost": fit(points)._asdict(),
        "points": [one._asdict() for one in points],
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def errors(points: Sequence[Point], cost: RouterCost) -> list[float]:
    """Relative error of the fit at each point."""
    return [math.fabs(cost.seconds(p.texts, p.tokens) * 1000 / p.cpu_ms - 1.0) for p in points]


@click.command()
@click.option("--seconds", default=2.0, type=click.FloatRange(0.5), show_default=True)
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="File for the points."
)
@click.option(
    "--from", "given", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Use the points of this file instead of measuring.",
)  # fmt: skip
@to_file
def main(seconds: float, output: Path | None, given: Path | None, file: Path | None) -> None:
    """Measure the CPU time of a router per request, and print how many routers a card needs."""
    if given is not None:
        points = read(given)
    else:
        with tempfile.TemporaryDirectory(prefix="bench-") as made:
            points = measure(seconds, Path(made))
    found = report(points)
    if output is not None:
        output.write_text(json.dumps(found, indent=1) + "\n")
    click.echo(table(points, curves()))
    write([*numbers("cost", found["cost"]), *flat(found["points"], "texts", "tokens")], file)
    off = errors(points, fit(points))
    click.echo(
        f"\nfit: {fit(points)}, off by {np.median(off):.0%} in the median, {max(off):.0%} at most",
        err=True,
    )


if __name__ == "__main__":
    main()
