"""The body and the headers of a request: how they arrive, and by which name they are refused."""

import json
from typing import Any

import numpy as np
import pytest

from router.config import Limits
from router.domain import OnMiss, Tier
from router.errors import (
    AmbiguousTokenIds,
    InvalidJson,
    InvalidValue,
    RequestTooLarge,
    RouterError,
    UnknownField,
)
from router.schema import FIELDS, EmbeddingsBody, EmbeddingsRequest, parse
from tests.support.request_bodies import LIMITS, read


def test_a_bare_request_means_auto_float_vectors_without_a_budget() -> None:
    assert read() == EmbeddingsRequest(
        texts=("text",),
        ids=None,
        model=None,
        dimensions=None,
        encoding_format="float",
        user=None,
        quality=Tier.AUTO,
        latency_budget_ms=None,
        on_budget_miss=OnMiss.DEGRADE,
        space=None,
        side=None,
        input_type=None,
        instruction=None,
        language=None,
        truncate=None,
        priority="interactive",
    )


def test_every_field_arrives_under_its_name() -> None:
    given = {
        "model": "best",
        "dimensions": 256,
        "encoding_format": "base64",
        "user": "me",
        "quality": "best",
        "latency_budget_ms": 50,
        "on_budget_miss": "reject",
        "space": "small/64",
        "input_type": "search_query",
        "instruction": "Find the answer",
        "language": "zh-Hant",
        "truncate": "end",
        "priority": "bulk",
    }
    request = read(**given)
    assert {name: getattr(request, name) for name in given} == given


def test_null_is_the_same_as_not_given() -> None:
    assert read(**dict.fromkeys(name for name in FIELDS if name != "input")) == read()


def test_the_last_of_two_equal_keys_counts() -> None:
    assert parse(b'{"input": "a", "input": "b", "user": "x", "user": null}', {}, LIMITS) == read(
        input="b"
    )


