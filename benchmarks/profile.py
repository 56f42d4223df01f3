"""Profile the router and a replica with py-spy under the load of a point.

Starts the router and one model as `make bench` does, loads them, and samples the router's process
and the replica's with py-spy. Prints the CPU use of each process and of its busiest threads, as the
kernel counts it, and the functions of each thread: `own` is time in the function itself, `all`
includes the functions that it called. Samples of waiting threads are left out, and so is uvloop's
work between callbacks, which py-spy cannot distinguish from waiting.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import psutil

from benchmarks import load, servers
from benchmarks.data_plane import POINTS, WARM_S
from benchmarks.servers import kept

RATE = 400  # samples a second
WAITING = (
    "Thread.run threading.py",
    "InProcess._step engines/vllm_in_process.py",
    "Condition.wait threading.py",
)
SHOWN = 2  # threads of each process


@click.command()
@click.option(
    "--point",
    "points",
    multiple=True,
    default=("short c=8",),
    type=click.Choice(list(POINTS)),
    show_default=True,
)
@click.option("--seconds", default=6.0, type=click.FloatRange(1), show_default=True)
@click.option("--rows", default=25, show_default=True, help="Functions to show per thread.")
@click.option(
    "--native",
    is_flag=True,
    help="Include native frames; this slows the load down.",
)
@click.option("--gil", is_flag=True, help="Only samples that hold the interpreter's lock.")
@kept
def main(
    points: tuple[str, ...], seconds: float, rows: int, native: bool, gil: bool, folder: Path
) -> None:
    """Profile router and replica under the load of a point."""
    models = sorted({model for point in points for model in POINTS[point].shape.models})
    with tempfile.TemporaryDirectory(prefix="bench-") as made:
        scratch = Path(made)
        word_file = scratch / "words"
        word_file.write_text("\n".join(load.words(str(servers.checkpoints(folder)[servers.ONE]))))
        with servers.ours(folder, models, scratch) as server:
            for seed, name in enumerate(points):
                point = POINTS[name]
                load.run(server.url, point.shape, point.connections, WARM_S, 1000 + seed, word_file)
                before, threads = (
                    {process.pid: _cpu_s(process) for process in server.tree()},
                    _threads(server),
                )
                with _recording(
                    server, scratch, seconds, ["-n"] * native + ["--gil"] * gil
                ) as found:
                    got = load.run(
                        server.url, point.shape, point.connections, seconds, seed, word_file
                    )
                click.echo(
                    f"\n{name}: {(got.requests - got.failures) / got.seconds:.1f}/s, p50 "
                    f"{got.p50_ms:.2f} ms, "
                    f"p99 {got.p99_ms:.2f} ms, {got.failures} failed"
                )
                _processes(server, before, got.requests, got.seconds)
                busy = {
                    thread: used_s - threads.get(thread, 0.0)
                    for thread, used_s in _threads(server).items()
                }
                for title, file in found.items():
                    _report(title, file, rows, busy, got.seconds)


@contextmanager
def _recording(
    server: servers.Server, scratch: Path, seconds: float, options: list[str]
) -> Iterator[dict[str, Path]]:
    """Run py-spy on every replica of the service during the block; yields the file of each."""
    files: dict[str, Path] = {}
    spies = []
    for process in server.tree():
        title = _title(process)
        if title.startswith("ray::ServeReplica"):
            name = title.rpartition(":")[2]
            files[name] = file = scratch / f"{name}.raw"
            command = [
                "record",
                "-t",
                "-r",
                str(RATE),
                "-d",
                str(max(1, round(seconds))),
                "-f",
                "raw",
                "-o",
                str(file),
                *options,
            ]
            spies.append(
                subprocess.Popen(
                    [
                        str(Path(sys.executable).with_name("py-spy")),
                        *command,
                        "-p",
                        str(process.pid),
                    ],
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            )
    yield files
    for spy in spies:
        spy.wait(timeout=60)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()).strip()
    except psutil.Error:
        return ""


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def _processes(
    server: servers.Server, before: dict[int, float], requests: int, seconds: float
) -> None:
    """CPU time of each process of the service."""
    spent = []
    for process in server.tree():
        used_s = _cpu_s(process) - before.get(process.pid, 0.0)
        if used_s >= 0.01 * seconds:
            spent.append((used_s, _title(process)[:60] or str(process.pid)))
    for used_s, title in sorted(spent, reverse=True):
        click.echo(
            f"  {100 * used_s / seconds:5.1f} % of a core, "
            f"{1000 * used_s / max(1, requests):7.3f} ms a request  {title}"
        )


def _threads(server: servers.Server) -> dict[int, float]:
    """CPU time of every thread of the replicas, by its number."""
    found = {}
    for process in server.tree():
        if _title(process).startswith("ray::ServeReplica"):
            found.update(
                {
                    thread.id: float(thread.user_time + thread.system_time)
                    for thread in process.threads()
                }
            )
    return found


def _report(title: str, file: Path, rows: int, busy: dict[int, float], seconds: float) -> None:
    """Functions by time, for the busiest threads of one process."""
    threads: dict[str, tuple[Counter[str], Counter[str]]] = {}
    for line in file.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        thread, *frames = stack.split(";")
        frames = [_short(frame) for frame in frames]
        own, every = threads.setdefault(thread, (Counter(), Counter()))
        if frames and frames[-1] not in WAITING:
            own[frames[-1]] += int(count)
            for frame in set(frames):
                every[frame] += int(count)
    used = {
        thread: next((busy.get(int(digits), 0.0) for digits in re.findall(r"\d+", thread)), 0.0)
        for thread in threads
    }
    for thread in sorted(threads, key=used.__getitem__, reverse=True)[:SHOWN]:
        own, every = threads[thread]
        total = max(1, own.total())
        click.echo(
            f"\n  {title}, {thread}: {100 * used[thread] / seconds:.1f} % of a core, "
            f"{own.total()} samples at work"
        )
        for one, other in zip(every.most_common(rows), own.most_common(rows), strict=False):
            shares = [f"{100 * count / total:5.1f} %  {name}" for name, count in (one, other)]
            click.echo(f"    all {shares[0]:<75.75} own {shares[1]:.70}")


def _short(frame: str) -> str:
    """`function (folder/file.py:12)` without the line and all but the last of the folders."""
    function, _, place = frame.partition(" (")
    path = place.rstrip(")").rpartition(":")[0] or place.rstrip(")")
    return f"{function} {os.sep.join(path.split('/')[-2:])}" if path else function


if __name__ == "__main__":
    main()
