"""`embedding-router doctor`: check whether this machine can serve.

Each check prints one line: its result and, where needed, what to do.
"""

from collections.abc import Iterator
from pathlib import Path

import click
import orjson

from deployments.launch.config_findings import config_findings
from deployments.launch.machine import Finding, Machine, this_machine
from deployments.launch.machine_findings import PORTS, machine_findings, port_findings


def examine(machine: Machine, config: Path | None = None) -> Iterator[Finding]:
    """Yield all findings; those about a config only if one is given."""
    yield from machine_findings(machine)
    if config is None:
        yield from port_findings(PORTS)
    else:
        yield from config_findings(machine, config)


@click.command()
@click.option(
    "--config",
    "path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Also check what this config needs: memory, GPUs, its port, the model hub.",
)
@click.option("--json", "as_json", is_flag=True, help="The findings as JSON.")
@click.pass_context
def main(context: click.Context, path: Path | None, as_json: bool) -> None:
    """Check whether this machine can serve, and say what to do where it cannot.

    One line a check: ok, warn or fail. Exit status 1 where one fails.
    """
    findings = list(examine(this_machine(), path))
    if as_json:
        click.echo(
            orjson.dumps([finding._asdict() for finding in findings], option=orjson.OPT_INDENT_2)
        )
    else:
        width = max(len(finding.check) for finding in findings)
        for finding in findings:
            todo = f"; {finding.todo}" if finding.todo else ""
            click.echo(f"{finding.state:<4}  {finding.check:<{width}}  {finding.found}{todo}")
    context.exit(1 if any(finding.state == "fail" for finding in findings) else 0)
