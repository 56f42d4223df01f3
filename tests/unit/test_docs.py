"""Decisions have one format; links lead somewhere; verbs of `make` exist; the drawing is true."""

import json
import re
from datetime import date
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from deployments.tools import route_cli

pytestmark = pytest.mark.usefixtures("kept_tokenizers")

ROOT = Path(__file__).parents[2]
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("0*.md"))
PAGES = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
    ROOT / "router" / "README.md",
    ROOT / "deployments" / "README.md",
]


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.name[:4])
def test_a_decision_has_a_number_a_status_a_date_and_the_headings_of_all(path: Path) -> None:
    head = re.match(
        r"# (\d+)\. .+\n\n- Status: (proposed|accepted|superseded by \d+)\n- Date: (\S+)\n\n## ",
        path.read_text(encoding="utf-8"),
    )
    assert head is not None
    assert int(head[1]) == int(path.name[:4])
    assert date.fromisoformat(head[3])
    headings = re.findall(r"^##+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert {"Decision", "Why", "Consequences"} <= set(headings)
    order = ["Context", "Decision", "Why", "Consequences", "Alternatives"]
    assert headings == [name for name in order if name in headings]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_to_files_of_the_repository_lead_somewhere(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if "://" not in target and not target.startswith("mailto:"):
            assert (path.parent / target).exists(), target


def test_every_file_and_folder_that_the_architecture_names_exists() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    page = re.sub(r"\]\([^)]*\)", "]", page)
    named = set(re.findall(r"[\w/*]+\.py\b", page)) | set(re.findall(r"`([\w/]+/[\w/]+)`", page))
    assert len(named) > 50
    for name in named:
        roots = (ROOT, ROOT / "router", ROOT / "deployments")
        places = [path for root in roots for path in root.glob(name)]
        assert places or list((ROOT / "deployments").rglob(name)), name


def test_every_package_has_a_line_in_the_table_of_deployments() -> None:
    table = (ROOT / "deployments" / "README.md").read_text("utf-8")
    for path in (ROOT / "deployments").iterdir():
        if path.is_dir() and (path / "__init__.py").exists():
            assert f"| `{path.name}/` |" in table
        elif path.suffix == ".py" and path.name != "__init__.py":
            assert f"`{path.name}`" in table
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    for path in (ROOT / "router").iterdir():
        if path.is_dir() and (path / "__init__.py").exists():
            assert f"`router/{path.name}`" in page


def test_every_file_of_the_router_has_one_line_in_its_tables() -> None:
    page = (ROOT / "router" / "README.md").read_text("utf-8")
    listed = re.findall(r"^\| `([\w/.]+)` \|", page, re.MULTILINE)
    files = [path.name for path in (ROOT / "router").glob("*.py") if path.name != "__init__.py"]
    folders = [f"{path.parent.name}/" for path in (ROOT / "router").glob("*/__init__.py")]
    assert sorted(listed) == sorted(files + folders)


def test_every_verb_of_make_that_is_named_exists() -> None:
    verbs = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    ci = {entry["verb"] for entry in workflow["jobs"]["ci"]["strategy"]["matrix"]["include"]}
    script = set(re.findall(r"^make ([a-z-]+)", (ROOT / ".ci/run").read_text(), re.MULTILINE))
    assert ci == script == {"check", "test", "test-long"}
    for path in PAGES:
        named = re.findall(r"(?:^|`|sudo )make ([a-z-]+)", path.read_text("utf-8"), re.MULTILINE)
        assert set(named) <= verbs, path


@pytest.mark.models
@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md"])
def test_the_texts_of_the_drawing_go_where_it_shows(page: str) -> None:
    (drawing,) = re.findall(
        r"^```\n((?:(?!```).)*?─►.*?)^```",
        (ROOT / page).read_text("utf-8"),
        re.MULTILINE | re.DOTALL,
    )
    texts = re.findall(r'"([^"]+)"(?:[^"\n]*? (\d+) ms)?', drawing.splitlines()[0])
    (tiers,) = re.findall(r"^.*│ balanced .*$", drawing, re.MULTILINE)
    assert len(texts) == 3
    for (text, budget_ms), tier in zip(texts, re.findall(r"│ (\w+)", tiers), strict=True):
        budget = ["--latency-budget-ms", budget_ms] if budget_ms else []
        config = str(ROOT / "configs" / "local.yaml")
        told = CliRunner().invoke(route_cli.main, [text, "--config", config, "--json", *budget])
        assert json.loads(told.output)["decision"]["tier"] == tier, told.output
