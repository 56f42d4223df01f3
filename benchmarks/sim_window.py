"""What a longer mean of the autoscaler's demand saves and costs, simulated: `python -m benchmarks
sim --part window` (4 minutes of processor time, so it runs only if it is named).

Knative's autoscaler has a mean of 60 s and one of 6 s. It follows the short one, and stops no
replica, from the time when that needs twice the ready replicas until 60 s after.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any

from benchmarks.sim_hold import hours, worlds
from benchmarks.sim_runs import LARGE, Simulated, percent, points, way_of, world_of
from benchmarks.sim_verdicts import STEP
from router.capacity import Autoscaler, DemandReport, Peak, Want, needed_replicas, next_replicas
from router.sim.build import World, arrivals, length_s, mean_rate, run
from router.sim.oracle import least_device_seconds

WINDOW_S, PANIC = 60.0, 2.0
SHORTER = 8.0  # times as short as a day, with the same rates
SHIPPED: Mapping[str, Any] = {}
# whether the demand is a mean of WINDOW_S, and what differs from the shipped settings
SETTINGS: tuple[tuple[bool, Mapping[str, Any]], ...] = (
    (False, SHIPPED),
    (False, {"utilisation": 0.9}),
    (False, {"hold_s": 60.0, "utilisation": 0.7}),
    (True, SHIPPED),
    (True, {"utilisation": 0.7}),
    (True, {"hold_s": 0.0}),
)


class Averaged(Autoscaler):
    """The policy with another mean of the demand, and Knative's panic."""

    def __init__(self, *settings: float) -> None:
        super().__init__(*settings)
        self._means: dict[str, tuple[float, float]] = {}  # the mean, and when it was made
        self._panic_s: dict[str, float] = {}

    def want(
        self, name: str, ask: DemandReport, ready: int, target: int, least: int, most: int,
        now: float,
    ) -> Want:  # fmt: skip
        """As in the policy."""
        start_s = self._start_s if ask.start_s is None else ask.start_s
        start_s = max(start_s, ask.started_s or 0.0)
        calm = ask._replace(offered=self._mean(name, ask.offered + ask.shadow, now), shadow=0.0)
        short, needed = (
            needed_replicas(one, ready, self._utilisation, self._drain_s, start_s)
            for one in (ask, calm)
        )
        if short > PANIC * max(1, ready):
            self._panic_s[name] = now
        held = needed
        if now - self._panic_s.get(name, -math.inf) < WINDOW_S:
            needed, held = max(needed, short), max(needed, target * (1.0 - self._slack))
        if name not in self._peaks:
            self._peaks[name] = Peak(self._hold_s)
            self._peaks[name].seen(target * (1.0 - self._slack), now)
        peak = self._peaks[name].seen(held, now)
        replicas = max(least, min(most, next_replicas(needed, target, self._slack, peak)))
        return Want(replicas, peak, least, ask.devices, ready)

    def _mean(self, name: str, demand: float, now: float) -> float:
        before, at_s = self._means.get(name, (demand, now))
        kept = math.exp(-(now - at_s) / WINDOW_S)
        self._means[name] = kept * before + (1.0 - kept) * demand, now
        return self._means[name][0]


def window() -> Iterator[Simulated]:
    """Device hours, requests on time and quality, by traffic and setting."""
    for (averaged, changes), (name, world) in product(SETTINGS, traffics().items()):
        scaling = world.scenario.autoscaling
        assert scaling is not None
        changed = world.updated(autoscaling=scaling.model_copy(update=dict(changes)))
        made: Callable[..., Autoscaler] = Averaged if averaged else Autoscaler
        outcome = run(changed, way_of(), scaling=made)
        words = ", ".join(f"{key} {value:g}" for key, value in changes.items()) or "as shipped"
        mean_s = WINDOW_S if averaged else 10.0
        yield Simulated(
            f"window {mean_s:g} {words} {name}",
            f"device hours with demand as a mean of {mean_s:g} s, {words}, {name}",
            hours(outcome), "", None, f"bound {bound_hours(world):.2f} h",
            f"{percent(outcome.attainment)} on time at {points(outcome.effective_quality)}",
            world.profile,
        )  # fmt: skip


def traffics() -> dict[str, World]:
    """A day in an eighth of its time, a fourfold step, and Azure's code with starts of 90 s."""
    day = world_of("day")
    rates = day.scenario.traffic.requests_per_s
    assert isinstance(rates, Mapping)

    def at(rates: Mapping[float, float], seconds: float, warm_up_s: float) -> World:
        traffic = day.scenario.traffic.model_copy(update={"requests_per_s": rates})
        return day.updated(traffic=traffic, seconds=seconds, warm_up_s=warm_up_s)

    code = worlds()["azure-code"]
    faster = {hour / SHORTER: rate for hour, rate in rates.items()}
    return {
        "step": at(STEP, 2880.0, 300.0),
        "day / 8": at(faster, day.scenario.seconds / SHORTER, day.scenario.warm_up_s),
        **{f"azure-code, seed {seed}": code.updated(seed=seed) for seed in (0, 1, 2)},
    }


def bound_hours(world: World) -> float:
    """The fluid bound on the device hours; a trace's ends with its last request."""
    rate = mean_rate(world)
    sent, least = arrivals(world, rate), dict.fromkeys(world.models, 1)
    seconds = length_s(world, rate)
    return least_device_seconds(sent, world.models, LARGE, least, seconds) / 3600.0
