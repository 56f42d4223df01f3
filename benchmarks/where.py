"""Show the stages of a median request, in milliseconds.

Starts the router and one model as `make bench` does, with `stamps: true`, loads them, and reads the
stamps of the last 200 requests once a second (router/stamps.py explains each). The requests between
the 40th and the 60th percentile of the router's own time are the median ones; a row is the mean of
their time from one stamp to the next. The last row is the time outside the router: in the client,
in HAProxy and in the kernel.
"""

import statistics
import tempfile
import threading
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import httpx

from benchmarks import load, servers
from benchmarks.data_plane import POINTS, WARM_S
from benchmarks.marks import flat, to_file, write
from benchmarks.servers import kept
from router.stamps import STAMPS

EVERY_S = 1.0
MEDIAN = (0.4, 0.6)  # of the requests in order of their time
OUTSIDE = "outside the router"

Stamps = Mapping[str, float]  # in milliseconds since the first


class Watch:
    """Collects the stamps of a running service."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url.removesuffix("/v1/embeddings"), timeout=10)
        self._after, self._ended = "", threading.Event()
        self.seen: list[Stamps] = []
        self.sizes: list[int] = []  # of their calls
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Watch":
        self._poll()
        self.seen.clear()
        self.sizes.clear()
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join()
        self._http.close()

    def _run(self) -> None:
        while not self._ended.wait(EVERY_S):
            self._poll()

    def _poll(self) -> None:
        page = self._http.get("/v1/decisions", params={"limit": 200, "after": self._after}).json()
        self._after = page["next"]
        self.seen += [one["stamps_ms"] for one in page["data"] if "written" in one["stamps_ms"]]
        self.sizes += [one["call_texts"] for one in page["data"] if one["call_texts"]]


def stages(seen: Sequence[Stamps]) -> dict[str, float]:
    """Milliseconds up to each stamp from the one before it, the mean over the median requests."""
    ordered = sorted(seen, key=lambda one: one["written"])
    first, last = (round(share * len(ordered)) for share in MEDIAN)
    median = ordered[first : max(first + 1, last)]
    found: dict[str, list[float]] = {}
    for one in median:
        passed = [name for name in STAMPS if name in one]
        for before, name in pairwise(passed):
            found.setdefault(name, []).append(one[name] - one[before])
    return {name: sum(found[name]) / len(median) for name in STAMPS if name in found}


def texts_a_call(sizes: Sequence[int]) -> float | None:
    """Texts per call, weighted by the sampled requests: large calls are sampled more often."""
    return statistics.harmonic_mean(sizes) if sizes else None


def table(found: Mapping[str, Any]) -> str:
    """The stages as text."""
    total = found["p50_ms"]
    lines = [f"{'until':<20} {'ms':>8} {'share':>7}"]
    for name, spent in found["stages_ms"].items():
        lines.append(f"{name:<20} {spent:8.2f} {100 * spent / total:6.1f}%")
    lines.append(f"{'all, at the client':<20} {total:8.2f} {100.0:6.1f}%")
    return "\n".join(lines)


@click.command()
@click.option(
    "--point",
    "points",
    multiple=True,
    default=("short c=32",),
    type=click.Choice(list(POINTS)),
    show_default=True,
)
@click.option("--seconds", default=6.0, type=click.FloatRange(2), show_default=True)
@click.option("--rounds", default=1, type=click.IntRange(1), show_default=True)
@to_file
@kept
def main(
    points: tuple[str, ...],
    seconds: float,
    rounds: int,
    file: Path | None,
    folder: Path,
) -> None:
    """Print the stages of the median request of a point."""
    models = sorted({model for point in points for model in POINTS[point].shape.models})
    answers = []
    with tempfile.TemporaryDirectory(prefix="bench-") as made:
        scratch = Path(made)
        word_file = scratch / "words"
        word_file.write_text("\n".join(load.words(str(servers.checkpoints(folder)[servers.ONE]))))
        with servers.ours(folder, models, scratch, more={"stamps": True}) as server:
            for number in range(rounds):
                for place, name in enumerate(points):
                    seed = number * len(points) + place
                    answers.append(_measure(server, name, seconds, seed, word_file))
                    click.echo(_heading(answers[-1]))
                    click.echo(table(answers[-1]) + "\n")
    write(flat(answers, "point"), file)


def _measure(
    server: servers.Server, name: str, seconds: float, seed: int, word_file: Path
) -> dict[str, Any]:
    point = POINTS[name]
    load.run(server.url, point.shape, point.connections, WARM_S, 1000 + seed, word_file)
    cpu_s = server.cpu_s()
    with Watch(server.url) as watch:
        got = load.run(server.url, point.shape, point.connections, seconds, seed, word_file)
    if not watch.seen:
        raise click.ClickException("no request was stamped; is the load too small?")
    inside = stages(watch.seen)
    return {
        "point": name,
        "requests_per_s": (got.requests - got.failures) / got.seconds,
        "failures": got.failures,
        "sampled": len(watch.seen),
        "texts_a_call": texts_a_call(watch.sizes),
        "cores": (server.cpu_s() - cpu_s) / got.seconds,
        "p50_ms": got.p50_ms,
        "p99_ms": got.p99_ms,
        "stages_ms": {**inside, OUTSIDE: got.p50_ms - sum(inside.values())},
    }


def _heading(found: Mapping[str, Any]) -> str:
    return (
        f"{found['point']}: {found['requests_per_s']:.0f}/s, p50 {found['p50_ms']:.1f} ms, "
        f"p99 {found['p99_ms']:.1f} ms, {found['cores']:.2f} cores of the service, "
        f"{found['failures']} failed, {found['sampled']} requests sampled, "
        f"{found['texts_a_call'] or 0:.1f} texts a call"
    )


if __name__ == "__main__":
    main()
