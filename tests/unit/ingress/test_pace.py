"""Which readers of an answer are too slow."""

import pytest

from deployments.ingress.pace import PATIENCE, Pace

STALL_S = 10.0  # as limits.send_timeout_s is by default


def seconds_until_late(bytes_per_s: int, step: int, first: int = 4_000_000) -> float | None:
    """When a reader is too slow that first takes `first` bytes and then whole steps."""
    pace, passed_s, owed = Pace(STALL_S), 0.0, 0.0
    assert not pace.late(first, 0.1)
    while passed_s < 3600:
        passed_s += pace.look_s
        owed += bytes_per_s * pace.look_s
        taken = int(owed // step) * step
        owed -= taken
        if pace.late(taken, pace.look_s):
            return passed_s
    return None


@pytest.mark.parametrize(
    ("bytes_per_s", "step"),
    [(1_100, 2_000), (2_000, 64_000), (5_000, 190_000), (20_000, 190_000), (100_000, 1_400_000)],
)
def test_a_slow_reader_stays(bytes_per_s: int, step: int) -> None:
    assert seconds_until_late(bytes_per_s, step) is None


@pytest.mark.parametrize(("bytes_per_s", "step"), [(0, 1), (500, 20), (500, 2_000), (900, 64_000)])
def test_a_slower_one_is_late(bytes_per_s: int, step: int) -> None:
    assert seconds_until_late(bytes_per_s, step) is not None


def test_a_reader_that_stops_is_late_after_so_long_whatever_it_took_before() -> None:
    assert seconds_until_late(0, 1, first=100_000_000) == PATIENCE * STALL_S
    assert seconds_until_late(0, 1, first=0) == STALL_S
