"""`embedding-router check-config`."""

import click
import orjson

from deployments.launch.serve_config import ConfigCheck, application, examine, slow_path_warning
from deployments.serve_internals import counted_cpus
from router.resources import DeploymentResources, Node, Wait, bookings, waiting


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Files, models, rerankers, students and problems as JSON.",
)
@click.pass_context
def main(context: click.Context, files: tuple[str, ...], as_json: bool) -> None:
    """Check Serve config files before they are deployed.

    Prints one line for each file that is fit to be deployed, or one line for each problem, and
    exits 1 if there was any.
    """
    if as_json:
        reports = {file: examine(file) for file in files}
        click.echo(
            orjson.dumps(
                [
                    {
                        "file": file,
                        "problems": report.problems,
                        "models": report.models,
                        "rerankers": report.rerankers,
                        "students": report.students,
                        "books": [booking._asdict() for booking in _books(file, report)],
                    }
                    for file, report in reports.items()
                ],
                option=orjson.OPT_INDENT_2,
            )
        )
        context.exit(1 if any(report.problems for report in reports.values()) else 0)
    failed = False
    for file in files:
        report = examine(file)
        books = _books(file, report)
        for problem in report.problems:
            click.echo(f"{file}: {problem}", err=True)
        if not report.problems:
            click.echo(f"{file}: ok, {report.summary}")
            for wait in _waiting_here(books):
                click.echo(f"{file}: on this machine {wait.sentence}")
            if (note := slow_path_warning(file)) is not None:
                click.echo(f"{file}: {note}")
        failed = failed or bool(report.problems)
    context.exit(1 if failed else 0)


def _books(file: str, report: ConfigCheck) -> list[DeploymentResources]:
    """Resources that the fewest replicas of a file occupy; empty if it cannot be deployed."""
    return bookings(*application(file)) if report.models and not report.problems else []


def _waiting_here(books: list[DeploymentResources]) -> list[Wait]:
    """Resources that this machine lacks; a config with GPUs is taken to be for another machine."""
    if any(item.gpus for item in books):
        return []
    return waiting(books, [Node(counted_cpus(), 0, None)])
