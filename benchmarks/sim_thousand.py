"""Simulate a thousand GPUs at 300,000 requests per second for five seconds.

The fleet is divided into cells, each with its own router for its share of the requests and its own
process. Prints the simulated figures, the run time and the memory of the largest cell.
"""

import gc
import multiprocessing
import resource
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import click

from benchmarks.marks import Row, flat, stage, to_file, write
from benchmarks.sim_runs import way_of, world_of
from router.sim.build import run


class Cell(NamedTuple):
    """A part of the fleet."""

    devices: float
    rate: float
    seconds: float
    seed: int


def simulate(cell: Cell) -> dict[str, Any]:
    """Simulate one cell; with small queries, as a GPU gets 300 requests per second."""
    world = world_of("load-80")
    # a fifth of the devices each for the small and the middle model, the rest for the largest
    small, middle = round(0.4 * cell.devices), round(0.2 * cell.devices)
    names = list(world.models)
    replicas = dict(
        zip(names, (small, middle, round(cell.devices - 0.5 * small - middle)), strict=True)
    )
    classes = {"queries": world.scenario.traffic.classes["queries"]}
    traffic = world.scenario.traffic.model_copy(
        update={"load": None, "requests_per_s": cell.rate, "classes": classes}
    )
    world = replace(world, scenario=world.scenario.model_copy(update={"seed": cell.seed}))
    world = world.updated(
        traffic=traffic, replicas=replicas, seconds=cell.seconds, warm_up_s=0.2 * cell.seconds
    )
    started = time.process_time()
    outcome = run(world, way_of(), cell.rate)
    return {
        "requests": outcome.total.offered + outcome.warm.offered,
        "counted": outcome.total.offered,
        "on_time": outcome.total.on_time,
        "effective": outcome.total.effective,
        "cpu_s": time.process_time() - started,
        "memory_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }


@click.command()
@click.option("--devices", type=click.FloatRange(10), default=1000.0, show_default=True)
@click.option("--rate", type=click.FloatRange(1), default=300_000.0, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.1), default=5.0, show_default=True)
@click.option("--cells", type=click.IntRange(1), default=10, show_default=True)
@click.option("--processes", type=click.IntRange(1), default=2, show_default=True)
@to_file
def main(
    devices: float, rate: float, seconds: float, cells: int, processes: int, file: Path | None
) -> None:
    """Simulate a fleet in cells."""
    started = time.perf_counter()
    parts = [Cell(devices / cells, rate / cells, seconds, seed) for seed in range(cells)]
    rows = list[dict[str, Any]]()
    stage(f"{cells} cells of {rate / cells * seconds:.0f} requests in {processes} processes")
    with multiprocessing.Pool(processes, gc.freeze, maxtasksperchild=1) as pool:
        for row in pool.imap(simulate, parts, chunksize=1):
            rows.append(row)
            stage(f"cell {len(rows)} of {cells}: {row['cpu_s']:.0f} s of processor time")
    requests, cpu_s = (sum(row[key] for row in rows) for key in ("requests", "cpu_s"))
    counted = sum(row["counted"] for row in rows)
    profile = world_of("load-80").profile
    click.echo(f"simulated, by {profile}")
    click.echo(
        f"simulated: {devices:g} devices, {requests} requests in {seconds:g} s; "
        f"{100 * sum(row['on_time'] for row in rows) / counted:.2f} % on time at "
        f"{sum(row['effective'] for row in rows) / counted:.2f} effective points"
    )
    click.echo(
        f"{time.perf_counter() - started:.0f} s, {requests / cpu_s:.0f} requests a CPU second; "
        f"at most {max(row['memory_kib'] for row in rows) / 1024:.0f} MiB a cell"
    )
    whole = [
        Row("requests a CPU second", requests / cpu_s),
        Row("KiB of the largest cell", max(row["memory_kib"] for row in rows)),
    ]
    table = ({"cell": f"cell {place}", **row} for place, row in enumerate(rows))
    origin = {"simulated": True, "profile": profile}
    write([row._asdict() | origin for row in (*whole, *flat(table, "cell"))], file)


if __name__ == "__main__":
    main()
