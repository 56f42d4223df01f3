"""Simulated verdicts on parts of the product: `python -m benchmarks sim --part ablations`."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from types import MappingProxyType

from benchmarks.sim_runs import (
    LARGE,
    LOADS,
    SEEDS,
    Simulated,
    at_load,
    mean,
    percent,
    points,
    way_of,
    world_of,
)
from router.sim.build import World, bound_of, mean_rate, run, slowed
from router.sim.outcome import Outcome
from router.sim.routers import Corrections


def ablations() -> Iterator[Simulated]:
    """Value of each learned correction, with profiles that are right and profiles that are 30 %
    wrong.
    """
    for error in (1.0, 1.3):
        world = at_load(0.95, profile_error=error)
        full = run(world, way_of())
        for name, kept in (
            ("bias", Corrections(bias=False)),
            ("margin", Corrections(margin=False)),
            ("aim", Corrections(aim=False)),
            ("crowding", Corrections(crowding=False)),
            ("doubt", Corrections(doubt=False)),
            ("overhead", Corrections(overhead=False)),
            ("curve", Corrections(curve=False)),
        ):
            without = run(world, replace(way_of(), corrections=kept))
            gain = full.effective_quality - without.effective_quality
            yield Simulated(
                f"ablation {name} x{error:g}",
                f"points of effective quality that {name} brings, profile x{error:g}, 95 % load",
                gain, "", None,
                f"without: {percent(without.attainment)} on time at "
                f"{points(without.effective_quality)}",
                f"with: {percent(full.attainment)} at {points(full.effective_quality)}",
                world.profile + f", steps {error:g} times as long" * (error != 1.0),
            )  # fmt: skip


def fairness() -> Iterator[Simulated]:
    """An ingest beside too much interactive load, and keys that flood."""
    flood, rate = flooded(1.2, {"ingest": 0.02})
    alone, less = flooded(1.2, {})
    share = alone.args.limits.bulk_share
    slow = {
        name: replace(model, curve=slowed(model.curve, 1.0 / (1.0 - share)))
        for name, model in alone.models.items()
    }
    own, cut = run(flood, way_of(), rate), run(replace(alone, models=slow), way_of(), less)
    asked = [own.kinds[name] for name in ("shop", "wiki")]
    in_time = sum(one.on_time for one in asked) / sum(one.offered for one in asked)
    yield Simulated(
        "fairness interactive", "points on time beside an ingest, less those with the capacity cut",
        100.0 * (in_time - cut.attainment), ">= -1", in_time >= cut.attainment - 0.01,
        f"cut {percent(cut.attainment)} at {points(cut.effective_quality)}",
        f"own {percent(in_time)}",
    )  # fmt: skip
    yield Simulated(
        "fairness ingest", "seconds from the last arrival until the whole ingest is answered",
        own.end_s - flood.scenario.seconds, "", None,
        f"{own.kinds['ingest'].offered} requests of 32 texts",
    )  # fmt: skip
    for weight in (1.0, 2.0):
        world, rate = flooded(0.2, {"one": 0.4, "other": 0.8}, {"one": weight}, 12.0)
        served = run(world, way_of(), rate).served
        ratio = served["one"] / served["other"] / weight
        yield Simulated(
            f"fairness {weight:g} to 1", "served of two keys' floods, against their weights",
            ratio, "0.95 to 1.05", 0.95 <= ratio <= 1.05, "",
            f"tokens {dict(served)}; `other` sends twice as much",
        )  # fmt: skip


def flooded(
    load: float,
    floods: Mapping[str, float],
    weights: Mapping[str, float] = MappingProxyType({}),
    seconds: float = 4.0,
) -> tuple[World, float]:
    """The tenants that search, at a load, and ingests with this many requests for each of them."""
    world = world_of("tenants")
    traffic = world.scenario.traffic
    ingest = traffic.classes["ingest"]
    search = {name: one for name, one in traffic.classes.items() if one is not ingest}
    shares = sum(one.share for one in search.values())
    searching = traffic.model_copy(update={"classes": search, "load": load})
    rate = mean_rate(world.updated(traffic=searching))
    classes = search | {
        name: ingest.model_copy(update={"share": shares * each, "weight": weights.get(name, 1.0)})
        for name, each in floods.items()
    }
    world = world.updated(
        traffic=traffic.model_copy(update={"classes": classes}), seconds=seconds, warm_up_s=1.0
    )
    return world, rate * (1.0 + sum(floods.values()))


MANY = 16  # replicas
STEP = {0.0: 2.0, 0.2: 2.0, 0.2001: 8.0, 0.5: 8.0, 0.5001: 3.0, 0.8: 3.0}  # requests/s by hour


def autoscaler() -> Iterator[Simulated]:
    """The autoscaler's constants, on a step up and down."""
    world = world_of("day")
    traffic = world.scenario.traffic.model_copy(update={"requests_per_s": STEP})
    world = world.updated(traffic=traffic, seconds=2880.0, warm_up_s=300.0)
    scaling = world.scenario.autoscaling
    assert scaling is not None
    for hold_s, utilisation, delay_s in product((300.0, 120.0, 60.0), (0.8, 0.9), (3.0, 0.0)):
        changes = {"hold_s": hold_s, "utilisation": utilisation, "upscale_delay_s": delay_s}
        changed = world.updated(autoscaling=scaling.model_copy(update=changes))
        runs = [run(changed.updated(seed=seed), way_of()) for seed in (0, 1)]
        yield Simulated(
            f"autoscaler {hold_s:g} {utilisation:g} {delay_s:g}",
            f"device hours of a fourfold step up and down, hold_s {hold_s:g}, utilisation "
            f"{utilisation:g}, upscale_delay_s {delay_s:g}, 2 seeds",
            mean(sum(one.device_s.values()) / 3600.0 for one in runs), "", None, "",
            f"{percent(mean(one.attainment for one in runs))} on time at "
            f"{points(mean(one.effective_quality for one in runs))}; four of the largest ready "
            f"after {mean(map(ready_s, runs)):.0f} s, of which a start takes 90",
            world.profile,
        )  # fmt: skip


