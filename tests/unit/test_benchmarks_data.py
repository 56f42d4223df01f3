"""Benchmarks without the data that they read say what is missing; nothing tells a user to install
what is not published.
"""

import re
from importlib import import_module
from pathlib import Path

import pytest
from click.testing import CliRunner

ROOT = Path(__file__).resolve().parents[2]
READERS = {
    "advise": ["--base-url", "http://127.0.0.1:1", "-o", "report"],
    "mteb": ["--base-url", "http://127.0.0.1:1", "--model", "m"],
    "rerank": [],
    "spaces": [],
}
WRITTEN = [
    path
    for folder in ("router", "deployments", "benchmarks", "docs", "configs")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in {".py", ".md", ".yaml", ".ipynb", ".js", ".html"}
]


@pytest.mark.parametrize("name", READERS)
def test_a_benchmark_without_its_data_is_one_sentence_that_names_the_files(
    name: str, tmp_path: Path
) -> None:
    benchmark = import_module(f"benchmarks.{name}")
    ended = CliRunner().invoke(benchmark.main, [*READERS[name], "--data", str(tmp_path)])
    assert ended.exit_code == 1
    assert isinstance(ended.exception, SystemExit), ended.exception
    assert ended.output.startswith("Error: ")
    assert f"{tmp_path} lacks public data" in ended.output
    assert re.search(r"^  [\w-]+\.(json|jsonl|csv): ", ended.output, re.M)


def test_extras_are_installed_from_the_checkout() -> None:
    written = [*WRITTEN, *ROOT.glob("*.md"), ROOT / "Makefile"]
    published = re.compile(r"embedding-router\[|pip install (--\S+ )*['\"]?embedding-router\b(?!/)")
    named = [path for path in written if published.search(path.read_text(encoding="utf-8"))]
    assert named == []
