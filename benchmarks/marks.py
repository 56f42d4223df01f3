"""Figures and their targets, as benchmarks print and write them."""

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Real
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
    """One figure and its target."""

    name: str
    value: float
    mark: float | None = None
    met: bool | None = None


def at_most(name: str, value: float, mark: float | None) -> Row:
    """A figure with an upper limit; without a mark it is only shown."""
    return Row(name, value, mark, None if mark is None else bool(value <= mark))


def at_least(name: str, value: float, mark: float | None) -> Row:
    """A figure with a lower limit."""
    return Row(name, value, mark, None if mark is None else bool(value >= mark))


def verdict(met: bool | None) -> str:
    """'met' or 'missed'; empty without a target."""
    return "" if met is None else "met" if met else "missed"


def flat(table: Iterable[Mapping[str, Any]], *keys: str) -> Iterator[Row]:
    """A row without a mark for each number of a table; the values at `keys` name its line."""
    for line in table:
        name = ", ".join(str(line[key]) for key in keys)
        yield from numbers(name, {key: one for key, one in line.items() if key not in keys})


def numbers(name: str, figures: Mapping[str, Any]) -> Iterator[Row]:
    """A row without a mark for each number, including those in nested mappings."""
    for key, value in figures.items():
        if isinstance(value, Mapping):
            yield from numbers(f"{name}: {key}", value)
        elif value is None or (isinstance(value, Real) and not isinstance(value, bool)):
            yield Row(f"{name}: {key}", math.nan if value is None else float(value))


def stage(what: str) -> None:
    """Print the current step of a long benchmark and the time of day to stderr."""
    click.echo(f"{time.strftime('%H:%M:%S')}  {what}", err=True)


def show(rows: Iterable[Row]) -> None:
    """Print a line for each figure."""
    for row in rows:
        judged = {None: "", True: "  met", False: "  MISSED"}[row.met]
        mark = "" if row.mark is None else f"  mark {row.mark:g}"
        click.echo(f"{row.name:<46} {row.value:10.2f}{mark}{judged}")


def write(rows: Iterable[Row | Mapping[str, Any]], file: Path | None) -> None:
    """Write the rows to the file; a mapping has the keys of a Row and more."""
    if file is not None:
        found = [_json(row if isinstance(row, Mapping) else row._asdict()) for row in rows]
        file.write_text(json.dumps({"rows": found}, indent=1) + "\n")


def conclude(rows: Sequence[Row], file: Path | None) -> None:
    """Write the rows to the file. Raises click.ClickException if a mark is missed."""
    write(rows, file)
    if missed := [row.name for row in rows if row.met is False]:
        raise click.ClickException(f"missed: {', '.join(missed)}")


def _json(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row for JSON, which has no infinity (the time of a request without an answer)."""
    return {name: _finite(one) for name, one in row.items()}


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _json(value)
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
