"""Read the user's files: JSON lines, CSV or Parquet.

Every broken line is reported by its file and number.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import orjson

from deployments.tools.advise.rows import InputError, Row, lines_of, rows_of
from deployments.tools.corpus import Text, columns
from router.retrieval import TOP

MIN_UNITS = 30  # judged queries, pairs or texts; a slice of fewer proves nothing
SHOWN = 10  # broken lines that are printed; all are counted
PAIR_FIELDS = (("text_a", "text_b"), ("text1", "text2"), ("sentence1", "sentence2"), ("a", "b"))
SCORE_FIELDS = ("score", "similarity", "label")
LABEL_FIELDS = ("label", "category", "intent", "class")
T = TypeVar("T")


class Pair(NamedTuple):
    """Two texts and how similar people found them."""

    one: str
    other: str
    score: float


class Labelled(NamedTuple):
    """A text of a class.

    `teaches` is true in rows of the split `train` and false in others; None without a split.
    """

    text: str
    label: str
    teaches: bool | None


@dataclass(slots=True)
class Inputs:
    """Everything that was read; the keys are the names of the files."""

    documents: list[Text] = field(default_factory=list)
    queries: list[Text] = field(default_factory=list)
    # by query, then by document; 0 is not relevant
    judgements: dict[str, dict[str, int]] = field(default_factory=dict)
    pairs: dict[str, list[Pair]] = field(default_factory=dict)
    labelled: dict[str, list[Labelled]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # what was left out, and why
    # "texts", "queries": the files they came from
    names: dict[str, str] = field(default_factory=dict)
    more: list["Inputs"] = field(default_factory=list)  # further texts with queries and judgements

    @property
    def sets(self) -> tuple["Inputs", ...]:
        """All sets, each with texts, queries and judgements of its own."""
        return self, *self.more

    @property
    def retrieval(self) -> dict[str, "Inputs"]:
        """The sets that have judgements, by the name of their queries."""
        return {
            Path(item.names.get("queries", "queries")).stem: item
            for item in self.sets
            if item.judgements
        }

    @property
    def different_documents(self) -> list[Text]:
        """The documents, each text once."""
        return list({document.text: document for document in self.documents}.values())

    def check(self) -> None:
        """Raise InputError if there is too little to measure, before anything is embedded."""
        counts = {name: len(pairs) for name, pairs in self.pairs.items()}
        counts |= {
            name: sum(not row.teaches for row in rows) for name, rows in self.labelled.items()
        }
        counts |= {
            item.names.get("queries", "queries"): len(item.judgements)
            for item in self.sets
            if item.judgements
        }
        for name, count in counts.items():
            if count < MIN_UNITS:
                raise InputError(
                    f"{name}: {count} judged rows tell nothing; {MIN_UNITS} is the least, "
                    "hundreds are better"
                )
        if not counts and len(self.different_documents) <= TOP + 1:
            raise InputError(
                f"{self.names.get('texts', 'texts')}: {len(self.different_documents)} different "
                "texts; whether models find the "
                f"same {TOP} neighbours takes {TOP + 2} at least, and says little below some "
                "hundreds"
            )

    def digest(self) -> str:
        """Digest everything that measurements depend on."""
        made = hashlib.blake2b(digest_size=16)
        for item in self.sets:
            judgements = sorted((q, sorted(d.items())) for q, d in item.judgements.items())
            parts = (item.documents, item.queries, judgements, item.pairs, item.labelled)
            for part in parts if item is self else parts[:3]:
                made.update(orjson.dumps(part, default=list))
        return made.hexdigest()


class InputReader:
    """Reads files and collects their problems."""

    def __init__(
        self, skip_bad: bool, text_field: str = "text", id_field: str | None = None
    ) -> None:
        self._skip, self._text, self._id = skip_bad, text_field, id_field
        self.problems: list[str] = []
        self.skipped = 0

    def texts(self, path: Path) -> list[Text]:
        """Read texts with ids.

        An id is the field `id_field` if one is named; otherwise `id`, `_id` or the row's number.
        """
        seen: dict[str, int] = {}

        def take(row: Row, data: dict[str, Any]) -> Text:
            text = _text(data, (self._text,))
            id = str(
                data.get(self._id) if self._id else data.get("id", data.get("_id", row.number))
            )
            if id in seen:
                raise ValueError(f"id {id!r} is that of {_where(path, seen[id])} too")
            seen[id] = row.number
            return Text(id, text)

        return self._all(path, take)

    def pairs(self, path: Path) -> list[Pair]:
        """Read pairs with a score; without a heading, CSV columns are text, text, score."""

        def take(_: Row, data: dict[str, Any]) -> Pair:
            names = next((names for names in PAIR_FIELDS if names[0] in data), PAIR_FIELDS[0])
            return Pair(_text(data, names[:1]), _text(data, names[1:]), _number(data, SCORE_FIELDS))

        found = self._all(path, take, headless=(*PAIR_FIELDS[0], SCORE_FIELDS[0]))
        if found and len({pair.score for pair in found}) == 1:
            raise InputError(
                f"{path}: every pair has the score {found[0].score:g}, so there is no order to "
                "compare with"
            )
        return found

    def labelled(self, path: Path) -> list[Labelled]:
        """Read texts with a class and, if there is one, a split."""

        def take(_: Row, data: dict[str, Any]) -> Labelled:
            label = next(
                (str(data[name]) for name in LABEL_FIELDS if data.get(name) not in (None, "")), None
            )
            if label is None:
                raise ValueError(_lacks(data, LABEL_FIELDS))
            split = data.get("split")
            return Labelled(
                _text(data, (self._text,)), label, None if split is None else split == "train"
            )

        found = self._all(path, take)
        if found and len({item.label for item in found}) == 1:
            raise InputError(
                f"{path}: every text has the label {found[0].label!r}, so there is nothing to "
                "tell apart"
            )
        if found and any(item.teaches is not None for item in found):
            asked = sum(not item.teaches for item in found)
            if not 0 < asked < len(found):
                missing = "train" if asked else "test"
                raise InputError(f"{path}: it has a column `split` and no row of {missing!r}")
        return found

    def judgements(
        self, path: Path, queries: Sequence[Text], documents: Sequence[Text]
    ) -> dict[str, dict[str, int]]:
        """Read grades by query and document.

        Lines are `query document grade` or TREC's `query 0 document grade`.
        """
        known_queries, known_documents = (
            {query.id for query in queries},
            {document.id for document in documents},
        )
        made: dict[str, dict[str, int]] = {}
        before = len(self.problems)
        for number, line in enumerate(lines_of(path), 1):
            if not (parts := columns(line)):
                continue
            if len(parts) not in (3, 4) and (number > 1 or _is_known(parts, known_queries)):
                self.problems.append(
                    f"{_where(path, number)}: it has {len(parts)} columns; write `query document "
                    "grade`, with the grade 1 where a document is simply relevant"
                )
                continue
            try:
                query, document, grade = parts[0].decode(), parts[-2].decode(), float(parts[-1])
            except (IndexError, ValueError):
                if number > 1:  # the first can be a heading
                    self.problems.append(
                        f"{_where(path, number)}: it must be `query document grade`"
                    )
                continue
            if not grade.is_integer():
                self.problems.append(
                    f"{_where(path, number)}: the grade {grade:g} is not a whole number"
                )
            elif query not in known_queries:
                self.problems.append(f"{_where(path, number)}: there is no query {query!r}")
            elif document not in known_documents:
                self.problems.append(f"{_where(path, number)}: there is no document {document!r}")
            else:
                made.setdefault(query, {})[document] = int(grade)
        if not made and len(self.problems) == before:
            raise InputError(f"{path}: it has no judgements")
        return {
            query: grades
            for query, grades in made.items()
            if any(grade > 0 for grade in grades.values())
        }

    def settle(self) -> list[str]:
        """Return what was skipped, a sentence each.

        Raises InputError if lines are broken and must not be skipped.
        """
        shown = self.problems[:SHOWN]
        if more := len(self.problems) - len(shown):
            shown.append(f"and {more} more lines")
        if not self.problems or self._skip:
            return [f"skipped {problem}" for problem in shown]
        count = len(self.problems)
        raise InputError(
            "\n".join(
                [
                    *shown,
                    f"{'1 line is' if count == 1 else f'{count} lines are'} broken: fix "
                    f"{'it' if count == 1 else 'them'}, "
                    f"or leave {'it' if count == 1 else 'them'} out with --skip-bad",
                ]
            )
        )

    def _all(
        self, path: Path, take: Callable[[Row, dict[str, Any]], T], headless: tuple[str, ...] = ()
    ) -> list[T]:
        found: list[T] = []
        before, rows = len(self.problems), 0
        for row in rows_of(path, headless):
            rows += 1
            if row.data is None:
                self.problems.append(f"{_where(path, row.number)}: {row.problem}")
                continue
            try:
                found.append(take(row, row.data))
            except ValueError as error:
                self.problems.append(f"{_where(path, row.number)}: {error}")
        if not rows:
            raise InputError(f"{path}: it is empty")
        if not found and self._skip:
            raise InputError(
                f"{path}: no line of it can be used; the first: {self.problems[before]}"
            )
        return found


def _is_known(parts: Sequence[bytes], queries: set[str]) -> bool:
    """Whether a first line names a query, so that it is no heading."""
    return parts[0].decode(errors="replace") in queries


def sampled(inputs: Inputs, limit: int) -> Inputs:
    """Take at most `limit` rows of every file, evenly spaced.

    Documents that a judgement names always stay.
    """
    asked = (
        [query for query in inputs.queries if query.id in inputs.judgements]
        if inputs.judgements
        else inputs.queries
    )
    queries = _evenly(asked, limit)
    judgements = {
        query.id: inputs.judgements[query.id] for query in queries if query.id in inputs.judgements
    }
    named = {document for grades in judgements.values() for document in grades}
    others = _evenly(
        [text for text in inputs.documents if text.id not in named], max(0, limit - len(named))
    )
    kept = named | {text.id for text in others}
    made = Inputs(
        [text for text in inputs.documents if text.id in kept],
        queries,
        judgements,
        {name: _evenly(pairs, limit) for name, pairs in inputs.pairs.items()},
        {name: _evenly(labelled, limit) for name, labelled in inputs.labelled.items()},
        list(inputs.notes),
        inputs.names,
        [sampled(item, limit) for item in inputs.more],
    )
    for item in made.more:
        made.notes += item.notes
    if inputs.judgements and len(asked) < len(inputs.queries):
        made.notes.append(
            f"{len(inputs.queries) - len(asked)} queries have no relevant document and were left "
            "out"
        )
    for name, before, after in (
        (inputs.names.get("texts", "texts"), len(inputs.documents), len(made.documents)),
        (inputs.names.get("queries", "queries"), len(asked), len(queries)),
        *((name, len(pairs), len(made.pairs[name])) for name, pairs in inputs.pairs.items()),
        *(
            (name, len(labelled), len(made.labelled[name]))
            for name, labelled in inputs.labelled.items()
        ),
    ):
        if after < before:
            made.notes.append(
                f"{name}: {after} of {before} rows were measured, evenly spaced (--most takes more)"
            )
    return made


def _evenly(rows: list[T], limit: int) -> list[T]:
    if len(rows) <= limit:
        return rows
    return (
        [rows[place] for place in np.linspace(0, len(rows) - 1, limit, dtype=np.int64)]
        if limit
        else []
    )


def _where(path: Path, number: int) -> str:
    return f"{path}, {'row' if path.suffix == '.parquet' else 'line'} {number}"


def _text(data: dict[str, Any], names: Sequence[str]) -> str:
    text = data.get(names[0])
    if not isinstance(text, str) or not text.strip():
        has = ", ".join(map(str, data)) or "nothing"
        raise ValueError(
            f"{names[0]!r} is {'missing' if names[0] not in data else 'no text'}; it has {has}"
        )
    return text


def _lacks(data: dict[str, Any], names: Sequence[str]) -> str:
    """Say which column is missing, which there are, and which of them is probably meant."""
    empty = [name for name in names if name in data]
    if empty:
        return f"its {empty[0]!r} is empty"
    has = ", ".join(map(str, data)) or "nothing"
    near = [str(name) for name in data if any(word in str(name).lower() for word in names)]
    hint = f"; rename {near[0]!r} to {names[0]!r}" if near else ""
    return f"it has no {' or '.join(names)}; it has {has}{hint}"


def _number(data: dict[str, Any], names: Sequence[str]) -> float:
    value = next((data[name] for name in names if data.get(name) not in (None, "")), None)
    if value is None:
        raise ValueError(_lacks(data, names))
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"its score {value!r} is no number") from None
    if not np.isfinite(number):
        raise ValueError(f"its score {value!r} is no number")
    return number
