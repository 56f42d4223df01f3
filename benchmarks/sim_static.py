"""Violations against static choices, simulated: `python -m benchmarks sim --part t3`.

Late answers are compared at equal quality, which is the mean points of the answers, late ones
included. A static choice that answers better than the policy is compared as it is. Each family of
static choices with a threshold is compared at the smallest threshold with which it answers at least
as well. That threshold is found for these very arrivals, so in practice it would do worse.
"""

from collections.abc import Iterator
from dataclasses import replace

from benchmarks.sim_runs import Simulated, at_load, percent, points, way_of
from router.sim.baselines import FAMILIES, chooser_of
from router.sim.build import World, run
from router.sim.outcome import Outcome

LOAD, TIMES = 1.2, 10.0
STATIC = ("static-rules", "least-loaded", "by-length")
RANGES = {"least-loaded": (0.001, 0.1), "by-length": (1.0, 64.0), "short-to-large": (0.25, 16.0)}
WORDS = {
    "least-loaded": "the largest model that waits at most {:.1g} s longer than the least loaded",
    "by-length": "by-length with lengths divided by {:.2g}",
    "short-to-large": "short texts to the largest, lengths times {:.2g}",
}
STEPS = 6


def t3() -> Iterator[Simulated]:
    """Violations against static choices that answer as well."""
    world = at_load(LOAD)
    own = run(world, way_of())
    quality = answered(own)
    plain = {name: run(world, way_of(name)) for name in STATIC}
    compared = {name: one for name, one in plain.items() if answered(one) >= quality}
    for name in FAMILIES:
        value, outcome = tuned(name, world, quality)
        compared[WORDS[name].format(value)] = outcome
    least = min(times_fewer(own, one) for one in compared.values())
    informed = run(world, replace(way_of(), informed=True))
    calm = world.updated(noise=world.scenario.noise.model_copy(update={"stall_share": 0.0}))
    below = {name: one for name, one in plain.items() if name not in compared}
    yield Simulated(
        "T3", f"times fewer violations than each static choice that answers as well, {LOAD:.0%} "
        "load",
        least, f">= {TIMES:g}", least >= TIMES,
        "; ".join(f"{name}: {late(one)}" for name, one in compared.items())
        + "; not as good and not compared: "
        + "; ".join(f"{name} {late(one)}" for name, one in below.items()),
        f"own {late(own)}: policy {percent(1.0 - informed.attainment)}, information "
        f"{percent(informed.attainment - own.attainment)}; without stalls "
        f"{percent(1.0 - run(calm, way_of()).attainment)}",
    )  # fmt: skip


def tuned(name: str, world: World, quality: float) -> tuple[float, Outcome]:
    """The smallest threshold of a family, to 7 %, whose answers have these points, and its run."""

    low, high = RANGES[name]
    best: Outcome | None = None
    for _ in range(STEPS):
        middle = (low * high) ** 0.5
        outcome = run(world, replace(way_of(), choose=chooser_of(name, middle)))
        if answered(outcome) >= quality:
            high, best = middle, outcome
        else:
            low = middle
    return high, best or run(world, replace(way_of(), choose=chooser_of(name, high)))


def answered(outcome: Outcome) -> float:
    """Mean points of the answers, late ones included."""
    total = outcome.total
    return total.quality / max(1, total.on_time + total.late)


def times_fewer(own: Outcome, other: Outcome) -> float:
    """How many times as many requests the other does not answer on time."""
    misses = 1.0 - own.attainment
    return (1.0 - other.attainment) / misses if misses else float("inf")


def late(outcome: Outcome) -> str:
    return f"{percent(1.0 - outcome.attainment)} late at {points(answered(outcome))}"
