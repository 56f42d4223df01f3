"""`python -m benchmarks search`, from a corpus to its table, marks and picture, with real Ray,
LanceDB and embedding tables.
"""

import asyncio
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.numpy import load_file, save_file

from benchmarks.search_report import FIXED, LOADS
from router.model_config import resolve_path
from tests.support.bridges import with_fingerprints
from tests.support.launched import ROOT

pytestmark = [pytest.mark.serve, pytest.mark.long, pytest.mark.models]

LARGE = "wordllama-256"
KINDS = ("bridge", "river", "engine", "harvest", "cathedral", "glacier", "orchestra", "vaccine")
PLACES = ("Lisbon", "Nairobi", "Quito", "Oslo", "Hanoi", "Perth", "Tunis", "Riga", "Lima", "Kyoto")
ACTS = ("was rebuilt after a fire", "grew faster than expected", "is studied by biologists")


def corpus(folder: Path) -> None:
    """A set in the form of XQuAD: one text for each question, which uses half of its words."""
    rng = random.Random(1)
    texts = [f"The {kind} of {place} {act}." for kind in KINDS for place in PLACES for act in ACTS]
    queries = [
        {"id": f"q{at}", "text": " ".join(rng.sample(text[:-1].split(), 5)), "relevant": [f"d{at}"]}
        for at, text in enumerate(texts)
    ]
    documents = [{"id": f"d{at}", "text": text} for at, text in enumerate(texts)]
    (folder / "xquad-zh-dev.json").write_text(
        json.dumps({"documents": documents, "queries": queries})
    )


def config(folder: Path) -> Path:
    """wordllama's table, and its first 32 columns as a model that is worse by more than a point."""
    data = yaml.safe_load((ROOT / "configs" / "local.yaml").read_text())
    (application,) = data["applications"]
    application["deployments"] = [
        {"name": name, "ray_actor_options": {"num_cpus": 0.1}} for name in ("cut-32", LARGE)
    ]
    large: dict[str, Any] = application["args"]["models"][LARGE]
    for key in ("fingerprint", "profile", "matryoshka"):
        large.pop(key)
    tables = load_file(resolve_path(large["engine"]["weights"]))
    cut = folder / "cut.safetensors"
    save_file({name: table[:, :32].copy() for name, table in tables.items()}, cut)
    small = {**large, "engine": {"kind": "static", "weights": str(cut)}, "dimensions": 32}
    args = {"models": {"cut-32": small, LARGE: large}, "tiers": {"fast": "cut-32", "best": LARGE}}
    application["args"] = asyncio.run(with_fingerprints(args, folder))
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(data, sort_keys=False))
    return file


def test_every_policy_has_a_row_at_every_load_with_marks_and_a_picture(tmp_path: Path) -> None:
    corpus(tmp_path)
    picture, report = tmp_path / "search.png", tmp_path / "search.json"
    command = [
        *(sys.executable, "-m", "benchmarks", "search", "--set", "xquad-zh", "--seconds", "1.5"),
        *(
            "--turns",
            "1",
            "--settle",
            "0.6",
            "--config",
            str(config(tmp_path)),
            "--data",
            str(tmp_path),
        ),
        *("--keep", str(tmp_path / "keep"), "--plot", str(picture), "--json", str(report)),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(report.read_text())["rows"]
    lines = [row["line"] for row in rows if "line" in row]
    policies = {line["policy"] for line in lines}
    assert policies > {*FIXED, "several spaces"}
    assert {(line["load"], line["policy"]) for line in lines} == {
        (load, policy) for load in LOADS for policy in policies
    }
    for line in lines:
        assert line["queries"] > 0
        assert 0.0 <= line["ndcg"] <= 1.0
        assert line["idle_ndcg"] > 0.5
    values = {row["name"]: row["value"] for row in rows}
    for load in LOADS:
        assert len({line["queries"] for line in lines if line["load"] == load}) == 1
    assert values["xquad-zh: client's worst lag, ms"] > 0
    for name in ("points that both gains over always best", "kept by both of idle always best, %"):
        name = f"xquad-zh, 120 %: {name}"
        assert values[f"{name}, from"] <= values[name] <= values[f"{name}, to"]
    marks = [row for row in rows if row.get("mark") is not None]
    assert marks
    assert all(isinstance(row["met"], bool) for row in marks)
    assert picture.read_bytes().startswith(b"\x89PNG")
