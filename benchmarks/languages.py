"""Measure language detection, and how often a change of form changes the features.

The texts are the samples in tests/data/language, or the full sets of the same names in `--data
FOLDER`. Of 42 languages, 25 that are not easily confused with a related language are also counted
separately. Variants of short English queries differ in case, punctuation, spaces and invisible
characters; their features are compared with those of the plain query.
"""

import csv
import json
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import click

from benchmarks.marks import Row, to_file, write
from router.language import Detected, detect, is_code

DATA = Path(__file__).resolve().parent.parent / "tests" / "data" / "language"
OTHERS = frozenset(
    "bg bn ca da et fa hr id is lt no sk sr sw ta tl ur".split()  # noqa: SIM905
)
ACROSS_SCRIPTS = frozenset({"en+zh", "en+ja", "en+ko", "en+ru", "en+ar", "en+hi", "en+th"})
FORMS: tuple[Literal["NFC"], Literal["NFD"]] = ("NFC", "NFD")

QUERIES = (
    "reset your password", "where is my order", "cancel my subscription", "how do I return an item",
    "the card was declined", "change my email address", "track a parcel", "free shipping on orders",
    "what is your refund policy", "my account is locked", "best running shoes for women",
    "cheap flights to the islands", "how to bake sourdough bread", "weather this weekend",
    "invoice for last month", "opening hours on Sunday", "the screen is broken",
    "who wrote this book", "symptoms of the flu", "how tall is the tower", "update your payment",
    "is breakfast included", "delivery was late again", "please call me back",
)  # fmt: skip
VARIANTS: dict[str, Callable[[str], str]] = {
    "capital": lambda text: text.capitalize(),
    "title": lambda text: text.title(),
    "capitals": lambda text: text.upper(),
    "full stop": lambda text: text + ".",
    "question mark": lambda text: text + " ?!",
    "ellipsis": lambda text: text + "\u2026",
    "CJK full stop": lambda text: text + "\u3002",
    "wide exclamation mark": lambda text: text + "\uff01",
    "CJK comma": lambda text: text.replace(" ", "\u3001", 1),
    "em dash": lambda text: text.replace(" ", " \u2014 ", 1),
    "em dash, no spaces": lambda text: text.replace(" ", "\u2014", 1),
    "en dash in front": lambda text: "\u2013 " + text,
    "hyphens": lambda text: "-- " + text + " --",
    "bullet": lambda text: "\u2022 " + text,
    "asterisk": lambda text: "* " + text,
    "number": lambda text: "1. " + text,
    "no-break spaces": lambda text: text.replace(" ", "\u00a0"),
    "wide space": lambda text: text.replace(" ", "\u3000", 1),
    "line breaks": lambda text: text.replace(" ", "\n", 1) + "\r\n",
    "zero-width space": lambda text: "\u200b" + text + "\u200b",
    "byte order mark": lambda text: "\ufeff" + text,
    "soft hyphen": lambda text: text[:2] + "\u00ad" + text[2:],
    "curly quotes": lambda text: "\u201c" + text + "\u201d",
    "guillemets": lambda text: "\u00ab " + text + " \u00bb",
    "emoji": lambda text: text + " \U0001f600",
    "hexadecimal": lambda text: text + " 9f86d081884c7d659a2feaa0c55ad015",
    "link": lambda text: text + " https://example.com/a/b?id=17",
}


class Labelled(NamedTuple):
    """A text and its language, or its pair of languages."""

    language: str
    text: str


def labelled(folder: Path) -> list[Labelled]:
    """Texts in 42 languages."""
    lines = (folder / "language-id.jsonl").read_text(encoding="utf-8").splitlines()
    return [Labelled(row["lang"], row["text"]) for row in map(json.loads, lines)]


