"""docs/engines.md: its code is an engine, made from its config as any other."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import numpy as np
import pytest
import yaml
from pydantic import create_model

from deployments import engines
from deployments.engines.base import Batch, Engine
from router import engine_config, rerank_config
from router.engine_config import EngineSection
from router.model_config import ModelConfig

DOC = (Path(__file__).resolve().parents[3] / "docs" / "engines.md").read_text()
NAME = "deployments.engines.letters"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOC, re.DOTALL)


@pytest.fixture
def model() -> Iterator[ModelConfig]:
    """The model of the page, its engine found where any engine is found."""
    section, engine = blocks("python")
    scope: dict[str, Any] = {"__name__": "router.engine_config"}
    exec(section, scope)
    letters = scope["LettersEngineConfig"]
    sys.modules[NAME] = module = ModuleType(NAME)
    exec(engine, vars(module))

    fields: Any = {"engine": (letters, ...)}
    with_letters = create_model("WithLetters", __base__=ModelConfig, **fields)
    (shown,) = blocks("yaml")
    yield with_letters.model_validate(yaml.safe_load(shown)["models"]["letters"])
    del sys.modules[NAME]


async def test_the_engine_of_the_page_embeds(model: ModelConfig) -> None:
    made: Engine = engines.create(model, None)
    await made.start()
    embedded = await made.embed(Batch(texts=["banana", "Banana!", "?", "kiwi"]))
    assert embedded.vectors.shape == (4, model.dimensions)
    assert np.allclose(np.linalg.norm(embedded.vectors[[0, 1, 3]], axis=1), 1)
    assert np.allclose(embedded.vectors[0], embedded.vectors[1])
    assert not np.allclose(embedded.vectors[0], embedded.vectors[3])
    assert list(embedded.failed) == [2]
    await made.stop()


async def test_the_section_of_the_page_is_strict(model: ModelConfig) -> None:
    with pytest.raises(ValueError, match="power"):
        type(model.engine).model_validate({"kind": "letters", "power": 0})
    # a tokenizer only counts for it
    engines.create(model.model_copy(update={"tokenizer": "tokenizer.json"}), None)


def listed_in(table: str) -> set[str]:
    """The names in the first column of the table whose first heading is `table`."""
    rows = DOC.partition(f"| {table} |")[2].partition("\n\n")[0]
    return set(re.findall(r"`(\w+)(?:\(\))?`", "".join(re.findall(r"^\| (`.*?) \|", rows, re.M))))


def test_the_page_lists_what_a_replica_reads_of_an_engine() -> None:
    replica = Path(engines.__file__).parents[1] / "replica"
    read = "".join(path.read_text() for path in replica.glob("*.py"))
    names = set(re.findall(r'getattr\((?:self\._)?engine, "(\w+)"', read))
    assert names == listed_in("attribute")


def test_the_page_lists_every_trait() -> None:
    listed = listed_in("trait")
    traits = {name for name in vars(EngineSection) if not name.startswith(("_", "model_"))}
    assert listed == traits


@pytest.mark.parametrize(
    "section",
    [
        one
        for engine in (engine_config.EngineConfig, rerank_config.RerankEngine)
        for one in get_args(get_args(engine)[0])
        if not one.in_router and one is not rerank_config.SimilarityEngineConfig  # no deployment
    ],
)
def test_every_kind_has_a_module_that_creates_it(section: type[EngineSection]) -> None:
    (kind,) = get_args(section.model_fields["kind"].annotation)
    file = Path(engines.__file__).parent / f"{section.module or kind}.py"
    assert "\ndef create(" in file.read_text()
    assert section.takes_token_ids or section.takes_texts


CHECK_OF_KIND = re.compile(
    r"import .*\b[A-Z][a-z]\w*EngineConfig\b|isinstance\(.*EngineConfig\b"
    r"|getattr\(\w+(\.\w+)*\.engine, "
)


def kinds_read(node: ast.AST) -> Iterator[str]:
    """Where the code reads the kind of an engine, other than to report it."""
    if isinstance(node, ast.JoinedStr):
        return
    if isinstance(node, ast.Dict):
        node.values = [one for one in node.values if not isinstance(one, ast.Attribute)]
    if isinstance(node, ast.Attribute) and node.attr == "kind":
        owner = ast.unparse(node.value)
        if owner.rpartition(".")[2] == "engine":
            yield f"line {node.lineno}: {owner}.kind"
    for child in ast.iter_child_nodes(node):
        yield from kinds_read(child)


@pytest.mark.parametrize(
    "line",
    [
        "if model.engine.kind == 'vllm': pass",
        "kinds = {model.engine.kind for model in models}",
        "match engine.kind:\n    case 'vllm': pass",
        "tables[self.engine.kind]()",
    ],
)
def test_a_look_at_a_kind_would_be_found(line: str) -> None:
    assert list(kinds_read(ast.parse(line)))


@pytest.mark.parametrize(
    "line",
    [
        "from router.engine_config import VllmEngineConfig",
        "if isinstance(engine, VllmEngineConfig):",
        "if isinstance(engine, (RemoteEngineConfig, VllmEngineConfig)):",
        'source = getattr(model.engine, "source", None)',
    ],
)
def test_a_look_at_a_class_would_be_found(line: str) -> None:
    assert CHECK_OF_KIND.search(line)


@pytest.mark.parametrize("line", ["f'a {model.engine.kind} engine'", "{'engine': engine.kind}"])
def test_a_report_can_name_the_kind(line: str) -> None:
    assert not list(kinds_read(ast.parse(line)))


def test_no_other_file_looks_at_an_engines_kind() -> None:
    root = Path(engines.__file__).parents[2]
    found = []
    for path in (*root.glob("router/**/*.py"), *root.glob("deployments/**/*.py")):
        if path.parent.name == "engines" or path.name in ("engine_config.py", "rerank_config.py"):
            continue
        text = path.read_text()
        places = [line.strip() for line in text.splitlines() if CHECK_OF_KIND.search(line)]
        if ".kind" in text:  # parsing takes time
            places += kinds_read(ast.parse(text))
        found += [f"{path.name}: {one}" for one in places]
    assert not found
