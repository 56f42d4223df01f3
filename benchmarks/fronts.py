"""Compare `serve run` with `embedding-router run`: requests/s and CPU time per request.

    env -u RAY_worker_niceness python -m benchmarks fronts --engine fake

The same config runs on both, alternately, point by point and round by round. `embedding-router run`
has HAProxy in front and the environment of router/switches.py; `serve run` has Serve's Python proxy
and Ray's defaults, and joins no other Ray. `--engine fake` costs almost nothing, so it measures the
path of a request; with `vllm`, two tiny models share the cores with it.
"""

import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import click

from benchmarks import load, servers
from benchmarks.data_plane import POINTS, Measured, measure, row, table
from benchmarks.marks import numbers, to_file, write
from benchmarks.servers import ONE, kept

RUN = "embedding-router run"
SHAPES = ("short c=1", "short c=32", "batch c=8")


@click.command()
@click.option("--engine", type=click.Choice(["fake", "vllm"]), default="fake", show_default=True)
@click.option("--seconds", default=4.0, type=click.FloatRange(1), show_default=True)
@click.option("--rounds", default=3, type=click.IntRange(1), show_default=True)
@to_file
@kept
def main(engine: str, seconds: float, rounds: int, file: Path | None, folder: Path) -> None:
    """Compare the two ways to start the service."""
    points = {name: replace(POINTS[name], base=RUN) for name in SHAPES}
    seen: dict[str, dict[str, list[Measured]]] = {name: {} for name in points}
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        config = servers.ours_config(folder, [ONE], fake=engine == "fake")
        tokenizer = config["applications"][0]["args"]["models"][ONE]["tokenizer"]
        word_file = scratch / "words"
        word_file.write_text("\n".join(load.words(tokenizer)))
        started = [
            stack.enter_context(servers.configured(RUN, config, [ONE], scratch)),
            stack.enter_context(servers.serve_run(config, [ONE], scratch)),
        ]
        for number in range(rounds):
            for place, (name, point) in enumerate(points.items()):
                for server in started:
                    got = measure(server, point, seconds, 1 + number * 10 + place, word_file)
                    seen[name].setdefault(server.name, []).append(got)
                    click.echo(f"{name:<12} {server.name:<22} {got.per_s:8.1f}/s", err=True)
    rows = {name: row(point, seen[name]) for name, point in points.items()}
    click.echo(table(rows))
    write(
        (one for name, found in rows.items() for one in numbers(name, found["servers"])),
        file,
    )


if __name__ == "__main__":
    main()
