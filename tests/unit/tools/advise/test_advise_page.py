"""The plots of the report's page: names come from files and are drawn as they are."""

from typing import Any

import pytest

from deployments.tools import figures
from deployments.tools.advise import page


@pytest.mark.parametrize("name", ["us$ and eu$", "$", "$x^$", "a\\frac{$1", "$$", "100 % <b>"])
def test_a_name_is_drawn_as_it_is(name: str) -> None:
    def paint(axes: Any) -> None:
        axes.plot([1, 2], [1, 2], label=name)
        axes.set_xlabel(name)
        axes.set_yticks([1], [name])
        axes.legend()

    drawn = figures.svg(paint, 2.0, f"Quality against {name}")
    assert drawn.count(name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")) >= 4


@pytest.mark.parametrize(
    ("dimension", "value", "words"),
    [
        ("all", "", "all"),
        ("language", "zh", "Chinese"),
        ("language", "unknown", "language unknown"),
        ("tokens", "64 to 127", "texts of 64 to 127 tokens"),
        ("tokens", "under 16", "texts of under 16 tokens"),
        ("tokens of the right document", "8192 or more", "answers of 8192 or more tokens"),
        ("script", "Hani", "Han script"),
        ("script", "none", "no script"),
        ("mixed", "mixed", "texts of two languages"),
        ("mixed", "one language", "texts of one language"),
        ("code", "prose", "prose"),
        ("side", "query", "query texts"),
    ],
)
def test_a_slice_has_a_name_in_words(dimension: str, value: str, words: str) -> None:
    assert page.slice_name(dimension, value) == words


def test_every_cell_has_the_heading_of_its_column() -> None:
    drawn = figures.labelled(
        '<table><thead><tr><th scope="col">slice</th><th scope="col">a<br>b</th></tr></thead>'
        '<tbody><tr><th scope="row">x</th><td class="y">1</td></tr></tbody></table>'
    )
    assert '<td data-label="a b" class="y">1</td>' in drawn
