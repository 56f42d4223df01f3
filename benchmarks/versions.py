"""Compare this checkout with another one: CPU time per request and requests/s.

Both services run at once on the checkpoint of `make bench`. Its points are measured alternately in
both; the order changes each round. A ratio is this checkout's figure divided by the other's in the
same round; the median over rounds has a 90 % bootstrap interval. The router's part of the CPU time
is printed apart: the rest is the replica's, HAProxy's and Ray's. Marks: at most 1.03 times the CPU
time of a request, and an interval of requests per second that includes 1 or lies above it.
"""

import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path

import click

from benchmarks import load, servers
from benchmarks.data_plane import POINTS, Measured, chosen_points, measure
from benchmarks.marks import Row, at_least, at_most, show, to_file, write
from benchmarks.ratios import interval
from benchmarks.servers import ONE, NotReady, Server, kept

MAX_CPU_RATIO, MIN_RATIO = 1.03, 1.0
HERE, THERE = "here", "there"
ENGLISH = servers.ROOT / "tests" / "data" / "language" / "scifact-mini.json"
ONE_MODEL = ",".join(name for name, point in POINTS.items() if len(point.shape.models) == 1)


def compared(name: str, here: list[Measured], there: list[Measured]) -> list[Row]:
    """The rows of a point, measured in both checkouts in the same rounds."""
    pairs = list(zip(here, there, strict=True))
    cpu = [mine.cpu_ms / other.cpu_ms for mine, other in pairs]
    per_s = [mine.per_s / other.per_s for mine, other in pairs]
    (cpu_low, cpu_high), (low, high) = interval(cpu, 90), interval(per_s, 90)
    return [
        *(
            Row(f"{name}: {what} {place}", statistics.median(values))
            for place, seen in ((THERE, there), (HERE, here))
            for what, values in (
                ("requests/s", [one.per_s for one in seen]),
                ("CPU ms", [one.cpu_ms for one in seen]),
                ("router's CPU ms", [one.router_ms for one in seen]),
                ("p50 ms", [one.load.p50_ms for one in seen]),
            )
        ),
        at_most(f"{name}: CPU ms, ratio", statistics.median(cpu), MAX_CPU_RATIO),
        Row(f"{name}: CPU ms, ratio from", cpu_low),
        Row(f"{name}: CPU ms, ratio to", cpu_high),
        Row(f"{name}: requests/s, ratio", statistics.median(per_s)),
        Row(f"{name}: requests/s, ratio from", low),
        at_least(f"{name}: requests/s, ratio to", high, MIN_RATIO),
    ]


@click.command()
@click.argument("checkout", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--points",
    default=ONE_MODEL,
    help="Comma-separated names of points of `make bench`, or their beginnings.",
)
@click.option("--seconds", default=4.0, type=click.FloatRange(1), show_default=True)
@click.option(
    "--rounds",
    default=8,
    type=click.IntRange(2),
    show_default=True,
    help="Rounds of the short points.",
)
@click.option(
    "--other-rounds",
    default=4,
    type=click.IntRange(2),
    show_default=True,
    help="Rounds of the other points.",
)
@click.option("--english", is_flag=True, help="Texts of English words, not of invented ones.")
@to_file
@kept
def main(
    checkout: Path,
    points: str,
    seconds: float,
    rounds: int,
    other_rounds: int,
    english: bool,
    file: Path | None,
    folder: Path,
) -> None:
    """Compare this checkout with the one in the folder CHECKOUT."""
    names = chosen_points(points)
    if several := [name for name in names if len(POINTS[name].shape.models) > 1]:
        raise click.BadParameter(
            f"two services with three models do not fit most machines; leave out {several[0]!r}",
            param_hint="--points",
        )
    seen: dict[str, dict[str, list[Measured]]] = {name: {HERE: [], THERE: []} for name in names}
    with ExitStack() as running:
        scratch = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        word_file = scratch / "words"
        tokenizer = str(servers.checkpoints(folder)[ONE])
        word_file.write_text("\n".join(load.words(tokenizer, ENGLISH if english else None)))
        both = list[Server]()
        for name, root in ((HERE, servers.ROOT), (THERE, checkout.resolve())):
            try:
                service = servers.ours(folder, [ONE], scratch, name=name, root=root)
                both.append(running.enter_context(service))
            except NotReady as error:
                raise click.ClickException(f"{root} did not start: {error}") from error
        for number in range(max(rounds, other_rounds)):
            for name in names:
                if number >= (rounds if name.startswith("short") else other_rounds):
                    continue
                seed = 1 + number * len(POINTS) + list(POINTS).index(name)
                for server in both if number % 2 else reversed(both):
                    got = measure(server, POINTS[name], seconds, seed, word_file)
                    seen[name][server.name].append(got)
                    click.echo(
                        f"{number} {name:<26} {server.name:<6} {got.per_s:8.1f}/s "
                        f"{got.cpu_ms:7.2f} ms CPU  {got.load.failures} failed",
                        err=True,
                    )
    rows = [row for name in names for row in compared(name, **seen[name])]
    show(rows)
    write(rows, file)


if __name__ == "__main__":
    main()
