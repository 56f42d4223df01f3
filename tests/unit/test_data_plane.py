"""The data plane's table: ratios of rounds, and the goals of each point."""

import json
from pathlib import Path

import pytest

from benchmarks.data_plane import BARE, OURS, POINTS, Measured, judged, row, table
from benchmarks.load import Load
from benchmarks.marks import write
from benchmarks.plot import draw


def measured(per_s: float, cpu_ms: float) -> Measured:
    """One second of load."""
    return Measured(Load(int(per_s), 0, 1.0, 1.0, 2.0, 3.0), cpu_ms, 2**20)


BASE = [measured(100, 10.0), measured(400, 2.0), measured(200, 4.0)]


def ours(requests: float, cpu: float) -> list[Measured]:
    """So many times the base's, round by round."""
    return [measured(one.per_s * requests, one.cpu_ms * cpu) for one in BASE]


@pytest.mark.parametrize(
    ("requests", "cpu", "met", "cpu_met"),
    [(3.0, 0.35, True, True), (2.9, 0.35, False, True), (3.1, 0.36, True, False)],
)
def test_a_point_meets_its_goals_by_the_ratios_of_its_rounds(
    requests: float, cpu: float, met: bool, cpu_met: bool
) -> None:
    found = row(POINTS["short c=32"], {BARE: BASE, OURS: ours(requests, cpu)})
    assert found["ratio"] == pytest.approx(requests)
    assert found["cpu_ratio"] == pytest.approx(cpu)
    assert (found["met"], found["cpu_met"]) == (met, cpu_met)
    own = table({"short c=32": found}).splitlines()[2]
    assert (">= 3 met" in own, "<= 0.35 met" in own) == (met, cpu_met)
    assert own.count("met") + own.count("missed") == 2


def test_a_ratio_is_to_the_median_where_servers_did_not_take_turns() -> None:
    twice = [*ours(2.0, 0.5), *ours(2.0, 0.5)]
    found = row(POINTS["short c=1"], {BARE: BASE, OURS: twice})
    assert (found["ratio"], found["cpu_ratio"]) == (2.0, 0.5)


def test_a_point_whose_peer_is_missing_has_a_goal_and_no_verdict(tmp_path: Path) -> None:
    rows = {"short c=32": row(POINTS["short c=32"], {OURS: ours(1.0, 1.0)})}
    write(judged(rows), tmp_path / "rows.json")
    written = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [(one["value"], one["mark"], one["met"]) for one in written] == [
        (None, 3.0, None),
        (None, 0.35, None),
    ]
    assert "missed" not in table(rows)


def test_rows_have_the_marks_of_requests_and_of_processor_time(tmp_path: Path) -> None:
    rows = {
        name: row(POINTS[name], {POINTS[name].base: BASE, OURS: ours(2.5, 0.4)}) for name in POINTS
    }
    write(judged(rows), tmp_path / "rows.json")
    written = json.loads((tmp_path / "rows.json").read_text())["rows"]
    missed = [one["name"] for one in written if one["met"] is False]
    assert missed == [
        "short c=32",
        "short c=32: CPU",
        "repeated c=32",
        "three models short c=32",
    ]
    draw({one["name"]: one for one in written if "servers" in one}, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size
