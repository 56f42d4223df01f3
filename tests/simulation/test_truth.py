"""The simulator against what is known: nothing is lost, and queues are as long as theory says."""

import os
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from random import Random

import pytest

from router.domain import Decision, Load, Model, Request
from router.models import build_models
from router.policy import decide
from router.rules import Policy
from router.sim.replicas import Noise
from router.sim.simulation import Fault
from router.sim.traffic import Kind, Shapes
from tests.support.simulated import QUERY, args_of, simulation

ROOT = Path(__file__).resolve().parents[2]
SAME = """
from router.sim.replicas import Noise
from router.sim.simulation import Fault
from tests.support.simulated import QUERY, args_of, simulation
faults = (Fault(0.5, "large", 3, restart_s=0.3), Fault(1.0, "small", 2, factor=40.0, seconds=0.5))
kind = QUERY._replace(tokens=(20, 900), budgets_s={0.05: 1.0, None: 1.0})
run = simulation(args_of(), 900.0, 2.0, kind, faults=faults, routers=3, noise=Noise(0.1, 0.01, 0.1),
    replicas={"small": 5, "large": 5})
print(run.run().as_dict())
"""


@pytest.mark.parametrize("routers", [1, 3])
def test_every_request_ends_once_whatever_fails(routers: int) -> None:
    faults = (
        Fault(1.0, "large", 2, restart_s=1.0),  # all of them
        Fault(2.0, "small", 1, factor=5.0, seconds=1.0),
        Fault(3.5, "small", 1, restart_s=0.5),
    )
    kinds = Kind("mixed", 1.0, (200, 900), {"en": 1.0}, {0.05: 1.0, None: 1.0}, texts=5)
    run = simulation(
        args_of(), 300.0, 5.0, kinds, faults=faults, routers=routers, noise=Noise(0.1, 0.01, 0.05)
    )
    outcome = run.run()  # which checks the ledgers too
    total = outcome.total
    assert run.arrived == run.ended == total.offered > 1000
    assert total.on_time + total.late + total.refused == total.offered
    assert outcome.models.total() == total.on_time + total.late
    assert sum(moment.tally.offered for moment in outcome.moments.values()) == total.offered
    assert sum(outcome.busy_s.values()) <= sum(outcome.device_s.values())


@pytest.mark.parametrize("report_every_s", [None, 0.05])
@pytest.mark.parametrize("model", [None, "large"])
def test_requests_of_a_model_that_died_for_good_end(
    model: str | None, report_every_s: float | None
) -> None:
    """Another model answers them if it can; otherwise they are refused."""
    faults = (Fault(1.0, "large", 2),)
    kind = Kind("mixed", 1.0, (200, 900), {"en": 1.0}, {None: 1.0}, texts=5, model=model)
    run = simulation(args_of(), 60.0, 2.0, kind, faults=faults, report_every_s=report_every_s)
    outcome = run.run()
    total = outcome.total
    assert run.arrived == run.ended == total.offered > 80
    assert outcome.models["large"] > 5
    if model is None:
        assert not total.refused
        assert outcome.models["small"] > 20
    else:
        assert total.refused > 20


def test_a_model_that_died_for_good_is_busy_until_then_and_costs_until_then() -> None:
    kind = Kind("long", 1.0, (900, 900), {"en": 1.0}, {None: 1.0}, model="large")
    run = simulation(args_of(), 1000.0, 1.0, kind, faults=(Fault(0.5, "large", 2),))
    outcome = run.run()
    assert outcome.device_s["large"] == pytest.approx(2 * 0.5)
    assert outcome.busy_s["large"] == pytest.approx(2 * 0.5, rel=0.05)


def test_replicas_that_have_not_started_by_the_end_cost_from_their_start() -> None:
    faults = (Fault(1.0, "large", 1, restart_s=100.0),)
    outcome = simulation(args_of(), 50.0, 2.0, QUERY, faults=faults).run()
    ended_s = outcome.end_s
    assert outcome.device_s["large"] == pytest.approx(ended_s + 1.0 + (ended_s - 1.0))


def test_bulk_is_cut_so_that_no_call_takes_longer_than_the_limit() -> None:
    args = args_of(batch_tokens=100_000)
    limits = args.limits.model_copy(update={"bulk_call_ms": 20.0})
    args = args.model_copy(update={"limits": limits})
    longest = dict[bool, float]()
    for bulk in (False, True):
        kind = Kind("many", 1.0, (50, 50), {"en": 1.0}, {None: 1.0}, 64, bulk, model="large")
        run, steps = simulation(args, 5.0, 2.0, kind), list[float]()

        class Kept(Noise):
            """Notes the seconds of each step."""

            def seconds(self, step_s: float, rng: Random) -> float:
                steps.append(step_s)  # noqa: B023
                return step_s

        run = simulation(args, 5.0, 2.0, kind, noise=Kept(), packs={})
        run.run()
        longest[bulk] = max(steps)
    assert longest[True] < 0.02 < 0.09 < longest[False]


