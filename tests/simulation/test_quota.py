"""Limits kept by several routers under minutes of load: never more than the limit but for what the
docs say.
"""

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.quota import EXCHANGE_S, SILENT_S, Limit, Quotas

LIMIT = Limit("key", "requests", 600)
WHERE: dict[
    str, Callable[[float], float]
] = {  # share of the requests that goes to the first router
    "spread": lambda now: 0.0,
    "all-at-one": lambda now: 1.0,
    "moving": lambda now: float(int(now / 10) % 2),
}


class Service:
    """Routers that exchange as the real ones do, on a clock of the test's."""

    def __init__(self, routers: int, rng: random.Random, silent: bool = False) -> None:
        self.routers = [Quotas() for _ in range(routers)]
        for one in self.routers:
            one.routers = routers
        self._next_s = [rng.random() * EXCHANGE_S for _ in range(routers)]
        self._silent = silent

    def take(self, router: int, limit: Limit, cost: int, now: float) -> bool:
        for index, next_s in enumerate(self._next_s):
            while self._next_s[index] <= now:
                self.exchange(index, next_s)
                self._next_s[index] = next_s = next_s + EXCHANGE_S
        bucket = self.routers[router].bucket(limit, now)
        if bucket.take(cost, now):
            return True
        if not bucket.elsewhere(cost):
            return False
        self.exchange(router, now)
        return bucket.take(cost, now, again=True)

    def exchange(self, router: int, now: float) -> None:
        own, replies = self.routers[router], {}
        if not self._silent:
            reports = own.reports(now)
            replies = {
                str(index): other.answer(str(router), reports, now)
                for index, other in enumerate(self.routers)
                if index != router
            }
        own.exchanged(replies, now)


def admitted(
    service: Service, limit: Limit, rate: float, where: Callable[[float], float], rng: random.Random
) -> tuple[int, float]:
    """Of two minutes with `rate` requests a second: how many were admitted, and the most by which
    that was over the limit.
    """
    now, count, over = 0.0, 0, 0.0
    while (now := now + rng.expovariate(rate)) < 120.0:
        router = 0 if rng.random() < where(now) else rng.randrange(len(service.routers))
        count += service.take(router, limit, 1, now)
        over = max(over, count - limit.per_minute * (1 + now / 60))
    return count, over


@pytest.mark.parametrize("where", WHERE.values(), ids=WHERE)
@pytest.mark.parametrize("routers", [2, 4, 8])
def test_routers_that_exchange_admit_the_limit_within_two_percent(
    routers: int, where: Callable[[float], float]
) -> None:
    rng = random.Random(routers)
    count, over = admitted(Service(routers, rng), LIMIT, 30.0, where, rng)
    assert over <= 0.01 * LIMIT.per_minute
    assert count >= 0.98 * 3 * LIMIT.per_minute  # a full bucket and two minutes


@settings(max_examples=15, deadline=None)
@given(
    routers=st.integers(1, 6),
    per_minute=st.integers(60, 5000),
    load=st.floats(0.2, 20.0),
    seed=st.integers(0, 2**16),
    where=st.sampled_from(list(WHERE)),
)
def test_whatever_comes_the_limit_is_not_exceeded_by_more_than_a_twentieth(
    routers: int, per_minute: int, load: float, seed: int, where: str
) -> None:
    rng = random.Random(seed)
    rate = min(100.0, load * per_minute / 60)
    _, over = admitted(
        Service(routers, rng), Limit("key", "tokens", per_minute), rate, WHERE[where], rng
    )
    assert over <= 0.05 * per_minute


def test_routers_that_cannot_hear_each_other_keep_even_shares() -> None:
    rng = random.Random(3)
    count, over = admitted(Service(3, rng, silent=True), LIMIT, 30.0, WHERE["spread"], rng)
    assert over <= 0.0
    assert count >= 0.97 * 3 * LIMIT.per_minute
    alone, _ = admitted(Service(3, rng, silent=True), LIMIT, 30.0, WHERE["all-at-one"], rng)
    assert alone == pytest.approx(LIMIT.per_minute, rel=0.02)  # a third of what all three may


def test_a_router_that_dies_leaves_its_share_reserved_until_serve_says_that_it_is_gone() -> None:
    service = Service(2, random.Random(1))
    assert all(service.take(0, LIMIT, 1, 0.01 * n) for n in range(100))
    survivor = service.routers[0]
    later_s = 60.0 + SILENT_S
    survivor.exchanged({}, later_s)
    assert not survivor.bucket(LIMIT, later_s).take(400, later_s)
    survivor.routers = 1
    survivor.exchanged({}, later_s)
    assert survivor.bucket(LIMIT, later_s).take(400, later_s)


def test_a_router_that_starts_late_takes_over_what_the_others_know() -> None:
    old, new = Quotas(), Quotas()
    old.routers = new.routers = 2
    old.exchanged({}, 0.0)
    while old.bucket(LIMIT, 100.0).take(1, 100.0):
        pass
    new.bucket(LIMIT, 100.0).take(1, 100.0)
    replies = old.answer("new", new.reports(100.0), 100.0)
    new.exchanged({"old": replies}, 100.0)
    assert new.bucket(LIMIT, 100.0).left(100.0)[0] == old.bucket(LIMIT, 100.0).left(100.0)[0]
    assert new.bucket(LIMIT, 100.0).left(100.0)[0] < LIMIT.per_minute - 298
