"""Figures with the marks that they are to meet, as benchmarks print and write them."""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

to_file = click.option(
    "--json",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the rows to FILE.",
)


class Row(NamedTuple):
    """One figure and what it was to be."""

    name: str
    value: float
    mark: float | None = None
    met: bool | None = None


def at_most(name: str, value: float, mark: float | None) -> Row:
    """A figure that may not be larger than its mark; without a mark it is only shown."""
    return Row(name, value, mark, None if mark is None else value <= mark)


def at_least(name: str, value: float, mark: float | None) -> Row:
    """A figure that may not be smaller than its mark."""
    return Row(name, value, mark, None if mark is None else value >= mark)


def show(rows: Iterable[Row]) -> None:
    """Print a line for each figure."""
    for row in rows:
        judged = {None: "", True: "  met", False: "  MISSED"}[row.met]
        mark = "" if row.mark is None else f"  mark {row.mark:g}"
        click.echo(f"{row.name:<46} {row.value:10.2f}{mark}{judged}")


def conclude(rows: Sequence[Row], file: Path | None) -> None:
    """Write the rows to the file. Raises click.ClickException where a mark was missed."""
    if file is not None:
        file.write_text(json.dumps([_json(row) for row in rows], indent=1))
    if missed := [row.name for row in rows if row.met is False]:
        raise click.ClickException(f"missed: {', '.join(missed)}")


def _json(row: Row) -> dict[str, Any]:
    """The row for JSON, which has no infinity: the time of a request that was not answered."""
    return {
        name: None if isinstance(one, float) and not math.isfinite(one) else one
        for name, one in row._asdict().items()
    }
