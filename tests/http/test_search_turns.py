"""What `benchmarks search` sends in its turns, and from when its latency counts."""

import asyncio
import random
import time
from typing import Any

import pytest

from benchmarks.live import Ask, Client, RequestResult, Router, Text, worst_lag
from benchmarks.public_data import Judged
from benchmarks.search import Driver
from benchmarks.search_stage import Stage
from deployments.tools.corpus import Text as Document
from router.space import Space

BEST, FAST = Space("large", 8), Space("small", 4)
JUDGED = Judged(
    [Document("d", "a document")],
    [Document(f"q{number}", f"query {number}") for number in range(20)],
    {f"q{number}": {"d"} for number in range(20)},
)
STAGE = Stage("set", BEST, FAST, {}, {}, {name: {} for name in ("a", "b", "c")}, {})


class Recorded(Client):
    """A client whose requests are answered at once."""

    def __init__(self) -> None:
        super().__init__("http://nowhere")
        self.sent = list[RequestResult]()

    async def send(self, ask: Ask, due_s: float | None = None) -> RequestResult:
        told = RequestResult(ask, 503, None, None, 0.0)
        self.sent.append(told)
        return told


class Idle(Driver):
    """A driver of no service."""

    def _cpu_s(self) -> float:
        return 0.0


async def test_every_policy_gets_the_same_queries_and_a_start_is_not_counted() -> None:
    router: Any = Router("", None, None)  # type: ignore[arg-type]
    driver, client = Idle(STAGE, JUDGED, "en", router, seed=3, settle_s=0.3), Recorded()
    driver.capacity, driver.idle = 100.0, {query.text: 1.0 for query in JUDGED.queries}
    found = await driver.turns(client, 1.2, 0.4, 2, 0.1)
    orders = {tuple(one.query for one in answers.scored) for answers in found.values()}
    assert len(orders) == 1
    (order,) = orders
    assert 3 * len(order) == len(driver.results) < len(client.sent)
    due = {
        policy: [
            told.at_s for told in driver.results if told.ask.options["space"] == f"set-{policy}"
        ]
        for policy in found
    }
    assert due["a"] == due["b"] == due["c"]
    assert min(due["a"]) >= 0.2 - 1e-9
    again = await driver.turns(Recorded(), 0.8, 0.4, 1, 0.1)
    assert tuple(one.query for one in again["a"].scored) != order[: len(again["a"].scored)]


async def test_latency_counts_from_the_time_a_request_was_due() -> None:
    async with Client("http://127.0.0.1:9") as client:
        asyncio.get_running_loop().call_later(0.05, time.sleep, 0.2)
        ask = Ask(Text("t", "en", "query"), {})
        told = await client.at_rate(lambda: ask, 100.0, 0.15, random.Random(1))
    late = max(told, key=lambda one: one.lag_s)
    assert late.lag_s > 0.1
    assert all(one.total_s >= one.lag_s for one in told)
    assert worst_lag(told).value == pytest.approx(1000 * late.lag_s)
    assert [one.at_s for one in told] == sorted(one.at_s for one in told)
