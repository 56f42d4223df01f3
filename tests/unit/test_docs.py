"""Decisions have one format, and links between documents lead somewhere."""

import re
from datetime import date
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("0*.md"))
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.name[:4])
def test_a_decision_has_a_number_a_status_and_a_date(path: Path) -> None:
    head = re.match(
        r"# (\d+)\. .+\n\n- Status: (proposed|accepted|superseded by \d+)\n- Date: (\S+)\n\n## ",
        path.read_text(encoding="utf-8"),
    )
    assert head is not None
    assert int(head[1]) == int(path.name[:4])
    assert date.fromisoformat(head[3])
    assert "\n## Decision\n" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_to_files_of_the_repository_lead_somewhere(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if "://" not in target and not target.startswith("mailto:"):
            assert (path.parent / target).exists(), target
