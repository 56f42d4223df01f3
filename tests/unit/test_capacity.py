"""Rates, demand, prices and replicas."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.capacity import Demand, Rate, desired_replicas, next_price

untimed = settings(deadline=None)

positive = st.floats(1e-3, 1e6)


def test_a_rate_starts_at_its_guess_and_moves_to_what_is_measured() -> None:
    rate = Rate(1000.0, window_s=10.0)
    assert rate.tokens_per_s == 1000.0
    for _ in range(500):
        rate.served(250, 0.1)
    assert rate.tokens_per_s == pytest.approx(2500.0, rel=0.01)


def test_time_without_work_does_not_lower_a_rate() -> None:
    rate = Rate(1000.0)
    rate.served(0, 0.0)
    assert rate.tokens_per_s == 1000.0


def test_a_rate_follows_a_replica_that_slows_down() -> None:
    rate = Rate(1000.0, window_s=10.0)
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


@untimed
@given(st.floats(0.0, 1e6), st.floats(0.0, 1e6), positive, st.floats(0.0, 1.0), st.floats(0.1, 1.0))
def test_a_price_rises_only_above_the_wanted_utilisation_and_never_goes_below_zero(
    price: float, offered: float, capacity: float, eta: float, rho: float
) -> None:
    after = next_price(price, offered, capacity, eta, rho)
    assert after >= 0.0
    if offered / capacity > rho:
        assert after >= price
    else:
        assert after <= price


def test_an_idle_model_becomes_free() -> None:
    price = 3.0
    for _ in range(100):
        price = next_price(price, 0.0, 1000.0, 0.05, 0.85)
    assert price == 0.0


def test_a_price_settles_where_demand_meets_capacity() -> None:
    price = 0.0
    for _ in range(2000):
        price = next_price(price, 3000.0 / (1.0 + price), 1000.0, 0.05, 0.85)
    assert 3000.0 / (1.0 + price) == pytest.approx(850.0, rel=1e-3)


def test_a_model_without_capacity_keeps_its_price() -> None:
    assert next_price(2.0, 500.0, 0.0, 0.05, 0.85) == 2.0


@untimed
@given(st.floats(0.0, 1e6), st.floats(0.0, 1e6), positive, st.floats(0.1, 1.0))
def test_replicas_carry_offered_and_shadow_demand_and_one_fewer_would_not(
    offered: float, shadow: float, rate: float, rho: float
) -> None:
    replicas = desired_replicas(offered, shadow, rate, rho)
    assert replicas * rate * rho >= (offered + shadow) * (1 - 1e-9)
    assert replicas == 0 or (replicas - 1) * rate * rho < (offered + shadow) * (1 + 1e-9)


def test_demand_that_was_pushed_down_still_asks_for_replicas() -> None:
    assert desired_replicas(0.0, 1000.0, 500.0, 0.8) == 3


@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan])
def test_a_rate_that_cannot_be_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        desired_replicas(1.0, 0.0, rate, 0.8)
