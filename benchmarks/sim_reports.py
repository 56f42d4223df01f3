"""Simulate the effect of stale reports, by the number of routers: `python -m benchmarks sim --part
reports`.
"""

from collections.abc import Iterator
from itertools import product

from benchmarks.sim_runs import Simulated, at_load, percent, points, way_of, world_of
from router.sim.build import run

ROUTERS = (1, 8, 64)
AGES_MS = (0.0, 50.0, 200.0, 1000.0)  # 0: as fresh as MIN_MS
MIN_MS = 10.0
REPLICAS, REQUESTS = 16, 8_000


def reports() -> Iterator[Simulated]:
    """Points on time that stale reports cost, against one router with fresh ones."""
    fresh: float | None = None
    replicas = dict.fromkeys(world_of("stale-reports").models, REPLICAS)
    for routers, age_ms in product(ROUTERS, AGES_MS):
        given = world_of("stale-reports").scenario.reports
        every = given.model_copy(update={"in_replies": False, "every_ms": age_ms or MIN_MS})
        world = at_load(0.8, REQUESTS, replicas=replicas, routers=routers, reports=every)
        outcome = run(world, way_of())
        fresh = outcome.attainment if fresh is None else fresh
        yield Simulated(
            f"reports {routers} {age_ms:g}",
            f"points on time lost by {routers} routers with reports of {age_ms or MIN_MS:g} ms",
            100.0 * (fresh - outcome.attainment), "", None, "",
            f"{percent(outcome.attainment)} on time at {points(outcome.effective_quality)}",
        )  # fmt: skip
