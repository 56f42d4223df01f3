"""The bounds, and the autoscaler on the virtual clock."""

from pathlib import Path

import numpy as np
import pytest

from deployments.tools.simulate.load import load_world
from router.domain import Curve, Features, Model, Work
from router.sim.baselines import CHOOSERS
from router.sim.build import PolicyVariant, World, arrivals, bound_of, mean_rate, run
from router.sim.oracle import Bound, fluid_bound, least_device_seconds
from router.sim.scenario import Class
from router.sim.traffic import Arrival, Piece, Shape, device_seconds

SCENARIOS = Path(__file__).resolve().parents[2] / "configs" / "scenarios"


def at(load: float, requests: int = 1500, one: Class | None = None) -> World:
    world = load_world(SCENARIOS / "load-80.yaml")
    traffic = world.scenario.traffic.model_copy(update={"load": load})
    if one is not None:
        traffic = traffic.model_copy(update={"classes": {"one": one}})
    world = world.updated(traffic=traffic, warm_up_s=0.0)
    return world.updated(seconds=requests / mean_rate(world))


def bound_with(world: World, times: float) -> Bound:
    replicas = {name: many * times for name, many in world.replicas.items()}
    return fluid_bound(arrivals(world, mean_rate(world)), world.models, replicas)


@pytest.mark.parametrize("load", [0.5, 3.0, 12.0])
@pytest.mark.parametrize("name", [None, *CHOOSERS])
def test_no_policy_beats_the_bound(name: str | None, load: float) -> None:
    world = at(load, 400)
    bound, outcome = bound_of(world), run(world, PolicyVariant("", chooser=name))
    assert outcome.effective_quality <= bound.quality + 1e-6
    assert outcome.attainment <= bound.on_time + 1e-6


PATIENT = Class(tokens=(200, 400))  # it has no budget
LISTS = Class(tokens=(500, 500), texts=64, budget_ms=500.0)
LONG = Class(tokens=(1000, 1000), budget_ms=200.0)


@pytest.mark.parametrize("name", [None, "always-large", "always-small", "largest-feasible"])
@pytest.mark.parametrize(
    ("one", "load", "requests", "error"),
    [
        pytest.param(PATIENT, 100.0, 1000, 1.0, id="never-late"),
        pytest.param(LISTS, 0.2, 40, 1.0, id="shared-by-replicas"),
        pytest.param(LONG, 4.0, 600, 0.1, id="faster-than-known"),
    ],
)
def test_no_policy_beats_the_bound_of_other_requests_and_devices(
    one: Class, load: float, requests: int, error: float, name: str | None
) -> None:
    world = at(load, requests, one).updated(profile_error=error)
    bound, outcome = bound_of(world), run(world, PolicyVariant("", chooser=name))
    assert outcome.effective_quality <= bound.quality + 1e-6
    assert outcome.attainment <= bound.on_time + 1e-6


def test_no_policy_that_prefers_light_requests_beats_the_bound() -> None:
    # one device answers all light ones, and nothing else
    model = Model("m", 0, 8192, Curve(0.0, 0.0, 0.001, 0.0, 2048), {"default": 50.0})

    def shape(tokens: int) -> Shape:
        piece = Piece(np.array([tokens], np.int32), tokens, tokens**2)
        features = Features(4 * tokens, "en", "Latn", False, False)
        work = {"m": Work(tokens, tokens, tokens**2)}
        return Shape("k", "t", features, work, {"m": (piece,)}, 1.0, models={"m": model})

    light, heavy = shape(110), shape(160)
    both = [Arrival(0.11 * place, one) for place in range(360) for one in (light, heavy)]
    bound = fluid_bound(both, {"m": model}, {"m": 1})
    assert 0.5 <= bound.on_time < 0.55
    assert 25.0 <= bound.quality < 27.5


@pytest.mark.parametrize("fixed_s", [0.0, 0.01, 0.05, 0.2])
def test_the_work_of_a_full_step_is_no_more_than_it_takes(fixed_s: float) -> None:
    curve = Curve(fixed_s, 0.005, 0.00001, 1e-8, 1000, s_per_text=0.001)
    model = Model("m", 0, 1000, curve, {"default": 50.0})
    for texts, tokens in ((1000, 1), (10, 100), (1, 1000)):
        work = Work(tokens, tokens, tokens**2)
        one = Shape("k", "t", Features(40, "en", "Latn", False, False), {"m": work}, {})
        step_s = curve.step(1000, texts * tokens**2, texts)
        assert texts * device_seconds(one, model) <= step_s * (1.0 + 1e-9)


def test_the_bound_is_what_capacity_allows() -> None:
    world = at(4.0)
    few, some, many = (bound_with(world, times) for times in (0.02, 0.2, 20.0))
    assert few.quality < some.quality < many.quality
    assert many.on_time == pytest.approx(1.0)
    assert few.on_time < 0.9
    largest = max(world.models.values(), key=lambda model: model.rank)
    best = sum(a.shape.points[largest.id] or 0.0 for a in arrivals(world, mean_rate(world)))
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
