"""The service on a virtual clock: an ingest ends beside too many requests, and a key that floods
leaves the others their turns.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import orjson
import pytest

from deployments.service.plan import Caller
from deployments.service.service import Service
from router.errors import RouterError
from router.models import build_models
from router.schema import parse
from router.strict import parse_args
from tests.support.virtual_loop import SleepingReplicas, VirtualLoop, sized_text

# full steps of 256 tokens: 2,844 tokens a second
CURVE = {"fixed_s": 0.0, "base_s": 0.014, "s_per_token": 0.0003, "batch_tokens": 256}
FULL_RATE = 256 / (0.014 + 256 * 0.0003)
Embed = Callable[[dict[str, Any], Caller], Awaitable[float]]


def on_virtual_clock(
    scenario: Callable[[Embed, VirtualLoop], Awaitable[None]], share: float, times: float = 1.0
) -> None:
    """Run a scenario against a service with one replica whose steps take `times` as long."""
    curve = {**CURVE, "base_s": 0.014 * times, "s_per_token": 0.0003 * times}
    model = {"engine": {"kind": "fake"}, "dimensions": 8, "max_tokens": 8192, "curve": curve}
    args = parse_args(
        {
            "models": {"only": model},
            "tiers": {"fast": "only"},
            "cache": {"max_bytes": 0},
            "limits": {"bulk_share": share},
        }
    )
    loop = VirtualLoop()

    async def run() -> None:
        curves = {name: model.curve for name, model in build_models(args).items()}
        service = Service(args, SleepingReplicas(curves, 8, loop), clock=loop.time, rng=Random(0))
        service.replicas_changed("only", ["only-1"])

        async def embed(body: dict[str, Any], caller: Caller) -> float:
            began_s = loop.time()
            await service.embed(parse(orjson.dumps(body), {}, args.limits), caller)
            return loop.time() - began_s

        await scenario(embed, loop)
        service.ledger.assert_empty()

    try:
        loop.run_until_complete(run())
    finally:
        loop.close()


def in_time(share: float, bulk: int, times: float = 1.0) -> tuple[float, float]:
    """The share of interactive requests at 120 % load that are in time, and when an ingest of so
    many requests of a full step each has ended.
    """
    found, ended = list[bool](), [0.0]

    async def scenario(embed: Embed, loop: VirtualLoop) -> None:
        async def query(number: int, at_s: float) -> None:
            await asyncio.sleep(at_s)
            body = {
                "input": sized_text(number, 40),
                "latency_budget_ms": 500,
                "on_budget_miss": "reject",
            }
            try:
                found.append(await embed(body, Caller(key="one")) <= 0.5)
            except RouterError:
                found.append(False)

        async def ingest(number: int) -> None:
            body = {"input": sized_text(number, 250), "priority": "bulk", "model": "only"}
            await embed(body, Caller(key="ingest"))
            ended[0] = loop.time()

        rng, at_s, works = Random(1), 0.0, list[Awaitable[None]]()
        while at_s < 12.0:
            at_s += rng.expovariate(1.2 * FULL_RATE / 40)
            works.append(query(len(works), at_s))
        works += [ingest(len(works) + number) for number in range(bulk)]
        await asyncio.gather(*works)

    on_virtual_clock(scenario, share, times)
    return sum(found) / len(found), ended[0]


def test_an_ingest_ends_and_costs_interactive_requests_its_share() -> None:
    flood, ended_s = in_time(0.1, bulk=10)  # 0.9 s of work
    cut, _ = in_time(0.1, bulk=0, times=1 / 0.9)
    assert ended_s <= 10 * 0.0908 / 0.1 + 0.5
    assert flood >= cut - 0.01


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_keys_that_flood_are_served_by_their_weights(weight: float) -> None:
    answered = Counter[str]()

    async def scenario(embed: Embed, loop: VirtualLoop) -> None:
        numbers = iter(range(10**6))

        async def connection(caller: Caller) -> None:
            while loop.time() < 12.0:
                await embed({"input": sized_text(next(numbers), 60), "model": "only"}, caller)
                answered[caller.key] += loop.time() < 12.0

        heavy, light = Caller(key="heavy", weight=weight), Caller(key="light")
        await asyncio.gather(
            *(connection(heavy) for _ in range(32)), *(connection(light) for _ in range(64))
        )

    on_virtual_clock(scenario, 0.1)
    assert answered["heavy"] / answered["light"] == pytest.approx(weight, rel=0.05)
