"""Find the cheapest replicas that keep the budgets at the required quality, by simulation.

A try is a part of the scenario at its highest rate. It is long enough for a backlog to show, and a
plan whose backlog grows does not keep the goal. The cheapest plan is then simulated for the whole
scenario.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from router.sim.backlog import Backlog
from router.sim.build import PolicyVariant, World, arrivals, length_s, mean_rate, rate_of, run

REQUESTS = 3000  # simulated in one try at least, if the scenario has so many
MAX_REQUESTS = 10_000  # in one try
MIN_S = 2.0
BUDGETS = 4.0  # times the largest budget, the least seconds of a try
MAX_TRIES = 30  # until a plan keeps the goal, and as many that are smaller
MAX_WHOLE = 5  # plans that are simulated for the whole scenario
SPARE = 4  # factor on the replicas, so that no request has to wait
DRAIN = 0.1  # of the length of a trace or log: answers can end so much later than arrivals


@dataclass(frozen=True, slots=True)
class Tried:
    """One simulated plan: replicas of each model, their cost and the results."""

    replicas: Mapping[str, int]
    cost: float  # per hour; devices where no cost is given
    attainment: float
    quality: float | None  # mean points of answered requests; None: a model's are not known
    keeps: bool
    excess: float = 0.0  # share of the arrivals that the fleet does not keep up with

    def as_dict(self) -> dict[str, object]:
        """Return the fields for JSON."""
        return {
            "replicas": dict(self.replicas),
            "cost": self.cost,
            "attainment": self.attainment,
            "quality": self.quality,
            "keeps": self.keeps,
        }


@dataclass(frozen=True, slots=True)
class Planned:
    """Result of the search; `best` is None if no plan that was tried meets the goal."""

    asked_quality: float | None  # mean points without load, less the goal's `quality_loss`
    best: Tried | None
    tried: int  # 0: nothing arrives in a try


def cost_of(world: World, replicas: Mapping[str, float]) -> float:
    """Cost per hour; the number of devices where the scenario gives no cost."""
    given = world.scenario.gpu_hour
    total = 0.0
    for name, many in replicas.items():
        price = given[name] if isinstance(given, Mapping) else given
        total += many * world.models[name].devices * (1.0 if price is None else price)
    return total


def without_quality(world: World) -> list[str]:
    """Models whose quality the config does not give for every text."""
    return [name for name, model in world.models.items() if "default" not in model.quality]


class ReplicaPlanner:
    """Tries plans for one scenario at its highest rate, without its faults."""

    def __init__(
        self, world: World, way: PolicyVariant, watch: Callable[[str, float], None] | None = None
    ) -> None:
        """`watch` is called with what is being done, and the share of it that is done."""
        self._whole = world.updated(faults=(), autoscaling=None)
        self._whole_rate = mean_rate(world)
        self._budget_s = _largest_budget_s(self._whole.under(way), self._whole_rate)
        self._world, self.rate = _part(self._whole, self._whole_rate, self._budget_s)
        self._way, self._watch = way, watch
        self._is_whole = self._world is self._whole
        self._least = {
            name: max(0, world.fleet.bounds[name].least if name in world.fleet.bounds else 1)
            for name in world.models
        }
        self._known: dict[tuple[int, ...], Tried] = {}
        self._limit = MAX_TRIES
        self._goal = world.scenario.goal
        self.asked_quality: float | None = None
        free = {name: SPARE * max(1, many) for name, many in world.replicas.items()}
        outcome = run(self._world.with_replicas(free), replace(way, informed=True), self.rate)
        self._offered = outcome.total.offered
        if outcome.total.mean_quality is not None and not without_quality(world):
            self.asked_quality = outcome.total.mean_quality - self._goal.quality_loss

    def search(self) -> Planned:
        """Add replicas until the goal is met, then remove some as long as it is.

        More are added where that helps most, and everywhere if it helps nowhere.
        """
        if not self._offered:
            return Planned(self.asked_quality, None, 0)
        now = self._try(self._world.replicas)
        while not now.keeps and self._left:
            plans = [self._more(now.replicas, name) for name in self._world.models]
            plans.append({name: 2 * max(1, many) for name, many in now.replicas.items()})
            each = self._tries(plans)
            kept = [one for one in each if one.keeps]
            best = min(kept, key=lambda one: one.cost) if kept else max(each, key=self._short)
            now = best if best.keeps or self._short(best) > self._short(now) else each[-1]
        part, self._limit = 2, len(self._known) + MAX_TRIES
        while now.keeps and part <= 64 and self._left:
            fewer = self._tries(self._fewer(now.replicas, part))
            kept = [one for one in fewer if one.keeps]
            if kept:
                now = min(kept, key=lambda one: one.cost)
            elif all(many // part <= 1 for many in now.replicas.values()):
                break
            else:
                part *= 2
        return Planned(self.asked_quality, self._confirmed(), len(self._known))

    @property
    def _left(self) -> int:
        """Tries that are left."""
        return self._limit - len(self._known)

    def _confirmed(self) -> Tried | None:
        """The cheapest plan that keeps the goal for the whole scenario too."""
        kept = sorted(
            (one for one in self._known.values() if one.keeps),
            key=lambda one: (one.cost, -one.attainment),
        )
        if self._is_whole:
            return kept[0] if kept else None
        if (given := self._given_keeps(kept[0].cost if kept else math.inf)) is not None:
            return given
        if not kept:
            return None
        failed = -1.0
        runs, plans = 0, iter(kept)
        replicas = kept[-1].replicas
        while runs < MAX_WHOLE:
            plan = next(plans, None)
            if plan is not None and plan.cost <= failed:
                continue
            if plan is None:  # none that was tried
                replicas = {name: many + math.ceil(many / 4) for name, many in replicas.items()}
            runs += 1
            if self._watch is not None:
                self._watch("checking the plan", runs / MAX_WHOLE)
            whole = self._judged(
                self._whole, self._whole_rate, replicas if plan is None else plan.replicas
            )
            if whole.keeps:
                return whole
            failed = whole.cost
        return None

    def _given_keeps(self, cost: float) -> Tried | None:
        """The scenario's own fleet, if it is cheaper than `cost` and keeps the goal for the whole
        scenario, although its backlog grew in a try.
        """
        given = self._known[self._key(self._world.replicas)]
        if given.keeps or given.attainment < self._goal.on_time or given.cost >= cost:
            return None
        whole = self._judged(self._whole, self._whole_rate, given.replicas)
        return whole if whole.keeps else None

    def _short(self, tried: Tried) -> float:
        """Distance from the goal as a negative number; 0 meets it."""
        points = 0.0
        if self.asked_quality is not None and tried.quality is not None:
            points = min(0.0, tried.quality - self.asked_quality)
        return min(0.0, tried.attainment - self._goal.on_time) + 0.05 * points - tried.excess

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

    def _tries(self, plans: Sequence[Mapping[str, int]]) -> list[Tried]:
        """Try plans until no try is left."""
        return [self._try(plan) for plan in plans if self._left or self._key(plan) in self._known]

    def _key(self, replicas: Mapping[str, int]) -> tuple[int, ...]:
        return tuple(replicas[name] for name in self._world.models)

    def _try(self, replicas: Mapping[str, int]) -> Tried:
        key = self._key(replicas)
        if key not in self._known:
            self._known[key] = self._judged(self._world, self.rate, replicas)
            if self._watch is not None:
                self._watch(f"plan {len(self._known)}", len(self._known) / self._limit)
        return self._known[key]

    def _judged(self, world: World, rate: float, replicas: Mapping[str, int]) -> Tried:
        """Simulate a fleet, and compare it with the goal."""
        seconds = length_s(world, rate)
        backlog = Backlog(seconds) if _steady(world) else None
        outcome = run(world.with_replicas(replicas), self._way, rate, backlog=backlog)
        excess = backlog.excess if backlog is not None else 0.0
        if world is self._whole and (world.trace or world.log):
            late_s = outcome.end_s - seconds
            if late_s > max(MIN_S, self._budget_s, DRAIN * seconds):
                excess = late_s / seconds
        quality = outcome.total.mean_quality if self.asked_quality is not None else None
        keeps = outcome.attainment >= self._goal.on_time and not excess
        if self.asked_quality is not None:
            keeps = keeps and quality is not None and quality >= self.asked_quality
        cost = cost_of(world, replicas)
        return Tried(dict(replicas), cost, outcome.attainment, quality, keeps, excess)


def _largest_budget_s(world: World, rate: float) -> float:
    """The largest budget of the first requests; 0 if they have none."""
    some = islice(arrivals(world, rate), REQUESTS)
    return max((one.shape.budget_s or 0.0 for one in some), default=0.0)


def _steady(world: World) -> bool:
    """Whether the rate is constant, so that a backlog shows a fleet that is too small."""
    return not world.trace and not world.log and not rate_of(world, 1.0).changes


def _part(world: World, rate: float, budget_s: float) -> tuple[World, float]:
    """The part of a scenario that every try simulates, and its rate; the same world if that is the
    whole scenario.
    """
    scenario = world.scenario
    if world.log:
        return _busiest_log(world), rate
    if world.trace:
        return _busiest_trace(world, rate)
    highest = rate_of(world, rate).highest(scenario.seconds)
    if not highest:
        return world, rate
    constant = scenario.traffic.model_copy(
        update={"load": None, "scale": 1.0, "requests_per_s": highest, "bursts": ()}
    )
    seconds = max(REQUESTS / highest, MIN_S, BUDGETS * budget_s)
    seconds = min(seconds, MAX_REQUESTS / highest)
    if seconds >= scenario.seconds:
        if _steady(world):
            return world, rate
        seconds = scenario.seconds
    warm_up_s = 0.2 * seconds
    return world.updated(seconds=seconds, warm_up_s=warm_up_s, traffic=constant), highest


def _busiest_log(world: World) -> World:
    """The part of a log with the highest rate."""
    log = sorted(world.log, key=lambda one: one.entry.began_s)
    times = [one.entry.began_s for one in log]
    if len(times) <= MAX_REQUESTS:
        return world
    first = _busiest(times)
    seconds = (times[first + MAX_REQUESTS - 1] - times[first]) / world.scenario.traffic.scale
    part = replace(world, log=log[first : first + MAX_REQUESTS])
    return part.updated(seconds=seconds + 1e-6, warm_up_s=0.2 * seconds)


def _busiest_trace(world: World, rate: float) -> tuple[World, float]:
    """The part of a trace with the highest rate, and that rate."""
    times = [at_s for at_s, _ in world.trace]
    faster = rate * (times[-1] - times[0]) / (len(times) - 1)
    until_s = times[0] + world.scenario.seconds * faster
    times = [at_s for at_s in times if at_s < until_s]
    if len(times) <= MAX_REQUESTS:
        return world, rate
    first = _busiest(times)
    part = world.trace[first : first + MAX_REQUESTS]
    rate = faster * (len(part) - 1) / max(part[-1][0] - part[0][0], 1e-9)
    seconds = (len(part) - 1) / rate
    return replace(world, trace=part).updated(seconds=seconds, warm_up_s=0.2 * seconds), rate


def _busiest(times: Sequence[float]) -> int:
    """The place of the first of the `MAX_REQUESTS` arrivals that follow each other fastest."""
    many = MAX_REQUESTS
    places = range(len(times) - many + 1)
    return min(places, key=lambda place: times[place + many - 1] - times[place])
