"""Long mixed load with a fault every 20 s; checks answers and memory.

The load of `chaos`, with one fault after another in an order drawn from a seed. The result is the
outcome of the requests, and the memory of every role before the first fault and after the last.
Replaced processes start with empty caches. Memory is therefore measured both times after load
alone, enough to fill the caches and records of every router. Growth between the two is a leak.
"""

import asyncio
import random
import tempfile
import time
from pathlib import Path

import click

from benchmarks.chaos import HEAD, SCENARIOS, Result, judged, row
from benchmarks.chaos_load import Checked
from benchmarks.chaos_stage import MODELS, REPLICAS, REQUEST_TIMEOUT_S, Stage, stage
from benchmarks.marks import Row, at_most, to_file, write

EVERY_S = 20.0
FAULTS = (
    "replica-killed",
    "engine-dies",
    "engine-hangs",
    "engine-fails",
    "engine-makes-nonsense",
    "router-killed",
    "clients-leave",
    "slow-clients",
    "config-reloaded",
    "only-replica-killed",
    "redeployed",
)
# for each router: two of three are one short text, and it remembers the last 8,192 of these
FILL_REQUESTS = 13_000
FILL_CLIENTS = 16  # who do not pause


async def _filled(on: Stage, client: Checked) -> dict[str, float]:
    """MiB per role, once every router has answered enough requests to fill its caches."""

    async def one() -> None:
        for _ in range(FILL_REQUESTS * REPLICAS["router"] // FILL_CLIENTS):
            await client.send(client.ask())

    await asyncio.gather(*(one() for _ in range(FILL_CLIENTS)))
    return on.memory_mib()


async def _inject(
    on: Stage,
    client: Checked,
    seconds: float,
    rng: random.Random,
    recoveries: list[tuple[str, float | None]],
) -> None:
    """Inject faults, each `EVERY_S` after the previous one, or once that one is over."""
    end_s, queue = time.monotonic() + seconds, list[str]()
    while (start_s := time.monotonic()) < end_s - EVERY_S / 2:
        if not queue:
            queue = rng.sample(FAULTS, len(FAULTS))
        name = queue.pop()
        recovered_s, _ = await SCENARIOS[name](on, client)
        recoveries.append((name, recovered_s))
        took = "" if recovered_s is None else f", whole again after {recovered_s:.1f} s"
        tally = client.tally
        click.echo(
            f"{seconds - (end_s - start_s):6.0f} s  {name}{took}; {tally.sent} sent, "
            f"{tally.right} right, "
            f"{len(tally.lost)} lost, {len(tally.wrong)} wrong; routers "
            f"{on.memory_mib().get('router', 0.0):.0f} MiB",
            err=True,
        )
        await asyncio.sleep(max(0.0, start_s + EVERY_S - time.monotonic()))


async def soak(
    seconds: float, port: int, seed: int
) -> tuple[Result, dict[str, tuple[float, float]]]:
    """The whole run as one row, and MiB per role before and after the faults."""
    recoveries: list[tuple[str, float | None]] = []
    with tempfile.TemporaryDirectory(prefix="er-soak-", dir="/tmp") as scratch:
        async with (
            stage(Path(scratch), port) as on,
            Checked(on.url, MODELS, REQUEST_TIMEOUT_S, seed) as client,
        ):
            # Changes nothing; Ray's dashboard loads half of itself at its first deployment.
            await on.deploy(on.data)
            await on.until(("RUNNING",))
            before = await _filled(on, client)
            stop = asyncio.Event()
            load = asyncio.create_task(client.run(stop))
            try:
                await _inject(on, client, seconds, random.Random(seed), recoveries)
                await on.recovered()
            finally:
                stop.set()
                await load
            after = await _filled(on, client)
    tally = client.tally
    slowest = max((took for _, took in recoveries if took is not None), default=None)
    result = Result(
        f"soak {seconds:g} s",
        tally.sent,
        tally.right,
        dict(tally.refused),
        tally.lost,
        tally.wrong,
        tally.worst_s,
        slowest,
        f"{len(recoveries)} faults",
    )
    return result, {
        role: (before.get(role, 0.0), after.get(role, 0.0))
        for role in sorted(before.keys() | after.keys())
    }


@click.command()
@click.option("--seconds", default=600.0, type=click.FloatRange(60), show_default=True)
@click.option(
    "--allowed-mib",
    default=64.0,
    show_default=True,
    help="Maximum growth of one role's memory.",
)
@click.option(
    "--seed", default=0, show_default=True, help="Seed for the order of the faults and the texts."
)
@to_file
@click.option("--port", default=8140, show_default=True, help="First of two ports to use.")
def main(seconds: float, allowed_mib: float, seed: int, file: Path | None, port: int) -> None:
    """Load one service for --seconds with a fault every 20 s; exit 1 if a request is lost or wrong,
    or memory grows.
    """
    result, memory = asyncio.run(soak(seconds, port, seed))
    click.echo("\n".join([HEAD, row(result), "", f"{'MiB':<22} {'before':>8} {'after':>8}"]))
    rows = judged(result)
    for role, (start, end) in memory.items():
        click.echo(f"{role:<22} {start:8.0f} {end:8.0f}")
        rows += [
            Row(f"{role}: MiB before", start),
            at_most(f"{role}: MiB after", end, start + allowed_mib),
        ]
    write(rows, file)
    grown = [role for role, (start, end) in memory.items() if end - start > allowed_mib]
    if not result.clean or grown:
        raise click.ClickException(
            f"requests were lost or wrong, or memory grew: {', '.join(grown)}"
        )
