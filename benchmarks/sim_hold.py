"""What a shorter `hold_s` of the autoscaler saves and costs, simulated: `python -m benchmarks sim
--part hold` (8 minutes of processor time, so it runs only if it is named).
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product

from benchmarks.sim_runs import Simulated, mean, percent, points, way_of, world_of
from router.sim.build import World, run
from router.sim.outcome import Outcome

HOLDS = (120.0, 60.0)
SHIPPED = 300.0
STARTS = (90.0, 300.0)
SCALES = (0.5, 1.0, 2.0)
SEEDS = range(3)
WARM_S = 600.0  # the first replicas start in it
# requests/s by hour: 5 minutes of much, 5 of little
WAVES = {
    hour: rate
    for place in range(5)
    for start in (place / 6.0,)
    for hour, rate in (
        (start, 2.0),
        (start + 1.0 / 12.0, 2.0),
        (start + 1.001 / 12.0, 8.0),
        (start + 1.999 / 12.0, 8.0),
    )
}
TRACE, TRACE_RATE = "azure-code", 2.0  # requests/s


def hold() -> Iterator[Simulated]:
    """Device hours, requests on time and quality, by traffic, start and scale."""
    for (name, world), start_s, scale in product(worlds().items(), STARTS, SCALES):
        before = [outcome(world, SHIPPED, start_s, scale, seed) for seed in SEEDS]
        for hold_s in HOLDS:
            after = [outcome(world, hold_s, start_s, scale, seed) for seed in SEEDS]
            yield Simulated(
                f"hold {name} {start_s:g} x{scale:g} {hold_s:g}",
                f"share of the device hours that hold_s {hold_s:g} saves, {name} x{scale:g}, "
                f"starts of {start_s:g} s, {len(SEEDS)} seeds",
                1.0 - sum(map(hours, after)) / sum(map(hours, before)), "", None,
                f"hold_s {SHIPPED:g}: {summary(before)}",
                f"hold_s {hold_s:g}: {summary(after)}; by seed "
                + ", ".join(
                    f"{100.0 * (new.attainment - old.attainment):+.2f}"
                    for old, new in zip(before, after, strict=True)
                ),
                world.profile,
            )  # fmt: skip


def worlds() -> Mapping[str, World]:
    """The day's cards and requests, with arrivals that rise and fall."""
    day = world_of("day").updated(warm_up_s=WARM_S)

    def at(rates: float | Mapping[float, float]) -> World:
        traffic = day.scenario.traffic.model_copy(update={"requests_per_s": rates})
        return day.updated(traffic=traffic)

    trace = world_of(TRACE).trace  # twice, one after the other
    again_s = trace[-1][0] - trace[0][0]
    again = [(at_s + again_s, tokens) for at_s, tokens in trace]
    return {
        "waves": at(WAVES).updated(seconds=3600.0 * max(WAVES)),
        TRACE: replace(at(TRACE_RATE), trace=[*trace, *again]),
    }


def outcome(world: World, hold_s: float, start_s: float, scale: float, seed: int) -> Outcome:
    """One run."""
    scenario = world.scenario
    assert scenario.autoscaling is not None
    changes = {"hold_s": hold_s, "start_s": start_s}
    scaling = scenario.autoscaling.model_copy(update=changes)
    traffic = scenario.traffic.model_copy(update={"scale": scale})
    return run(world.updated(autoscaling=scaling, traffic=traffic, seed=seed), way_of())


def hours(outcome: Outcome) -> float:
    return sum(outcome.device_s.values()) / 3600.0


def summary(outcomes: list[Outcome]) -> str:
    on_time = percent(mean(one.attainment for one in outcomes))
    quality = points(mean(one.effective_quality for one in outcomes))
    return f"{mean(map(hours, outcomes)):.2f} h, {on_time} on time at {quality}"
