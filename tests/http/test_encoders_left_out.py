"""Encoders of a collection that a query does not get, because they keep or read too little."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.bridges import proof_of, write_measured
from tests.support.encoders import (
    CHINESE,
    ENGLISH,
    MODELS,
    QUERY,
    SEVERAL,
    SPACE,
    away,
    bridge,
    embed,
    refused,
    served,
)

LITTLE = "keeps less than the collection's min_recall_each in the text's language"


@pytest.mark.parametrize("input", [CHINESE, [ENGLISH, CHINESE]], ids=["text", "list"])
async def test_a_student_below_min_recall_each_in_a_language_answers_no_query_in_it(
    tmp_path: Path, input: str | list[str]
) -> None:
    async with served(tmp_path, recall=0.9, languages={"zh": 0.219, "en": 0.9}) as (client, router):
        english = {**QUERY, "input": ENGLISH, "latency_budget_ms": 200}
        assert (await embed(client, **english))["routing"]["model"] == "tiny"
        body = {**QUERY, "input": input, "latency_budget_ms": 200}
        route = (await client.post("/v1/route", json=body)).json()
        assert {one["model"]: one["why"] for one in route["models"]}["tiny"] == LITTLE
        routing = (await embed(client, **body))["routing"]
        assert (routing["model"], routing["reason"]) == ("large", "late")
        named = (await embed(client, **QUERY, input=CHINESE, model="tiny"))["routing"]
        assert named["expected_recall"] == 0.219  # who names it has chosen it
        away(router)
        status, code, message = await refused(client, **QUERY, input=CHINESE)
        assert (status, code) == (503, "model_unavailable")
        assert LITTLE in message
        long = {**QUERY, "input": CHINESE * 300}
        router.service.replicas_changed("large", ["large"])
        status, code, message = await refused(client, **long)
        assert (status, code) == (400, "context_length_exceeded")
        assert "tiny" not in message


async def test_a_lesser_space_below_min_recall_each_in_a_language_answers_only_if_it_is_named(
    tmp_path: Path,
) -> None:
    kept = {"small/32": proof_of(0.98, 0.98, {"zh": 0.3})}
    lesser: dict[str, Any] = {
        **SEVERAL,
        "proof": lambda args, at: write_measured(args, at, SPACE, kept),
    }
    async with served(tmp_path, languages={"zh": 0.4}, **lesser) as (client, _):
        body = {"input": CHINESE, "input_type": "query", "latency_budget_ms": 200}
        assert (await embed(client, space="docs", **body))["routing"]["model"] == "large"
        named = await client.post("/in/docs/v1/embeddings", json={**body, "space": "small/32"})
        assert named.json()["routing"]["model"] == "small"


async def test_a_caller_may_name_a_student_that_no_collection_would_take(tmp_path: Path) -> None:
    alone: dict[str, Any] = {"encoders": [], "min_recall_each": 0.9}
    async with served(tmp_path, recall=0.3, **alone) as (client, _):
        for more in ({}, {"space": SPACE}):
            answer = await embed(client, model="tiny", input_type="query", **more)
            assert answer["routing"]["expected_recall"] == 0.3
        assert (await refused(client, **QUERY, model="tiny"))[1] == "space_conflict"


async def test_a_text_that_is_cut_before_all_that_a_student_knows_is_refused(
    tmp_path: Path,
) -> None:
    async with served(tmp_path) as (client, router):
        away(router)
        cut = {**QUERY, "truncate": "end", "input": ["some text", "\N{ZEBRA FACE} " * 600 + "text"]}
        for _ in range(2):  # no vector of zeros was kept
            status, code, message = await refused(client, **cut)
            assert (status, code) == (400, "invalid_value")
            assert message.startswith("input[1]: tiny reads nothing of it; leave that text out")
        assert (await embed(client, **{**cut, "truncate": "start"}))["routing"]["truncated"] == [1]


@pytest.mark.parametrize("by", ["request", "collection"])
async def test_a_query_with_an_instruction_is_not_for_an_encoder_that_does_not_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    prompts = {"query": "Instruct: {instruction}\nQuery: {text}", "instruction": "find it"}
    monkeypatch.setitem(MODELS["large"], "prompts", prompts)
    more: dict[str, Any] = {"encoders": lambda args, at: ["tiny", *bridge(args, at)]}
    query = dict(QUERY)
    if by == "collection":
        more["instruction"] = "find a proof"
    else:
        query["instruction"] = "find a proof"
    async with served(tmp_path, **more) as (client, router):
        body = {**query, "input": "some text", "latency_budget_ms": 200}
        route = (await client.post("/v1/route", json=body)).json()
        whys = {one["model"]: one["why"] for one in route["models"]}
        no = "does not read the instruction, which the space's own model does"
        assert (whys["tiny"], whys["small"]) == (no, no)
        usual = {**body, "instruction": "find it"}  # what was measured
        assert (await embed(client, **usual))["routing"]["model"] != "large"
        assert (await embed(client, **body))["routing"]["model"] == "large"
        status, code, message = await refused(client, **query, model="tiny")
        assert (status, code) == (400, "invalid_value")
        assert message.startswith(f"tiny {no}")
        away(router)
        status, code, message = await refused(client, **query)
        assert (status, code) == (503, "model_unavailable")
        assert no in message
        assert (await embed(client, **usual))["routing"]["model"] in ("tiny", "small")
