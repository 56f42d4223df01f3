"""How long it still takes: steady, from a prediction that is wrong in parts."""

import pytest

from deployments.tools.progress import PredictedWork, left_s


def test_the_rest_begins_at_the_prediction() -> None:
    assert left_s(420.0, 0.0, 0.0) == pytest.approx(420.0)
    assert left_s(420.0, 420.0, 600.0) == 0.0
    assert left_s(0.0, 0.0, 0.0) == 0.0


def test_the_rest_does_not_jump_where_a_small_part_is_slow() -> None:
    # 10 predicted seconds took 60, then 400 took 540: as told, 410 s; as taken, 600 s.
    told, elapsed = [], 0.0
    for step in range(1, 42):
        elapsed += 60.0 if step == 1 else 13.5
        told.append(elapsed + left_s(410.0, 10.0 * step, elapsed))
    assert max(told) <= 1.2 * 600
    assert min(told) >= 410
    assert told[-1] == pytest.approx(600.0)


def test_without_a_terminal_there_are_lines_and_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with PredictedWork(10.0) as work:
        work.part("small, query texts")
        for _ in range(10):
            work.done(1.0)
    assert capsys.readouterr().err == "small, query texts\n"
