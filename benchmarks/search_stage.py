"""Preparation of `benchmarks search`: an index per space, an adapter, a student and their proofs,
made with the product's commands.

Everything is stored in a folder and made once; an interrupted run continues. A run
with options that would make something else is refused (`options.json`). Every document of the set
is in every fit, and the collections declare this (`documents: fixed`).
"""

import hashlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import lancedb
import orjson
import pyarrow.parquet as parquet

from benchmarks.live import ROOT, router
from benchmarks.public_data import Judged
from router import adapters, measured, student
from router.space import Space

MIN_KEPT = 0.5  # of an encoder, `min_recall_each`


class Stage(NamedTuple):
    """One set, ready to be searched."""

    name: str
    best: Space
    fast: Space
    tables: dict[str, Any]  # of LanceDB, by space
    models: dict[str, Any]  # students, for the config
    collections: dict[str, dict[str, Any]]  # by policy
    left_out: dict[str, str]  # policies that no router would start with, and why


def prepare(
    name: str,
    judged: Judged,
    config: Path,
    choice: Sequence[Space],
    folder: Path,
    general: Path | None,
    min_recall: float,
) -> Stage:
    """Build the missing artefacts with one router; the first space is the fastest."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    index, proof = folder / "index", folder / "index" / "proof.json"
    check_options(folder, proof, choice, general)
    texts, queries, qrels = _write(judged, folder)
    spaces, fast = [str(space) for space in choice], choice[0]
    given = ["--texts", texts, "--queries", queries, "--qrels", qrels]
    bridge, made = folder / "adapter.npz", folder / "student" / "student.npz"
    prepared = folder / "prepared"
    if not prepared.exists():
        collections = {name: {"spaces": spaces}}
        with router(config, None, collections=collections) as running:
            at = ["--base-url", running.url]
            long = ["--truncate", "end"]
            if why := _run("index", *at, "--collection", name, *given, *long, "-o", str(index)):
                raise click.ClickException(f"embedding-router index: {why}")
            to = ["--to", str(measured.load(proof).space)]
            adapter_error = _run("align", *at, "--from", fast.model, *to, *given, "-o", str(bridge))
            start = [] if general is None else ["--from", str(general)]
            student_error = _run("distill", *at, *to, *given, *start, "-o", str(made.parent))
        prepared.write_bytes(orjson.dumps({"adapter": adapter_error, "student": student_error}))
    failures = orjson.loads(prepared.read_bytes() or b"{}")
    best = measured.load(proof).space
    db = lancedb.connect(folder / "lance")
    tables = {
        space: db.create_table(
            space.replace("/", "."),
            parquet.read_table(sorted(str(file) for file in (index / space).glob("*.parquet"))),
            mode="overwrite",
        )
        for space in spaces
    }
    taught = f"{name}-student"
    weights = {"kind": "student", "weights": str(made)}
    students = {taught: {"engine": weights, "space_of": str(best)}} if made.exists() else {}
    collections, left_out = _policies(
        measured.load(proof), spaces, proof, bridge, made, taught, failures, min_recall
    )
    return Stage(name, best, fast, tables, students, collections, left_out)


def check_options(folder: Path, proof: Path, choice: Sequence[Space], general: Path | None) -> None:
    """Record what the folder is made with. Raises click.ClickException if it was other options.

    A folder without a record has its models in its proof; any general student is accepted.
    """
    record = folder / "options.json"
    now = {
        "--model": ", ".join(sorted(str(space) for space in choice)),
        "--general": "none" if general is None else f"{general.name} ({_digest(general)})",
    }
    if record.exists():
        made = orjson.loads(record.read_bytes())
    elif proof.exists():
        found = measured.load(proof)
        made = now | {"--model": ", ".join(sorted({str(found.space), *found.kept}))}
    else:
        record.write_bytes(orjson.dumps(made := now))
    for option, given in now.items():
        if made[option] != given:
            raise click.ClickException(
                f"{folder} was prepared with {option} {made[option]}, not {given}; name another "
                "folder with --keep"
            )


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]


def _policies(
    found: measured.Measured,
    spaces: list[str],
    proof: Path,
    bridge: Path,
    made: Path,
    taught: str,
    failures: Mapping[str, str | None],
    min_recall: float,
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The collection of each policy, without those whose encoders keep too little."""
    best, fast = str(found.space), spaces[0]
    floor = {"min_recall": min_recall, "min_recall_each": MIN_KEPT, "documents": "fixed"}
    kept = {space: found.kept[space].fitted.recall for space in spaces if space != best}
    several = [space for space in spaces if space == best or kept[space] >= MIN_KEPT]
    proofs = {
        "adapter": adapters.load(bridge).proof if bridge.exists() else None,
        "student": student.load(made).about.proof if made.exists() else None,
    }
    names = {"adapter": str(bridge), "student": taught}
    encoders = {
        kind: names[kind]
        for kind, one in proofs.items()
        if one is not None and one.fitted.recall >= MIN_KEPT
    }
    collections: dict[str, dict[str, Any]] = {
        "always best": {"space": best},
        "always best, reject": {"space": best},
        "always fast": {"space": fast},
    }
    left_out = {}
    with_proof = {"spaces": several, "proof": str(proof), **floor}
    if len(several) > 1:
        collections["several spaces"] = with_proof
    else:
        left_out["several spaces"] = f"no other space keeps {MIN_KEPT:.0%} of {best}"
    for kind, policy in (("adapter", "native + adapter"), ("student", "native + student")):
        if kind in encoders:
            collections[policy] = {"space": best, "encoders": [encoders[kind]], **floor}
        else:
            left_out[policy] = (
                failures.get(kind) or f"there is no proof of the {kind}"
                if proofs[kind] is None
                else f"the {kind} keeps less than {MIN_KEPT:.0%}"
            )
    if len(several) > 1 and encoders:
        collections["both"] = {**with_proof, "encoders": list(encoders.values())}
    else:
        left_out["both"] = "there are not both"
    return collections, left_out


def _write(judged: Judged, folder: Path) -> tuple[str, str, str]:
    """Write the set in the files that commands read."""
    files = folder / "texts.jsonl", folder / "queries.jsonl", folder / "qrels.tsv"
    for file, rows in zip(files, (judged.documents, judged.queries), strict=False):
        file.write_bytes(b"".join(orjson.dumps(row._asdict()) + b"\n" for row in rows))
    files[2].write_text(
        "".join(f"{query}\t{id}\t1\n" for query, found in judged.relevant.items() for id in found)
    )
    return str(files[0]), str(files[1]), str(files[2])


def _run(*arguments: str) -> str | None:
    """Run a command and print what it prints; the message it failed with, None if it did not."""
    click.echo(f"embedding-router {' '.join(arguments)}", err=True)
    command = [sys.executable, "-m", "router.cli", *arguments]
    lines = list[str]()
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            click.echo(line, err=True, nl=False)
            lines.append(line)
    return reason(lines, process.returncode) if process.returncode else None


def reason(lines: Sequence[str], status: int) -> str:
    """The message of a failed command: from its last `Error: `, or else its last line."""
    _, found, message = "".join(lines).rpartition("Error: ")
    if not found:
        message = next((line for line in reversed(lines) if line.strip()), "")
    return " ".join(message.split()) or f"exit status {status}"
