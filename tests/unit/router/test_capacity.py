"""Rates, demand, prices and replicas."""

import math

import pytest

from router.capacity import (
    Demand,
    DemandReport,
    ServiceRate,
    Want,
    combined,
    learned,
    needed_replicas,
    share_devices,
)


def test_a_rate_starts_at_its_guess_and_moves_to_what_is_measured() -> None:
    rate = ServiceRate(1000.0, window_s=10.0)
    assert rate.tokens_per_s == 1000.0
    for _ in range(500):
        rate.served(250, 0.1)
    assert rate.tokens_per_s == pytest.approx(2500.0, rel=0.01)


def test_time_without_work_does_not_lower_a_rate() -> None:
    rate = ServiceRate(1000.0)
    rate.served(0, 0.0)
    assert rate.tokens_per_s == 1000.0


def test_a_rate_follows_a_replica_that_slows_down() -> None:
    rate = ServiceRate(1000.0, window_s=10.0)
    for _ in range(600):
        rate.served(50, 0.1)
    assert rate.tokens_per_s == pytest.approx(500.0, rel=0.01)


def test_demand_counts_idle_time_and_forgets() -> None:
    demand = Demand(now=0.0, window_s=10.0)
    for step in range(1, 1001):
        demand.add(200, step * 0.1)
    assert demand.tokens_per_s(100.0) == pytest.approx(2000.0, rel=0.02)
    assert demand.tokens_per_s(110.0) == pytest.approx(2000.0 / math.e, rel=0.02)


def test_a_clock_that_runs_back_neither_adds_nor_removes_demand() -> None:
    demand = Demand(now=10.0, window_s=1.0)
    demand.add(5, 10.0)
    demand.add(5, 9.0)
    assert demand.tokens_per_s(8.0) == demand.tokens_per_s(10.0) == 10.0


@pytest.mark.parametrize("field", ["rate", "rho", "drain"])
def test_replicas_that_cannot_work_are_refused(field: str) -> None:
    ask = DemandReport(1.0, 0.0, 0.0, 0.0 if field == "rate" else 1.0)
    with pytest.raises(ValueError, match="above 0"):
        needed_replicas(
            ask, 1, 0.0 if field == "rho" else 0.8, 0.0 if field == "drain" else 1.0, 1.0
        )


def test_routers_add_up_and_the_busiest_knows_the_rate() -> None:
    busy, idle = (
        DemandReport(900.0, 100.0, 50.0, 1000.0, 0.5, 20.0),
        DemandReport(0.0, 0.0, 0.0, 9.0, 0.5, 20.0),
    )
    both = combined([busy, idle])
    assert (both.offered, both.shadow, both.backlog_tokens) == (900.0, 100.0, 50.0)
    assert both.tokens_per_s == pytest.approx(1000.0)
    assert (both.devices, both.start_s) == (0.5, 20.0)


def test_a_budget_that_suffices_changes_nothing() -> None:
    models = {"small": Want(3, 2.5, 1, 0.5, 1), "large": Want(4, 3.2, 1, 1.0, 1)}
    assert share_devices(models, 6.0) == {"small": 3, "large": 4}


def test_a_short_budget_leaves_all_models_short_alike() -> None:
    models = {"small": Want(10, 10.0, 1, 1.0, 1), "large": Want(20, 20.0, 1, 1.0, 1)}
    assert share_devices(models, 15.0) == {"small": 5, "large": 10}


def test_a_model_without_a_replica_comes_first_where_there_is_a_device() -> None:
    models = {"asleep": Want(1, 0.1, 0, 1.0, 0), "busy": Want(9, 9.0, 1, 1.0, 1)}
    assert share_devices(models, 3.0) == {"asleep": 1, "busy": 2}


def test_a_report_has_what_the_last_start_took() -> None:
    report = DemandReport(1.0, 0.0, 0.0, 100.0)
    phases = {"load": 20.0, "compile": 30.0, "proof": 1.0}
    assert learned(report, phases).started_s == 51.0
    assert learned(report, None) == report
    assert learned(report, {}) == report
    both = combined([report, learned(report, phases), learned(report, {"load": 7.0})])
    assert both.started_s == 51.0
    assert combined([report]).started_s is None
