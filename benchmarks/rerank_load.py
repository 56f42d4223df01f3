"""Measure whether embeddings and reranking meet their budgets together.

    python -m benchmarks rerank_load --data FOLDER

Two of three requests are embeddings, as in `benchmarks budgets`; the third ranks a few English
passages for a question. No text is sent twice. Requests have a latency budget, and arrive as a
Poisson process at 80 % or 120 % of the largest model's capacity for this mix. Rescoring by
similarity uses the same models. Two strategies alternate in turns of a few seconds:

    best within budget   `quality: best` and the budget: the largest model predicted to be in time
    always best          the largest embedding model, and rescoring by it

An answer is in time if its last byte arrived within the budget, from the time that the request was
due; an error is not in time. The mark: 95 % of either kind in time, at either load. The exit status
is 1 if one is missed.
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

from benchmarks.budgets import BUDGETS_S, LOADS
from benchmarks.live import Ask, Client, RequestResult, Text, Texts, of_turns, router, worst_lag
from benchmarks.marks import Row, at_least, conclude, numbers, show
from router.config import RouterArgs

RERANK_BUDGETS_S = (1.0, 3.0)
RERANKS = 1 / 3  # of the requests
DOCUMENTS = (3, 12)  # of a request that ranks, at least and at most
CHARACTERS = (100, 400)  # of a document
FIRST = 20  # requests before anything is measured
KINDS = ("embeddings", "reranking")
POLICY, ALWAYS = "best within budget", "always best"
MARK = 0.95  # of either kind, in time


class Share(NamedTuple):
    """Results of one request kind, strategy and load."""

    load: float
    policy: str
    kind: str
    requests: int
    in_time: float
    errors: int
    p50_ms: float
    p99_ms: float
    models: Mapping[str, float]  # share of each among the answers

    @property
    def met(self) -> bool | None:
        """Whether the mark is met; None without a mark."""
        return self.in_time >= MARK if self.policy == POLICY else None


class Mix:
    """New requests of both kinds."""

    def __init__(self, rng: random.Random, folder: Path, args: RouterArgs) -> None:
        self._rng, self._texts = rng, Texts(rng, folder)
        self._largest = {
            "embeddings": list(args.native)[-1],
            "reranking": list(args.rerankers)[-1],
        }

    def of(self, policy: str) -> Callable[[], Ask]:
        """The generator of the next request of a strategy."""

        def make() -> Ask:
            text, documents = next(self._texts), list[str]()
            if self._rng.random() < RERANKS:
                text = self._next("query")
                documents = [self._passage() for _ in range(self._rng.randint(*DOCUMENTS))]
            kind = kind_of(documents)
            budget_s = self._rng.choice(RERANK_BUDGETS_S if documents else BUDGETS_S[text.kind])
            options: dict[str, Any] = {"model": self._largest[kind]}
            if policy == POLICY:
                options = {"quality": "best", "latency_budget_ms": 1000 * budget_s}
            return Ask(text, options, budget_s, tuple(documents))

        return make

    def _next(self, kind: str) -> Text:
        return next(text for text in self._texts if text.kind == kind)

    def _passage(self) -> str:
        text = self._next("passage").text
        start = self._rng.randrange(max(1, len(text) - CHARACTERS[1]))
        part = text[start : start + self._rng.randint(*CHARACTERS)]
        return f"{part} {text.rpartition(' ')[2]}"  # with the number that makes it new


def kind_of(documents: Sequence[str]) -> str:
    """The kind of a request with these documents."""
    return KINDS[bool(documents)]


@click.command()
@of_turns(seconds=8.0, turns=4)
def main(
    config: Path,
    base_url: str | None,
    seconds: float,
    turns: int,
    folder: Path,
    file: Path | None,
    seed: int,
) -> None:
    """Measure the share of either kind that is answered in time."""
    rng = random.Random(seed)
    with router(config, base_url) as running:
        mix = Mix(rng, folder, running.args)
        capacity, results = asyncio.run(_drive(running.url, mix, seconds, turns, rng))
    shares = summarise(results)
    click.echo("\n".join(_table(shares, capacity)))
    lag = worst_lag(chain.from_iterable(results.values()))
    show([lag])
    rows = [Row("requests/s of the largest models", capacity), lag]
    for load, policy, kind, requests, in_time, *others in shares:
        name, mark = f"{load:.0%} {policy}, {kind}", MARK if policy == POLICY else None
        rows += [Row(f"{name}: requests", requests), at_least(f"{name}: in time", in_time, mark)]
        rows += numbers(name, dict(zip(Share._fields[5:], others, strict=True)))
    conclude(rows, file)


async def _drive(
    url: str, mix: Mix, seconds: float, turns: int, rng: random.Random
) -> tuple[float, dict[tuple[float, str], list[RequestResult]]]:
    """Capacity of the largest models for the mix, and the answers by load and strategy."""
    ways = (POLICY, ALWAYS)
    results: dict[tuple[float, str], list[RequestResult]] = {
        (load, way): [] for load in LOADS for way in ways
    }
    async with Client(url) as client:
        for _ in range(FIRST):  # what is loaded late is loaded now
            await client.send(mix.of(ALWAYS)())
        capacity = await client.capacity(mix.of(ALWAYS), clients=16, seconds=1.5 * seconds)
        if not capacity:
            raise click.ClickException("no request was answered in time to measure a capacity")
        for way in ways:  # predictions of every model have something to learn from
            await client.at_rate(mix.of(way), 0.5 * capacity, 0.5 * seconds, rng)
        for _ in range(turns):
            for load, way in rng.sample(list(results), len(results)):
                results[load, way] += await client.at_rate(
                    mix.of(way), load * capacity, seconds, rng
                )
    return capacity, results


def summarise(results: Mapping[tuple[float, str], Sequence[RequestResult]]) -> list[Share]:
    """The rows of the table: both kinds for each load and strategy."""
    rows = []
    for (load, policy), all_of in results.items():
        for kind in KINDS:
            some = [one for one in all_of if kind_of(one.ask.documents) == kind]
            if not some:
                continue
            good = [one for one in some if one.status == httpx.codes.OK]
            in_time = sum(one.total_s <= (one.ask.budget_s or 0.0) for one in good)
            p50_s, p99_s = np.percentile([one.total_s for one in some], (50, 99))
            models = Counter(one.model for one in good if one.model)
            rows.append(
                Share(
                    load,
                    policy,
                    kind,
                    len(some),
                    in_time / len(some),
                    len(some) - len(good),
                    1000 * float(p50_s),
                    1000 * float(p99_s),
                    {model: count / len(good) for model, count in models.most_common()},
                )
            )
    return rows


def _table(rows: Sequence[Share], capacity: float) -> Iterator[str]:
    yield (
        f"the largest models answer {capacity:.1f} of these requests a second; loads are shares "
        "of that\n"
    )
    yield (
        "| load | policy | kind | requests | in time | mark | errors | p50 ms | p99 ms | answered "
        "by |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        shares = ", ".join(f"{model} {share:.0%}" for model, share in row.models.items())
        mark = "" if row.met is None else f"{MARK:.0%}, {'met' if row.met else 'missed'}"
        yield (
            f"| {row.load:.0%} | {row.policy} | {row.kind} | {row.requests} | {row.in_time:.1%} | "
            f"{mark} | {row.errors} | {row.p50_ms:.0f} | {row.p99_ms:.0f} | {shares} |"
        )


if __name__ == "__main__":
    main()
