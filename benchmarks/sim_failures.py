"""Simulate replicas that die or are slow: `python -m benchmarks sim --part failures`."""

from collections.abc import Iterator
from dataclasses import replace

from benchmarks.sim_runs import LARGE, Simulated, percent, points, way_of, world_of
from router.sim.build import World, run
from router.sim.outcome import Outcome

PINNED = 0.1  # share of the queries that come again with a model that the caller named


def failures() -> Iterator[Simulated]:
    """The scenario, with requests that must stay in the space of the largest model."""
    world = with_pinned(world_of("failures"))
    own, large = run(world, way_of()), run(world, way_of("always-large"))
    informed = run(world, replace(way_of(), informed=True))
    yield Simulated(
        "failures", "on time while replicas die and one has half its speed, 80 % load",
        own.attainment, "", None,
        f"always-large {_summary(large)}", f"own {_summary(own)}; informed {_summary(informed)}",
    )  # fmt: skip
    yield Simulated(
        "failures space", "answers by a model outside the space of their request",
        own.space_violations, "0", own.space_violations == 0,
        f"of {own.kinds['pinned'].offered} requests that name {LARGE}",
    )  # fmt: skip


def with_pinned(world: World) -> World:
    """The world with a class of queries whose callers name the largest model."""
    traffic = world.scenario.traffic
    queries = traffic.classes["queries"]
    pinned = queries.model_copy(update={"model": LARGE, "share": PINNED * queries.share})
    classes = {**traffic.classes, "pinned": pinned}
    return world.updated(traffic=traffic.model_copy(update={"classes": classes}))


def _summary(outcome: Outcome) -> str:
    return f"{percent(outcome.attainment)} at {points(outcome.effective_quality)}"
