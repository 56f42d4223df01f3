"""The public data that benchmarks read: `--data` names a folder with these files.

    scifact-mini.json    {"corpus": {id: {"title", "text"}}, "queries": {id: text}, "qrels":
                         {query: [id]}}: 300 claims of SciFact (claims CC BY 4.0, abstracts
                         ODC-By 1.0) and 1,000 of its abstracts, the relevant ones among them
    xquad-zh-dev.json    {"documents": [{"id", "text"}],
                         "queries": [{"id", "text", "relevant": [id]}]}: half of XQuAD in Chinese
                         (CC BY-SA 4.0), paragraphs and their questions
    stsb-en.csv, stsb-zh.csv                    pairs of sentences and their likeness, 0 to 5
    banking77-train.csv, banking77-test.csv     questions of bank customers and their intents
    language-id.jsonl    {"text", "lang"}: short texts in 42 languages
    language-mixed.json  {"mixed": [[pair, text]], "mono": [[language, text]]}: in two languages

`tests/data/language` has a sample of each but the Chinese one: enough for load, not for figures.
"""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click

from deployments.tools.corpus import Text

SAMPLE = Path(__file__).resolve().parents[1] / "tests" / "data" / "language"
FILES = {
    "scifact-mini.json": "SciFact-mini: `queries`, `corpus` and `qrels` by id (AllenAI SciFact)",
    "xquad-zh-dev.json": "Chinese paragraphs and questions: `documents`, `queries` (XQuAD)",
    "stsb-en.csv": "the STS benchmark in English: text, text, score from 0 to 5 (stsb-multi-mt)",
    "stsb-zh.csv": "the same in Chinese",
    "banking77-train.csv": "banking77: text and category under a heading (PolyAI)",
    "banking77-test.csv": "the same, its test set",
    "language-id.jsonl": "short texts in 42 languages: `text` and `lang` on each line",
    "language-mixed.json": "texts in two languages, and in one: `mixed` and `mono`",
}
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)

whole = click.option(
    "--data",
    "folder",
    required=True,
    type=_FOLDER,
    help="Folder of public data (benchmarks/public_data.py).",
)
sample = click.option(
    "--data",
    "folder",
    default=SAMPLE,
    type=_FOLDER,
    help="Folder of public data (benchmarks/public_data.py).  [default: tests/data/language]",
)


class Judged(NamedTuple):
    """Documents, queries, and which documents are relevant to a query."""

    documents: list[Text]
    queries: list[Text]
    relevant: dict[str, set[str]]


def require(folder: Path, *names: str) -> None:
    """Raise click.ClickException with a description of each missing file."""
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        listed = "\n".join(f"  {name}: {FILES[name]}" for name in missing)
        raise click.ClickException(
            f"{folder.resolve()} lacks public data that this benchmark reads:\n{listed}\n"
            "Put the files into a folder and name it with --data. Your own texts need no "
            "benchmark: embedding-router advise --help"
        )


def read(folder: Path, name: str) -> Any:
    """The JSON of a file; raises click.ClickException if it is missing."""
    require(folder, name)
    return json.loads((folder / name).read_text())


def scifact(folder: Path, between: str = ". ") -> Judged:
    """SciFact-mini; a document is a title, `between` and an abstract."""
    content = read(folder, "scifact-mini.json")
    return Judged(
        [
            Text(id, f"{one['title']}{between}{one['text']}")
            for id, one in content["corpus"].items()
        ],
        [Text(id, text) for id, text in content["queries"].items()],
        {query: set(found) for query, found in content["qrels"].items()},
    )


def xquad_zh(folder: Path) -> Judged:
    """Half of XQuAD in Chinese."""
    content = read(folder, "xquad-zh-dev.json")
    queries = content["queries"]
    return Judged(
        [Text(one["id"], one["text"]) for one in content["documents"]],
        [Text(one["id"], one["text"]) for one in queries],
        {one["id"]: set(one["relevant"]) for one in queries},
    )


def banking77(folder: Path) -> Judged:
    """Questions of bank customers; those of the training file are the documents.

    A test question of one of their intents is a query, and all of that intent are relevant.
    """
    train, test = (_questions(folder, f"banking77-{part}.csv") for part in ("train", "test"))
    by_intent = dict[str, set[str]]()
    for document, intent in train:
        by_intent.setdefault(intent, set()).add(document.id)
    asked = [(query, by_intent[intent]) for query, intent in test if intent in by_intent]
    return Judged(
        [document for document, _ in train],
        [query for query, _ in asked],
        {query.id: found for query, found in asked},
    )


def _questions(folder: Path, name: str) -> list[tuple[Text, str]]:
    """Texts of a banking77 file and their intents; a text's id is its row."""
    require(folder, name)
    with (folder / name).open(newline="") as file:
        _, *rows = csv.reader(file)
    return [(Text(str(row), text), intent) for row, (text, intent) in enumerate(rows)]


class SearchSet(NamedTuple):
    """A search data set."""

    language: str  # ISO 639-1
    read: Callable[[Path], Judged]


SETS = {
    "scifact": SearchSet("en", scifact),
    "xquad-zh": SearchSet("zh", xquad_zh),
    "banking77": SearchSet("en", banking77),
}
