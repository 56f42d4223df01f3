"""The `embedding-router` command; subcommands are imported on demand, so that `--help` is fast."""

from importlib import import_module, metadata
from typing import Any, NamedTuple

import click


class CommandEntry(NamedTuple):
    """A command's function, as `module:function`, and its line in the list of commands."""

    target: str
    summary: str


COMMANDS = {
    "advise": CommandEntry(
        "deployments.tools.advise_cli:main",
        "Measure on your own texts when a larger model is worth it.",
    ),
    "align": CommandEntry(
        "deployments.tools.align_cli:main",
        "Fit an adapter between two models, and measure what it keeps.",
    ),
    "calibrate": CommandEntry(
        "deployments.tools.calibrate_cli:main", "Measure how long a model takes, for its profile."
    ),
    "check-config": CommandEntry(
        "deployments.tools.check_config_cli:main",
        "Check Serve config files before they are deployed.",
    ),
    "compare": CommandEntry(
        "deployments.tools.compare_cli:main",
        "Show what a shadow or a canary has found on live traffic.",
    ),
    "completion": CommandEntry(
        "router.completion:main", "Print a script that completes commands in a shell."
    ),
    "distill": CommandEntry(
        "deployments.tools.distill_cli:main",
        "Distill a model into a small query encoder, and measure it.",
    ),
    "doctor": CommandEntry(
        "deployments.launch.doctor:main", "Check whether this machine can serve, and what to do."
    ),
    "fingerprint": CommandEntry(
        "deployments.tools.fingerprint_cli:main",
        "Write down what a model proves to be, for its replicas.",
    ),
    "index": CommandEntry(
        "deployments.tools.index_cli:main",
        "Embed a collection in each of its spaces, and measure them.",
    ),
    "keys": CommandEntry("deployments.tools.keys_cli:main", "Make API keys for the config."),
    "migrate": CommandEntry(
        "deployments.tools.migrate_cli:main",
        "Embed a collection in another vector space, resumably.",
    ),
    "replay": CommandEntry(
        "deployments.tools.replay_cli:main",
        "Decide a decision log again, under its own policy or another.",
    ),
    "route": CommandEntry(
        "deployments.tools.route_cli:main", "Show which model would answer a text, and why."
    ),
    "run": CommandEntry(
        "deployments.launch.run:main", "Serve a config file on this machine until interrupted."
    ),
    "simulate": CommandEntry(
        "deployments.tools.simulate_cli:main",
        "Simulate load, machines or rules before anything changes.",
    ),
    "verify": CommandEntry(
        "deployments.tools.verify_cli:main",
        "Check whether an index still belongs to what serves its space.",
    ),
}


class Commands(click.Group):
    """The commands of COMMANDS; a ConfigError prints its sentences and exits with status 1."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module, _, function = entry.target.partition(":")
        try:
            command = getattr(import_module(module), function)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] in ("router", "deployments"):
                raise
            raise click.ClickException(
                f"{cmd_name} needs the package {error.name!r}, which is not installed"
            ) from None
        assert isinstance(command, click.Command), entry.target
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not ctx.resilient_parsing:
            from router.strict import suggestion

            ctx.fail(
                f"There is no command {args[0]!r}; {suggestion(args[0], COMMANDS, 'there are')}"
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        from router.strict import ConfigError

        try:
            return super().invoke(ctx)
        except ConfigError as error:
            for problem in error.problems:
                click.echo(problem, err=True)
            ctx.exit(1)


def _print_version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted:
        try:
            version = metadata.version("embedding-router")
        except metadata.PackageNotFoundError:
            version = "(not installed: run from its source)"
        click.echo(f"embedding-router {version}")
        ctx.exit()


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version.",
)
def main() -> None:
    """Serve embedding models behind one OpenAI-compatible address.

    Exit status: 0 done, 1 a problem was found or something failed, 2 wrong usage. Problems are
    sentences on standard error; with --json what a command found is JSON on standard output.
    """


if __name__ == "__main__":
    main(prog_name="embedding-router")
