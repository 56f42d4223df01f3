"""docs/search.md, as a person would follow it: its commands and its Python, with LanceDB."""

import asyncio
import re
import shlex
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from click.testing import CliRunner

from router.cli import main
from tests.support.bridges import with_fingerprints
from tests.support.local_service import WORDLLAMA, served
from tests.support.minilm import MINILM

pytestmark = [pytest.mark.models, pytest.mark.long]

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "search.md").read_text()
SCIFACT = "tests/data/language/scifact-mini.json"
FINGERPRINT = "configs/fingerprints/all-minilm-l6-v2.json"
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


def run_at(url: str, name: str) -> None:
    """Run the page's command, with the shipped files where it names them."""
    given = [str(ROOT / word) if word.startswith("configs/") else word for word in command(name)]
    done = CliRunner().invoke(main, [*given, "--base-url", url])
    assert done.exit_code == 0, done.output


def test_a_person_gets_from_a_corpus_to_routed_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    corpus, load, ask = blocks("python")
    names: dict[str, Any] = {}
    exec(corpus.replace(SCIFACT, str(ROOT / SCIFACT)), names)  # the page's own lines
    relevant = {paper["title"]: id for id, paper in names["papers"].items()}
    args = asyncio.run(with_fingerprints(ARGS, tmp_path))
    # the page's student is of the shipped one
    args["models"]["all-minilm-l6-v2"]["fingerprint"] = str(ROOT / FINGERPRINT)
    first, second, third = collections()
    with served({**args, "collections": first}) as (url, _):
        run_at(url, "index")
    exec(load, names)
    with served({**args, "collections": second}) as (url, _):
        exec(ask.replace("http://127.0.0.1:8000", url), names)
        search, answers = names["search"], dict[float, list[bool]]()
        for budget_ms in (600_000.0, 200.0):
            answers[budget_ms] = [
                id in [row["id"] for row in search(text, budget_ms)]
                for text, id in relevant.items()
            ]
        run_at(url, "distill")
    assert names["db"].open_table("all-minilm-l6-v2.384").count_rows() == PAPERS
    patient, hurried = (sum(found) / len(found) for found in answers.values())
    assert patient >= 0.9  # of 40 documents, MiniLM finds what it should among ten
    assert hurried >= 0.6  # wordllama mostly, in its own index: ten of 40 by chance
    assert patient >= hurried

    (block,) = [block for block in blocks("yaml") if "models:" in block]
    models = args["models"] | yaml.safe_load(block)["models"]
    with served({**args, "models": models, "collections": third}) as (url, _):
        body = {"input": next(iter(relevant)), "space": "papers", "input_type": "query"}
        body["model"] = "minilm-student"
        routing = httpx.post(f"{url}/v1/embeddings", json=body).json()["routing"]
    assert routing["space"] == "all-minilm-l6-v2/384"
    assert routing["expected_recall"] >= 0.9
