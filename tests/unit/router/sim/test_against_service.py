"""The simulator against the service: the real decisions, dispatchers and corrections of a router's
process on an event loop whose clock jumps, with engines that sleep, and the same arrivals.
"""

import asyncio
import selectors
from random import Random
from typing import Any

import numpy as np
import orjson
import pytest

from deployments.dispatch.wire import Call, Reply
from deployments.service.service import Service
from router.config import RouterArgs
from router.domain import Curve
from router.feedback import Counters
from router.models import build_models, build_policy
from router.schema import parse
from router.sim.outcome import Latencies
from router.sim.simulation import Setup, Simulation
from router.sim.traffic import Arrival, Kind, Shapes
from router.strict import parse_args

SECONDS, RATE = 60.0, 60.0
OVERHEAD_S = 0.004
BUDGETS_S = (0.05, 0.1, 1.0)


class Jumping(selectors.DefaultSelector):
    """Waits for nothing: the time that the loop would wait is added to its clock."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(None if timeout is None else 0)
        if not ready and timeout:
            self.now_s += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on a virtual clock."""

    def __init__(self) -> None:
        self.jumping = Jumping()
        super().__init__(self.jumping)

    def time(self) -> float:
        return self.jumping.now_s


class SleepingReplicas:
    """A transport to replicas whose engines sleep as the curves say, one call after another."""

    def __init__(self, curves: dict[str, Curve], dimensions: int, loop: VirtualLoop) -> None:
        self._curves, self._dimensions, self._loop = curves, dimensions, loop
        self._turns: dict[str, asyncio.Lock] = {}
        self._held: dict[str, int] = {}
        self._served: dict[str, int] = {}
        self._busy_s: dict[str, float] = {}

    async def send(self, model: str, call: Call, replica: str) -> Reply:
        turn = self._turns.setdefault(replica, asyncio.Lock())
        tokens, arrived_s = int(call.lengths.sum()), self._loop.time()
        self._held[replica] = self._held.get(replica, 0) + tokens
        async with turn:
            started_s = self._loop.time()
            lengths = call.lengths.astype(np.int64)
            squares = int((lengths * lengths).sum())
            await asyncio.sleep(self._curves[model].step(tokens, squares, len(lengths)))
        now = self._loop.time()
        self._held[replica] -= tokens
        self._served[replica] = self._served.get(replica, 0) + tokens
        self._busy_s[replica] = self._busy_s.get(replica, 0.0) + now - started_s
        vectors = np.zeros((len(lengths), self._dimensions), np.float32)
        vectors[:, 0] = 1.0
        counters = Counters(self._served[replica], self._busy_s[replica])
        waited_s, took_s = started_s - arrived_s, now - started_s
        counts = lengths.tolist()
        return Reply(vectors, counts, {}, replica, waited_s, took_s, self._held[replica], counters)

    async def wake(self, model: str) -> None:
        """They are awake."""


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
        # without a tokenizer a router counts a token for three bytes
        text = f"{number} ".ljust(3 * tokens, "x")
        body = {"input": text, "latency_budget_ms": 1000.0 * budget_s}
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
    setup = Setup(args, known, policy, replicas, dict.fromkeys(known, False))
    outcome = Simulation(setup, arrivals, SECONDS).run()

    assert outcome.total.offered == len(took) > 3000
    for share, most in ((0.5, 0.10), (0.99, 0.15)):
        simulated, measured = outcome.latencies.quantile(share), real.quantile(share)
        assert simulated == pytest.approx(measured, rel=most), share
    for name in known:
        own, other = outcome.models[name] / len(took), models.count(name) / len(took)
        assert own == pytest.approx(other, abs=0.05), name
