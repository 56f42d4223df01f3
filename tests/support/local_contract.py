"""What clients of configs/local.yaml rely on, whatever front the service has: tests for the modules
that start it.
"""

import inspect
import json
import textwrap
from typing import Any

import httpx
import numpy as np
import pytest
from openai import OpenAI

from tests.support.launched import Launched
from tests.support.waiting import wait_for


@pytest.mark.parametrize(
    ("text", "model", "reason", "language"),
    [
        ("How are you today", "all-minilm-l6-v2", "auto", "en"),
        ("你今天怎么样", "multilingual-e5-small", "rule:not-english", "zh"),
        ("كيف حالك اليوم يا صديقي؟", "multilingual-e5-small", "rule:not-english", "ar"),
        ("วันนี้คุณเป็นอย่างไรบ้าง", "multilingual-e5-small", "rule:not-english", "th"),
        ("Как у тебя сегодня дела?", "multilingual-e5-small", "rule:not-english", "ru"),
        (
            "The committee discussed the annual report in detail. " * 250,
            "multilingual-e5-small",
            "rule:long",
            "en",
        ),
        (inspect.getsource(textwrap.dedent)[:600], "all-minilm-l6-v2", "auto", None),
    ],
    ids=["english", "chinese", "arabic", "thai", "russian", "2000-words", "python-function"],
)
def test_each_text_goes_to_the_model_for_it(
    openai_client: OpenAI, local: Launched, text: str, model: str, reason: str, language: str | None
) -> None:
    answer = openai_client.embeddings.create(model="auto", input=text)
    routing: dict[str, Any] = answer.model_extra["routing"]  # type: ignore[index]
    assert answer.model == model
    assert (routing["model"], routing["reason"], routing["space"]) == (
        model,
        reason,
        f"{model}/384",
    )
    if language is not None:
        assert routing["language"] == language
    assert np.linalg.norm(answer.data[0].embedding) == pytest.approx(1.0, abs=1e-4)


def test_a_list_of_2048_items_is_answered_in_order(openai_client: OpenAI) -> None:
    texts = [f"item {index}" for index in range(2048)]
    answer = openai_client.embeddings.create(model="fast", input=texts)
    assert [item.index for item in answer.data] == list(range(2048))
    again = openai_client.embeddings.create(model="fast", input=texts[1000])
    assert again.data[0].embedding == answer.data[1000].embedding


@pytest.mark.parametrize(
    ("texts", "model"),
    [
        (
            [
                "A man is playing a guitar.",
                "Someone plays an instrument.",
                "The stock market fell sharply.",
            ],
            "all-minilm-l6-v2",
        ),
        (
            ["一个男人正在弹吉他。", "有人在演奏乐器。", "股票市场大幅下跌。"],
            "multilingual-e5-small",
        ),
    ],
    ids=["english", "chinese"],
)
def test_related_sentences_are_closer_than_unrelated_ones(
    openai_client: OpenAI, texts: list[str], model: str
) -> None:
    answer = openai_client.embeddings.create(model="auto", input=texts)
    assert answer.model == model
    vectors = np.array([item.embedding for item in answer.data])
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.02


@pytest.mark.parametrize(
    ("query", "documents", "model", "reason"),
    [
        (
            "capital of France",
            ["Cats sleep a lot.", "Paris is the capital of France."],
            "all-minilm-l6-v2-similarity",
            "auto",
        ),
        (
            "法国的首都",
            ["猫很爱睡觉。", "巴黎是法国的首都。"],
            "multilingual-e5-small-similarity",
            "rule:not-english",
        ),
    ],
    ids=["english", "chinese"],
)
def test_documents_are_ranked_by_similarity_of_the_larger_models(
    local: Launched, query: str, documents: list[str], model: str, reason: str
) -> None:
    body = {"query": query, "documents": documents}
    answer = httpx.post(f"{local.url}/v1/rerank", json=body, timeout=60).json()
    first, second = answer["results"]
    assert [first["index"], second["index"]] == [1, 0]
    assert first["relevance_score"] > second["relevance_score"] + 0.02
    routing = answer["routing"]
    assert (routing["model"], routing["reason"], routing["score"]) == (model, reason, "cosine")


def test_every_tier_answers_and_says_its_space(local: Launched) -> None:
    for tier, space in {
        "fast": "wordllama-256/256",
        "balanced": "all-minilm-l6-v2/384",
        "best": "multilingual-e5-small/384",
    }.items():
        answer = httpx.post(
            f"{local.url}/v1/embeddings", json={"input": "hello there", "model": tier}, timeout=60
        )
        assert answer.headers["x-embedding-space"] == space
        assert answer.headers.get_list("x-request-id") == [answer.headers["x-request-id"]]


def test_bad_requests_are_the_contracts_errors_through_serve(local: Launched) -> None:
    for body, status, code in (
        (b"{", 400, "invalid_json"),
        (json.dumps({"input": ["a"] * 2049}).encode(), 400, "invalid_value"),
        (json.dumps({"input": "word " * 40_000}).encode(), 400, "context_length_exceeded"),
        (b'{"input": "' + b"a" * 10_000_000 + b'"}', 413, "request_too_large"),
    ):
        answer = httpx.post(f"{local.url}/v1/embeddings", content=body, timeout=60)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_a_client_that_leaves_takes_its_work_out_of_the_engine(local: Launched) -> None:
    texts = [f"{index} " + "слово " * 400 for index in range(300)]
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{local.url}/v1/embeddings", json={"input": texts, "model": "best"}, timeout=3)

    # All of it would take minutes; the queue is empty as soon as the router has noticed, and the
    # model answers at once.
    def queued_tokens() -> int:
        rows = httpx.get(f"{local.url}/v1/tiers", timeout=60).json()["data"]
        return int(
            next(
                row["load"]["queued_tokens"]
                for row in rows
                if row["model"] == "multilingual-e5-small"
            )
        )

    wait_for(lambda: queued_tokens() == 0, "the queue to be empty", 30)
    answer = httpx.post(
        f"{local.url}/v1/embeddings", json={"input": "коротко", "model": "best"}, timeout=60
    )
    assert answer.status_code == 200
