"""`embedding-router completion`: print a shell completion script."""

import click
import orjson
from click.shell_completion import get_completion_class

PROGRAM = "embedding-router"
VARIABLE = "_EMBEDDING_ROUTER_COMPLETE"  # click derives this name from the program's


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.option("--json", "as_json", is_flag=True, help="The script as JSON.")
@click.pass_context
def main(context: click.Context, shell: str, as_json: bool) -> None:
    """Print a script that completes commands and options in SHELL.

    \b
    bash   eval "$(embedding-router completion bash)"            in ~/.bashrc
    zsh    eval "$(embedding-router completion zsh)"             in ~/.zshrc
    fish   embedding-router completion fish | source             in ~/.config/fish/config.fish
    """
    found = get_completion_class(shell)
    assert found is not None, shell
    script = found(context.find_root().command, {}, PROGRAM, VARIABLE).source()
    click.echo(orjson.dumps({"shell": shell, "script": script}) if as_json else script)
