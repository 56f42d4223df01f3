"""A model that dies with requests at it: they are decided again at once, whole, and within what
their callers asked for.
"""

import base64
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

from tests.support.faults import ARGS, SECRET, Faults, faulty, model
from tests.support.waiting import wait_for


@pytest.fixture
def stage() -> Iterator[tuple[httpx.Client, Faults]]:
    with faulty() as both:
        yield both


def post(client: httpx.Client, **body: Any) -> httpx.Response:
    return client.post("/v1/embeddings", json={"input": ["one", "two"], **body})


def test_a_request_at_a_model_that_dies_is_answered_whole_by_another(
    stage: tuple[httpx.Client, Faults],
) -> None:
    client, faults = stage
    alone = post(client, model="small").json()
    faults.dying.add("large")
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(post, client, model="best", input=["one", "two"])
        wait_for(lambda: "large" in faults.sent, "the call")
        faults.end.set()
        answer = asked.result()
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert told["routing"]["model"] == "small"
    assert told["routing"]["space"] == "small/8"
    assert told["routing"]["degraded"]
    assert [row["embedding"] for row in told["data"]] == [r["embedding"] for r in alone["data"]]
    assert faults.sent.count("large") == 1
    assert float(answer.headers["x-queue-ms"]) > 0


def test_the_first_wait_counts_as_waiting(stage: tuple[httpx.Client, Faults]) -> None:
    client, faults = stage
    faults.dying.add("large")
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(post, client, model="best")
        wait_for(lambda: "large" in faults.sent, "the call")
        held = threading.Event()
        held.wait(0.3)
        faults.end.set()
        headers = asked.result().headers
    assert 300 <= float(headers["x-queue-ms"]) <= float(headers["x-total-ms"])


def test_a_server_that_cannot_be_reached_gives_its_requests_away_and_names_no_address(
    stage: tuple[httpx.Client, Faults],
) -> None:
    client, faults = stage
    faults.away.add("large")
    assert post(client, model="best").json()["routing"]["model"] == "small"
    faults.away.add("small")
    refused = post(client, model="best")
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "model_unavailable"
    assert SECRET not in refused.text


@pytest.mark.parametrize("fault", ["dying", "away"])
def test_a_second_decision_that_finds_no_model_in_time_is_the_refusal_of_the_first(
    fault: str,
) -> None:
    slow = model(quality={"default": 50}, curve={"fixed_s": 30.0})
    args = {**ARGS, "models": {**ARGS["models"], "small": slow}}
    body = {"model": "best", "latency_budget_ms": 5000}
    with faulty(args) as (client, faults), ThreadPoolExecutor() as pool:
        getattr(faults, fault).add("large")
        asked = pool.submit(post, client, on_budget_miss="reject", **body)
        wait_for(lambda: "large" in faults.sent, "the call")
        faults.end.set()
        refused = asked.result()
        assert refused.status_code == 503, refused.text
        assert refused.json()["error"]["code"] == "budget_unreachable"
        assert "within 5000 ms at this load" in refused.json()["error"]["message"]
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.headers["x-routing-reason"] == "over_budget"
        assert refused.headers.get("x-should-retry") != "false"  # the model may be back
        logged = client.get("/v1/decisions").json()["data"][-1]
        assert (logged["model"], logged["outcome"]) == (None, "budget_unreachable")
        assert logged["reason"] == "over_budget"
        assert "small" not in faults.sent
        assert post(client, model="small").status_code == 200


def test_a_text_that_an_engine_fails_on_is_sent_to_no_other_model(
    stage: tuple[httpx.Client, Faults],
) -> None:
    client, faults = stage
    faults.broken.add("large")
    refused = post(client, model="best")
    assert refused.status_code == 503
    assert "large failed twice: ValueError: poison" in refused.json()["error"]["message"]
    assert "small" not in faults.sent


@pytest.mark.parametrize("body", [{"model": "large"}, {"space": "docs"}, {"space": "large/8"}])
def test_what_no_other_model_may_serve_waits(
    stage: tuple[httpx.Client, Faults], body: dict[str, str]
) -> None:
    client, faults = stage
    faults.dying.add("large")
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(post, client, **body)
        wait_for(lambda: "large" in faults.sent, "the call")
        faults.dying.clear()
        faults.end.set()
        answer = asked.result()
    assert answer.status_code == 200, answer.text
    assert answer.json()["routing"]["model"] == "large"
    assert "small" not in faults.sent


