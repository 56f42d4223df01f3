"""Compare the simulator with a service with real models.

In one run it starts the service of --config, measures profiles through it, sends the same requests
twice, and simulates the first decision log with these profiles. It prints the difference between
the simulator and the mean of both runs, and the difference between the runs: the simulator can be
off by twice that.
"""

import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import click
import httpx
import yaml

from benchmarks.budgets import BUDGETS_S
from benchmarks.live import Ask, Client, RequestResult, Texts, router, with_config
from benchmarks.marks import stage, to_file, verdict, write
from benchmarks.public_data import sample
from benchmarks.sim_runs import quantile
from deployments.tools.simulate.load import load_world
from router.domain import Model
from router.profile import load_profile
from router.sim.build import PolicyVariant, World, run
from router.sim.outcome import Outcome

CLIENTS, CAPACITY_S = 16, 5.0
LONGEST = 512  # tokens of the texts that profiles are measured with
WARM_S = 10.0  # what arrives earlier is not counted


class Sent(NamedTuple):
    """One request of the replay."""

    at_s: float
    ask: Ask


def asks(texts: Texts, rng: random.Random) -> Ask:
    """The next request: a text of the mix with one of its kind's budgets."""
    text = next(texts)
    budget_s = rng.choice(BUDGETS_S[text.kind])
    return Ask(text, {"latency_budget_ms": 1000 * budget_s}, budget_s)


async def replay(url: str, sent: Sequence[Sent]) -> list[RequestResult]:
    """Send each request at its time. Latency counts from its sending, as in the log that is
    simulated.
    """
    async with Client(url) as client:
        start_s = time.perf_counter()

        async def one(each: Sent) -> RequestResult:
            await asyncio.sleep(max(0.0, start_s + each.at_s - time.perf_counter()))
            return await client.send(each.ask)

        return list(await asyncio.gather(*map(one, sent)))


async def capacity(url: str, folder: Path, rng: random.Random) -> float:
    """Answers per second of a few clients."""
    texts = Texts(rng, folder)
    async with Client(url) as client:
        return await client.capacity(lambda: asks(texts, rng), CLIENTS, CAPACITY_S)


