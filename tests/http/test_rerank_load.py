"""`python -m benchmarks rerank_load` against a router of fakes, which are always in time."""

import json
from pathlib import Path
from typing import Any

import yaml
from click.testing import CliRunner

from benchmarks.rerank_load import main
from tests.support.local_service import served

MODEL = {"engine": {"kind": "fake"}, "dimensions": 8, "max_tokens": 8192}
ARGS: dict[str, Any] = {
    "models": {"small": MODEL, "large": MODEL},
    "tiers": {"fast": "small", "best": "large"},
    "rerankers": {"near": {"engine": {"kind": "similarity", "model": "large"}}},
    "rerank_tiers": {"fast": "near", "best": "near"},
    "cache": {"max_bytes": 0},
}


def test_both_kinds_are_sent_and_judged(tmp_path: Path) -> None:
    config = tmp_path / "fakes.yaml"
    application = {"name": "a", "import_path": "deployments.app:build", "args": ARGS}
    config.write_text(yaml.safe_dump({"applications": [application]}, sort_keys=False))
    with served(ARGS) as (url, _):
        options = ["--config", str(config), "--base-url", url, "--seconds", "2", "--turns", "1"]
        file = tmp_path / "rows.json"
        done = CliRunner().invoke(main, [*options, "--json", str(file)])
    assert not done.exception or isinstance(done.exception, SystemExit), done.output
    [capacity, lag, *rows] = json.loads(file.read_text())["rows"]
    assert capacity["value"] > 0
    assert lag["value"] > 0
    for row in rows:
        line, figure, *model = row["name"].split(": ")
        policy, kind = line.partition(" ")[2].split(", ")
        ranks = {"reranking": {"near"}, "embeddings": {"small", "large"}}[kind]
        assert set(model) <= ranks
        assert figure != "errors" or row["value"] == 0
        marked = figure == "in time" and policy == "best within budget"
        assert (row["met"] is None) == (row["mark"] is None) == (not marked)
    assert done.exit_code == any(row["met"] is False for row in rows)
