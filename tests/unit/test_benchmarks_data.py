"""Benchmarks without the data that they read say what is missing; nothing tells a user to install
what is not published.
"""

import re
from importlib import import_module
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.public_data import SETS

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


def test_a_bank_customers_question_finds_the_training_questions_of_its_intent(
    tmp_path: Path,
) -> None:
    files = {
        "train": ["lost my card,lost", '"stolen, what now?",lost', "what is the rate?,rate"],
        "test": ["where is my card?,lost", "how do I close it?,close", "rate today?,rate"],
    }
    for name, rows in files.items():
        (tmp_path / f"banking77-{name}.csv").write_text("\n".join(["text,category", *rows]))
    documents, queries, relevant = SETS["banking77"].read(tmp_path)
    assert [text for _, text in documents] == [
        "lost my card",
        "stolen, what now?",
        "what is the rate?",
    ]
    assert [text for _, text in queries] == ["where is my card?", "rate today?"]
    text_of = {document.id: document.text for document in documents}
    assert [{text_of[id] for id in relevant[query.id]} for query in queries] == [
        {"lost my card", "stolen, what now?"},
        {"what is the rate?"},
    ]


def test_extras_are_installed_from_the_checkout() -> None:
    written = [*WRITTEN, *ROOT.glob("*.md"), ROOT / "Makefile"]
    published = re.compile(r"embedding-router\[|pip install (--\S+ )*['\"]?embedding-router\b(?!/)")
    named = [path for path in written if published.search(path.read_text(encoding="utf-8"))]
    assert named == []