def test_shapes_are_shared_by_lengths_that_are_simulated_alike() -> None:
    args = args_of()
    shapes = Shapes([QUERY], build_models(args), args.models, [1000, 1007, 1008, 300, 301, 7, 8])
    first, same, other, small, next_, least, more = shapes.stream(Random(0))
    assert first is same is not other
    assert [one.work["small"].tokens for one in (first, other)] == [1000, 1008]
    assert small is next_
    assert small.work["small"].tokens == 300
    assert least is not more


def test_the_same_seed_gives_the_same_run_and_another_one_another() -> None:
    runs = [simulation(args_of(), 400.0, 3.0, QUERY, seed).run().as_dict() for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_the_same_seed_gives_the_same_run_in_another_process() -> None:
    """Nothing depends on the order of a set, which Python changes from process to process."""
    done = [
        subprocess.run(
            [sys.executable, "-c", SAME],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert done[0] == done[1]
    assert len(done[0]) > 1000


def test_memory_grows_with_replicas_and_not_with_requests() -> None:
    peak_bytes(1.0, 2)  # fills what is kept between runs
    least = peak_bytes(2.0, 2)
    assert peak_bytes(8.0, 2) < 1.6 * least
    assert peak_bytes(2.0, 256) > 2.0 * least


def peak_bytes(seconds: float, replicas: int) -> int:
    """The memory that a run takes at most."""
    tracemalloc.start()
    try:
        each = {"small": replicas, "large": replicas}
        simulation(args_of(), 500.0, seconds, QUERY, replicas=each).run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_more_load_never_serves_more_of_it_in_time() -> None:
    shares = [
        simulation(args_of(), rate, 1.0, QUERY).run().attainment for rate in (200, 4000, 20_000)
    ]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.99 > 0.5 > shares[2]


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_waits_at_one_replica_are_those_of_a_queue_with_constant_service(load: float) -> None:
    """M/D/1: a mean wait of load / (2 (1 - load)) services."""
    tokens, service_s = 600, 0.006
    args = args_of(tokens, 1, base_s=0.0, s_per_token=service_s / tokens / 3, overhead_s=0.0)
    kind = Kind("text", 1.0, (tokens, tokens), {"en": 1.0}, {None: 1.0})
    args = args.model_copy(update={"tiers": {"best": "large"}})
    run = simulation(
        args, load / service_s, 120.0, kind, replicas={"small": 0, "large": 1}, packs={}
    )
    latencies = run.run().latencies
    expected = load / (2.0 * (1.0 - load))
    assert latencies.mean_s / service_s - 1.0 == pytest.approx(expected, rel=0.12)


class Exponential(Noise):
    """Service times without memory."""

    def seconds(self, step_s: float, rng: Random) -> float:
        return rng.expovariate(1.0 / step_s)


def test_queues_behind_two_choices_are_as_short_as_theory_says() -> None:
    """Of many replicas at load r, a share of r^(2^i - 1) holds i texts or more (Mitzenmacher); one
    choice would leave r^i.
    """
    tokens, service_s, load, replicas = 600, 0.006, 0.9, 60
    args = args_of(tokens, 50, base_s=0.0, s_per_token=service_s / tokens, overhead_s=0.0)
    rng, held = Random(1), Counter[int]()

    def choose(
        policy: Policy,
        request: Request,
        models: Mapping[str, Model],
        loads: Mapping[str, Load],
        now: float,
    ) -> Decision:
        if now > 0.8:
            replica = run.replicas[rng.choice(run.ready["small"])]
            held[replica.outstanding // tokens] += 1
        return decide(policy, request, models, loads, now)

    run = simulation(
        args,
        load * replicas / service_s,
        2.4,
        Kind("text", 1.0, (tokens, tokens), {"en": 1.0}, {None: 1.0}, model="small"),
        replicas={"small": replicas, "large": 0},
        noise=Exponential(),
        packs={},
        choose=choose,
    )
    run.run()
    for least in (1, 2, 3, 4):
        share = sum(count for many, count in held.items() if many >= least) / held.total()
        assert share == pytest.approx(load ** (2**least - 1), abs=0.05), least
