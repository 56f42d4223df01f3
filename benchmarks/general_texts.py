"""Write general English texts for `embedding-router distill --general`.

Sources, all with licences that allow distributing a model trained on them; each line names its
source:

- WordNet 3.0 (WordNet licence): definitions, examples, words, and questions made of the words.
  Debian's `wordnet-base`.
- Gene Ontology, ChEBI, pathways, Sequence Ontology (CC BY 3.0, public domain): definitions and
  names. Debian's `emboss-data`.
- docstrings and descriptions of the Python packages installed here under MIT, BSD, ISC or Apache
  licences.

The order looks random and depends on each text alone, so the first N lines are a sample, and
installing or removing a package does not change the other texts.
"""

import ast
import hashlib
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distributions
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import click
import orjson

WORDNET = Path("/usr/share/wordnet")
ONTOLOGIES = Path("/usr/share/EMBOSS/data/OBO")
ONTOLOGY_LICENCES = {
    "go": "CC-BY-3.0",
    "chebi": "CC-BY-3.0",
    "pathway": "CC-BY-3.0",
    "ro": "CC-BY-3.0",
    "so": "public domain",
}
PERMISSIVE = re.compile(r"\b(MIT|BSD|ISC|Apache|0BSD)\b", re.IGNORECASE)
NOT_PERMISSIVE = re.compile(r"GPL|MPL|Proprietary|Intel End User|CNRI", re.IGNORECASE)
QUESTIONS = ("what is {}?", "{}", "how does {} work", "definition of {}", "examples of {}")
FEWEST_LETTERS, MAX_LETTERS = 12, 600
MAX_OF_A_PACKAGE, MAX_OF_A_SOURCE = 4000, 60_000
SEED = 0


class Line(NamedTuple):
    """One text and its source."""

    text: str
    source: str
    licence: str


def wordnet(folder: Path) -> Iterator[Line]:
    """Definitions, examples and words of WordNet's data files."""
    rng = random.Random(SEED)
    for part in ("noun", "verb", "adj", "adv"):
        for row in (folder / f"data.{part}").read_text("latin-1").splitlines():
            if row.startswith("  "):
                continue
            head, _, gloss = row.partition(" | ")
            word = head.split()[4].replace("_", " ").partition("(")[0]
            definition, *examples = re.split(r';\s+(?=")', gloss.strip())
            for text in (definition, *(example.strip('" ;') for example in examples)):
                yield Line(text, "wordnet", "WordNet-3.0")
            if rng.random() < 0.3:
                yield Line(f"{word}: {definition}", "wordnet", "WordNet-3.0")
            if rng.random() < 0.3:
                yield Line(rng.choice(QUESTIONS).format(word), "wordnet", "WordNet-3.0")


def ontology(file: Path, licence: str) -> Iterator[Line]:
    """Definitions of an OBO file, and questions for some of its names."""
    rng = random.Random(SEED)
    name = ""
    for row in file.read_text("utf-8", "replace").splitlines():
        if row.startswith("name: "):
            name = row.removeprefix("name: ")
            if rng.random() < 0.3:
                yield Line(rng.choice(QUESTIONS).format(name), file.stem, licence)
        elif row.startswith("def: ") and (found := re.match(r'def: "((?:[^"\\]|\\.)*)"', row)):
            yield Line(f"{name}: {found[1]}", file.stem, licence)


def packages() -> Iterator[Line]:
    """Docstrings, sentence by sentence and whole, and descriptions of permissive packages."""
    for package in sorted(distributions(), key=lambda one: str(one.metadata["Name"]).lower()):
        licence = licence_of(package)
        if licence is None:
            continue
        name = str(package.metadata["Name"])
        for text in islice(texts_of(package), MAX_OF_A_PACKAGE):
            yield Line(text, name, licence)


def licence_of(package: Distribution) -> str | None:
    """The name of a package's licence; None if it is unknown or not permissive."""
    meta: Any = package.metadata
    named = " ".join(
        [
            str(meta.get("License-Expression", "")),
            str(meta.get("License", ""))[:60],
            *(one for one in meta.get_all("Classifier", []) if one.startswith("License")),
        ]
    )
    found = PERMISSIVE.search(named)
    return None if found is None or NOT_PERMISSIVE.search(named) else found[0]


def texts_of(package: Distribution) -> Iterator[str]:
    """Paragraphs of the description, then docstrings in the order of the files."""
    description = package.metadata.get_payload()  # type: ignore[attr-defined]
    if isinstance(description, str):
        yield from paragraphs(description)
    for file in sorted(package.files or [], key=str):
        if file.suffix == ".py" and "test" not in str(file).lower():
            try:
                tree = ast.parse(Path(str(file.locate())).read_text("utf-8"))
            except (OSError, SyntaxError, ValueError, RecursionError):
                continue
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) and (
                    text := ast.get_docstring(node)
                ):
                    yield from paragraphs(text)


def paragraphs(text: str) -> Iterator[str]:
    """Paragraphs of prose; code, tables and lists of parameters are left out."""
    for block in re.split(r"\n\s*\n", text):
        one = " ".join(block.split())
        letters = sum(letter.isalpha() or letter == " " for letter in one)
        if letters > 0.9 * len(one) and not re.match(r"[:>#*|`\[<.-]", one):
            yield one


def collect() -> Iterator[Line]:
    """Lines of all available sources; missing ones are logged."""
    if WORDNET.exists():
        yield from wordnet(WORDNET)
    else:
        click.echo("no WordNet: apt-get install wordnet-base", err=True)
    if ONTOLOGIES.exists():
        for name, licence in ONTOLOGY_LICENCES.items():
            yield from ontology(ONTOLOGIES / f"{name}.obo", licence)
    else:
        click.echo("no ontologies: apt-get install emboss-data", err=True)
    yield from packages()


def shuffled(
    lines: Iterable[Line], letters: int, max_of_a_source: int = MAX_OF_A_SOURCE
) -> list[Line]:
    """The lines in the order of their digests, each text once, with a maximum share per source."""
    found = {line.text: line for line in lines if FEWEST_LETTERS <= len(line.text) <= letters}
    counts, kept = Counter[str](), list[Line]()
    for line in sorted(found.values(), key=_digest):
        counts[line.source] += 1
        if counts[line.source] <= max_of_a_source:
            kept.append(line)
    return kept


def _digest(line: Line) -> bytes:
    return hashlib.blake2b(line.text.encode("utf-8", "replace"), digest_size=16).digest()


@click.command()
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--most", type=int, help="Maximum number of texts.")
@click.option(
    "--letters",
    type=click.IntRange(FEWEST_LETTERS, MAX_LETTERS),
    default=MAX_LETTERS,
    show_default=True,
    help="Skip longer texts, as they take a teacher longer.",
)
def main(output: Path, most: int | None, letters: int) -> None:
    """Write the texts as JSON lines."""
    kept = shuffled(collect(), letters)[:most]
    with output.open("wb") as file:
        for line in kept:
            file.write(orjson.dumps(line._asdict()) + b"\n")
    counts = Counter(line.licence for line in kept)
    click.echo(f"{len(kept)} texts: " + ", ".join(f"{n} {name}" for name, n in counts.items()))


if __name__ == "__main__":
    main()
