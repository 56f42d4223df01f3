"""`embedding-router simulate`: simulate load, machines or rules on a virtual clock."""

import gc
import math
from pathlib import Path
from typing import Any

import click
import orjson

from deployments.tools.options import FILE, require_packages
from deployments.tools.progress import bar
from deployments.tools.simulate import report
from deployments.tools.simulate.load import load_variant, load_world

NEEDED = ("jinja2", "matplotlib")  # for a page


class ModelReplicas(click.ParamType[tuple[str, int]]):
    """A model and how many replicas it has."""

    name = "model and number"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        """Split at the last `=`."""
        if isinstance(value, tuple):
            return value
        model, _, count = str(value).rpartition("=")
        if not model or not (count.isascii() and count.isdigit()):
            self.fail(f"{value!r} is not MODEL=N, such as qwen3-embedding-8b=3", param, ctx)
        return model, int(count)


class FiniteRange(click.FloatRange):
    """A number within bounds, neither infinite nor no number."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Check the bounds, and that the number is finite."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


@click.command()
@click.argument("scenario", type=FILE, metavar="SCENARIO.yaml")
@click.option(
    "--config", type=FILE, help="A Serve config, in the place of the scenario's `config:`."
)
@click.option(
    "--policy",
    metavar="FILE|NAME",
    help="A Serve config, a file with only `routing:` and `tiers:`, `rules`, or the name of a "
    "baseline.",
)
@click.option("--log", type=FILE, help="A decision log, whose requests arrive again.")
@click.option(
    "--trace", type=FILE, help="A whole trace, in the place of the scenario's part of it."
)
@click.option(
    "--scale",
    type=FiniteRange(min=0, min_open=True),
    help="Multiply the request rate by this factor.",
)
@click.option(
    "--replicas",
    type=ModelReplicas(),
    metavar="MODEL=N",
    multiple=True,
    help="Replicas of a model, in the place of the scenario's; can be given several times.",
)
@click.option(
    "--gpu-hour",
    type=FiniteRange(min=0),
    help="Price of one device for an hour, in any currency, instead of the scenario's.",
)
@click.option("--no-plan", is_flag=True, help="Do not look for the cheapest replicas.")
@click.option("--baselines", is_flag=True, help="Also simulate other policies, and the bounds.")
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="A folder for index.html and report.json.",
)
@click.option("--json", "as_json", is_flag=True, help="The report as JSON.")
def main(
    scenario: Path,
    config: Path | None,
    policy: str | None,
    log: Path | None,
    trace: Path | None,
    scale: float | None,
    replicas: tuple[tuple[str, int], ...],
    gpu_hour: float | None,
    no_plan: bool,
    baselines: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Simulate SCENARIO with the decisions, dispatchers and autoscaling that serve.

    Times come from the profiles of the models, so nothing here was measured. docs/simulator.md
    explains the file.
    """
    if output is not None:
        require_packages("a page", NEEDED, ", or leave out -o and use --json")
    world = load_world(scenario, config, trace, log, scale, dict(replicas), gpu_hour)
    variant = load_variant(policy or world.scenario.policy, scenario, world.args)
    gc.freeze()  # as in a router's process: permanent objects are not scanned again
    with bar(total=100, bar_format="{desc}  {percentage:3.0f}%|{bar}| {elapsed} gone") as shown:

        def watch(what: str, share: float) -> None:
            shown.set_description_str(what)
            shown.n = round(100 * share)
            shown.refresh()

        data = report.simulated(world, variant, not no_plan, baselines, watch)
    if output is not None:
        report.write(data, output)
    if as_json:
        click.echo(orjson.dumps(data, option=orjson.OPT_INDENT_2))
        return
    click.echo("\n".join([data["verdict"], *data["more"]]))
    for row in data["others"]:
        quality = "" if row["quality"] is None else f", {row['quality']:.2f} points"
        click.echo(
            f"{row['name']:<18} {100 * row['attainment']:.2f} % on time, "
            f"{row['effective_quality']:.2f} effective points{quality}"
        )
    if output is not None:
        click.echo(f"to read: {output / 'index.html'}")
