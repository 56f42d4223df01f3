"""Check that routing rules derived from English texts alone do not harm a mixed load.

Starts the models of `configs/local.yaml`, sends questions of bank customers, short texts in 42
languages and texts in two languages with `model: auto`, and keeps the decision log. Then it runs
`embedding-router advise` on the English sets alone (the STS benchmark and banking77; SciFact with
--scifact, which takes minutes more), and `embedding-router replay` of the log under the resulting
routing.yaml. By the config's figures, the mean points of the log must not fall, nor those of any
language that was not measured.
"""

import asyncio
import csv
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.advise import convert
from benchmarks.languages import labelled, pairs
from benchmarks.live import LOCAL, ROOT, Ask, Client, Text, router, written
from benchmarks.marks import Row, at_least, at_most, conclude, show, to_file
from benchmarks.public_data import require, whole

CLIENTS = 4
MAX_CHARACTERS = 600


def mixed_texts(folder: Path, count: int) -> list[str]:
    """English questions, texts in 42 languages, and texts in two languages: a third each."""
    rng, third = random.Random(5), count // 3
    with (folder / "banking77-test.csv").open(newline="") as rows:
        questions = [row["text"] for row in csv.DictReader(rows)]
    kinds = [
        questions,
        [one.text for one in labelled(folder)],
        [one.text for one in pairs(folder, "mixed")],
    ]
    texts = [
        text[:MAX_CHARACTERS] for kind in kinds for text in rng.sample(kind, min(third, len(kind)))
    ]
    rng.shuffle(texts)
    return texts


async def send(url: str, texts: Sequence[str]) -> int:
    """Embed every text with `model: auto`; return the number of texts."""
    waiting = list(texts)
    answered = 0
    async with Client(url) as client:

        async def one() -> None:
            nonlocal answered
            while waiting:
                ask = Ask(Text(waiting.pop(), "", ""), {"model": "auto"})
                result = await client.send(ask)
                answered += result.status == 200

        await asyncio.gather(*(one() for _ in range(CLIENTS)))
    return answered


def command(*arguments: str) -> str:
    """The output of a command of the service; raises click.ClickException if it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "router.cli", *arguments], cwd=ROOT, stdout=subprocess.PIPE
    )
    if done.returncode != 0:
        raise click.ClickException(f"embedding-router {arguments[0]} ended with {done.returncode}")
    return done.stdout.decode()


def english(folder: Path, into: Path, scifact: bool) -> list[str]:
    """The options of `advise` that name the English sets."""
    given, found = convert(folder, into), list[str]()
    for option, value in zip(given[::2], given[1::2], strict=True):
        name = Path(value).name
        if name != "sts-zh.csv" and (scifact or not name.startswith("scifact")):
            found += [option, value]
    return found


def judged(summary: Mapping[str, Any], sent: int, answered: int) -> list[Row]:
    """The figures of a replay, and their marks."""
    before, after = summary["before"]["quality"], summary["after"]["quality"]
    fallen = [
        one
        for one in summary["slices"]
        if one["falls"] and one["dimension"] == "language" and one["value"] != "en"
    ]
    return [
        Row("mixed requests", sent),
        at_least("mixed requests answered", answered, sent),
        at_least("mixed requests replayed", summary["requests"], sent),
        Row("requests that moved", sum(one["requests"] for one in summary["moved"])),
        Row("mean points before", before),
        at_least("mean points after", after, before),
        at_most("languages not measured whose points fall", len(fallen), 0),
    ]


@click.command()
@whole
@click.option("--scifact", is_flag=True, help="Also measure SciFact's 1,000 abstracts.")
@click.option("--most", default=1500, show_default=True, help="Rows of each file to use.")
@click.option("--texts", default=882, show_default=True, help="Texts in the mixed log.")
@click.option(
    "-o", "--output", type=click.Path(file_okay=False, path_type=Path), help="Keep the files here."
)
@to_file
def main(
    folder: Path, scifact: bool, most: int, texts: int, output: Path | None, file: Path | None
) -> None:
    """Derive a routing from English texts and replay a mixed log under it; exit 1 if points are
    lost.
    """
    needed = ["stsb-en.csv", "stsb-zh.csv", "banking77-test.csv", "language-id.jsonl"]
    require(folder, *needed, "language-mixed.json", "scifact-mini.json")
    with tempfile.TemporaryDirectory() as scratch:
        made = (output or Path(scratch)).absolute()
        made.mkdir(parents=True, exist_ok=True)
        log = made / "decisions.jsonl"
        log.unlink(missing_ok=True)
        with router(LOCAL, None, decision_log={"path": str(log)}) as running:
            sent = mixed_texts(folder, texts)
            answered = asyncio.run(send(running.url, sent))
            mixed = made / "mixed.jsonl"  # without what advise sends
            mixed.write_bytes(written(log, answered))
            command(
                *("advise", "--base-url", running.url, "--most", str(most), "--requests", "20"),
                *english(folder, made / "inputs", scifact),
                *("--yes", "-o", str(made / "report")),
            )
        policy = made / "report" / "routing.yaml"
        summary = json.loads(command("replay", str(mixed), "--policy", str(policy), "--json"))
        click.echo(policy.read_text())
    rows = judged(summary, len(sent), answered)
    show(rows)
    conclude(rows, file)
