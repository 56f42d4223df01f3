"""Figures of routers: what was measured, the fit that doctor uses, and the table in the docs."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.routers import curves, errors, fit, read, table
from router.router_cost import MEASURED

ROOT = Path(__file__).parents[2]
POINTS = read(ROOT / "configs" / "profiles" / "routers.json")


def test_the_costs_are_the_fit_of_what_was_measured() -> None:
    assert fit(POINTS) == pytest.approx(MEASURED)
    assert all(point.failures == 0 for point in POINTS)
    off = errors(POINTS, MEASURED)
    assert np.median(off) < 0.2
    assert max(off) < 0.6


def test_the_table_in_the_docs_is_drawn_from_it() -> None:
    assert table(POINTS, curves()) in (ROOT / "docs" / "deploy.md").read_text()
