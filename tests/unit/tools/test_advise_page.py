"""The plots of the report's page: names come from files and are drawn as they are."""

from typing import Any

import pytest

from deployments.tools.advise import page


@pytest.mark.parametrize("name", ["us$ and eu$", "$", "$x^$", "a\\frac{$1", "$$", "100 % <b>"])
def test_a_name_is_drawn_as_it_is(name: str) -> None:
    def paint(axes: Any) -> None:
        axes.plot([1, 2], [1, 2], label=name)
        axes.set_xlabel(name)
        axes.set_yticks([1], [name])
        axes.legend()

    drawn = page._svg(paint, 2.0, f"Quality against {name}")
    assert drawn.count(name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")) >= 4
