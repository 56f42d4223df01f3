"""Fairness, live: bulk beside too much interactive load, and two keys that flood: `python -m
benchmarks fairness`.

The service is the whole router in this process, on a real socket, with an engine that sleeps as
long as its curve says. 100 % load is the rate at which the engine is busy with full steps.

    flood   interactive requests at 120 % load, and an ingest of as much work as its share does in
            that time: it must end, and interactive requests must be in time as often as
    cut     the same requests without the ingest, on an engine that is slower by the share
    keys    two keys with the same weight that flood, one with twice as many connections

Real time: run it on a machine with nothing else to do.
"""

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import click
import httpx

from benchmarks.marks import to_file, verdict, write
from router.keys import hash_of, new_key
from tests.support.local_service import served

BATCH_TOKENS, BASE_S, S_PER_TOKEN = 512, 0.05, 0.0008
FULL_RATE = BATCH_TOKENS / (BASE_S + S_PER_TOKEN * BATCH_TOKENS)  # tokens per second
LEAST_TOKENS, MOST_TOKENS = 20, 100
SHARE, LOAD, BUDGET_S = 0.1, 1.2, 1.5
INGEST_TEXTS, INGEST_TOKENS = 8, 52
KEYS = {name: new_key(secrets.token_bytes(32)) for name in ("one", "other", "ingest")}


class Sent(NamedTuple):
    """An interactive request."""

    at_s: float
    tokens: int


def config(times: float = 1.0) -> dict[str, Any]:
    """One model whose steps take `times` as long. A router without a tokenizer counts a token for
    three characters and the engine one for four, so the engine's tokens take a third longer.
    """
    model = {
        "engine": {
            "kind": "fake",
            "base_s": BASE_S * times,
            "s_per_token": S_PER_TOKEN * times * 4 / 3,
        },
        "dimensions": 64,
        "max_tokens": 8192,
        "curve": {
            "fixed_s": 0.0,
            "base_s": BASE_S * times,
            "s_per_token": S_PER_TOKEN * times,
            "batch_tokens": BATCH_TOKENS,
            "overhead_s": 0.004,
        },
    }
    return {
        "models": {"only": model},
        "tiers": {"fast": "only"},
        "cache": {"max_bytes": 0},
        "keys": {name: {"hash": hash_of(key)} for name, key in KEYS.items()},
        "limits": {"bulk_share": SHARE},
    }


def arrivals(seconds: float, rng: Random) -> Iterator[Sent]:
    """Independent arrivals at the load."""
    rate = LOAD * FULL_RATE / ((LEAST_TOKENS + MOST_TOKENS) / 2)
    at_s = 0.0
    while (at_s := at_s + rng.expovariate(rate)) < seconds:
        yield Sent(at_s, 4 * rng.randrange(LEAST_TOKENS // 4, MOST_TOKENS // 4))


def text(number: int, tokens: int) -> str:
    return f"{number} ".ljust(3 * tokens, "x")


async def interactive(url: str, sent: Sequence[Sent]) -> float:
    """The share of the requests that are answered within their budget."""
    limits = httpx.Limits(max_connections=None, keepalive_expiry=1.0)
    async with httpx.AsyncClient(base_url=url, timeout=60.0, limits=limits) as client:
        start_s = time.perf_counter()

        async def one(number: int, ask: Sent) -> bool:
            await asyncio.sleep(max(0.0, start_s + ask.at_s - time.perf_counter()))
            body = {
                "input": text(number, ask.tokens),
                "latency_budget_ms": 1000 * BUDGET_S,
                "on_budget_miss": "reject",
            }
            began_s = time.perf_counter()
            answer = await client.post("/v1/embeddings", json=body, headers=_key("one"))
            return answer.is_success and time.perf_counter() - began_s <= BUDGET_S

        found = await asyncio.gather(*(one(number, ask) for number, ask in enumerate(sent)))
    return sum(found) / len(found)


async def ingest(url: str, requests: int) -> float:
    """Seconds until all of an ingest is answered."""
    async with httpx.AsyncClient(
        base_url=url, timeout=300.0, limits=httpx.Limits(max_connections=None)
    ) as client:
        began_s = time.perf_counter()

        async def one(number: int) -> None:
            texts = [
                text(INGEST_TEXTS * number + place, INGEST_TOKENS) for place in range(INGEST_TEXTS)
            ]
            body = {"input": texts, "priority": "bulk", "model": "only"}
            (
                await client.post("/v1/embeddings", json=body, headers=_key("ingest"))
            ).raise_for_status()

        await asyncio.gather(*(one(number) for number in range(requests)))
        return time.perf_counter() - began_s


async def flood(url: str, sent: Sequence[Sent], requests: int) -> tuple[float, float]:
    """Both at once: the share in time, and when the ingest ended."""
    in_time, ended_s = await asyncio.gather(interactive(url, sent), ingest(url, requests))
    return in_time, ended_s


async def keys(url: str, seconds: float) -> Counter[str]:
    """Requests that each of two keys has answered in this time; each waits for its answers."""
    served_of, numbers = Counter[str](), count()
    async with httpx.AsyncClient(
        base_url=url, timeout=60.0, limits=httpx.Limits(max_connections=None)
    ) as client:
        end_s = time.perf_counter() + seconds

        async def loop(name: str) -> None:
            while time.perf_counter() < end_s:
                body = {"input": text(next(numbers), 60), "model": "only"}
                answer = await client.post("/v1/embeddings", json=body, headers=_key(name))
                answer.raise_for_status()
                served_of[name] += time.perf_counter() < end_s

        await asyncio.gather(*(loop("one") for _ in range(32)), *(loop("other") for _ in range(64)))
    return served_of


def _key(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {KEYS[name]}"}


@click.command()
@click.option("--seconds", type=click.FloatRange(2.0), default=40.0, show_default=True)
@to_file
def main(seconds: float, file: Path | None) -> None:
    """Flood a service, and see who is served."""
    sent = list(arrivals(seconds, Random(0)))
    tokens = INGEST_TEXTS * INGEST_TOKENS
    work_s = BASE_S + S_PER_TOKEN * tokens  # of one bulk request, a call of its own
    requests = round(SHARE * seconds / work_s)
    with served(config()) as (url, _):
        in_time, ended_s = asyncio.run(flood(url, sent, requests))
    with served(config(1.0 / (1.0 - SHARE))) as (url, _):
        cut = asyncio.run(interactive(url, sent))
    with served(config()) as (url, _):
        counts = asyncio.run(keys(url, seconds / 4))
    bound_s = requests * work_s / SHARE + 2.0
    ratio = counts["one"] / max(1, counts["other"])
    rows = [
        _row("bulk ends", "seconds that the ingest took", ended_s, f"<= {bound_s:.0f}",
             ended_s <= bound_s),
        _row("interactive", f"share in time; {cut:.4f} with the capacity cut", in_time,
             f">= {cut - 0.01:.4f}", in_time >= cut - 0.01),
        _row("two keys", f"served, one to the other: {dict(counts)}", ratio, "0.95 to 1.05",
             0.95 <= ratio <= 1.05),
    ]  # fmt: skip
    for row in rows:
        reached = f"{row['value']:>8.4g} {row['mark']:>13} {verdict(row['met']):<7}"
        click.echo(f"{row['name']:<12} {reached} {row['what']}")
    write(rows, file)


def _row(name: str, what: str, value: float, mark: str, met: bool) -> dict[str, Any]:
    return {"name": name, "what": what, "value": value, "mark": mark, "met": met}


if __name__ == "__main__":
    main()
