"""Measure fairness live: an ingest beside too much interactive load, and two keys that flood.

All requests are for one model, the largest of the config or `--model`. 100 % load is what it
answers of new texts while its queue is never empty (benchmarks/live.py has the mix). These
alternate:

    flood   interactive requests at 120 % load, refused if they would be late, and an ingest of
            as much work as its guaranteed share can do in that time
    cut     interactive requests alone, at 120 % of the time left without that share

Both begin once so many interactive requests wait that some are refused.

The ingest must end in the time that its share needs, and interactive requests must be in time as
often in `flood` as in `cut`. Then two keys of the same weight flood the model, one with twice as
many connections: both must be served the same amount of text.
"""

import asyncio
import json
import math
import random
import secrets
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import click
import httpx

from benchmarks.live import Ask, Client, RequestResult, Texts, router, with_config
from benchmarks.marks import Row, at_least, at_most, conclude, show, to_file
from benchmarks.public_data import sample
from router.keys import hash_of, new_key

LOAD, BUDGET_S = 1.2, 1.5
WITHIN = 1.0  # percentage points of interactive requests in time
WARM_S = 2 * BUDGET_S  # until as many wait as the budget allows
GRACE_S = 2.0  # until the last piece of an ingest is answered
INGEST_TEXTS = 8  # in one request
CLIENTS = 128  # of a key that floods: more than a replica's calls in flight hold
SETTLED = CLIENTS // 2  # answers of each key before its tokens count
UNSETTLED = 20 * CLIENTS  # results without SETTLED answers of each key: one is not served
KEYS = {name: new_key(secrets.token_bytes(32)) for name in ("one", "other", "ingest")}


class Flood(NamedTuple):
    """Result of one turn."""

    in_time: float  # percent of the interactive requests
    ingest_s: float = 0.0  # until all of the ingest was answered


class Stage(NamedTuple):
    """A model of a running service, and new texts for it."""

    url: str
    model: str
    texts: Texts
    rng: random.Random

    @property
    def options(self) -> dict[str, Any]:
        """Fields of every request: all texts are answered, also those that are too long."""
        return {"model": self.model, "truncate": "end"}

    def client(self, key: str, keeps_bodies: bool = False) -> Client:
        headers = {"authorization": f"Bearer {KEYS[key]}"}
        return Client(self.url, headers=headers, keeps_bodies=keeps_bodies)

    def one(self) -> Ask:
        """An interactive request without a budget."""
        return Ask(next(self.texts), self.options)

    def in_time(self) -> Ask:
        """An interactive request that is refused if it would be late."""
        options = {"latency_budget_ms": 1000 * BUDGET_S, "on_budget_miss": "reject"}
        return Ask(next(self.texts), {**self.options, **options}, BUDGET_S)

    def bulk(self) -> Ask:
        """A request of an ingest."""
        texts = [next(self.texts).text for _ in range(INGEST_TEXTS)]
        return Ask(next(self.texts), {**self.options, "input": texts, "priority": "bulk"})

    async def interactive(self, rate: float, seconds: float) -> float:
        """Percent of the requests sent within `seconds`, after WARM_S, that are answered within
        their budget.
        """
        async with self.client("one") as client:
            before = client.at_rate(self.in_time, rate, WARM_S, self.rng)
            both = await asyncio.gather(before, self._later(client, rate, seconds))
        results = both[1]
        return (
            100 * sum(ok(one) and one.total_s <= BUDGET_S for one in results) / max(1, len(results))
        )

    async def _later(self, client: Client, rate: float, seconds: float) -> list[RequestResult]:
        await asyncio.sleep(WARM_S)
        return await client.at_rate(self.in_time, rate, seconds, self.rng)

    async def ingest(self, requests: int) -> float:
        """Seconds until this many requests, sent after WARM_S, are answered."""
        await asyncio.sleep(WARM_S)
        began_s = time.perf_counter()
        async with self.client("ingest") as client:
            results = await asyncio.gather(*(client.send(self.bulk()) for _ in range(requests)))
        if failed := sum(not ok(one) for one in results):
            raise click.ClickException(f"{failed} requests of the ingest were not answered")
        return time.perf_counter() - began_s

    async def keys(self, seconds: float) -> Counter[str]:
        """Tokens of two keys that are answered in `seconds`; each client awaits its answer.

        The time begins once both keys have SETTLED answers: before that, the requests that happened
        to arrive first are served alone. Raises ClickException if it does not begin.
        """
        served, answers, results = Counter[str](), Counter(one=0, other=0), count(1)
        end_s = math.inf

        async def loop(client: Client, name: str) -> None:
            nonlocal end_s
            while time.perf_counter() < end_s:
                result = await client.send(self.one())
                if next(results) > UNSETTLED and end_s == math.inf:
                    raise click.ClickException(f"answers of the two keys: {dict(answers)}")
                if not ok(result) or time.perf_counter() >= end_s:
                    continue
                answers[name] += 1
                if end_s < math.inf:
                    served[name] += json.loads(result.body)["usage"]["prompt_tokens"]
                elif min(answers.values()) >= SETTLED:
                    end_s = time.perf_counter() + seconds

        async with self.client("one", True) as one, self.client("other", True) as other:
            clients = [(one, "one")] * CLIENTS + [(other, "other")] * 2 * CLIENTS
            await asyncio.gather(*(loop(*each) for each in clients))
        return served


