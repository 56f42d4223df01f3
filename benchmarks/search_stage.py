"""Preparation of `benchmarks search`: an index per space, an adapter, a student and their proofs,
made with the product's commands.

Everything is stored in a folder and made once; an interrupted run continues. Every document of the
set is in every fit, and the collections declare this (`documents: fixed`).
"""

import subprocess
import sys
from collections.abc import Sequence
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

LEAST_KEPT = 0.5  # of an encoder, `min_recall_each`


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
    texts, queries, qrels = _write(judged, folder)
    spaces, fast = [str(space) for space in choice], choice[0]
    given = ["--texts", texts, "--queries", queries, "--qrels", qrels]
    index, proof = folder / "index", folder / "index" / "proof.json"
    bridge, made = folder / "adapter.npz", folder / "student" / "student.npz"
    prepared = folder / "prepared"
    if not prepared.exists():
        collections = {name: {"spaces": spaces}}
        with router(config, None, collections=collections) as running:
            at = ["--base-url", running.url]
            long = ["--truncate", "end"]
            _run("index", *at, "--collection", name, *given, *long, "-o", str(index))
            to = ["--to", str(measured.load(proof).space)]
            _try("align", *at, "--from", fast.model, *to, *given, "-o", str(bridge))
            start = [] if general is None else ["--from", str(general)]
            _try("distill", *at, *to, *given, *start, "-o", str(made.parent))
        prepared.touch()
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
        measured.load(proof), spaces, proof, bridge, made, taught, min_recall
    )
    return Stage(name, best, fast, tables, students, collections, left_out)


def _policies(
    found: measured.Measured,
    spaces: list[str],
    proof: Path,
    bridge: Path,
    made: Path,
    taught: str,
    min_recall: float,
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The collection of each policy, without those whose encoders keep too little."""
    best, fast = str(found.space), spaces[0]
    floor = {"min_recall": min_recall, "min_recall_each": LEAST_KEPT, "documents": "fixed"}
    kept = {space: found.kept[space].fitted.recall for space in spaces if space != best}
    several = [space for space in spaces if space == best or kept[space] >= LEAST_KEPT]
    proofs = {
        "adapter": adapters.load(bridge).proof if bridge.exists() else None,
        "student": student.load(made).about.proof if made.exists() else None,
    }
    names = {"adapter": str(bridge), "student": taught}
    encoders = {
        kind: names[kind]
        for kind, one in proofs.items()
        if one is not None and one.fitted.recall >= LEAST_KEPT
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
        left_out["several spaces"] = f"no other space keeps {LEAST_KEPT:.0%} of {best}"
    for kind, policy in (("adapter", "native + adapter"), ("student", "native + student")):
        if kind in encoders:
            collections[policy] = {"space": best, "encoders": [encoders[kind]], **floor}
        else:
            left_out[policy] = (
                f"the set is too small to make the {kind}"
                if proofs[kind] is None
                else f"the {kind} keeps less than {LEAST_KEPT:.0%}"
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


def _run(*arguments: str) -> None:
    if not _try(*arguments):
        raise click.ClickException(f"embedding-router {arguments[0]} failed")


def _try(*arguments: str) -> bool:
    """Run a command; False if it failed (it prints why)."""
    click.echo(f"embedding-router {' '.join(arguments)}", err=True)
    command = [sys.executable, "-m", "router.cli", *arguments]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0
