"""docs/search.md, as a person would follow it: its commands and its Python, with LanceDB."""

import asyncio
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from router.cli import main
from tests.support.bridges import with_fingerprints
from tests.support.local_service import WORDLLAMA, served
from tests.support.minilm import MINILM

pytestmark = pytest.mark.models

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "search.md").read_text()
SCIFACT = "tests/data/language/scifact-mini.json"
PAPERS = 40
ARGS: dict[str, Any] = {
    "models": {
        "wordllama-256": WORDLLAMA,
        "all-minilm-l6-v2": {
            "engine": {"kind": "transformers", "source": MINILM, "pooling": "mean"},
            "tokenizer": MINILM,
            "dimensions": 384,
            "max_tokens": 256,
            # a second a text: what a short budget cannot wait for, on any machine
            "curve": {"fixed_s": 1.0, "base_s": 0.0, "s_per_token": 0.0, "batch_tokens": 2048},
        },
    },
    "tiers": {"fast": "wordllama-256", "best": "all-minilm-l6-v2"},
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def collections() -> list[dict[str, Any]]:
    """The collections of each config on the page, as a person writes one after the other."""
    return [yaml.safe_load(block)["collections"] for block in blocks("yaml")]


def command(name: str) -> list[str]:
    (line,) = [block for block in blocks("sh") if block.startswith(f"embedding-router {name}")]
    return shlex.split(line.replace("\\\n", ""))[1:]


def test_a_person_gets_from_a_corpus_to_routed_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    corpus, load, ask = blocks("python")
    names: dict[str, Any] = {}
    exec(corpus.replace(SCIFACT, str(ROOT / SCIFACT)), names)  # the page's own lines
    relevant = {paper["title"]: id for id, paper in names["papers"].items()}
    args = asyncio.run(with_fingerprints(ARGS, tmp_path))
    first, second, _ = collections()
    with served({**args, "collections": first}) as (url, _):
        done = CliRunner().invoke(main, [*command("index"), "--base-url", url])
        assert done.exit_code == 0, done.output
    exec(load, names)
    with served({**args, "collections": second}) as (url, _):
        exec(ask.replace("http://127.0.0.1:8000", url), names)
        search, answers = names["search"], dict[float, list[bool]]()
        for budget_ms in (600_000.0, 200.0):
            answers[budget_ms] = [
                id in [row["id"] for row in search(text, budget_ms)]
                for text, id in relevant.items()
            ]
    assert names["db"].open_table("all-minilm-l6-v2.384").count_rows() == PAPERS
    patient, hurried = (sum(found) / len(found) for found in answers.values())
    assert patient >= 0.9  # of 40 documents, MiniLM finds what it should among ten
    assert hurried >= 0.6  # wordllama mostly, in its own index: ten of 40 by chance
    assert patient >= hurried


def test_the_collection_with_a_student_is_one_that_the_config_takes() -> None:
    collection = collections()[-1]["papers"]
    assert collection["encoders"] == ["minilm-student"]
    (models,) = [yaml.safe_load(block) for block in blocks("yaml") if "models:" in block]
    student = models["models"]["minilm-student"]
    assert student["space_of"] in collection["spaces"]
    done = CliRunner().invoke(main, ["distill", "--help"])
    given = {word for word in command("distill") if word.startswith("--")}
    assert {word for word in given if word not in done.output} == set()
