"""Replay the same arrivals through the simulator and the service, and compare latencies.

The service is the whole router in this process, on a real socket, with engines that sleep as long
as a curve says and answer one call after another. The overhead of an idle router is measured first
and becomes the simulated models' `overhead_s`; the simulator must know all else. It runs in real
time, so use an idle machine.
"""

import asyncio
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import click
import httpx

from benchmarks.marks import stage, to_file, verdict, write
from benchmarks.sim_runs import quantile
from router.models import build_models, build_policy
from router.sim.outcome import Outcome
from router.sim.simulation import Simulation, SimulationInputs
from router.sim.traffic import Arrival, Kind, Shapes
from router.strict import parse_args
from tests.support.local_service import served
from tests.support.virtual_loop import sized_text

BASE_S, S_PER_TOKEN, TIMES = 0.03, 0.0004, 3.0  # of the small model; the large is so much slower
BUDGETS_S = (0.25, 1.0)
MARKS = {"p50": 0.10, "p99": 0.15}
WARM_TOKENS = 40


class Sent(NamedTuple):
    """One request of the replay."""

    at_s: float
    tokens: int
    budget_s: float


def config(overhead_s: float) -> dict[str, Any]:
    """Two models. Without a tokenizer a router counts a token per three characters of such words
    and the engine one per four, so the engine's tokens take a third longer.
    """

    def model(times: float, points: float) -> dict[str, Any]:
        return {
            "engine": {
                "kind": "fake",
                "base_s": BASE_S * times,
                "s_per_token": S_PER_TOKEN * times * 4 / 3,
            },
            "dimensions": 64,
            "max_tokens": 8192,
            "quality": {"default": points},
            "curve": {
                "fixed_s": 0.0,
                "base_s": BASE_S * times,
                "s_per_token": S_PER_TOKEN * times,
                "batch_tokens": 2048,
                "overhead_s": overhead_s,
            },
        }

    return {
        "models": {"small": model(1.0, 60.0), "large": model(TIMES, 70.0)},
        "tiers": {"fast": "small", "best": "large"},
        "routing": {"default_tier": "best"},
        "cache": {"max_bytes": 0},
    }


def requests(seconds: float, rate: float, rng: Random) -> list[Sent]:
    """Independent arrivals; lengths are multiples of four tokens, so that both count alike."""
    sent, at_s = list[Sent](), 0.0
    while (at_s := at_s + rng.expovariate(rate)) < seconds:
        sent.append(Sent(at_s, 4 * rng.randrange(5, 50), rng.choice(BUDGETS_S)))
    return sent


async def idle_s(url: str, asks: int) -> list[float]:
    """Seconds of requests that are sent one after another; the first ones trigger lazy loading."""
    took = list[float]()
    async with httpx.AsyncClient(base_url=url, timeout=60.0) as client:
        for number in range(asks):
            body = {"input": sized_text(number, WARM_TOKENS), "model": "large"}
            began_s = time.perf_counter()
            (await client.post("/v1/embeddings", json=body)).raise_for_status()
            took.append(time.perf_counter() - began_s)
    return took


async def replay(url: str, sent: Sequence[Sent]) -> tuple[list[float], list[str]]:
    """Seconds and models of the answers that clients receive."""
    await idle_s(url, 10)
    limits = httpx.Limits(keepalive_expiry=1.0)  # before the server's, which would cut a request
    async with httpx.AsyncClient(base_url=url, timeout=60.0, limits=limits) as client:
        start_s = time.perf_counter()

        async def one(number: int, ask: Sent) -> tuple[float, str]:
            await asyncio.sleep(max(0.0, start_s + ask.at_s - time.perf_counter()))
            text, budget_ms = sized_text(number, ask.tokens), 1000 * ask.budget_s
            body = {"input": text, "model": "auto", "latency_budget_ms": budget_ms}
            began_s = time.perf_counter()
            answer = await client.post("/v1/embeddings", json=body)
            took_s = time.perf_counter() - began_s
            answer.raise_for_status()
            return took_s, str(answer.json()["model"])

        found = await asyncio.gather(*(one(number, ask) for number, ask in enumerate(sent)))
    return [took_s for took_s, _ in found], [model for _, model in found]


def simulate(sent: Sequence[Sent], seconds: float, overhead_s: float) -> Outcome:
    """Simulate the same arrivals on the virtual clock."""
    args = parse_args(config(overhead_s))
    models = build_models(args)
    arrivals = list[Arrival]()
    for budget_s in BUDGETS_S:
        of_budget = [ask for ask in sent if ask.budget_s == budget_s]
        kind = Kind("text", 1.0, (1, 1), {"en": 1.0}, {budget_s: 1.0})
        shapes = Shapes([kind], models, args.models, (ask.tokens for ask in of_budget))
        arrivals += [Arrival(ask.at_s, shapes.draw(Random(0))) for ask in of_budget]
    arrivals.sort(key=lambda one: one.at_s)
    setup = SimulationInputs(
        args,
        models,
        build_policy(args.routing, args.tiers),
        dict.fromkeys(models, 1),
        packs=dict.fromkeys(models, False),
    )
    return Simulation(setup, arrivals, seconds).run()


@click.command()
@click.option("--seconds", type=click.FloatRange(5.0), default=60.0, show_default=True)
@click.option("--rate", type=click.FloatRange(0.1), default=12.0, show_default=True)
@click.option("--seed", type=int, default=0)
@to_file
def main(seconds: float, rate: float, seed: int, file: Path | None) -> None:
    """Replay the same requests through the service and the simulator."""
    stage("asking an idle router 40 times, about 6 s")
    with served(config(0.004)) as (url, _):
        took = asyncio.run(idle_s(url, 40))
    step_s = TIMES * (BASE_S + WARM_TOKENS * S_PER_TOKEN)
    overhead_s = max(1e-4, statistics.median(took[20:]) - step_s)
    sent = requests(seconds, rate, Random(seed))
    rounds = []
    for number in (1, 2):  # what lies between two real runs is nobody's error
        stage(f"real run {number} of 2: {len(sent)} requests in {seconds:g} s")
        with served(config(overhead_s)) as (url, _):
            rounds.append(asyncio.run(replay(url, sent)))
    stage("simulating the same requests")
    outcome = simulate(sent, seconds, overhead_s)
    rows = list[dict[str, Any]]()
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        real = [quantile(took, share) for took, _ in rounds]
        mean = sum(real) / len(real)
        simulated_s = outcome.latencies.quantile(share) or 0.0
        value = simulated_s / mean - 1.0
        rows.append(
            {
                "name": f"truth {name}",
                "value": abs(value),
                "mark": f"<= {MARKS[name]:g}",
                "met": abs(value) <= MARKS[name],
                "simulated_s": simulated_s,
                "measured_s": real,
            }
        )
    large = [models.count("large") / len(models) for _, models in rounds]
    for row in rows:
        click.echo(
            f"{row['name']}: simulated {1000 * row['simulated_s']:.1f} ms, measured "
            + ", ".join(f"{1000 * each:.1f}" for each in row["measured_s"])
            + f" ms; {100 * row['value']:.1f} % off, mark {row['mark']}: "
            + verdict(row["met"])
        )
    share = outcome.models["large"] / outcome.models.total()
    click.echo(
        f"{len(sent)} requests, {1000 * overhead_s:.1f} ms overhead; answered by the large model: "
        f"simulated {share:.1%}, measured " + ", ".join(f"{each:.1%}" for each in large)
    )
    write(rows, file)


if __name__ == "__main__":
    main()