def ready_s(outcome: Outcome) -> float:
    """Seconds from the step up until four replicas of the largest model are ready."""
    up_s = 3600.0 * list(STEP)[2]
    ready = (
        at_s - up_s
        for at_s, model, replicas in outcome.replicas
        if model == LARGE and at_s > up_s and replicas >= 4
    )
    return next(ready, float("nan"))


def miss_share() -> Iterator[Simulated]:
    """The trade-off of the declared share of misses: requests on time against points of quality."""
    loads = {load: at_load(load) for load in LOADS} | {"burst": world_of("burst")}
    bounds = {load: bound_of(world).quality for load, world in loads.items()}
    own = way_of()
    assert own.args is not None
    for share in (0.003, 0.01, 0.02):
        routing = own.args.routing.model_copy(update={"miss_share": share})
        way = replace(own, args=own.args.model_copy(update={"routing": routing}))
        lost = {
            load: bounds[load] - run(world, way).effective_quality for load, world in loads.items()
        }
        on_time = {
            name: mean(run(world_of(name).updated(seed=seed), way).attainment for seed in SEEDS)
            for name in ("azure-conv", "azure-code")
        }
        yield Simulated(
            f"miss_share {share:g}",
            f"points lost against the bound, mean of loads {LOADS}, at this miss_share",
            mean(lost[load] for load in LOADS), "", None,
            f"in a burst {points(lost['burst'])}",
            ", ".join(f"{name} {percent(value)} on time" for name, value in on_time.items()),
        )  # fmt: skip


def idle() -> Iterator[Simulated]:
    """Small texts at an idle replica, or at the least loaded of four, against two choices."""
    replicas = dict.fromkeys(world_of("load-80").models, MANY)
    for load in (0.6, 0.95):
        world = at_load(load, 20_000, replicas=replicas)
        own, two = run(world, way_of()), run(world, replace(way_of(), two_choices=True))
        yield Simulated(
            f"idle {load:.0%}",
            f"points of effective quality that an idle replica for small texts brings, {MANY} "
            f"replicas of each model, {load:.0%} load",
            own.effective_quality - two.effective_quality, "", None,
            f"two choices: {percent(two.attainment)} on time at {points(two.effective_quality)}",
            f"own: {percent(own.attainment)} at {points(own.effective_quality)}",
        )  # fmt: skip


VERDICTS = {
    "fairness": fairness,
    "ablations": ablations,
    "autoscaler": autoscaler,
    "idle": idle,
    "miss-share": miss_share,
}
