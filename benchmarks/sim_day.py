"""The steps from the bound's device hours to those of the autoscaler, without a simulation: what
each of its rules adds for the same arrivals.
"""

import math
from collections.abc import Sequence

from benchmarks.sim_runs import LARGE
from router.capacity import Demand, Peak, next_replicas
from router.sim.build import World, arrivals, mean_rate
from router.sim.traffic import device_seconds

WINDOW_S = 60.0  # of the bound


def added_hours(world: World) -> str:
    """Device hours if replicas are whole, busy for the declared share of the time, and kept as
    the policy keeps them, one rule after the other.
    """
    large, scaling = world.models[LARGE], world.fleet.scaling
    works = [
        (at_s, device_seconds(shape, large)) for at_s, shape in arrivals(world, mean_rate(world))
    ]
    seconds = world.scenario.seconds
    others = sum(model.devices for name, model in world.models.items() if name != LARGE)
    minutes = [0.0] * math.ceil(seconds / WINDOW_S)
    for at_s, work_s in works:
        minutes[int(at_s / WINDOW_S)] += work_s / WINDOW_S

    def hours(replicas: float) -> str:
        return f"{others * seconds / 3600.0 + replicas * large.devices / 3600.0:.1f} h"

    used = scaling.utilisation
    whole = sum(WINDOW_S * max(1, math.ceil(need)) for need in minutes)
    planned = sum(WINDOW_S * max(1, math.ceil(need / used)) for need in minutes)
    parts = [f"whole replicas {hours(whole)}", f"busy for {used:.0%} {hours(planned)}"]
    for window_s in (10.0, 60.0):
        kept = held(works, window_s, seconds, used, scaling.hold_s, scaling.slack)
        parts.append(f"held {scaling.hold_s:g} s by means of {window_s:g} s {hours(kept)}")
    return ", ".join(parts)


def held(
    works: Sequence[tuple[float, float]],
    window_s: float,
    seconds: float,
    utilisation: float,
    hold_s: float,
    slack: float,
    every_s: float = 2.0,
) -> float:
    """Replica seconds by the autoscaler's rules, if replicas started at once. `window_s` is that
    of the demand's mean.
    """
    demand, peak, place, now, total = Demand(0.0, window_s), Peak(hold_s), 0, 1, 0.0
    for tick in range(math.ceil(seconds / every_s)):
        while place < len(works) and works[place][0] <= tick * every_s:
            at_s, work_s = works[place]
            demand.add(round(1e6 * work_s), at_s)
            place += 1
        need = demand.tokens_per_s(tick * every_s) / 1e6 / utilisation
        now = max(1, next_replicas(need, now, slack, peak.seen(need, tick * every_s)))
        total += now * every_s
    return total
