"""docs/clients.md: each recipe as it stands on the page, and the table of what clients can say."""

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from benchmarks import clients
from tests.support import node
from tests.support.clients_page import PAGE, check
from tests.support.local_service import served
from tests.support.named_service import MODEL

SECTIONS = PAGE.partition("\n## Recipes\n")[2].split("\n### ")[1:]
RECIPES: dict[str, tuple[str, str]] = {  # language and code, by title
    section.partition("\n")[0]: re.findall(
        r"^```(python|js)\n(.*?)^```", section, re.DOTALL | re.M
    )[0]
    for section in SECTIONS
}
PYTHON, JAVASCRIPT = (
    [title for title, (language, _) in RECIPES.items() if language == one]
    for one in ("python", "js")
)
NAME, TEXTS = "multilingual-e5-small/384", ["Paris lies on the Seine.", "Berlin lies on the Spree."]
QUERY = "Where is Paris?"
SIZED = MODEL | {"dimensions": 256, "matryoshka": [64, 128]}
PINNED = {name: one for name, one in MODEL.items() if name != "matryoshka"} | {"dimensions": 384}
ARGS: dict[str, Any] = {  # the names of configs/local.yaml
    "models": {
        "wordllama-256": SIZED,
        "multilingual-e5-small": PINNED | {"aliases": ["text-embedding-3-small"]},
    },
    "tiers": {"fast": "wordllama-256", "best": "multilingual-e5-small"},
    "collections": {"docs": NAME},
}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    batches = {"folder": str(tmp_path_factory.mktemp("batches"))}
    with served({**ARGS, "batches": batches}) as (url, _):
        yield url


@pytest.fixture(scope="module")
def javascript() -> None:
    try:
        node.modules()
    except node.Unreachable:
        pytest.skip("npm's registry is out of reach")


def expected(url: str, side: str, texts: list[str]) -> Any:
    body = {"model": NAME, "input": texts, "input_type": side}
    answer = httpx.post(f"{url}/v1/embeddings", json=body, timeout=60).json()
    return [row["embedding"] for row in answer["data"]]


def test_the_page_has_a_recipe_for_each_client_of_openais_api() -> None:
    assert set(PYTHON) == {
        "openai (Python)", "LangChain", "LlamaIndex", "Haystack", "chromadb", "LanceDB"
    }  # fmt: skip
    assert set(JAVASCRIPT) == {"openai (Node)", "Vercel AI SDK"}
    assert set(RECIPES) < set(clients.CLIENTS)


@pytest.mark.parametrize("title", PYTHON)
def test_recipes_in_python(title: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANONYMIZED_TELEMETRY", "False")  # chromadb
    monkeypatch.setenv("HAYSTACK_TELEMETRY_ENABLED", "False")
    names: dict[str, Any] = {}
    exec(RECIPES[title][1].replace("http://localhost:8000", url), names)
    np.testing.assert_allclose(
        np.array(names["documents"]), expected(url, "document", TEXTS), atol=1e-5
    )
    np.testing.assert_allclose(
        np.array(names["query"]), expected(url, "query", [QUERY])[0], atol=1e-5
    )


@pytest.mark.parametrize("title", JAVASCRIPT)
@pytest.mark.usefixtures("javascript")
def test_recipes_in_javascript(title: str, url: str) -> None:
    printed = node.run(RECIPES[title][1].replace("http://localhost:8000", url))
    np.testing.assert_allclose(json.loads(printed), expected(url, "query", [QUERY])[0], atol=1e-5)


WITH_NODE = [name for name in clients.CLIENTS if name in JAVASCRIPT]


@pytest.mark.parametrize("name", [one for one in clients.CLIENTS if one not in WITH_NODE])
def test_clients_can_say_what_the_page_says(name: str, url: str) -> None:
    check(name, url)


@pytest.mark.parametrize("name", WITH_NODE)
@pytest.mark.usefixtures("javascript")
def test_javascript_clients_can_say_what_the_page_says(name: str, url: str) -> None:
    check(name, url)
