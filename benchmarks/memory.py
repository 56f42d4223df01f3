"""Check that the memory of one router with a small cache is flat under mixed load.

The cache is full long before half of the time is over, so growth in the second half is a leak. With
`--engine fake` the model costs almost nothing, so the router, whose memory is measured, answers
many times as many requests in the same time.
"""

import tempfile
import time
from pathlib import Path

import click

from benchmarks import load, servers
from benchmarks.data_plane import POINTS, WARM_S
from benchmarks.marks import Row, at_most, conclude, to_file
from benchmarks.servers import kept

CACHE_BYTES = 16 * 1024 * 1024
MIX = ("short c=32", "batch c=8", "long c=8", "repeated c=32")
SLICE_S = 5.0


@click.command()
@click.option("--seconds", default=600.0, type=click.FloatRange(60), show_default=True)
@click.option("--engine", default="vllm", type=click.Choice(["vllm", "fake"]), show_default=True)
@click.option(
    "--allowed-mib",
    default=64.0,
    show_default=True,
    help="Maximum growth in the second half.",
)
@kept
@to_file
def main(seconds: float, engine: str, allowed_mib: float, folder: Path, file: Path | None) -> None:
    """Load one router with every shape alternately and print its processes' memory; fail if it
    grows.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        word_file = Path(scratch) / "words"
        word_file.write_text("\n".join(load.words(str(servers.checkpoints(folder)[servers.ONE]))))
        click.echo(
            f"{seconds / 60:.0f} minutes of {', '.join(MIX)} in turn, a cache of "
            f"{CACHE_BYTES >> 20} MiB, engine {engine}"
        )
        more = {"cache": {"max_bytes": CACHE_BYTES}}
        with servers.ours(folder, [servers.ONE], Path(scratch), more, engine == "fake") as server:
            for name in MIX:
                load.run(
                    server.url, POINTS[name].shape, POINTS[name].connections, WARM_S, 0, word_file
                )
            seen: list[float] = []
            failures, answered, turn, started_s = 0, 0, 0, time.monotonic()
            while (spent_s := time.monotonic() - started_s) < seconds:
                point = POINTS[MIX[turn % len(MIX)]]
                turn += 1
                got = load.run(server.url, point.shape, point.connections, SLICE_S, turn, word_file)
                failures, answered = failures + got.failures, answered + got.requests
                seen.append(server.memory_bytes() / 2**20)
                click.echo(
                    f"{spent_s:6.0f} s  {seen[-1]:8.1f} MiB  {answered} answered, {failures} failed"
                )
    grown_mib = max(seen[-len(MIX) :]) - max(seen[len(seen) // 2 - len(MIX) : len(seen) // 2])
    click.echo(f"second half: {grown_mib:+.1f} MiB")
    rows = [
        Row("requests answered", answered),
        at_most("requests failed", failures, 0),
        at_most("growth in the second half, MiB", grown_mib, allowed_mib),
    ]
    conclude(rows, file)
