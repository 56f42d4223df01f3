"""Measure whether a shadow of every request slows the requests.

    python -m benchmarks shadow                 (configs/local.yaml, 3 minutes)

One router with `compare.shadow` for requests with `input_type: query`, share 1. Turns of a few
seconds with `query` (shadowed) and with `document` (not shadowed) alternate in random order, at the
same rate, on a model that treats both sides alike. The result is the latency at the client: the
ratios of the two medians and of the two 95th percentiles, and as the noise, these ratios between
two halves of the turns without a shadow.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import httpx
import numpy as np

from benchmarks.live import Ask, Client, Text, Texts, router, with_config
from benchmarks.marks import flat, to_file, write
from benchmarks.public_data import sample

SIDES = ("query", "document")


@click.command()
@with_config
@click.option("--model", default="all-minilm-l6-v2", show_default=True, help="Model that answers.")
@click.option(
    "--shadow",
    "shadows",
    multiple=True,
    default=["wordllama-256", "multilingual-e5-small"],
    show_default=True,
)
@click.option(
    "--load",
    type=click.FloatRange(0.01, 1.0),
    default=0.3,
    show_default=True,
    help="Load as a share of the model's capacity.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(1.0),
    default=4.0,
    show_default=True,
    help="Seconds per turn.",
)
@click.option(
    "--turns", type=click.IntRange(2), default=8, show_default=True, help="Turns per side."
)
@click.option("--wait-for-idle/--no-wait-for-idle", default=True, show_default=True)
@sample
@to_file
@click.option("--seed", type=int, default=0)
def main(
    config: Path,
    model: str,
    shadows: Sequence[str],
    load: float,
    seconds: float,
    turns: int,
    wait_for_idle: bool,
    folder: Path,
    file: Path | None,
    seed: int,
) -> None:
    """Compare the latency of shadowed requests with that of other requests."""
    rows = []
    for shadow in shadows:
        compare = {
            "shadow": {
                "model": shadow,
                "share": 1.0,
                "when": {"input_type": "query"},
                "wait_for_idle": wait_for_idle,
            }
        }
        with router(config, None, compare=compare) as running:
            rate, times = asyncio.run(
                _drive(running.url, model, load, seconds, turns, folder, random.Random(seed))
            )
            found = (
                httpx.get(f"{running.url}/v1/compare", timeout=30)
                .raise_for_status()
                .json()["shadow"]
            )
        rows.append(
            {
                "shadow": shadow,
                "rate_per_s": round(rate, 1),
                **summarise(times),
                **{name: found[name] for name in ("compared", "left_out", "waiting")},
            }
        )
    click.echo("\n".join(_table(model, load, rows)))
    write(flat(rows, "shadow"), file)


async def _drive(
    url: str,
    model: str,
    load: float,
    seconds: float,
    turns: int,
    folder: Path,
    rng: random.Random,
) -> tuple[float, dict[str, list[list[float]]]]:
    """Requests per second, and the latencies in seconds of every turn, by side."""
    texts, times = Texts(rng, folder), dict[str, list[list[float]]]({side: [] for side in SIDES})

    def asking(side: str) -> Callable[[], Ask]:
        def make() -> Ask:
            text: Text = next(text for text in texts if text.kind == "query")
            return Ask(text, {"model": model, "input_type": side})

        return make

    async with Client(url) as client:
        rate = load * await client.capacity(asking("document"), clients=8, seconds=5.0)
        for side in SIDES:
            await client.at_rate(asking(side), rate, 2.0, rng)
        for _ in range(turns):
            for side in rng.sample(SIDES, 2):
                results = await client.at_rate(asking(side), rate, seconds, rng)
                if any(one.status != httpx.codes.OK for one in results):
                    raise click.ClickException(
                        f"a request failed: {[one.status for one in results]}"
                    )
                times[side].append([one.total_s for one in results])
    return rate, times


def summarise(times: dict[str, list[list[float]]]) -> dict[str, Any]:
    """p50 and p95 of both sides in milliseconds, their ratios, and the ratio of two halves of the
    turns without a shadow.
    """
    out: dict[str, Any] = {}
    plain = times["document"]
    for percent in (50, 95):
        shadowed, alone = (
            float(np.percentile(np.concatenate(times[side]), percent)) for side in SIDES
        )
        halves = [
            float(np.percentile(np.concatenate(plain[start::2]), percent)) for start in (0, 1)
        ]
        out |= {
            f"p{percent}_ms": {
                "alone": round(alone * 1000, 2),
                "shadowed": round(shadowed * 1000, 2),
            },
            f"p{percent}_ratio": round(shadowed / alone, 3),
            f"p{percent}_noise": round(max(halves) / min(halves), 3),
        }
    return out


def _table(model: str, load: float, rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        f"{model} at {load:.0%} of its capacity; milliseconds without and with a shadow of every "
        "request",
        "",
    ]
    for row in rows:
        lines.append(
            f"shadow {row['shadow']}, {row['rate_per_s']:g} requests/s: {row['compared']} "
            "compared, "
            f"{row['waiting']} waiting, left out: {row['left_out'] or 'none'}"
        )
        for percent in (50, 95):
            alone, shadowed = row[f"p{percent}_ms"].values()
            lines.append(
                f"  p{percent}  {alone:8.2f} {shadowed:8.2f}   ratio "
                f"{row[f'p{percent}_ratio']:.2f}   "
                f"two halves without: {row[f'p{percent}_noise']:.2f}"
            )
    return lines
