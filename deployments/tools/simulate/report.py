"""One simulation, its plan and other policies, as data and as sentences."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson

from deployments.tools.migrate import write_whole
from router.sim.baselines import CHOOSERS
from router.sim.build import PolicyVariant, World, bound_of, length_s, mean_rate, run
from router.sim.outcome import Outcome
from router.sim.planning import MAX_TRIES, Planned, ReplicaPlanner, cost_of

Watch = Callable[[str, float], None]  # gets what is being done, and the share that is done


def simulated(
    world: World, variant: PolicyVariant, plan: bool, baselines: bool, watch: Watch
) -> dict[str, Any]:
    """Run the simulation and return everything that the report contains."""
    rate = mean_rate(world)
    seconds = length_s(world, rate) if rate else world.scenario.seconds
    started = time.process_time()
    outcome = run(world, variant, rate, lambda now: watch("simulating", min(1.0, now / seconds)))
    took_s = time.process_time() - started

    def tries(tried: int) -> None:
        watch(f"plan {tried}", min(1.0, tried / MAX_TRIES))

    planned = ReplicaPlanner(world, variant, tries).search() if plan else None
    others = _others(world, variant, outcome, rate, watch) if baselines else []
    free = world.scenario.gpu_hour is None
    data = {
        "simulated": True,
        "about": world.scenario.about,
        "profile": world.profile,
        "policy": variant.name,
        "seconds": seconds,
        "requests_per_s": rate or outcome.total.offered / max(seconds, 1e-9),
        "replicas": world.replicas,
        "devices": {name: model.devices for name, model in world.models.items()},
        "cost_per_hour": None if free else cost_of(world, world.replicas),
        "goal": world.scenario.goal.model_dump(),
        "plan": None if planned is None else _plan(planned),
        "others": others,
        "simulated_requests_per_cpu_s": (outcome.total.offered + outcome.warm.offered)
        / max(took_s, 1e-9),
        "result": outcome.as_dict(),
    }
    return data | dict(zip(("verdict", "more"), _sentences(world, data, planned), strict=True))


def write(data: Mapping[str, Any], output: Path) -> None:
    """Write report.json and index.html into a folder."""
    from deployments.tools.simulate.page import draw

    output.mkdir(parents=True, exist_ok=True)
    texts = {
        "report.json": orjson.dumps(data, option=orjson.OPT_INDENT_2).decode() + "\n",
        "index.html": draw(data),
    }
    for name, text in texts.items():
        write_whole(output / name, lambda path, text=text: path.write_text(text, encoding="utf-8"))  # type: ignore[misc]


def _plan(planned: Planned) -> dict[str, Any]:
    return {
        "asked_quality": planned.asked_quality,
        "tried": planned.tried,
        "best": None if planned.best is None else planned.best.as_dict(),
    }


def _others(
    world: World, variant: PolicyVariant, outcome: Outcome, rate: float, watch: Watch
) -> list[dict[str, Any]]:
    """Run the same arrivals under every baseline, and add the bounds."""
    rows = [_row(variant.name, outcome)]
    variants = [PolicyVariant(name, variant.args, chooser=name) for name in CHOOSERS]
    variants.append(PolicyVariant("informed", variant.args, variant.chooser, informed=True))
    for place, other in enumerate(variants):
        watch(other.name, place / len(variants))
        rows.append(_row(other.name, run(world, other, rate)))
    if world.scenario.autoscaling is None:
        bound = bound_of(world)
        rows.append(
            {
                "name": "fluid bound",
                "attainment": bound.on_time,
                "quality": None,
                "effective_quality": bound.quality,
            }
        )
    return rows


def _row(name: str, outcome: Outcome) -> dict[str, Any]:
    total = outcome.total.as_dict()
    return {
        "name": name,
        **{key: total[key] for key in ("attainment", "quality", "effective_quality")},
    }


def _sentences(
    world: World, data: Mapping[str, Any], planned: Planned | None
) -> tuple[str, list[str]]:
    """Return the first line, and the lines below it."""
    result = data["result"]
    first = f"simulated: {_fleet(world, world.replicas)}"
    if planned is not None:
        goal = (
            f"{100 * world.scenario.goal.on_time:g} % on time at {planned.asked_quality:.1f} points"
        )
        if planned.best is None:
            first += f"; none of {planned.tried} plans keeps {goal}"
        else:
            first += (
                f"; the cheapest plan that keeps {goal}: {_fleet(world, planned.best.replicas)}"
            )
    if world.scenario.gpu_hour is None:
        first += "; for its cost, give --gpu-hour or write `gpu_hour:` into the scenario"
    missed = ", ".join(f"{count} {code}" for code, count in result["errors"].items())
    more = [
        f"{result['offered']} requests at {data['requests_per_s']:.1f}/s, by {data['policy']}: "
        f"{100 * result['attainment']:.2f} % on time, {_points(result['quality'])} points, "
        f"{100 * result['degraded']:.1f} % degraded" + (f", refused: {missed}" if missed else ""),
        f"p50 {_ms(result['p50_s'])}, p95 {_ms(result['p95_s'])}, p99 {_ms(result['p99_s'])}; "
        f"{result['device_hours']:.2f} device hours, {100 * result['utilisation']:.0f} % busy",
        f"profile: {data['profile']}",
    ]
    if shared := [name for name, model in world.models.items() if model.devices % 1.0]:
        more.append(
            f"{', '.join(shared)}: replicas that share cards are simulated as if each had its own"
        )
    return first, more


def _fleet(world: World, replicas: Mapping[str, int]) -> str:
    def cards(count: float) -> str:
        return f"{count:g} card" if count == 1 else f"{count:g} cards"

    total = sum(count * world.models[name].devices for name, count in replicas.items())
    each = ", ".join(
        f"{name} {count} ({cards(count * world.models[name].devices)})"
        for name, count in replicas.items()
    )
    cost = "" if world.scenario.gpu_hour is None else f", {cost_of(world, replicas):.2f} an hour"
    return f"{each}: {cards(total)}{cost}"


def _points(value: float | None) -> str:
    return "no" if value is None else f"{value:.2f}"


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.0f} ms"