def pairs(folder: Path, kind: str) -> list[Labelled]:
    """Texts in two languages (`mixed`), or in one (`mono`)."""
    rows = json.loads((folder / "language-mixed.json").read_text(encoding="utf-8"))[kind]
    return [Labelled(*row) for row in rows]


def questions(folder: Path) -> list[str]:
    """Short questions in English."""
    with (folder / "banking77-test.csv").open(encoding="utf-8", newline="") as lines:
        return [row["text"] for row in csv.DictReader(lines)]


def sentences(folder: Path, language: str) -> list[str]:
    """Sentences in English or Chinese."""
    with (folder / f"stsb-{language}.csv").open(encoding="utf-8", newline="") as lines:
        return [sentence for row in csv.reader(lines) for sentence in row[:2]]


def abstracts(folder: Path) -> list[str]:
    """Scientific prose in English."""
    rows = json.loads((folder / "scifact-mini.json").read_text(encoding="utf-8"))
    return [*rows["queries"].values(), *(abstract["text"] for abstract in rows["corpus"].values())]


def accuracy(folder: Path) -> dict[str, float]:
    """Accuracy figures by name."""
    found = [(text.language, detect(text.text)) for text in labelled(folder)]
    mixed = pairs(folder, "mixed")
    return {
        "right, 25 languages": share(
            one.language == language for language, one in found if language not in OTHERS
        ),
        "right, 42 languages": share(one.language == language for language, one in found),
        "right, English questions": share(
            detect(text).language == "en" for text in questions(folder)
        ),
        "right, English sentences": share(
            detect(text).language == "en" for text in sentences(folder, "en")
        ),
        "right, Chinese sentences": share(
            detect(text).language == "zh" for text in sentences(folder, "zh")
        ),
        "mixed, two scripts": share(
            detect(text.text).mixed for text in mixed if text.language in ACROSS_SCRIPTS
        ),
        "mixed, one script": share(
            detect(text.text).mixed for text in mixed if text.language not in ACROSS_SCRIPTS
        ),
        "mixed, all pairs": share(detect(text.text).mixed for text in mixed),
        "mixed, of texts in one language": share(
            detect(text.text).mixed for text in pairs(folder, "mono")
        ),
        "code, of 42 languages": share(one.code for _, one in found),
        "code, of abstracts": share(is_code(text) for text in abstracts(folder)),
    }


def same_in_both_forms(folder: Path) -> float:
    """Share of texts in 42 languages whose NFC and NFD forms are detected alike."""
    return share(
        len({detect(unicodedata.normalize(form, text.text)) for form in FORMS}) == 1
        for text in labelled(folder)
    )


def changed_variants() -> list[tuple[str, str, Detected, Detected]]:
    """Query variants whose features differ from the plain query's: kind, query, its features, the
    variant's features.
    """
    return [
        (name, query, plain, found)
        for query in QUERIES
        for name, change in VARIANTS.items()
        if (found := detect(change(query))) != (plain := detect(query))
    ]


def share(values: Iterable[bool]) -> float:
    """Share of the values that are true."""
    counted: Sequence[bool] = list(values)
    return sum(counted) / len(counted)


@click.command()
@click.option(
    "--data",
    default=DATA,
    show_default="tests/data/language",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
)
@to_file
def main(data: Path, file: Path | None) -> None:
    """Print the shares, and the variants that were decided differently from the plain query."""
    changed = changed_variants()
    variants = len(QUERIES) * len(VARIANTS)
    shares = accuracy(data) | {
        "alike in NFC and NFD": same_in_both_forms(data),
        "right, short English queries": share(detect(one).language == "en" for one in QUERIES),
        f"alike, {variants} variants of them": 1 - len(changed) / variants,
    }
    for name, value in shares.items():
        print(f"{name:<32}{value:>8.2%}")
    write(map(Row, shares, shares.values()), file)
    for name, query, plain, found in changed:
        print(f"  {query!r} is {plain.language}, with {name} {found.language}")


if __name__ == "__main__":
    main()
