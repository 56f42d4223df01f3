"""Measure the share of requests answered in time at 80 % and 120 % of the largest model's capacity.

    make bench-budgets            (or: python -m benchmarks.budgets --config configs/local.yaml)

Short questions, abstracts and texts that are not English (benchmarks/live.py has the mix) arrive
with a latency budget. Five strategies (`choosers` below) alternate in turns of a few seconds, in
random order, on one router: `auto`; the best model within the budget; always the best; by length;
and the model at which this client has the fewest outstanding requests.

In time means that the last byte arrived within the budget, on the client's clock, from the time
that the request was due; an error is not in time. Quality is the config's points of the model that
answered, for the text's language: over the answers in time, and over all requests, where a late
answer has 0 points.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import click
import httpx
import numpy as np

from benchmarks.live import (
    CHARACTERS_A_TOKEN,
    Ask,
    Client,
    RequestResult,
    Text,
    Texts,
    of_turns,
    router,
    worst_lag,
)
from benchmarks.marks import Row, flat, show, write
from router.domain import Features, Model
from router.models import build_models

BUDGETS_S: Mapping[str, Sequence[float]] = {
    "query": (0.05, 0.1, 0.3),
    "foreign": (0.05, 0.1, 0.3),
    "passage": (0.3, 1.0),
}
LOADS = (0.8, 1.2)


class Chooser(NamedTuple):
    """A routing strategy: the request fields it sets, and the answer fields it needs."""

    name: str
    options: Callable[[Text, float], Mapping[str, Any]]
    done: Callable[[RequestResult], None] = lambda result: None


@click.command()
@of_turns(seconds=6.0, turns=3)
def main(
    config: Path,
    base_url: str | None,
    seconds: float,
    turns: int,
    folder: Path,
    file: Path | None,
    seed: int,
) -> None:
    """Compare this policy with four simpler ones by the share of requests answered in time."""
    with router(config, base_url) as running:
        known = build_models(running.args)
        models = {name: known[name] for name in running.args.native}
        capacity, results = asyncio.run(
            _drive(running.url, models, seconds, turns, folder, random.Random(seed))
        )
    rows = [summarise(name, load, answers, models) for (load, name), answers in results.items()]
    click.echo("\n".join(_table(rows, capacity)))
    lag = worst_lag(chain.from_iterable(results.values()))
    show([lag])
    capacity_row = Row("requests/s of the largest model", capacity)
    write([capacity_row, lag, *flat(rows, "load", "policy")], file)


def choosers(models: Mapping[str, Model], rng: random.Random) -> list[Chooser]:
    """The five strategies; `models` are sorted from small to large."""
    names, outstanding = list(models), Counter[str]()

    def readable(text: Text) -> list[str]:
        return [
            name for name in names if len(text.text) / CHARACTERS_A_TOKEN <= models[name].max_tokens
        ]

    def by_length(text: Text, _: float) -> Mapping[str, Any]:
        able = readable(text)
        place = 0 if len(text.text) < 50 else 1 if len(text.text) < 500 else len(names) - 1
        return {"model": names[place] if names[place] in able else able[-1]}

    def least(text: Text, _: float) -> Mapping[str, Any]:
        chosen = min(readable(text), key=lambda name: (outstanding[name], rng.random()))
        outstanding[chosen] += 1
        return {"model": chosen}

    def answered(result: RequestResult) -> None:
        outstanding[result.ask.options["model"]] -= 1

    return [
        Chooser("auto", lambda text, budget_s: {"latency_budget_ms": budget_s * 1000}),
        Chooser(
            "best within budget",
            lambda text, budget_s: {"latency_budget_ms": budget_s * 1000, "quality": "best"},
        ),
        Chooser("always best", lambda text, budget_s: {"model": names[-1]}),
        Chooser("by length", by_length),
        Chooser("least outstanding", least, answered),
    ]


async def _drive(
    url: str,
    models: Mapping[str, Model],
    seconds: float,
    turns: int,
    folder: Path,
    rng: random.Random,
) -> tuple[float, dict[tuple[float, str], list[RequestResult]]]:
    """Capacity of the largest model for this mix, and the answers by load and strategy."""
    texts, ways = Texts(rng, folder), choosers(models, rng)
    results: dict[tuple[float, str], list[RequestResult]] = {
        (load, way.name): [] for load in LOADS for way in ways
    }

    def asking(way: Chooser) -> Callable[[], Ask]:
        def make() -> Ask:
            text = next(texts)
            budget_s = rng.choice(BUDGETS_S[text.kind])
            return Ask(text, way.options(text, budget_s), budget_s)

        return make

    async with Client(url) as client:
        best = next(way for way in ways if way.name == "always best")
        capacity = await client.capacity(asking(best), clients=16, seconds=8.0)
        for way in ways:  # predictions of every model have something to learn from
            await client.at_rate(asking(way), 0.5 * capacity, 2.0, rng, way.done)
        for _ in range(turns):
            for load, way in rng.sample(
                [(load, way) for load in LOADS for way in ways], len(LOADS) * len(ways)
            ):
                results[load, way.name] += await client.at_rate(
                    asking(way), load * capacity, seconds, rng, way.done
                )
    return capacity, results


def summarise(
    name: str, load: float, results: Sequence[RequestResult], models: Mapping[str, Model]
) -> dict[str, Any]:
    """One row of the table."""
    in_time = [
        one
        for one in results
        if one.status == httpx.codes.OK and one.total_s <= (one.ask.budget_s or 0.0)
    ]
    points = [
        models[one.model].quality_of(Features(0, one.ask.text.language, None, False, False)) or 0.0
        for one in in_time
        if one.model
    ]
    seconds = [one.total_s for one in results]
    return {
        "load": load,
        "policy": name,
        "requests": len(results),
        "in_time": len(in_time) / max(1, len(results)),
        "errors": sum(one.status != httpx.codes.OK for one in results),
        "p50_ms": 1000 * float(np.percentile(seconds, 50)) if seconds else None,
        "p99_ms": 1000 * float(np.percentile(seconds, 99)) if seconds else None,
        "quality_in_time": sum(points) / len(points) if points else None,
        "quality_offered": sum(points) / max(1, len(results)),
        "models": {
            model: count / len(results)
            for model, count in Counter(one.model for one in results if one.model).items()
        },
    }


def _table(rows: Sequence[Mapping[str, Any]], capacity: float) -> Iterator[str]:
    yield (
        f"the largest model answers {capacity:.0f} of these requests a second; loads are "
        "shares of that"
    )
    yield ""
    yield (
        f"{'load':>5} {'policy':<19} {'requests':>8} {'in time':>8} {'errors':>7} {'p50 ms':>8} "
        f"{'p99 ms':>8} {'quality':>8} "
        f"{'of all':>7}  answered by"
    )
    for row in rows:
        shares = ", ".join(
            f"{model} {share:.0%}"
            for model, share in sorted(row["models"].items(), key=lambda item: -item[1])
        )
        yield (
            f"{row['load']:>5.0%} {row['policy']:<19} {row['requests']:>8} "
            f"{row['in_time']:>8.1%} {row['errors']:>7} "
            f"{_number(row['p50_ms']):>8} {_number(row['p99_ms']):>8} "
            f"{_number(row['quality_in_time']):>8} "
            f"{row['quality_offered']:>7.1f}  {shares}"
        )
    yield ""
    yield (
        "quality: points of the answers in time; of all: the same sum over everything offered, "
        "a late answer counting 0"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


if __name__ == "__main__":
    main()
