"""A limit in one router. Minutes of load on several are in tests/simulation/test_quota.py."""

import pytest

from router.quota import Bucket, Limit, Quotas

LIMIT = Limit("key", "requests", 600)


def test_one_router_keeps_the_limit_to_the_request() -> None:
    quotas = Quotas()
    assert sum(quotas.bucket(LIMIT, 0.0).take(1, 0.0) for _ in range(1000)) == 600
    assert sum(quotas.bucket(LIMIT, 30.0).take(1, 30.0) for _ in range(1000)) == 300
    assert quotas.bucket(LIMIT, 30.0).left(30.0) == (0, 60.0)
    assert quotas.bucket(LIMIT, 30.0).wait_s(10, 30.0) == pytest.approx(1.0)


def test_a_refund_comes_back_and_a_debt_is_waited_for() -> None:
    bucket = Bucket(60, 0.0)
    assert bucket.take(60, 0.0)
    bucket.settle(-20, 0.0)
    assert bucket.take(20, 0.0)
    bucket.settle(30, 0.0)
    assert not bucket.take(1, 30.0)
    assert bucket.take(1, 31.0)
    bucket.settle(-1000, 31.0)
    assert bucket.level == 60.0


def test_a_limit_that_changed_starts_full_and_one_that_is_gone_is_forgotten() -> None:
    quotas, other = Quotas(), Limit("key", "requests", 700)
    assert quotas.bucket(LIMIT, 0.0).take(600, 0.0)
    quotas.keep([other])
    assert quotas.bucket(other, 0.0).take(700, 0.0)
    assert LIMIT not in quotas.reports(0.0)


def test_a_request_that_asks_twice_is_wanted_once() -> None:
    once, twice = Bucket(1, 0.0), Bucket(1, 0.0)
    for bucket in (once, twice):
        assert bucket.take(1, 0.0)
        assert not bucket.take(1, 0.0)
    assert not twice.take(1, 0.0, again=True)
    assert twice.demand == once.demand == 2.0


def test_what_is_settled_on_a_limit_that_was_removed_brings_it_not_back() -> None:
    quotas = Quotas()
    before = quotas.bucket(LIMIT, 0.0)
    assert before.take(1, 0.0)
    quotas.keep([])
    before.settle(-1, 1.0)
    assert quotas.reports(1.0) == {}
    assert quotas.bucket(LIMIT, 1.0).take(1, 1.0)
    assert quotas.reports(1.0)[LIMIT].used == 1.0
