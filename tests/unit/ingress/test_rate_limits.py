"""How many routers share a limit, by what Serve says, and that those who exchange need not know."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from deployments.ingress.peers import routers_of
from deployments.ingress.rate_limits import READ_CHARACTERS_A_TOKEN, RateLimiter, Replies
from deployments.serve_internals import DeploymentConfig
from router.errors import RateLimitExceeded
from router.keys import Grant
from router.quota import BucketReport, Limit

GRANT = Grant("k", requests_per_minute=100)
SCALED = {"min_replicas": 2, "max_replicas": 6}


@pytest.mark.parametrize(
    ("listed", "config", "routers"),
    [
        ([], {"num_replicas": 2}, 2),  # all start at once
        (
            [],
            {"num_replicas": None, "autoscaling_config": SCALED},
            2,
        ),  # what a config file with autoscaling_config leaves
        ([], {"num_replicas": 1, "autoscaling_config": SCALED}, 2),
        ([], {"autoscaling_config": {**SCALED, "initial_replicas": 4}}, 4),
        ([], {"num_replicas": None}, 1),
        (["a", "b", "c"], {"autoscaling_config": SCALED}, 4),  # one is added
        (["a", "own"], {"num_replicas": 1}, 2),  # one was added since this one's config was written
        (["own"], {"num_replicas": 2}, 1),  # and one was taken away
        (["own", "a", "b"], {"autoscaling_config": SCALED}, 3),
    ],
)
def test_the_routers_are_those_that_serve_lists(
    listed: list[str], config: dict[str, Any], routers: int
) -> None:
    assert routers_of("own", listed, DeploymentConfig(**config)) == routers


async def test_routers_that_do_not_know_of_each_other_exchange_all_the_same() -> None:
    heard, clock = asyncio.Event(), [0.0]

    async def exchange(reports: Mapping[Limit, BucketReport]) -> Replies:
        replies = {"other": other.answer("own", reports)}
        heard.set()
        return replies

    own, other = RateLimiter(lambda: clock[0], exchange), RateLimiter(lambda: clock[0])
    for one in (own, other):
        one.configure([GRANT])
        one.routers_are(1)
    running = asyncio.create_task(own.run())
    for _ in range(90):
        await own.open(GRANT)
    async with asyncio.timeout(5):
        await heard.wait()
    assert [left for kind, _, left, _ in other.left(GRANT) if kind == "requests"] == [10]
    running.cancel()


async def test_after_a_reload_a_limit_that_stayed_goes_on_and_one_that_changed_is_full_and_holds() -> (  # noqa: E501
    None
):
    limiter = RateLimiter(lambda: 0.0)

    def left(grant: Grant) -> dict[str, int]:
        return {kind: left for kind, _, left, _ in limiter.left(grant)}

    before = Grant("k", requests_per_minute=10, tokens_per_minute=100)
    limiter.configure([before])
    charge = await limiter.open(before)
    assert charge is not None
    await charge.take(60)
    assert left(before) == {"requests": 9, "tokens": 40}
    after = before._replace(tokens_per_minute=50)
    limiter.configure([after])
    assert left(after) == {"requests": 9, "tokens": 50}
    charge.answered(90)  # unseen: the limit that it was charged to is gone
    assert left(after) == {"requests": 9, "tokens": 50}
    for tokens in (30, 20):
        again = await limiter.open(after)
        assert again is not None
        await again.take(tokens)
    with pytest.raises(RateLimitExceeded, match="50 tokens"):
        await limiter.open(after)
    assert left(after) == {"requests": 7, "tokens": 0}
    limiter.configure([Grant("k")])
    assert await limiter.open(Grant("k")) is None


async def test_nonsense_of_another_router_ends_no_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.ingress.rate_limits.EXCHANGE_S", 0.01)
    asked, often = 0, asyncio.Event()

    async def exchange(reports: Mapping[Limit, BucketReport]) -> Replies:
        nonlocal asked
        asked += 1
        if asked == 3:
            often.set()
        return {"other": None}  # type: ignore[dict-item]

    own = RateLimiter(exchange=exchange)
    own.configure([GRANT])
    running = asyncio.create_task(own.run())
    async with asyncio.timeout(30):
        await often.wait()
    running.cancel()


@pytest.mark.parametrize(
    ("grant", "charged", "paid"),
    [
        (Grant("k", tokens_per_minute=3000), 0, {"tokens": 20}),
        (Grant("k", tokens_per_minute=3000), 50, {"tokens": 50}),
        (
            Grant("k", tokens_per_minute=3000, requests_per_minute=9),
            0,
            {"tokens": 0, "requests": 1},
        ),
    ],
)
async def test_who_leaves_pays_what_was_charged_or_else_what_was_read(
    grant: Grant, charged: int, paid: dict[str, int]
) -> None:
    limiter = RateLimiter(lambda: 0.0)
    limiter.configure([grant])
    charge = await limiter.open(grant)
    assert charge is not None
    charge.reading(20 * READ_CHARACTERS_A_TOKEN)
    if charged:
        await charge.take(charged)
    charge.left()
    assert {kind: most - left for kind, most, left, _ in limiter.left(grant)} == paid
