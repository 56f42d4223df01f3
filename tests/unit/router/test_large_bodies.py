"""Large bodies are read and refused like small ones."""

import json
from typing import Any

import pytest

from router.errors import InvalidJson, MaxTokensPerRequest, RouterError
from router.schema import parse
from tests.support.request_bodies import LIMITS


def padded(body: dict[str, Any]) -> bytes:
    """The same request with a body that is read as a large one."""
    return json.dumps(body).encode() + b" " * 70_000


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"input": None},
        {"input": ""},
        {"input": []},
        {"input": ["a", ""]},
        {"input": ["a", 1]},
        {"input": 7},
        {"imput": "a"},
        {"input": "a", "quality": "bests"},
        {"input": "a", "dimensions": "4"},
        {"input": "a", "dimensions": 1.0},
        {"input": [1, 2]},
        {"input": [[1], []], "model": "m", "token_ids": "model"},
        {"input": "a", "language": "?"},
        {"input": [[2**40]], "model": "m", "token_ids": "model"},
        {"input": ["a"] * 3000},
        [],
        "a",
        None,
        {"input": "a", "instruction": "b", "input_type": "document"},
    ],
    ids=str,
)
def test_a_large_body_is_refused_in_the_words_of_a_small_one(body: Any) -> None:
    with pytest.raises(RouterError) as small:
        parse(json.dumps(body).encode(), {}, LIMITS)
    with pytest.raises(RouterError) as large:
        parse(padded(body), {}, LIMITS)
    assert type(large.value) is type(small.value)
    assert (large.value.message, large.value.param) == (small.value.message, small.value.param)


@pytest.mark.parametrize(
    "body",
    [
        {"input": "a", "model": "best", "dimensions": 4, "priority": "bulk", "user": None},
        {
            "input": ["a", "b"] * 1000,
            "latency_budget_ms": 2.5,
            "on_budget_miss": "reject",
            "input_type": "search_query",
        },
        {
            "input": "\u00e9\U0001f600",
            "quality": "best",
            "encoding_format": "base64",
            "truncate": "end",
        },
    ],
    ids=["options", "many", "unicode"],
)
def test_a_large_body_is_read_like_a_small_one(body: Any) -> None:
    assert parse(padded(body), {}, LIMITS) == parse(json.dumps(body).encode(), {}, LIMITS)


def test_token_ids_of_a_large_body_are_read_and_counted() -> None:
    ids = [[7] * 20_000, [8] * 20_000]
    read = parse(
        json.dumps({"input": ids, "model": "m", "token_ids": "model"}).encode(), {}, LIMITS
    )
    assert read.ids is not None
    assert [row.tolist() for row in read.ids] == ids
    with pytest.raises(MaxTokensPerRequest):
        parse(
            json.dumps({"input": ids * 10, "model": "m", "token_ids": "model"}).encode(), {}, LIMITS
        )


@pytest.mark.parametrize("depth", [400, 900])
def test_a_large_body_that_is_nested_too_deeply_is_no_json_of_ours(depth: int) -> None:
    nested = f"{'[' * depth}{']' * depth}"
    with pytest.raises(InvalidJson) as caught:
        parse(f'{{"input": "a", "user": {nested}{" " * 70_000}}}'.encode(), {}, LIMITS)
    assert "nested too deeply" in caught.value.message
