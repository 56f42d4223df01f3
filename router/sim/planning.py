"""Find the cheapest replicas that keep the budgets at the required quality, by simulation."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from router.sim.build import PolicyVariant, World, mean_rate, run

REQUESTS = 3000  # simulated in one try
MAX_TRIES = 30
SPARE = 4  # factor on the replicas, so that no request has to wait


@dataclass(frozen=True, slots=True)
class Tried:
    """One simulated plan: replicas of each model, their cost and the results."""

    replicas: Mapping[str, int]
    cost: float  # per hour; devices where no cost is given
    attainment: float
    quality: float  # mean points of answered requests
    keeps: bool

    def as_dict(self) -> dict[str, object]:
        """Return the fields for JSON."""
        return {name: getattr(self, name) for name in self.__slots__} | {
            "replicas": dict(self.replicas)
        }


@dataclass(frozen=True, slots=True)
class Planned:
    """Result of the search; `best` is None if no plan that was tried meets the goal."""

    asked_quality: float  # mean points without load, less the goal's `quality_loss`
    best: Tried | None
    tried: int


def cost_of(world: World, replicas: Mapping[str, int]) -> float:
    """Cost per hour; the number of devices where the scenario gives no cost."""
    given = world.scenario.gpu_hour
    total = 0.0
    for name, many in replicas.items():
        price = given[name] if isinstance(given, Mapping) else given
        total += many * world.models[name].devices * (1.0 if price is None else price)
    return total


class ReplicaPlanner:
    """Tries plans for one scenario at its highest rate, without its faults."""

    def __init__(
        self, world: World, way: PolicyVariant, watch: Callable[[int], None] | None = None
    ) -> None:
        """`watch` is called with the number of plans tried."""
        scenario = world.scenario
        self._rate = mean_rate(world)
        if not world.trace:  # a trace has no bursts but its own
            bursts = (burst.times for burst in scenario.traffic.bursts)
            self._rate *= max([1.0, *bursts])
        changes: dict[str, object] = {"faults": (), "autoscaling": None}
        if not world.log:
            seconds = min(scenario.seconds, REQUESTS / self._rate)
            traffic = scenario.traffic.model_copy(
                update={
                    "load": None,
                    "scale": 1.0,
                    "requests_per_s": self._rate,
                    "bursts": (),
                }
            )
            changes |= {"seconds": seconds, "warm_up_s": 0.2 * seconds, "traffic": traffic}
        self._world, self._way, self._watch = world.updated(**changes), way, watch
        self._least = {
            name: max(0, world.fleet.bounds[name].least if name in world.fleet.bounds else 1)
            for name in world.models
        }
        self._known: dict[tuple[int, ...], Tried] = {}
        goal = scenario.goal
        self._on_time = goal.on_time
        free = {name: SPARE * max(1, many) for name, many in world.replicas.items()}
        self.asked_quality = self._mean_quality(free) - goal.quality_loss

    def search(self) -> Planned:
        """Add replicas until the goal is met, then remove some as long as it is.

        More are added where that helps most, and everywhere if it helps nowhere.
        """
        now = self._try(self._world.replicas)
        while not now.keeps and len(self._known) < MAX_TRIES:
            plans = [self._more(now.replicas, name) for name in self._world.models]
            plans.append({name: 2 * max(1, many) for name, many in now.replicas.items()})
            each = [self._try(plan) for plan in plans]
            kept = [one for one in each if one.keeps]
            best = min(kept, key=lambda one: one.cost) if kept else max(each, key=self._short)
            now = best if best.keeps or self._short(best) > self._short(now) else each[-1]
        if not now.keeps:
            return Planned(self.asked_quality, None, len(self._known))
        part = 2
        while part <= 64 and len(self._known) < MAX_TRIES:
            fewer = [self._try(plan) for plan in self._fewer(now.replicas, part)]
            kept = [one for one in fewer if one.keeps]
            if kept:
                now = min(kept, key=lambda one: one.cost)
            elif all(many // part <= 1 for many in now.replicas.values()):
                break
            else:
                part *= 2
        return Planned(self.asked_quality, now, len(self._known))

    def _short(self, tried: Tried) -> float:
        """Distance from the goal as a negative number; 0 meets it."""
        points = min(0.0, tried.quality - self.asked_quality)
        return min(0.0, tried.attainment - self._on_time) + 0.05 * points

    def _more(self, replicas: Mapping[str, int], name: str) -> dict[str, int]:
        many = replicas[name]
        return {**replicas, name: many + max(1, math.ceil(many / 4))}

    def _fewer(self, replicas: Mapping[str, int], part: int) -> list[dict[str, int]]:
        found = []
        for name, many in replicas.items():
            left = max(self._least[name], many - max(1, many // part))
            if left < many:
                found.append({**replicas, name: left})
        return found

    def _try(self, replicas: Mapping[str, int]) -> Tried:
        key = tuple(replicas[name] for name in self._world.models)
        if key not in self._known:
            outcome = run(self._world.with_replicas(replicas), self._way, self._rate)
            total = outcome.total
            answered = total.on_time + total.late
            quality = total.quality / answered if answered else 0.0
            keeps = outcome.attainment >= self._on_time and quality >= self.asked_quality
            cost = cost_of(self._world, replicas)
            self._known[key] = Tried(dict(replicas), cost, outcome.attainment, quality, keeps)
            if self._watch is not None:
                self._watch(len(self._known))
        return self._known[key]

    def _mean_quality(self, replicas: Mapping[str, int]) -> float:
        way = replace(self._way, informed=True)
        total = run(self._world.with_replicas(replicas), way, self._rate).total
        answered = total.on_time + total.late
        return total.quality / answered if answered else 0.0
