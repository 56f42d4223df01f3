"""Read rows of JSON lines, CSV and Parquet, including broken ones."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from deployments.tools.corpus import (
    ROWS_A_READ,
    CorpusError,
    batch_rows,
    batches,
    not_json,
    parquet_file,
)
from deployments.tools.errors import ToolError

LONGEST_CELL = 2**30  # characters; the csv module's own limit is shorter than what some models read


class InputError(ToolError):
    """Files that cannot be used to measure; the message has one sentence per problem."""


class Row(NamedTuple):
    """A line or row of a file."""

    number: int  # of its first line, from 1; of a Parquet row, from 0
    data: dict[str, Any] | None  # None: broken
    problem: str = ""


def rows_of(path: Path, headless: tuple[str, ...]) -> Iterator[Row]:
    """Yield the rows of a file, read by its ending. Raises InputError or CorpusError."""
    match path.suffix.lower():
        case ".jsonl" | ".ndjson" | ".json":
            yield from _json_rows(path)
        case ".csv" | ".tsv":
            yield from _csv_rows(path, "\t" if path.suffix.lower() == ".tsv" else ",", headless)
        case ".parquet":
            number = 0
            for batch in batches(path, parquet_file(path), batch_size=ROWS_A_READ):
                for data in batch_rows(path, batch):
                    yield Row(number, data)
                    number += 1
        case _:
            raise InputError(
                f"{path}: write it as JSON lines (.jsonl), CSV (.csv) or Parquet (.parquet)"
            )


def _json_rows(path: Path) -> Iterator[Row]:
    for number, line in enumerate(lines_of(path), 1):
        if not line.strip():
            continue
        try:
            data = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            yield Row(number, None, not_json(line, error))
            continue
        if isinstance(data, dict):
            yield Row(number, data)
        else:
            yield Row(number, None, 'it must be a JSON object such as {"id": "1", "text": "..."}')


def _csv_rows(path: Path, delimiter: str, headless: tuple[str, ...]) -> Iterator[Row]:
    """Yield rows by their heading.

    `headless` names the columns of a file without a heading, which has a number in its last column.
    """
    try:
        file = path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")
    except OSError as error:
        raise CorpusError(f"{path}: {error.strerror}") from None
    with file:
        csv.field_size_limit(LONGEST_CELL)
        lines = csv.reader(file, delimiter=delimiter)
        names: Sequence[str] | None = None
        start = 1
        while True:
            try:
                cells = next(lines)
            except StopIteration:
                return
            except csv.Error as error:
                yield Row(start, None, f"not CSV ({error})")
                start = lines.line_num + 1
                continue
            number, start = start, lines.line_num + 1
            if not cells:
                continue
            if names is None:
                if not (len(cells) == len(headless) and _is_number(cells[-1])):
                    names = [name.strip() for name in cells]
                    continue
                names = headless
            if len(cells) != len(names):
                yield Row(
                    number,
                    None,
                    f"it has {len(cells)} columns and the file has {len(names)} "
                    f"({', '.join(names)})",
                )
            elif any("\udc80" <= letter <= "\udcff" for cell in cells for letter in cell):
                yield Row(number, None, "it is not UTF-8")
            else:
                yield Row(number, dict(zip(names, cells, strict=True)))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def lines_of(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file without a byte order mark. Raises CorpusError."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file):
                yield line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line
    except OSError as error:
        raise CorpusError(f"{path}: {error.strerror}") from None
