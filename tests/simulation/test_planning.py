"""The search for the cheapest replicas: what it prints has to keep the goal."""

from dataclasses import replace
from typing import Any

import pytest

from router.config import Autoscaling, RouterArgs
from router.models import build_models
from router.sim import planning
from router.sim.backlog import Backlog
from router.sim.build import Fleet, PolicyVariant, World, run
from router.sim.planning import MAX_TRIES, ReplicaPlanner
from router.sim.scenario import Scenario
from tests.support.simulated import args_of

WAY = PolicyVariant("as configured")
# a step of 20 texts of 50 tokens takes 36 ms, so a large replica does 550 of them a second
LARGE: dict[str, Any] = {"tokens": [50, 50], "model": "large"}
NO_NOISE: dict[str, Any] = {"sigma": 0.0, "stall_share": 0.0}


def world_of(args: RouterArgs | None = None, **changes: Any) -> World:
    scenario = Scenario.model_validate({"noise": NO_NOISE, "replicas": {"small": 1}} | changes)
    args = args or args_of()
    fleet = Fleet({"small": 1, "large": 1}, {}, Autoscaling())
    return World(scenario, args, build_models(args), "none", fleet)


@pytest.mark.parametrize("budget", [{"budget_ms": 500}, {}], ids=["budget", "no budget"])
def test_a_fleet_that_falls_behind_is_no_plan(budget: dict[str, Any]) -> None:
    """Three replicas do 1,650 of 2,000 requests a second; the first 3,000 are on time anyway."""
    traffic = {"requests_per_s": 2000, "classes": {"q": LARGE | budget}}
    world = world_of(seconds=5, warm_up_s=1, traffic=traffic, replicas={"large": 4})
    planned = ReplicaPlanner(world, WAY).search()
    assert planned.best is not None
    assert planned.best.replicas["large"] >= 4
    outcome = run(world.with_replicas(planned.best.replicas), WAY)
    assert outcome.attainment >= world.scenario.goal.on_time
    assert outcome.end_s < world.scenario.seconds + 0.5


def test_the_cheapest_plan_is_simulated_for_the_whole_scenario(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(planning, "REQUESTS", 100)
    monkeypatch.setattr(planning, "MAX_REQUESTS", 100)  # so few that no backlog is seen
    traffic = {"requests_per_s": 1200, "classes": {"q": LARGE | {"budget_ms": 500}}}
    world = world_of(seconds=5, traffic=traffic)
    planned = ReplicaPlanner(world, WAY).search()
    assert planned.best is not None
    outcome = run(world.with_replicas(planned.best.replicas), WAY)
    assert outcome.attainment == planned.best.attainment >= world.scenario.goal.on_time


def test_a_backlog_that_grows_is_seen_and_one_that_stands_is_not() -> None:
    stands, grows = Backlog(10.0), Backlog(10.0)
    for place in range(10_000):
        at_s = 0.001 * place
        stands.add("q", at_s, at_s + 0.5)
        grows.add("q", at_s, at_s + 0.05 * at_s)
    assert stands.excess == 0.0
    assert 0.02 < grows.excess < 0.05


def test_a_small_class_that_waits_longer_and_longer_is_seen_beside_a_large_one() -> None:
    backlog = Backlog(10.0)
    for place in range(10_000):
        backlog.add("q", 0.001 * place, 0.001 * place + 0.01)
    for place in range(100):
        backlog.add("ingest", 0.1 * place, 0.1 * place + 0.05 * place)
    assert backlog.excess > 0.0


def test_a_search_ends_after_its_tries_and_its_bar_does_not_go_back() -> None:
    traffic = {"requests_per_s": 3000, "classes": {"q": LARGE | {"budget_ms": 5}}}
    told = list[tuple[str, float]]()
    world = world_of(seconds=0.05, traffic=traffic)  # nothing is as fast as the budget
    planned = ReplicaPlanner(world, WAY, lambda *one: told.append(one)).search()
    assert planned.best is None
    assert planned.tried == MAX_TRIES
    assert [share for _, share in told] == sorted({share for _, share in told})


def trace_of(*seconds: float) -> list[tuple[float, int]]:
    return [(at_s, 50) for at_s in seconds]


def test_a_plan_of_a_short_trace_counts_its_requests() -> None:
    traffic = {"requests_per_s": 20, "trace": "named", "classes": {"q": LARGE | {"budget_ms": 900}}}
    world = world_of(seconds=3600, traffic=traffic)
    world = replace(world, trace=trace_of(*range(100)))
    planned = ReplicaPlanner(world, WAY).search()
    assert planned.best is not None
    assert planned.best.attainment == 1.0


def test_a_plan_of_a_long_trace_is_for_the_part_with_the_highest_rate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(planning, "MAX_REQUESTS", 500)
    quiet = [0.1 * place for place in range(600)]
    busy = [60.0 + 0.0005 * place for place in range(900)]
    traffic = {"requests_per_s": 10, "trace": "named", "classes": {"q": LARGE | {"budget_ms": 150}}}
    world = replace(world_of(seconds=3600, traffic=traffic), trace=trace_of(*quiet, *busy))
    rate = (len(world.trace) - 1) / (busy[-1] - quiet[0])  # as fast as it was
    world = world.updated(
        traffic=world.scenario.traffic.model_copy(update={"requests_per_s": rate})
    )
    planner = ReplicaPlanner(world, WAY)
    assert planner.rate == pytest.approx(2000.0, rel=0.01)
    assert planner.search().best is not None


def test_tries_in_which_nothing_arrives_are_no_failed_plans() -> None:
    world = world_of(seconds=1, traffic={"requests_per_s": 1e-9, "classes": {"q": LARGE}})
    planned = ReplicaPlanner(world, WAY).search()
    assert (planned.best, planned.tried) == (None, 0)


def test_a_plan_is_not_made_by_an_unknown_quality() -> None:
    args = args_of()
    unknown = args.models["small"].model_copy(update={"quality": {}})
    args = args.model_copy(update={"models": {**args.models, "small": unknown}})
    traffic = {"requests_per_s": 50, "classes": {"q": {"budget_ms": 500}}}
    planned = ReplicaPlanner(world_of(args, seconds=1, traffic=traffic), WAY).search()
    assert planned.asked_quality is None
    assert planned.best is not None
    assert planned.best.quality is None


def test_a_plan_is_for_the_highest_rate_of_the_time_that_is_simulated() -> None:
    rates = {0: 20, 12: 20, 13: 9000}
    traffic = {"requests_per_s": rates, "classes": {"q": LARGE | {"budget_ms": 500}}}
    planned = ReplicaPlanner(world_of(seconds=20, traffic=traffic), WAY).search()
    assert planned.best is not None
    assert planned.best.replicas["large"] == 1


def test_a_plan_is_for_bursts_that_overlap() -> None:
    bursts = [{"at_s": at_s, "seconds": 2, "times": 5} for at_s in (1, 2)]
    traffic = {"requests_per_s": 50, "bursts": bursts}
    planner = ReplicaPlanner(world_of(seconds=4, traffic=traffic), WAY)
    assert planner.rate == 50 * 5 * 5
