"""What `benchmarks search` sends, how it compares policies, and what it says of failures."""

import asyncio
import random
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from benchmarks import search
from benchmarks.live import Ask, Client, RequestResult, Router, Text, worst_lag
from benchmarks.public_data import Judged
from benchmarks.ratios import mean_interval
from benchmarks.search import Driver
from benchmarks.search_report import LOADS, PolicyAnswers, Scored, marks, row_of
from benchmarks.search_stage import Stage, check_options, reason
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


async def test_every_policy_gets_the_same_queries_and_a_start_is_not_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(search, "QUIET_S", 0.0)
    monkeypatch.setattr(search, "START_S", 0.2)
    router: Any = Router("", None, None)  # type: ignore[arg-type]
    driver, client = Idle(STAGE, JUDGED, "en", router, seed=3), Recorded()
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
    assert min(due["a"]) >= 0.2
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