def ok(result: RequestResult) -> bool:
    return result.status == httpx.codes.OK


async def play(stage: Stage, share: float, seconds: float, turns: int) -> list[Row]:
    """Run all parts, one after another."""
    async with stage.client("one") as client, stage.client("ingest") as bulk:
        rate = await client.capacity(stage.one, CLIENTS, seconds)
        bulk_rate = await bulk.capacity(stage.bulk, CLIENTS // INGEST_TEXTS, seconds)
    requests = max(1, round(share * seconds * bulk_rate))
    floods, cuts = list[Flood](), list[float]()
    for _ in range(turns):
        both = stage.interactive(LOAD * rate, seconds), stage.ingest(requests)
        floods.append(Flood(*await asyncio.gather(*both)))
        cuts.append(await stage.interactive(LOAD * rate / (1 - share), seconds))
    served = await stage.keys(seconds)
    return [
        Row("interactive answers per second at 100 %", rate),
        Row("texts of the ingest in a turn", requests * INGEST_TEXTS),
        *judged(floods, cuts, requests / bulk_rate / share, served),
    ]


def judged(
    floods: Sequence[Flood], cuts: Sequence[float], needed_s: float, served: Mapping[str, int]
) -> list[Row]:
    """The figures and their marks; `needed_s` is the time that the share needs for the ingest."""
    cut, ratio = fmean(cuts), served["one"] / max(1, served["other"])
    longest_s = max(one.ingest_s for one in floods)
    return [
        at_most("ingest: seconds until its end", longest_s, needed_s + GRACE_S),
        Row("interactive in time with the capacity cut, %", cut),
        at_least("interactive in time, %", fmean(one.in_time for one in floods), cut - WITHIN),
        at_least("two keys: served, one to the other", ratio, 0.95),
        at_least("two keys: served, the other to one", 1 / max(1e-9, ratio), 0.95),
    ]


@click.command()
@with_config
@click.option("--seconds", type=click.FloatRange(2.0), default=20.0, show_default=True)
@click.option("--turns", type=click.IntRange(1), default=3, show_default=True)
@click.option("--model", help="Model to flood. [default: the largest]")
@sample
@click.option("--seed", type=int, default=0, show_default=True)
@to_file
def main(
    config: Path,
    seconds: float,
    turns: int,
    model: str | None,
    folder: Path,
    seed: int,
    file: Path | None,
) -> None:
    """Flood a service and measure who is served; exit 1 if a mark is missed."""
    keys: dict[str, Any] = {name: {"hash": hash_of(key)} for name, key in KEYS.items()}
    rng = random.Random(seed)
    with router(config, None, keys=keys, cache={"max_bytes": 0}) as running:
        model = model or list(running.args.native)[-1]
        if model not in running.args.native:
            raise click.UsageError(
                f"--model {model}: the config has {', '.join(running.args.native)}"
            )
        stage = Stage(running.url, model, Texts(rng, folder), rng)
        share = running.args.limits.bulk_share
        rows = asyncio.run(play(stage, share, seconds, turns))
    show(rows)
    conclude(rows, file)


if __name__ == "__main__":
    main()
