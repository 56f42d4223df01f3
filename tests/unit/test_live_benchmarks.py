"""What the live benchmarks conclude from what they saw."""

import math
import random
from collections import Counter
from typing import Any

import pytest

from benchmarks import batch_jobs, observability, versions
from benchmarks.budgets import choosers, summarise
from benchmarks.data_plane import Measured
from benchmarks.latency import Phase, completions_until_recovery, undisturbed
from benchmarks.latency import summarise as judge
from benchmarks.live import Ask, RequestResult, Text
from benchmarks.load import Load as Loaded
from benchmarks.qwen3_shapes import Shape, measure, table
from benchmarks.ratios import interval
from router.domain import Load
from tests.support.live_entries import MODELS, entry

SHORT, LONG = Text("short", "en", "query"), Text("x" * 2000, "en", "passage")


def test_error_and_share_over_the_tail_are_counted_for_answers_of_the_phase() -> None:
    entries = [
        entry(1.0),
        entry(1.25),
        entry(2.0),
        entry(9.0, at_s=99.0),
        entry(9.0, tokens=0),
        entry(9.0, outcome="cancelled"),
    ]
    found = judge(entries, [Phase("steady", 5.0, 20.0)], 0.05, "small")
    [small] = found["rows"]
    assert small["requests"] == 3
    assert small["error"] == pytest.approx(0.2)
    assert small["over_tail"] == pytest.approx(1 / 3)


def test_the_worst_thousand_is_the_one_farthest_from_what_was_declared() -> None:
    entries = (
        [entry(2.0 if index % 20 == 0 else 1.0) for index in range(1000)]
        + [entry(2.0)] * 30
        + [entry(1.0)] * 500
    )
    assert judge(entries, [Phase("steady", 5.0, 20.0)], 0.05, "small")[
        "worst_share_of_1000"
    ] == pytest.approx(0.078)


@pytest.mark.parametrize(
    ("ratios", "after"),
    [
        ([1.0] * 100, 0),
        ([2.0] * 40 + [1.0] * 200, 30),
        ([2.0] * 300, None),
        ([1.0] * 99, None),
        ([1.0, 1.0, 1.0, 1.0, 1.6] * 60, None),
    ],
    ids=[
        "at once",
        "after some",
        "never",
        "too few to tell",
        "right in the median, wrong in the tail",
    ],
)
def test_recovery_is_the_first_completion_after_which_predictions_are_right(
    ratios: list[float], after: int | None
) -> None:
    assert completions_until_recovery([entry(ratio) for ratio in ratios], 0.05) == after


def test_only_answers_within_their_budget_count_and_only_they_have_quality() -> None:
    def told(status: int, model: str | None, total_s: float, language: str = "en") -> RequestResult:
        return RequestResult(
            Ask(Text("t", language, "query"), {}, 0.1), status, model, None, total_s
        )

    answers = [
        told(200, "large", 0.05),
        told(200, "small", 0.09, "de"),
        told(200, "large", 0.2),
        told(503, None, 0.01),
    ]
    row = summarise("auto", 0.8, answers, MODELS)
    assert row["in_time"] == 0.5
    assert row["errors"] == 1
    assert row["quality_in_time"] == pytest.approx((80 + 50) / 2)
    assert row["quality_offered"] == pytest.approx((80 + 50) / 4)


def test_the_simple_ways_never_send_a_text_where_it_is_not_read() -> None:
    ways = {way.name: way for way in choosers(MODELS, random.Random(0))}
    for name in ("always best", "by length", "least outstanding"):
        assert {ways[name].options(LONG, 1.0)["model"] for _ in range(20)} == {"large"}, name
    assert ways["by length"].options(SHORT, 1.0) == {"model": "small"}


def test_least_outstanding_counts_what_it_sent_and_what_came_back() -> None:
    way = choosers(MODELS, random.Random(0))[-1]
    first, second = way.options(SHORT, 1.0), way.options(SHORT, 1.0)
    assert {first["model"], second["model"]} == {"small", "large"}
    way.done(RequestResult(Ask(SHORT, first), 200, None, None, 0.1))
    assert way.options(SHORT, 1.0) == first


@pytest.mark.models
async def test_a_qwen3_shape_is_measured_from_its_shortest_text_to_a_full_call() -> None:
    shape = Shape(
        layers=1, hidden=64, intermediate=64, heads=2, vocabulary=100, key_value_heads=1, head=32
    )
    found = await measure("tiny", shape, max_tokens=64, batch_tokens=128, repeats=1, device="cpu")
    assert {sample.cell for sample in found.samples} >= {(8, 1), (8, 16), (64, 1), (64, 2)}
    assert all(sample.inference_s > 0.0 for sample in found.samples)
    assert found.graph_s is None, "there is no GPU"
    *_, row = table({"tiny": found})
    assert row.startswith("| tiny |")


