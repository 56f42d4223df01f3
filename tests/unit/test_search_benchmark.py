"""How `benchmarks search` compares policies, and what it says of failures."""

from pathlib import Path

import click
import numpy as np
import pytest

from benchmarks.ratios import mean_interval
from benchmarks.search_report import LOADS, PolicyAnswers, Scored, marks, row_of
from benchmarks.search_stage import check_options, reason
from router.space import Space

BEST, FAST = Space("large", 8), Space("small", 4)


def test_the_interval_draws_the_values_of_a_query_together() -> None:
    values, queries = [0.0, 1.0] * 50, [str(number) for number in range(100)]
    low, high = mean_interval(values, queries)
    assert low == pytest.approx(0.4, abs=0.03)
    assert high == pytest.approx(0.6, abs=0.03)
    twice = mean_interval(values * 4, queries * 4)
    assert twice == pytest.approx((low, high)), "repetitions of a query are no news"
    assert mean_interval([0.5, 1.0], ["a", "b"], of=[1.0, 2.0]) == pytest.approx((0.5, 0.5))
    assert all(np.isnan(mean_interval([], [])))


def answers(ndcgs: list[float]) -> list[Scored]:
    return [Scored(f"q{at}", one > 0, one, one, 1.0) for at, one in enumerate(ndcgs)]


def test_marks_have_paired_differences_with_intervals() -> None:
    found = {
        (LOADS[0], "both"): answers([1.0] * 99 + [0.6]),
        (LOADS[0], "native + student"): answers([0.99] * 100),
        (LOADS[-1], "both"): answers([0.9, 1.0] * 50),
        (LOADS[-1], "native + student"): answers([0.98] * 100),
        (LOADS[-1], "always best"): answers([0.8, 0.9] * 50),
        (LOADS[-1], "always best, reject"): answers([0.0, 1.0] * 50),
    }
    rows = [row_of("set", *key, PolicyAnswers(some, 0.01)) for key, some in found.items()]
    at = {row.name.removeprefix("set, "): row for row, _ in marks(rows, found)}
    assert {name: row.met for name, row in at.items() if row.mark is not None} == {
        "120 %: points of native + student against always best": True,
        "120 %: points of native + student against always best, reject": True,
        "120 %: kept by native + student of idle always best, %": True,
        "30 %: points that both loses": True,
        "30 %: points that native + student loses": False,
    }
    gain = "120 %: points that both gains over always best"
    for end in ("", ", from", ", to"):
        assert at[f"{gain}{end}"].value == pytest.approx(10.0), "the same for every query"
    kept = "120 %: kept by both of idle always best, %"
    assert at[kept].value == pytest.approx(95.0)
    assert at[f"{kept}, from"].value < 95.0 < at[f"{kept}, to"].value
    assert at["30 %: points that both loses"].value == pytest.approx(0.4)


def test_what_was_made_with_other_options_is_refused(tmp_path: Path) -> None:
    general, proof = tmp_path / "general.npz", tmp_path / "index" / "proof.json"
    general.write_bytes(b"a student")
    check_options(tmp_path, proof, [FAST, BEST], general)
    check_options(tmp_path, proof, [FAST, BEST], general)

    def refused(spaces: list[Space], start: Path | None) -> str:
        with pytest.raises(click.ClickException) as error:
            check_options(tmp_path, proof, spaces, start)
        return error.value.message

    assert "prepared with --model large/8, small/4, not large/8;" in refused([BEST], general)
    assert "prepared with --general general.npz (" in refused([FAST, BEST], None)
    general.write_bytes(b"another")
    assert "prepared with --general general.npz (" in refused([FAST, BEST], general)


@pytest.mark.parametrize(
    ("printed", "said"),
    [
        (
            "made 3 texts\nUsage: x\n\nError: only 8 queries;\n  give 20\n",
            "only 8 queries; give 20",
        ),
        ("Traceback:\nMemoryError\n", "MemoryError"),
        ("", "exit status -9"),
    ],
)
def test_a_failed_command_is_reported_in_its_own_words(printed: str, said: str) -> None:
    assert reason(printed.splitlines(keepends=True), -9) == said
