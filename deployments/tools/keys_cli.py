"""`embedding-router keys`: make an API key, or hash an existing one."""

import secrets
import sys

import click
import orjson

from router.keys import BITS, hash_of, new_key


@click.group()
def main() -> None:
    """Make API keys for `keys:` in the config; docs/security.md says how they are kept and
    changed.
    """


@main.command()
@click.option(
    "--name", default="my-key", show_default=True, help="What the config, metrics and logs call it."
)
@click.option("--json", "as_json", is_flag=True, help="Name, key and hash as JSON.")
def new(name: str, as_json: bool) -> None:
    """Make a key, and print it once with the lines for the config."""
    key = new_key(secrets.token_bytes(BITS // 8))
    if as_json:
        click.echo(
            orjson.dumps(
                {"name": name, "key": key, "hash": hash_of(key)}, option=orjson.OPT_INDENT_2
            )
        )
        return
    click.echo(f"{key}\n")
    click.echo(
        "This is shown once: give it to its holder. Into the config, under args or the router's "
        "user_config:\n"
    )
    click.echo(f"keys:\n  {name}:\n    hash: {hash_of(key)}")


@main.command("hash")
@click.option("--json", "as_json", is_flag=True, help="The hash as JSON.")
def hash_command(as_json: bool) -> None:
    """Print the hash of a key read from standard input, so that it is in no shell history.

    Only for random keys of 128 bits or more: the hash of a password can be guessed.
    """
    key = sys.stdin.readline().strip()
    if len(key) < 32:
        raise click.ClickException(
            f"this key has {len(key)} characters; a key that cannot be guessed has 32 or more"
        )
    click.echo(orjson.dumps({"hash": hash_of(key)}) if as_json else hash_of(key))
