"""Options that several commands share, and errors shown as one line."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from deployments.engines.base import EngineError
from deployments.tools.client import BASE_URL, BaseUrl
from deployments.tools.errors import ToolError

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)

Command = Callable[..., Any]
Option = Callable[[Command], Command]


def together(*options: Option) -> Option:
    """Combine several options into one decorator; `--help` lists them in this order."""

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def router_options(what: str) -> Option:
    """Add `--base-url`, by default the router on this machine, and `--api-key`."""
    return together(
        click.option("--base-url", type=BaseUrl(), default=BASE_URL, show_default=True, help=what),
        click.option(
            "--api-key", envvar="EMBEDDING_ROUTER_API_KEY", help="Or EMBEDDING_ROUTER_API_KEY."
        ),
    )


def origin_options(
    started: str,
    served: str = "Take the vectors of this router, or of any other server of /v1/embeddings.",
) -> Option:
    """Add `--config`, `--base-url` and `--api-key`; `origin_of` takes their values."""
    return together(
        click.option("--config", "path", type=FILE, help=started),
        click.option("--base-url", type=BaseUrl(), help=served),
        click.option(
            "--api-key",
            envvar="EMBEDDING_ROUTER_API_KEY",
            help="API key for --base-url; default: EMBEDDING_ROUTER_API_KEY.",
        ),
    )


def check_origin(path: Path | None, base_url: str | None) -> None:
    """Raise UsageError unless exactly one of the two is given."""
    if (path is None) == (base_url is None):
        raise click.UsageError("give either --config or --base-url")


def check_judgements(queries: Path | None, qrels: Path | None) -> None:
    """Raise UsageError for judgements without queries."""
    if qrels is not None and queries is None:
        raise click.UsageError("--qrels judges queries: give --queries too")


def require_packages(user: str, names: Sequence[str], otherwise: str = "") -> None:
    """Raise ClickException if `user` lacks one of these packages of the extra `advise`."""
    if missing := [name for name in names if find_spec(name) is None]:
        raise click.ClickException(
            f"{user} needs {', '.join(missing)}, not installed here: in a checkout of this "
            f"project, pip install -e '.[advise]'{otherwise}"
        )


def check_parquet() -> None:
    """Raise ClickException if pyarrow, which writes the vectors, is not installed."""
    if find_spec("pyarrow") is None:
        raise click.ClickException(
            "the vectors are written as Parquet, which needs the package pyarrow: pip install "
            "pyarrow"
        )


@contextmanager
def errors_shown(*more: type[Exception]) -> Iterator[None]:
    """End the command with the message of a ToolError, EngineError or OSError, or one of `more`."""
    shown: tuple[type[Exception], ...] = (ToolError, EngineError, *more)
    try:
        yield
    except shown as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(reason_of(error)) from None


def reason_of(error: OSError) -> str:
    """Return the file and the reason, as `FILE: No space left on device`."""
    if error.strerror is None or error.filename is None:
        return str(error)
    return f"{error.filename}: {error.strerror}"
