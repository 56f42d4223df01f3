"""Read texts from JSON lines or Parquet files, one text a row.

Files are streamed, so a corpus can be larger than memory.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from deployments.tools.errors import ToolError

ROWS_A_READ = 4096
EXACT_FLOAT = 2**53  # below it, a whole number that was read as a float is still the same
SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet")


class CorpusError(ToolError):
    """A file that cannot be read as texts; the message names the file and the row."""


class Text(NamedTuple):
    """One row."""

    id: str
    text: str


def read_texts(path: Path, text_field: str = "text", id_field: str | None = None) -> Iterator[Text]:
    """Yield the texts of a file in its order.

    A row's id is its `id_field` if one is named, otherwise its `id` or `_id`, otherwise its number,
    from 0; see `as_id`. Raises CorpusError for a row without text or id.
    """
    for number, row in enumerate(read_rows(path, text_field)):
        id = row.get(id_field) if id_field is not None else row.get("id", row.get("_id", number))
        if id is None:
            raise CorpusError(f"{path}, row {number}: it has no {id_field or 'id'!r}")
        try:
            yield Text(as_id(id), row[text_field])
        except ValueError as error:
            raise CorpusError(f"{path}, row {number}: its id {id!r} {error}") from None


def as_id(value: object) -> str:
    """Return an id as text: a string, UTF-8 bytes, or a whole number.

    Raises ValueError for anything else and for an empty id; the message continues "its id ...".
    """
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            raise ValueError("is not UTF-8; write ids as text") from None
    if isinstance(value, float) and value.is_integer() and abs(value) < EXACT_FLOAT:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError("is neither text nor a whole number")
    if not (id := str(value)).strip():
        raise ValueError("is empty")
    return id


def read_rows(path: Path, text_field: str = "text") -> Iterator[dict[str, Any]]:
    """Yield the rows of a file in its order. Raises CorpusError for a row without text."""
    for number, row in enumerate(_rows(path)):
        text = row.get(text_field)
        if not isinstance(text, str) or not text:
            has = ", ".join(map(str, row)) or "nothing"
            raise CorpusError(
                f"{path}, row {number}: {text_field!r} is no text; it has {has} (--text-field "
                "names another)"
            )
        yield row


def read_some(path: Path, text_field: str = "text") -> list[Text]:
    """Read all texts of a file as `read_texts` does. Raises CorpusError if it has none."""
    if not (texts := list(read_texts(path, text_field))):
        raise CorpusError(f"{path} has no texts")
    return texts


def count_rows(path: Path) -> int:
    """Count the rows of a file; reads all of a JSONL file and only the footer of a Parquet file."""
    if path.suffix == ".parquet":
        return int(parquet_file(path).metadata.num_rows)
    with _opened(path) as lines:
        return sum(1 for line in lines if line.strip())


def read_judgements(path: Path) -> dict[str, set[str]]:
    """Read the relevant documents of each query.

    Lines are `query document score` or TREC's `query 0 document score`, split by `columns`; a score
    of 0 means not relevant. Raises CorpusError for any other line, except a first line, which can
    be a heading.
    """
    relevant: dict[str, set[str]] = {}
    with _opened(path) as lines:
        for number, line in enumerate(lines):
            if not (parts := columns(line)):
                continue
            try:
                query, document, score = _judgement(parts)
            except ValueError:
                if number == 0 and not parts[-1].isdigit():  # a heading
                    continue
                raise CorpusError(
                    f"{path}, line {number + 1}: it must be `query document score`"
                ) from None
            if score > 0:
                relevant.setdefault(query, set()).add(document)
    return relevant


def columns(line: bytes) -> list[bytes]:
    """Split a line at its tabs or, if it has none, at white space; a blank line has no columns.

    Between tabs, ids can have spaces.
    """
    line = line.strip()
    return [part.strip() for part in line.split(b"\t")] if b"\t" in line else line.split()


def _judgement(parts: list[bytes]) -> tuple[str, str, float]:
    """Return query, document and score. Raises ValueError."""
    if len(parts) not in (3, 4):
        raise ValueError(f"{len(parts)} columns")
    return parts[0].decode(), parts[-2].decode(), float(parts[-1])


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix == ".parquet":
        for batch in batches(path, parquet_file(path), batch_size=ROWS_A_READ):
            yield from batch_rows(path, batch)
        return
    if path.suffix not in SUFFIXES:
        raise CorpusError(f"{path}: write texts as JSON lines (.jsonl) or Parquet (.parquet)")
    with _opened(path) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise CorpusError(
                    f"{path}, line {number}: {not_json(line, error)}; each line must be one JSON "
                    "object"
                ) from None
            if not isinstance(row, dict):
                raise CorpusError(
                    f'{path}, line {number}: it must be a JSON object such as {{"id": "1", '
                    f'"text": "..."}}'
                )
            yield row


def not_json(line: bytes, error: ValueError) -> str:
    """Return why a line is not JSON: it is not UTF-8, or the parser's error."""
    try:
        line.decode()
    except UnicodeDecodeError:
        return "not UTF-8"
    return f"not JSON ({error})"


def _opened(path: Path) -> Any:
    try:
        return path.open("rb")
    except OSError as error:
        raise CorpusError(f"{path}: {error.strerror}") from None


def parquet_file(path: Path) -> Any:
    try:
        from pyarrow import ArrowInvalid
        from pyarrow.parquet import ParquetFile
    except ModuleNotFoundError:
        raise CorpusError("Parquet needs the package pyarrow: pip install pyarrow") from None
    try:
        return ParquetFile(path)
    except (OSError, ArrowInvalid) as error:
        raise CorpusError(f"{path}: {error}") from None


def batches(path: Path, opened: Any, **options: Any) -> Iterator[Any]:
    """Yield the batches of a Parquet file. Raises CorpusError where it is damaged."""
    found = opened.iter_batches(**options)
    while (batch := _undamaged(path, lambda: next(found, None))) is not None:
        yield batch


def batch_rows(path: Path, batch: Any) -> list[dict[str, Any]]:
    """Return the rows of a batch. Raises CorpusError where a value is damaged."""
    rows: list[dict[str, Any]] = _undamaged(path, batch.to_pylist)
    return rows


def _undamaged(path: Path, read: Callable[[], Any]) -> Any:
    from pyarrow import ArrowException

    try:
        return read()
    except (OSError, ValueError, ArrowException) as error:
        why = " ".join(str(error).split())
        raise CorpusError(f"{path} is damaged: {why}; write it again") from None
