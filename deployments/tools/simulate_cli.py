"""`embedding-router simulate`: a question about load, machines or rules, answered on a virtual
clock.
"""

import time
from pathlib import Path
from typing import Any

import click
import orjson

from deployments.tools.simulate.load import load_way, load_world
from router.sim.build import Way, World, mean_rate, run

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("scenario", type=FILE, metavar="SCENARIO.yaml")
@click.option(
    "--config", type=FILE, help="A Serve config, in the place of the scenario's `config:`."
)
@click.option(
    "--policy",
    metavar="FILE|NAME",
    help="A Serve config, a file with only `routing:` and `tiers:`, `rules`, `priced`, or the name "
    "of a baseline.",
)
@click.option("--log", type=FILE, help="A decision log, whose requests arrive again.")
@click.option("--trace", type=FILE, help="The whole of the trace that the scenario has a part of.")
@click.option(
    "--scale", type=click.FloatRange(min=0, min_open=True), help="Times as many requests."
)
@click.option("--json", "as_json", is_flag=True, help="The report as JSON.")
def main(
    scenario: Path,
    config: Path | None,
    policy: str | None,
    log: Path | None,
    trace: Path | None,
    scale: float | None,
    as_json: bool,
) -> None:
    """Simulate SCENARIO with the decisions, dispatchers and autoscaling that serve.

    Times come from the profiles of the models, so nothing here was measured. docs/simulator.md
    explains the file.
    """
    world = load_world(scenario, config, trace, log)
    if scale is not None:
        world = world.updated(traffic=world.scenario.traffic.model_copy(update={"scale": scale}))
    way = load_way(policy or world.scenario.policy, scenario, world.args)
    data = simulated(world, way)
    if as_json:
        click.echo(orjson.dumps(data, option=orjson.OPT_INDENT_2))
        return
    result = data["result"]
    click.echo(f"simulated, by {data['profile']}")
    for key in ("attainment", "effective_quality", "quality", "degraded", "p50_s", "p99_s"):
        click.echo(f"{key:<20} {result[key]}")


def simulated(world: World, way: Way) -> dict[str, Any]:
    """One run as JSON."""
    rate = mean_rate(world)
    started = time.process_time()
    outcome = run(world, way, rate)
    took_s = time.process_time() - started
    return {
        "simulated": True,
        "profile": world.profile,
        "policy": way.name,
        "requests_per_s": rate,
        "replicas": world.replicas,
        "simulated_requests_per_s": (outcome.total.offered + outcome.warm.offered) / took_s,
        "result": outcome.as_dict(),
    }