def test_a_strict_tier_is_never_left() -> None:
    with faulty(ARGS | {"routing": {"strict_tiers": True}}) as (client, faults):
        faults.away.add("large")
        assert post(client, model="best").status_code == 503
        assert "small" not in faults.sent


def test_there_is_one_second_try() -> None:
    three = ARGS | {
        "models": {**ARGS["models"], "huge": model(quality={"default": 70})},
        "tiers": {"fast": "small", "balanced": "large", "best": "huge"},
    }
    with faulty(three) as (client, faults):
        faults.away |= {"huge", "large", "small"}
        assert post(client, model="best").status_code == 503
        assert len(set(faults.sent)) == 2


BUDGET_MS = 60_000.0
HELD_S = 2.0


def three_models(predicted_s: float) -> dict[str, Any]:
    """A model between the others by its points, which is predicted to need `predicted_s`."""
    slow = {"fixed_s": predicted_s, "base_s": 0.0, "s_per_token": 0.0, "batch_tokens": 8192}
    models = {
        "small": ARGS["models"]["small"],
        "medium": model(quality={"default": 55}, curve=slow),
        "large": ARGS["models"]["large"],
    }
    return ARGS | {"models": models}


@pytest.mark.parametrize(
    ("predicted_s", "budget_ms", "answers"),
    [
        pytest.param(600.0, None, "medium", id="no-budget"),
        pytest.param(1.0, BUDGET_MS, "medium", id="in-time"),
        pytest.param(600.0, BUDGET_MS, "small", id="late"),
        pytest.param(BUDGET_MS / 1000 - HELD_S / 2, BUDGET_MS, "small", id="late-by-the-wait"),
    ],
)
def test_a_second_try_keeps_what_is_left_of_the_budget(
    predicted_s: float, budget_ms: float | None, answers: str
) -> None:
    body = {"model": "best", **({} if budget_ms is None else {"latency_budget_ms": budget_ms})}
    with faulty(three_models(predicted_s)) as (client, faults), ThreadPoolExecutor() as pool:
        faults.dying.add("large")
        asked = pool.submit(post, client, **body)
        wait_for(lambda: "large" in faults.sent, "the call")
        threading.Event().wait(HELD_S)
        faults.end.set()
        answer = asked.result()
    assert answer.status_code == 200, answer.text
    routing = answer.json()["routing"]
    assert (routing["model"], routing["degraded"]) == (answers, True)
    assert faults.sent == ["large", answers]


def test_without_a_wait_the_slower_model_is_in_time() -> None:
    body = {"model": "best", "latency_budget_ms": BUDGET_MS}
    with faulty(three_models(BUDGET_MS / 1000 - HELD_S / 2)) as (client, faults):
        faults.away.add("large")
        assert post(client, **body).json()["routing"]["model"] == "medium"


def test_a_second_try_that_is_in_time_nowhere_is_refused_where_the_caller_wants_that() -> None:
    late = {"curve": {"fixed_s": 600.0, "base_s": 0.0, "s_per_token": 0.0, "batch_tokens": 8192}}
    args = three_models(600.0)
    args["models"]["small"] = args["models"]["small"] | late
    body = {"model": "best", "latency_budget_ms": BUDGET_MS}
    with faulty(args) as (client, faults):
        faults.away.add("large")
        refused = post(client, **body, on_budget_miss="reject")
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "budget_unreachable"
        assert int(refused.headers["retry-after"]) >= 1
        assert set(faults.sent) == {"large"}
    with faulty(args) as (client, faults):
        faults.away.add("large")
        routing = post(client, **body, on_budget_miss="degrade").json()["routing"]
        assert (routing["model"], routing["reason"]) == ("medium", "late")


def test_two_models_never_share_an_answer() -> None:
    large = ARGS | {"models": {**ARGS["models"], "large": model(quality={"default": 60}) | {
        "curve": {"batch_tokens": 8}}}}  # fmt: skip
    texts = [f"text number {n}" for n in range(40)]
    with faulty(large) as (client, faults):
        alone = post(client, model="small", input=texts, encoding_format="base64").json()
        faults.dying.add("large")
        with ThreadPoolExecutor() as pool:
            asked = pool.submit(post, client, model="best", input=texts, encoding_format="base64")
            wait_for(lambda: "large" in faults.sent, "the call")
            faults.end.set()
            told = asked.result().json()
    assert told["routing"]["model"] == "small"
    for one, other in zip(told["data"], alone["data"], strict=True):
        made = np.frombuffer(base64.b64decode(one["embedding"]), "<f4")
        assert np.array_equal(made, np.frombuffer(base64.b64decode(other["embedding"]), "<f4"))