def test_what_no_curve_could_have_known_is_told_from_a_wrong_curve() -> None:
    answers = [
        entry(ratio * noise, tokens=tokens)
        for ratio in (2.0,)
        for noise in (0.9, 1.1)
        for tokens in range(50, 150)
    ]
    busy = [
        one._replace(loads=dict.fromkeys(MODELS, Load(margin=1.5, ahead_tokens=1)))
        for one in answers
    ]
    [small] = undisturbed(answers + busy)
    assert (small["model"], small["requests"]) == ("small", len(answers))
    assert small["error"] > 0.4, "the curve says half"
    assert small["hindsight"] == pytest.approx(0.1, abs=0.03)


def test_a_ratio_is_told_with_the_interval_that_its_rounds_leave() -> None:
    rounds = [0.5, 0.9, 0.95, 1.0, 1.0, 1.05, 1.1, 2.0]
    assert interval([0.9] * 7) == pytest.approx((0.9, 0.9))
    low, high = interval(rounds * 3)
    assert 0.85 < low < 1.0 < high < 1.15
    assert interval([0.5, 1.0, 2.0]) == pytest.approx((0.5, 2.0))  # three rounds tell nothing
    without = [observability.Measured(per_s, 0.8, 0.2) for per_s in (50, 200)]
    with_them = [observability.Measured(100, 0.7, 0.4)] * 2
    found = observability.row(with_them, without)
    assert (found["ratio"], found["cpu_ratio"]) == pytest.approx(
        (1.25, 1.1)
    )  # of the rounds' ratios, not of the medians


@pytest.mark.parametrize(
    ("per_s", "cpu", "missed"),
    [(1.0, 1.02, []), (0.9, 1.0, ["requests/s"]), (1.1, 1.2, ["CPU ms"])],
)
def test_versions_are_compared_round_by_round(per_s: float, cpu: float, missed: list[str]) -> None:
    def measured(requests: float, cpu_ms: float) -> Measured:
        return Measured(Loaded(int(requests), 0, 1.0, 5.0, 6.0, 7.0), cpu_ms, 0)

    noise = (1.0, 3.0, 0.5)  # of the machine, the same for both in a round
    there = [measured(1000 * one, 2.0 / one) for one in noise]
    here = [measured(1000 * one * per_s, 2.0 / one * cpu) for one in noise]
    rows = versions.compared("short", here, there)
    assert [
        row.name.removeprefix("short: ").partition(",")[0] for row in rows if row.met is False
    ] == missed
    found = {row.name: row.value for row in rows}
    assert found["short: CPU ms, ratio"] == pytest.approx(cpu)
    assert found["short: requests/s, ratio from"] == pytest.approx(per_s, rel=0.01)


ALONE = batch_jobs.Phase(100, 0, 5.0, 10.0, 99.0)
BESIDE = batch_jobs.Phase(100, 0, 8.0, 20.0, 98.0)
WHOLE = batch_jobs.Result(
    lines=2,
    kills=2,
    seconds=9.0,
    completed=True,
    done_beside=1,
    left=1,
    killed=Counter(router=1, large=1),
    found=Counter(c0=1, c1=1),
    refused=0,
    alone=ALONE,
    beside=BESIDE,
    under_kills=BESIDE,
)


@pytest.mark.parametrize(
    ("changed", "missed"),
    [
        ({"beside": BESIDE._replace(p95_ms=70.0)}, []),
        ({"beside": BESIDE._replace(p95_ms=70.1)}, ["interactive p95, beside, ms"]),
        ({"beside": BESIDE._replace(in_time=97.9)}, ["in time, beside, %"]),
        ({"beside": BESIDE._replace(failed=1)}, ["interactive requests not answered"]),
        ({"alone": ALONE._replace(failed=1)}, ["interactive requests not answered"]),
        ({"found": Counter(c0=1)}, ["lines missing"]),
        ({"found": Counter(c0=1, c1=2)}, ["lines twice or of no batch"]),
        ({"found": Counter(c0=1, c1=1, c2=1)}, ["lines twice or of no batch"]),
        ({"refused": 1}, ["lines refused"]),
        ({"completed": False}, ["batches completed"]),
        ({"killed": Counter(router=1)}, ["kills before its end"]),
        ({"left": 0}, ["lines left after those beside"]),
        ({"done_beside": 0}, ["lines done beside"]),
    ],
    ids=str,
)
def test_a_batch_job_is_judged_by_its_lines_and_by_what_others_notice(
    changed: dict[str, Any], missed: list[str]
) -> None:
    rows = batch_jobs.judged(WHOLE._replace(**changed))
    assert [row.name for row in rows if row.met is False] == missed


def test_an_interactive_request_that_is_not_answered_is_the_slowest() -> None:
    found = batch_jobs.phase([math.inf, *map(float, range(19))], [100.0] * 20)
    assert found == (20, 1, 9.0, 18.0, 95.0)
