"""Test for a timing side channel between keys.

The models of `configs/local.yaml` with two keys, once with `cache.scope: shared` and once with
`key`. The first key embeds half of the texts. The second one then requests all of them in random
order, each once. The client's clock and the figures that the service returns are compared over all
pairs of a known and a new text: the share in which the known text has the lower figure. It is 0.5
if a figure reveals nothing and 1 if it reveals everything.

The Mann-Whitney test (two-sided) gives the probability of such a share by chance. With `key`, no
figure may have one below 0.001. With `shared`, every figure must: this shows that the test finds a
difference if there is one.
"""

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import aiohttp
import click
import numpy as np

from benchmarks.live import LOCAL, router
from benchmarks.marks import Row, at_least, at_most, conclude, show, to_file
from router.keys import hash_of, new_key

KEYS = {name: new_key(name[:4].encode() * 8) for name in ("first", "second")}
WORDS = ("account", "address", "balance", "card", "charge", "delivery", "fee", "invoice", "order")
CHANCE = 0.001  # a rarer difference is none by chance
WARM = 30  # requests of either key before

Seen = Mapping[str, float]  # figures of one answer, by name
Ask = Callable[[aiohttp.ClientSession, str, str, str], Awaitable[Seen]]


class FigureTest(NamedTuple):
    """Result of one statistic."""

    figure: str
    share: float  # of the pairs in which the known text has the lower one
    chance: float
    right: float  # of the texts that the best limit tells apart


def judged(figure: str, known: Sequence[float], new: Sequence[float]) -> FigureTest:
    """Compare the values of known texts with those of new ones."""
    ones, others = np.asarray(known), np.asarray(new)
    both = np.concatenate([ones, others])
    right = max(float((ones <= limit).sum() + (others > limit).sum()) for limit in both)
    if both.min() == both.max():
        return FigureTest(figure, 0.5, 1.0, right / len(both))
    from scipy.stats import mannwhitneyu  # takes a second to import

    test = mannwhitneyu(ones, others)
    share = 1.0 - float(test.statistic) / (len(ones) * len(others))
    return FigureTest(figure, share, float(test.pvalue), right / len(both))


def rows(scope: str, results: Sequence[FigureTest]) -> list[Row]:
    """Three figures of each, the second one with its mark."""
    marked = at_least if scope == "key" else at_most
    found = list[Row]()
    for one in results:
        found += [
            Row(f"{scope}: {one.figure}, share", one.share),
            marked(f"{scope}: {one.figure}, by chance", one.chance, CHANCE),
            Row(f"{scope}: {one.figure}, told apart, %", 100 * one.right),
        ]
    return found


def texts(count: int, rng: random.Random) -> list[str]:
    """Short texts of one length, none twice."""
    words = (" ".join(rng.choices(WORDS, k=12)) for _ in range(count))
    return [f"{rng.getrandbits(64):016x} {chosen}" for chosen in words]


async def embed(session: aiohttp.ClientSession, key: str, text: str, model: str) -> Seen:
    """Embed one text for one key."""
    start_s = time.perf_counter()
    async with session.post(
        "/v1/embeddings",
        json={"input": text, "model": model, "encoding_format": "base64"},
        headers={"authorization": f"Bearer {KEYS[key]}"},
    ) as answer:
        data = await answer.read()
        took_s = time.perf_counter() - start_s
        answer.raise_for_status()
        return {
            "time of the answer": took_s,
            "x-total-ms": float(answer.headers["x-total-ms"]),
            "x-inference-ms": float(answer.headers["x-inference-ms"]),
            "routing.cached": -float(json.loads(data)["routing"]["cached"]),
        }


async def route(session: aiohttp.ClientSession, key: str, text: str, model: str) -> Seen:
    """The `/v1/route` response for one text."""
    async with session.post(
        "/v1/route",
        json={"input": text, "model": model},
        headers={"authorization": f"Bearer {KEYS[key]}"},
    ) as answer:
        answer.raise_for_status()
        [work_ms] = [one["work_ms"] for one in (await answer.json())["models"] if one["chosen"]]
        return {"work_ms of /v1/route": float(work_ms or 0.0)}


async def probe(url: str, count: int, model: str, seed: int) -> list[FigureTest]:
    """Measure each statistic for the second key."""
    rng = random.Random(seed)
    async with aiohttp.ClientSession(url) as session:
        for key in KEYS:
            for text in texts(WARM, rng):
                await embed(session, key, text, model)
        return [
            *await compared(session, embed, count, model, rng),
            *await compared(session, route, count // 2, model, rng),
        ]


async def compared(
    session: aiohttp.ClientSession, ask: Ask, count: int, model: str, rng: random.Random
) -> list[FigureTest]:
    """Have the first key embed `count` texts, then request these and as many new ones with the
    other key.
    """
    known, new = texts(count, rng), texts(count, rng)
    for text in known:
        await embed(session, "first", text, model)
    order = [*known, *new]
    rng.shuffle(order)
    seen = {text: await ask(session, "second", text, model) for text in order}
    return [
        judged(figure, [seen[text][figure] for text in known], [seen[text][figure] for text in new])
        for figure in seen[order[0]]
    ]


@click.command()
@click.option(
    "--texts",
    "count",
    default=400,
    type=click.IntRange(50),
    show_default=True,
    help="Number of known texts, and of new ones.",
)
@click.option("--model", default="all-minilm-l6-v2", show_default=True)
@click.option("--seed", default=0, show_default=True)
@to_file
def main(count: int, model: str, seed: int, file: Path | None) -> None:
    """Test whether timing reveals one key's texts to another; exit 1 if it does with `cache.scope:
    key`.
    """
    keys = {name: {"hash": hash_of(key)} for name, key in KEYS.items()}
    found = list[Row]()
    for scope in ("shared", "key"):
        with router(LOCAL, None, keys=keys, cache={"scope": scope}) as running:
            results = asyncio.run(probe(running.url, count, model, seed))
        found += rows(scope, results)
    show(found)
    conclude(found, file)