@pytest.mark.parametrize(
    ("texts", "items"),
    [("one", 1), (["one"], 1), (["one", "two", "one"], 3), (["x"] * 2048, 2048)],
    ids=["string", "array of one", "array", "most"],
)
def test_texts_arrive_in_order(texts: Any, items: int) -> None:
    request = read(input=texts)
    assert request.texts == ((texts,) if isinstance(texts, str) else tuple(texts))
    assert request.items == items


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "it is null"),
        (5, "it is 5"),
        (True, "it is true"),
        ({"text": "a"}, "it is an object"),
        ("", "empty string"),
        ([], "empty array"),
        ([""], "input[0] is an empty string"),
        (["a", ""], "input[1] is an empty string"),
        (["a", 1], "input[1] must be a string like the items before it, it is 1"),
        (["a", None], "input[1] must be a string like the items before it, it is null"),
        (["a", ["b"]], "input[1] must be a string like the items before it, it is an array"),
        ([1, "a"], "input[1] must be a token id like the items before it, it is 'a'"),
        ([1, True], "input[1] must be a token id like the items before it, it is true"),
        ([1.5], "input[0] must be a string, it is 1.5"),
        ([None], "input[0] must be a string, it is null"),
        ([[1], "a"], "input[1] must be an array of token ids like the items before it, it is 'a'"),
        ([[1], []], "input[1] is an empty array"),
        ([[1], ["a"]], "input[1][0] must be a token id, it is 'a'"),
        ([1, -1], "input holds a token id that is not between 0 and 2147483647"),
        ([[5], [2**31]], "input[1] holds a token id that is not between"),
        ([10**40], "input holds a token id that is not between"),
        (["x"] * 2049, "input has 2049 items; the limit is 2048"),
        ([[1]] * 2049, "input has 2049 items; the limit is 2048"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_bad_input_is_refused_by_what_is_wrong_with_it(value: Any, says: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        read(input=value, model="small", token_ids="model")
    assert says in caught.value.message
    assert caught.value.param == "input"


@pytest.mark.parametrize("ids", [[1, 2, 3], [[1, 2, 3]]], ids=["one text", "texts"])
@pytest.mark.parametrize(
    "declared",
    [
        {},
        {"model": "small"},
        {"token_ids": "model"},
        {"token_ids": "model", "model": "Auto"},
        {"token_ids": "model", "model": "best"},
        {"token_ids": "model", "space": "small/64"},
    ],
    ids=["nothing", "model only", "declaration only", "auto", "tier", "space"],
)
def test_token_ids_are_refused_unless_declared_and_the_model_is_pinned(
    ids: Any, declared: dict[str, str]
) -> None:
    with pytest.raises(AmbiguousTokenIds):
        read(input=ids, **declared)


def test_declared_token_ids_arrive_as_int32_one_array_a_text() -> None:
    request = read(input=[[1, 2], [2**31 - 1]], model="small", token_ids="model")
    assert request.texts is None
    assert request.ids is not None
    assert request.items == 2
    assert [ids.tolist() for ids in request.ids] == [[1, 2], [2**31 - 1]]
    assert {ids.dtype for ids in request.ids} == {np.dtype(np.int32)}
    assert read(input=list(range(5000)), model="small", token_ids="model").items == 1


@pytest.mark.parametrize(
    "prompt", [{"instruction": "Find it"}, {"input_type": "query"}], ids=["instruction", "side"]
)
def test_token_ids_take_no_prompt(prompt: dict[str, str]) -> None:
    with pytest.raises(InvalidValue, match="embedded as they stand") as caught:
        read(input=[1], model="small", token_ids="model", **prompt)
    assert [caught.value.param] == [*prompt]


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("dimensions", "1", "must be a valid integer, it is '1'"),
        ("dimensions", True, "must be a valid integer, it is true"),
        ("dimensions", 64.0, "must be a valid integer, it is 64"),
        ("dimensions", 0, "must be greater than or equal to 1, it is 0"),
        ("dimensions", 10**400, "it is a huge integer"),
        ("latency_budget_ms", "50", "must be a valid number, it is '50'"),
        ("latency_budget_ms", True, "must be a valid number, it is true"),
        ("latency_budget_ms", 0, "must be greater than 0"),
        ("latency_budget_ms", -1, "must be greater than 0"),
        ("latency_budget_ms", float("nan"), "must be a finite number"),
        ("latency_budget_ms", float("inf"), "must be a finite number"),
        ("latency_budget_ms", 10**400, "must be a finite number"),
        ("encoding_format", "base46", "did you mean 'base64'?"),
        (
            "encoding_format",
            "FLOAT",
            "must be 'float', 'base64', 'int8', 'uint8', 'binary' or 'ubinary'",
        ),
        ("quality", "bestest", "did you mean 'best'?"),
        ("quality", 1, "must be 'fast', 'balanced', 'best' or 'auto', it is 1"),
        ("on_budget_miss", "drop", "must be 'degrade', 'serve' or 'reject'"),
        (
            "input_type",
            "passages",
            "'query', 'document', 'passage', 'search_query', 'search_document', 'classification' "
            "or 'clustering', it is 'passages'; did you mean 'passage'?",
        ),
        ("truncate", True, "must be 'none', 'end' or 'start'"),
        ("priority", "high", "must be 'interactive' or 'bulk'"),
        ("token_ids", "openai", "must be 'model'"),
        ("language", "German please", "BCP-47"),
        ("language", "", "BCP-47"),
        ("model", "", "it is an empty string"),
        ("model", ["best"], "must be a valid string, it is an array"),
        ("space", "", "it is an empty string"),
        ("instruction", "", "it is an empty string"),
        ("user", {"id": 1}, "must be a valid string, it is an object"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_a_bad_value_is_refused_by_name_and_nothing_is_converted(
    field: str, value: Any, says: str
) -> None:
    with pytest.raises(InvalidValue) as caught:
        read(**{field: value})
    assert caught.value.param == field
    assert caught.value.message.startswith(field)
    assert says in caught.value.message


def test_a_number_too_large_for_a_float_is_not_a_budget() -> None:
    with pytest.raises(InvalidValue, match="finite"):
        parse(b'{"input": "a", "latency_budget_ms": 1e999}', {}, LIMITS)


def test_an_unknown_key_is_named_with_the_nearest_valid_one() -> None:
    with pytest.raises(UnknownField, match="'dimension'; did you mean 'dimensions'") as caught:
        read(dimension=64)
    assert caught.value.param == "dimension"


def test_a_misspelt_input_is_an_unknown_key_rather_than_a_missing_one() -> None:
    with pytest.raises(UnknownField, match="did you mean 'input'"):
        parse(b'{"inputs": "a"}', {}, LIMITS)


def test_a_missing_input_is_said() -> None:
    with pytest.raises(InvalidValue, match="input is missing"):
        parse(b'{"model": "auto"}', {}, LIMITS)


def test_very_many_unknown_keys_make_one_error() -> None:
    with pytest.raises(UnknownField) as caught:
        read(**{f"key{i}": i for i in range(100_000)})
    assert len(caught.value.message) < 500


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "the body is empty"),
        (b"  \n", "the body is empty"),
        (b"input=text", "not valid JSON"),
        (b'{"input": "a",}', "trailing comma at line 1 column"),
        (b'{"input": "a"} {}', "trailing characters"),
        (b'{"input": "a', "not valid JSON"),
        (b'{"input": "\xff"}', "not UTF-8: byte 0xff at offset 11"),
        ('{"input": "a"}'.encode("utf-16"), "not UTF-8"),
        (b'\xef\xbb\xbf{"input": "a"}', "byte order mark"),
        (b'{"input": "\\ud800"}', "surrogates come in pairs"),
        (b'{"input": "\\udc00 \\ud800"}', "surrogates come in pairs"),
        (b"[" * 100_000, "limit exceeded"),
        (b'{"input": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "limit exceeded"),
        (b'["a"]', 'must be a JSON object such as {"input": "text"}, it is an array'),
        (b'"a"', "it is 'a'"),
        (b"null", "it is null"),
    ],
    ids=[
        "empty",
        "blank",
        "form",
        "trailing comma",
        "two values",
        "cut off",
        "latin-1",
        "utf-16",
        "byte order mark",
        "lone surrogate",
        "surrogates reversed",
        "deep",
        "deep and closed",
        "array",
        "string",
        "null",
    ],
)
def test_what_is_not_a_json_object_is_refused_with_the_reason(body: bytes, says: str) -> None:
    with pytest.raises(InvalidJson) as caught:
        parse(body, {}, LIMITS)
    assert says in caught.value.message
    assert caught.value.param is None


def test_text_of_any_script_arrives_unchanged() -> None:
    text = "日本語 \u0000 \U0001f600 e\u0301 \u202e"
    assert parse(json.dumps({"input": text}, ensure_ascii=True).encode(), {}, LIMITS).texts == (
        text,
    )
    assert parse(json.dumps({"input": text}, ensure_ascii=False).encode(), {}, LIMITS).texts == (
        text,
    )


def test_a_body_over_the_limit_is_refused_unread() -> None:
    with pytest.raises(RequestTooLarge, match="larger than 10 bytes"):
        parse(b"x" * 11, {}, Limits(max_body_bytes=10))


def test_extensions_may_be_headers() -> None:
    headers = {
        "x-quality-tier": "Best",
        "x-latency-budget-ms": " 12.5 ",
        "x-embedding-space": "small/64",
    }
    assert read(headers) == read(quality="best", latency_budget_ms=12.5, space="small/64")


def test_the_body_wins_over_a_header_even_when_the_header_is_bad() -> None:
    headers = {"x-quality-tier": "worst", "x-latency-budget-ms": "soon", "x-embedding-space": ""}
    assert read(headers, quality="auto", latency_budget_ms=5.0, space="a/1") == read(
        latency_budget_ms=5.0, space="a/1"
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Quality-Tier", "bst"),
        ("X-Quality-Tier", ""),
        ("X-Embedding-Space", " "),
        *(
            ("X-Latency-Budget-Ms", v)
            for v in (
                "",
                "0",
                "0.0",
                "-5",
                "nan",
                "inf",
                "1e3",
                "1_000",
                "0x10",
                "٣",
                "5ms",
                "9" * 400,
            )
        ),
    ],
    ids=lambda value: str(value)[:20] or "empty",
)
def test_a_bad_header_is_refused_by_its_name(name: str, value: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        read({name.lower(): value})
    assert caught.value.param == name
    assert name in caught.value.message


@pytest.mark.parametrize(
    ("given", "side"),
    [
        ({}, None),
        ({"input_type": "query"}, "query"),
        ({"input_type": "search_query"}, "query"),
        ({"input_type": "document"}, "document"),
        ({"input_type": "search_document"}, "document"),
        ({"input_type": "classification"}, None),
        ({"input_type": "clustering"}, None),
        ({"input_type": "clustering", "instruction": "Group by topic"}, "query"),
        ({"instruction": "Find it"}, "query"),
    ],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else str(value),
)
def test_the_input_type_chooses_the_side_of_the_prompt(
    given: dict[str, str], side: str | None
) -> None:
    assert read(**given).side == side


@pytest.mark.parametrize("input_type", ["document", "search_document"])
def test_an_instruction_for_a_document_is_refused_rather_than_dropped(input_type: str) -> None:
    with pytest.raises(InvalidValue, match="leave one of them out") as caught:
        read(instruction="Find it", input_type=input_type)
    assert caught.value.param == "instruction"


def test_the_published_shape_closes_the_object_and_has_every_form_of_input() -> None:
    shape = EmbeddingsBody.model_json_schema()
    assert shape["additionalProperties"] is False
    assert shape["required"] == ["input"]
    assert tuple(shape["properties"]) == FIELDS
    assert len(shape["properties"]["input"]["anyOf"]) == 4


def test_a_header_that_is_nearly_a_tier_is_told_the_tier() -> None:
    with pytest.raises(RouterError, match="did you mean 'best'"):
        parse(b'{"input": "a"}', {"x-quality-tier": "bestest"}, Limits())
