"""Run `embedding-router advise` on four public data sets.

Turns SciFact-mini (300 claims, 1,000 abstracts), the STS benchmark in English and Chinese (1,379
pairs each) and banking77 (its test set, 77 intents; rows alternate between training and test) into
the files that `embedding-router advise` reads, and runs it. Start the service first: `make run`. An
interrupted run continues. Options after `--` are passed to `embedding-router advise`.
"""

import csv
import json
import os
import sys
from pathlib import Path

import click

from benchmarks.public_data import require, whole


def convert(folder: Path, into: Path, abstracts: int = 1000) -> list[str]:
    """Write the inputs and return the options that name them; abstracts that answer a claim come
    first.
    """
    into.mkdir(parents=True, exist_ok=True)
    scifact = json.loads((folder / "scifact-mini.json").read_text())
    corpus, asked = (
        scifact["corpus"],
        {id: None for found in scifact["qrels"].values() for id in found},
    )
    order = [*(id for id in asked if id in corpus), *(id for id in corpus if id not in asked)][
        :abstracts
    ]
    documents = ({"id": id, "text": f"{corpus[id]['title']}. {corpus[id]['text']}"} for id in order)
    (into / "scifact.jsonl").write_text("".join(json.dumps(row) + "\n" for row in documents))
    queries = ({"id": id, "text": text} for id, text in scifact["queries"].items())
    (into / "scifact-claims.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
    judged = (
        f"{query}\t{document}\t1\n"
        for query, found in scifact["qrels"].items()
        for document in found
    )
    (into / "scifact-qrels.tsv").write_text("".join(judged))
    for language in ("en", "zh"):
        (into / f"sts-{language}.csv").write_bytes((folder / f"stsb-{language}.csv").read_bytes())
    with (
        (folder / "banking77-test.csv").open(newline="") as given,
        (into / "banking77.csv").open("w", newline="") as made,
    ):
        rows = csv.writer(made)
        rows.writerow(["text", "label", "split"])
        for place, (text, label) in enumerate(list(csv.reader(given))[1:]):
            rows.writerow([text, label, "test" if place % 2 else "train"])
    return [
        "--texts",
        str(into / "scifact.jsonl"),
        "--queries",
        str(into / "scifact-claims.jsonl"),
        "--qrels",
        str(into / "scifact-qrels.tsv"),
        "--pairs",
        str(into / "sts-en.csv"),
        "--pairs",
        str(into / "sts-zh.csv"),
        "--labels",
        str(into / "banking77.csv"),
    ]


@click.command(context_settings={"ignore_unknown_options": True})
@whole
@click.option("--base-url", default="http://127.0.0.1:8000", show_default=True)
@click.option(
    "--abstracts",
    type=click.IntRange(400),
    default=1000,
    show_default=True,
    help="Abstracts to embed; fewer take less time.",
)
@click.option("-o", "--output", required=True, type=click.Path(file_okay=False, path_type=Path))
@click.argument("more", nargs=-1)
def main(folder: Path, base_url: str, abstracts: int, output: Path, more: tuple[str, ...]) -> None:
    """Measure the local models on public data."""
    require(folder, "scifact-mini.json", "stsb-en.csv", "stsb-zh.csv", "banking77-test.csv")
    given = convert(folder, output / "inputs", abstracts)
    command = [
        sys.executable,
        "-m",
        "router.cli",
        "advise",
        "--base-url",
        base_url,
        *given,
        "-o",
        str(output),
        *more,
    ]
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
