"""The bounds, and the autoscaler on the virtual clock."""

from pathlib import Path

import pytest

from deployments.tools.simulate.load import load_world
from router.sim.baselines import CHOOSERS
from router.sim.build import PolicyVariant, World, arrivals, mean_rate, run
from router.sim.oracle import Bound, fluid_bound, least_device_seconds

SCENARIOS = Path(__file__).resolve().parents[2] / "configs" / "scenarios"


def at(load: float, requests: int = 1500) -> World:
    world = load_world(SCENARIOS / "load-80.yaml")
    traffic = world.scenario.traffic.model_copy(update={"load": load})
    world = world.updated(traffic=traffic, warm_up_s=0.0)
    return world.updated(seconds=requests / mean_rate(world))


def bound_of(world: World, times: float = 1.0) -> Bound:
    replicas = {name: many * times for name, many in world.replicas.items()}
    rate = mean_rate(world)
    return fluid_bound(arrivals(world, rate), world.models, replicas, world.scenario.seconds)


@pytest.mark.parametrize("load", [0.5, 3.0, 12.0])
@pytest.mark.parametrize("name", [None, *CHOOSERS])
def test_no_policy_beats_the_bound(name: str | None, load: float) -> None:
    world = at(load, 400)
    bound, outcome = bound_of(world), run(world, PolicyVariant("", chooser=name))
    assert outcome.effective_quality <= bound.quality + 1e-6
    assert outcome.attainment <= bound.on_time + 1e-6


def test_the_bound_is_what_capacity_allows() -> None:
    world = at(4.0)
    few, some, many = (bound_of(world, times) for times in (0.02, 0.2, 20.0))
    assert few.quality < some.quality < many.quality
    assert many.on_time == pytest.approx(1.0)
    assert few.on_time < 0.9
    largest = max(world.models.values(), key=lambda model: model.rank)
    best = sum(a.shape.points[largest.id] for a in arrivals(world, mean_rate(world)))
    assert many.quality == pytest.approx(best / many.offered)


def test_replicas_follow_the_load_and_are_paid_for_until_they_end() -> None:
    world = load_world(SCENARIOS / "day.yaml").updated(seconds=2400.0, warm_up_s=0.0)
    step = {0.0: 1.0, 0.1: 1.0, 0.1001: 9.0, 0.4: 9.0, 0.4001: 0.5}
    traffic = world.scenario.traffic.model_copy(update={"requests_per_s": step})
    assert world.scenario.autoscaling is not None
    scaling = world.scenario.autoscaling.model_copy(update={"hold_s": 120.0})
    world = world.updated(traffic=traffic, autoscaling=scaling)
    outcome = run(world, PolicyVariant(""))
    held = [(at_s, ready) for at_s, model, ready in outcome.replicas if model.endswith("4b")]
    most = max(ready for _, ready in held)
    assert most >= 3
    first_s = next(at_s for at_s, ready in held if ready > 1)
    assert 360.0 + 90.0 < first_s < 360.0 + 200.0
    assert held[-1][1] < most
    devices = sum(outcome.device_s.values())
    least = least_device_seconds(
        arrivals(world, mean_rate(world)),
        world.models,
        "qwen3-embedding-0.6b",
        dict.fromkeys(world.models, 1),
        2400.0,
    )
    assert 2.5 * 2400.0 <= least < devices < 2.5 * 2400.0 * 4
