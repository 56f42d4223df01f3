"""What a budget costs in points, with the models of configs/local.yaml and real texts."""

import pytest

from benchmarks import points
from benchmarks.live import LOCAL
from benchmarks.points import BUDGETS_MS, LANGUAGES, Kind
from benchmarks.public_data import SAMPLE
from benchmarks.spaces import E5, MINILM, TABLE
from deployments.launch.serve_config import application

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def rows() -> list[Kind]:
    args = application(LOCAL)[0]
    return points.rows(points.Decider(args), points.texts_by_kind(SAMPLE))


def test_no_text_gets_fewer_points_than_a_model_within_its_budget_has(rows: list[Kind]) -> None:
    assert {row.kind for row in rows} == {*LANGUAGES, "code", "mixed"}
    assert {row.budget_ms for row in rows} == set(BUDGETS_MS)
    assert all(row.texts >= 15 for row in rows)
    assert [row for row in rows if row.chosen != pytest.approx(row.best)] == []


def test_without_a_budget_the_best_model_reads_chinese_and_a_tight_one_never_means_the_worst(
    rows: list[Kind],
) -> None:
    chinese = {row.budget_ms: row.models for row in rows if row.kind == "zh"}
    assert chinese[None] == {E5: 17}
    tight = [models for models in chinese.values() if models.get(TABLE)]
    assert tight, "no budget here is too tight for the best model"
    assert all(MINILM not in models for models in tight)
