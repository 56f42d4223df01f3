"""The simulator against the service: the real decisions, dispatchers and corrections of a router's
process on an event loop whose clock jumps, with engines that sleep, and the same arrivals.
"""

import asyncio
from random import Random
from typing import Any

import orjson
import pytest

from deployments.service.service import Service
from router.config import RouterArgs
from router.models import build_models, build_policy
from router.schema import parse
from router.sim.outcome import Latencies
from router.sim.simulation import Simulation, SimulationInputs
from router.sim.traffic import Arrival, Kind, Shapes
from router.strict import parse_args
from tests.support.virtual_loop import SleepingReplicas, VirtualLoop, sized_text

SECONDS, RATE = 60.0, 60.0
OVERHEAD_S = 0.004
BUDGETS_S = (0.05, 0.1, 1.0)


def config() -> RouterArgs:
    def model(times: float, points: float) -> dict[str, Any]:
        curve = {"fixed_s": 0.006, "base_s": 0.004, "s_per_token": 4e-5, "s_per_token_sq": 1e-8}
        slow = {key: value * times for key, value in curve.items()}
        return {
            "engine": {"kind": "fake"},
            "dimensions": 8,
            "max_tokens": 8192,
            "quality": {"default": points},
            "curve": {**slow, "batch_tokens": 2048, "overhead_s": OVERHEAD_S},
        }

    return parse_args(
        {
            "models": {
                "small": model(1.0, 60.0),
                "middle": model(2.0, 66.0),
                "large": model(4.0, 70.0),
            },
            "tiers": {"fast": "small", "balanced": "middle", "best": "large"},
            "routing": {"default_tier": "best", "miss_share": 0.02},
            "cache": {"max_bytes": 0},
        }
    )


def sent(rng: Random) -> list[tuple[float, int, float]]:
    """Arrivals in bursts, short and long texts."""
    found, at_s = list[tuple[float, int, float]](), 0.0
    while at_s < SECONDS:
        at_s += rng.expovariate(RATE) * rng.choice((0.2, 0.2, 2.6))
        tokens = rng.randrange(300, 1500) if rng.random() < 0.05 else rng.randrange(10, 80)
        found.append((at_s, tokens, rng.choice(BUDGETS_S)))
    return found


async def served(
    args: RouterArgs, asks: list[tuple[float, int, float]], loop: VirtualLoop
) -> tuple[list[float], list[str]]:
    curves = {name: model.curve for name, model in build_models(args).items()}
    transport = SleepingReplicas(curves, 8, loop)
    service = Service(args, transport, clock=loop.time, rng=Random(0))
    for name in args.models:
        service.replicas_changed(name, [f"{name}-1", f"{name}-2"])
    took, models = list[float](), list[str]()

    async def one(number: int, ask: tuple[float, int, float]) -> None:
        at_s, tokens, budget_s = ask
        await asyncio.sleep(at_s)
        body = {"input": sized_text(number, tokens), "latency_budget_ms": 1000.0 * budget_s}
        arrived_s = loop.time()
        answer = await service.embed(parse(orjson.dumps(body), {}, args.limits))
        took.append(loop.time() - arrived_s + OVERHEAD_S)
        models.append(answer.decision.model or "")

    await asyncio.gather(*(one(number, ask) for number, ask in enumerate(asks)))
    service.ledger.assert_empty()
    return took, models


@pytest.mark.parametrize("seed", [1, 2])
def test_times_are_those_of_the_service_with_the_same_arrivals(seed: int) -> None:
    args, asks, loop = config(), sent(Random(seed)), VirtualLoop()
    try:
        took, models = loop.run_until_complete(served(args, asks, loop))
    finally:
        loop.close()
    real = Latencies()
    for seconds in took:
        real.add(seconds)

    known = build_models(args)
    arrivals = list[Arrival]()
    for budget_s in BUDGETS_S:
        mine = [(at_s, tokens) for at_s, tokens, budget in asks if budget == budget_s]
        kind = Kind("text", 1.0, (1, 1), {"en": 1.0}, {budget_s: 1.0})
        shapes = Shapes([kind], known, args.models, (tokens for _, tokens in mine))
        arrivals += [Arrival(at_s, shapes.draw(Random(0))) for at_s, _ in mine]
    arrivals.sort(key=lambda one: one.at_s)
    policy = build_policy(args.routing, args.tiers)
    replicas = dict.fromkeys(known, 2)
    setup = SimulationInputs(args, known, policy, replicas, dict.fromkeys(known, False))
    outcome = Simulation(setup, arrivals, SECONDS).run()

    assert outcome.total.offered == len(took) > 3000
    for share, most in ((0.5, 0.10), (0.99, 0.15)):
        simulated, measured = outcome.latencies.quantile(share), real.quantile(share)
        assert simulated == pytest.approx(measured, rel=most), share
    for name in known:
        own, other = outcome.models[name] / len(took), models.count(name) / len(took)
        assert own == pytest.approx(other, abs=0.05), name