def profiled(world: World, config: Path, url: str, repeats: int) -> World:
    """The world with the curves of profiles that are now measured through the service."""
    with tempfile.TemporaryDirectory() as scratch:
        models = dict[str, Model]()
        for name, model in world.models.items():
            stage(f"measuring the profile of {name}")
            file = Path(scratch) / f"{name}.json"
            command = [sys.executable, "-m", "router.cli", "calibrate", "--config", str(config)]
            command += ["--model", name, "-o", str(file), "--base-url", url]
            command += ["--max-tokens", str(LONGEST), "--repeats", str(repeats)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            models[name] = replace(model, curve=load_profile(json.loads(file.read_bytes()), name))
    return replace(world, models=models, profile="profiles of this run")


def logged(world: World, first_s: float, end_s: float, answered: int) -> World:
    """The world with the requests that ended between these times. Raises click.ClickException if
    fewer are logged than were answered, or if none arrived after the warm-up.
    """
    log = [one for one in world.log if first_s <= one.entry.at_s <= end_s]
    at_s = [one.entry.began_s for one in log]
    if len(log) < answered:
        raise click.ClickException(
            f"the decision log has {len(log)} of the {answered} requests that were answered"
        )
    if not log or max(at_s) - min(at_s) <= WARM_S:
        raise click.ClickException(f"no request was logged after the first {WARM_S:g} s")
    noise = world.scenario.noise.model_copy(update={"stall_share": 0.0})
    world = world.updated(seconds=max(at_s) - min(at_s) + 1e-6, warm_up_s=WARM_S, noise=noise)
    return replace(world, log=log)


@click.command()
@with_config
@click.option("--seconds", type=click.FloatRange(20.0), default=60.0, show_default=True)
@click.option(
    "--load",
    type=click.FloatRange(0.0, min_open=True),
    default=0.4,
    show_default=True,
    help="Load as a share of the capacity with a few clients.",
)
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True)
@sample
@click.option("--seed", type=int, default=0)
@to_file
def main(
    config: Path,
    seconds: float,
    load: float,
    repeats: int,
    folder: Path,
    seed: int,
    file: Path | None,
) -> None:
    """Replay the same requests twice through a service, and once through the simulator."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as scratch:
        log, scenario = Path(scratch) / "decisions.jsonl", Path(scratch) / "scenario.yaml"
        logging, no_cache = {"path": str(log)}, {"max_bytes": 0}
        stage("starting the service")
        with router(config, None, decision_log=logging, cache=no_cache) as running:
            stage(f"measuring what {CLIENTS} clients get, {CAPACITY_S:g} s")
            rate = load * asyncio.run(capacity(running.url, folder, rng))
            texts, sent, at_s = Texts(rng, folder), list[Sent](), 0.0
            while (at_s := at_s + rng.expovariate(rate)) < seconds:
                sent.append(Sent(at_s, asks(texts, rng)))
            if not rate:
                raise click.ClickException("the router answered none of the first requests")
            stage(f"first run: {len(sent)} requests in {seconds:g} s")
            first_s = time.time()
            runs = [asyncio.run(replay(running.url, sent))]
            end_s = time.time()
            stage("second run: the same requests")
            runs.append(asyncio.run(replay(running.url, sent)))
            scenario.write_text(yaml.safe_dump({"traffic": {"log": str(log)}}))
            answered = sum(result.status == httpx.codes.OK for result in runs[0])
            world = logged(load_world(scenario, config), first_s, end_s, answered)
            world = profiled(world, config, running.url, repeats)
    stage("simulating the decision log of the first run")
    rows = compared(run(world, PolicyVariant("as configured")), runs, sent)
    click.echo(
        f"{len(sent)} requests at {rate:.1f}/s, {world.profile}; "
        f"{sum(result.status != httpx.codes.OK for result in runs[0] + runs[1])} errors"
    )
    for row in rows:
        measured = ", ".join(f"{each:.4g}" for each in row["measured"])
        click.echo(
            f"{row['name']:<28} simulated {row['simulated']:.4g}, measured {measured}; off by "
            f"{row['value']:.1%}, mark {row['mark']} {verdict(row['met'])}"
        )
    write(rows, file)


def compared(
    outcome: Outcome, runs: Sequence[Sequence[RequestResult]], sent: Sequence[Sent]
) -> list[dict[str, Any]]:
    """One row per figure: simulated, measured twice, and the difference."""
    counted = [
        [result for each, result in zip(sent, answers, strict=True) if each.at_s >= WARM_S]
        for answers in runs
    ]
    simulated = {
        "p50, s": outcome.latencies.quantile(0.5),
        "p99, s": outcome.latencies.quantile(0.99),
    }
    simulated["on time"] = outcome.attainment
    measured = {
        "p50, s": [quantile([result.total_s for result in one], 0.5) for one in counted],
        "p99, s": [quantile([result.total_s for result in one], 0.99) for one in counted],
        "on time": [_on_time(one) for one in counted],
    }
    rows = []
    for name, values in measured.items():
        mean, value = max(sum(values) / len(values), 1e-9), simulated[name] or 0.0
        apart = abs(values[0] - values[1]) / mean
        off = abs(value - mean) / mean
        rows.append(
            {
                "name": f"models {name}",
                "value": off,
                "mark": f"<= {2 * apart:.1%}",
                "met": off <= 2 * apart,
                "simulated": value,
                "measured": values,
            }
        )
    return rows


def _on_time(answers: Sequence[RequestResult]) -> float:
    kept = [
        result.status == httpx.codes.OK and result.total_s <= (result.ask.budget_s or 0.0)
        for result in answers
    ]
    return sum(kept) / len(kept)


if __name__ == "__main__":
    main()
