"""Pages in Chinese say what the English ones say: headings, commands, links and figures."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["README.md", "docs/choosing-a-model.md"]


def translated(page: str) -> str:
    return (ROOT / page).with_suffix(".zh-CN.md").read_text()


def english(page: str) -> str:
    return (ROOT / page).read_text()


def code(text: str) -> list[str]:
    """Blocks of commands and programs; drawings hold translated words."""
    return re.findall(r"^```(?:sh|python|yaml)\n.*?^```", text, re.DOTALL | re.MULTILINE)


def levels(text: str) -> list[str]:
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"^(#+) ", prose, re.MULTILINE)


def figures(text: str) -> list[str]:
    """Every number outside the blocks, in no order: a language has its own."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return sorted(re.findall(r"\d+(?:[.,]\d+)*", re.sub(r"\]\([^)]*\)", "]", prose)))


def names(text: str) -> set[str]:
    """What stands in backticks."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return {re.sub(r"\s+", " ", name) for name in re.findall(r"`([^`]+)`", prose)}


def links(text: str) -> set[str]:
    return set(re.findall(r"\]\(([^)]*)\)", text))


@pytest.mark.parametrize("page", PAGES)
def test_the_chinese_page_says_what_the_english_one_says(page: str) -> None:
    ours, theirs = english(page), translated(page)
    assert levels(theirs) == levels(ours)
    assert code(theirs) == code(ours)
    assert figures(theirs) == figures(ours)
    assert names(theirs) == names(ours)


@pytest.mark.parametrize("page", PAGES)
def test_each_page_links_to_the_other(page: str) -> None:
    there = Path(page).with_suffix(".zh-CN.md").name
    assert links(translated(page)) - {Path(page).name} == links(english(page)) - {there}
    assert Path(page).name in links(translated(page))
    assert there in links(english(page))
