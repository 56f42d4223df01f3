"""One simulation, its plan and other policies, as data and as sentences."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson

from deployments.tools.migrate import write_whole
from router.sim.baselines import CHOOSERS
from router.sim.build import PolicyVariant, World, bound_of, length_s, mean_rate, rate_of, run
from router.sim.outcome import Outcome
from router.sim.planning import Planned, ReplicaPlanner, cost_of, without_quality
from router.strict import ConfigError

Watch = Callable[[str, float], None]  # gets what is being done, and the share that is done


def simulated(
    world: World, variant: PolicyVariant, plan: bool, baselines: bool, watch: Watch
) -> dict[str, Any]:
    """Run the simulation and return everything that the report contains.

    Raises ConfigError if nothing arrives.
    """
    rate = mean_rate(world)
    seconds = length_s(world, rate) if rate else world.scenario.seconds
    started = time.process_time()
    outcome = run(world, variant, rate, lambda now: watch("simulating", min(1.0, now / seconds)))
    took_s = time.process_time() - started
    if not outcome.total.offered:
        raise ConfigError([_nothing(world, seconds)])
    planned = ReplicaPlanner(world, variant, watch).search() if plan else None
    others = _others(world, variant, outcome, rate, watch) if baselines else []
    free = world.scenario.gpu_hour is None
    held = _held(world, outcome)
    data = {
        "simulated": True,
        "about": world.scenario.about,
        "profile": world.profile,
        "policy": variant.name,
        "seconds": seconds,
        "requests_per_s": _rate(world, rate, outcome, seconds),
        "replicas": world.replicas,
        "devices": {name: model.devices for name, model in world.models.items()},
        "cost_per_hour": None if free else cost_of(world, held),
        "goal": world.scenario.goal.model_dump(),
        "plan": None if planned is None else _plan(planned),
        "others": others,
        "simulated_requests_per_cpu_s": (outcome.total.offered + outcome.warm.offered)
        / max(took_s, 1e-9),
        "result": outcome.as_dict(),
    }
    return data | dict(
        zip(("verdict", "more"), _sentences(world, data, planned, held), strict=True)
    )


def _nothing(world: World, seconds: float) -> str:
    warm_up_s = world.scenario.warm_up_s
    after = f" after the {warm_up_s:g} s of warm-up" if warm_up_s else ""
    return f"nothing arrived in {seconds:g} s{after}; simulate more seconds, or a higher rate"


def _rate(world: World, rate: float, outcome: Outcome, seconds: float) -> float:
    """Requests per second: the declared ones, or those that arrived if the rate changes."""
    if world.trace or (not world.log and not rate_of(world, rate).changes):
        return rate
    return (outcome.total.offered + outcome.warm.offered) / max(seconds, 1e-9)


def _held(world: World, outcome: Outcome) -> dict[str, float]:
    """Mean replicas of each model, those that were starting included."""
    return {
        name: outcome.device_s.get(name, 0.0) / model.devices / outcome.end_s
        for name, model in world.models.items()
    }


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
        bound = bound_of(world.under(variant))
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
    world: World, data: Mapping[str, Any], planned: Planned | None, held: Mapping[str, float]
) -> tuple[str, list[str]]:
    """Return the first line, and the lines below it."""
    result = data["result"]
    first = f"simulated: {_start(world, held)}"
    if planned is not None:
        first += f"; {_plan_sentence(world, planned)}"
    if world.scenario.gpu_hour is None:
        first += "; for its cost, give --gpu-hour or write `gpu_hour:` into the scenario"
    missed = ", ".join(f"{count} {code}" for code, count in result["errors"].items())
    more = [
        f"{result['offered']} requests at {data['requests_per_s']:.1f}/s, by {data['policy']}: "
        f"{100 * result['attainment']:.2f} % on time, {_points(result['quality'])}, "
        f"{100 * result['degraded']:.1f} % degraded" + (f", refused: {missed}" if missed else ""),
        f"p50 {_ms(result['p50_s'])}, p95 {_ms(result['p95_s'])}, p99 {_ms(result['p99_s'])}; "
        f"{result['device_hours']:.2f} device hours, {100 * result['utilisation']:.0f} % busy",
        f"profile: {data['profile']}",
    ]
    if unknown := without_quality(world):
        more.append(
            f"the quality of {', '.join(unknown)} is unknown: the config gives no `quality` with a "
            "`default`; means leave such answers out, and a plan is judged by its time alone"
        )
    if result["space_violations"]:
        more.append(
            f"{result['space_violations']} answers came from outside the space of their request"
        )
    if shared := [name for name, model in world.models.items() if model.devices % 1.0]:
        more.append(
            f"{', '.join(shared)}: replicas that share cards are simulated as if each had its own"
        )
    return first, more


def _plan_sentence(world: World, planned: Planned) -> str:
    goal = f"{100 * world.scenario.goal.on_time:g} % on time"
    if planned.asked_quality is not None:
        goal += f" at {planned.asked_quality:.1f} points"
    if not planned.tried:
        return "no plan: too few requests arrive to judge one; simulate more seconds"
    if planned.best is None:
        return f"none of {planned.tried} plans keeps {goal}"
    fleet = _fleet(world, planned.best.replicas) + _cost(world, planned.best.replicas)
    return f"the cheapest plan that keeps {goal}: {fleet}"


def _start(world: World, held: Mapping[str, float]) -> str:
    """The fleet and its cost; if its size changes, that at the start and the mean."""
    replicas = world.replicas
    if all(abs(held[name] - many) < 0.005 for name, many in replicas.items()):
        return _fleet(world, replicas) + _cost(world, replicas)
    mean = sum(many * world.models[name].devices for name, many in held.items())
    return f"starts with {_fleet(world, replicas)}; {mean:.2f} cards on average{_cost(world, held)}"


def _fleet(world: World, replicas: Mapping[str, int]) -> str:
    def cards(count: float) -> str:
        return f"{count:g} card" if count == 1 else f"{count:g} cards"

    total = sum(count * world.models[name].devices for name, count in replicas.items())
    each = ", ".join(
        f"{name} {count} ({cards(count * world.models[name].devices)})"
        for name, count in replicas.items()
    )
    return f"{each}: {cards(total)}"


def _cost(world: World, replicas: Mapping[str, float]) -> str:
    return "" if world.scenario.gpu_hour is None else f", {cost_of(world, replicas):.2f} an hour"


def _points(value: float | None) -> str:
    return "quality unknown" if value is None else f"{value:.2f} points"


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.0f} ms"
