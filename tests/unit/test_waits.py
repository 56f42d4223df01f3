"""Where requests wait and whether the device does: how stamps and rounds become tables."""

import pytest

from benchmarks import device, where


def stamps(scale: float) -> dict[str, float]:
    """A request that spends 2, 3 and 5 times `scale` ms between its stamps."""
    return {"arrived": 0.0, "planned": 2 * scale, "read": 5 * scale, "written": 10 * scale}


def test_stages_are_those_of_the_median_requests_and_add_up_to_their_time() -> None:
    seen = [stamps(scale) for scale in (100.0, 1.0, 1.0, 0.001, 1.0)]
    found = where.stages(seen)
    assert found == pytest.approx({"planned": 2.0, "read": 3.0, "written": 5.0})
    assert list(found) == ["planned", "read", "written"]


def test_a_stamp_that_half_of_the_requests_lack_counts_for_all_of_them() -> None:
    short = {"arrived": 0.0, "written": 10.0}
    found = where.stages([stamps(1.0), short] * 5)
    assert found == pytest.approx({"planned": 1.0, "read": 1.5, "written": 7.5})


def test_a_large_call_is_seen_more_often_and_counts_once() -> None:
    assert where.texts_a_call([1, 3, 3, 3]) == pytest.approx(2.0)
    assert where.texts_a_call([]) is None


def test_the_table_has_a_share_of_each_stage() -> None:
    found = {"p50_ms": 20.0, "stages_ms": {"planned": 5.0, "written": 15.0}}
    lines = [line.split() for line in where.table(found).splitlines()]
    assert lines[1:3] == [["planned", "5.00", "25.0%"], ["written", "15.00", "75.0%"]]
    assert lines[-1][-2:] == ["20.00", "100.0%"]


def rounds(key: str, before: list[float], now: list[float]) -> dict[str, list[dict[str, float]]]:
    return {"before": [{key: one} for one in before], "now": [{key: one} for one in now]}


@pytest.mark.parametrize(
    ("point", "key", "before", "now", "value", "met"),
    [
        ("16 tokens", "texts_per_s", [100.0, 50.0], [160.0, 40.0], 1.6, True),
        ("16 tokens", "texts_per_s", [100.0, 50.0], [159.0, 159.0], 1.59, False),
        ("256 tokens", "texts_per_s", [100.0], [104.0], 1.04, True),
        ("one alone", "p50_ms", [10.0, 30.0], [10.5, 90.0], 1.05, True),
        ("one alone", "p50_ms", [10.0, 30.0], [10.6, 10.6], 1.06, False),
        ("short in a mixed queue", "p95_ms", [10.0, 9.0], [9.0, 20.0], 1.0, True),
        ("short in a mixed queue", "p95_ms", [10.0], [10.1], 1.01, False),
    ],
)
def test_a_ratio_is_of_the_best_rounds_and_has_its_mark(
    point: str, key: str, before: list[float], now: list[float], value: float, met: bool
) -> None:
    base, own = device.rows_of({point: rounds(key, before, now)})
    assert (base["value"], base["met"]) == (1.0, None)
    assert own["value"] == pytest.approx(value)
    assert own["met"] is met
    assert own["name"] == f"{point}, now"
    assert ("missed" in device.table([own])) is not met


def test_the_median_is_of_the_ratios_of_the_rounds() -> None:
    seen = {"16 tokens": rounds("texts_per_s", [100.0, 10.0, 40.0], [200.0, 10.0, 120.0])}
    assert device.rows_of(seen)[1]["median"] == pytest.approx(2.0)
