import inspect
import json
import math

import pytest

from router import errors
from router.error_samples import SAMPLES
from router.errors import (
    INPUT,
    AmbiguousTokenIds,
    BudgetUnreachable,
    InvalidValue,
    ModelNotFound,
    NotFound,
    Overloaded,
    RouterError,
    SpaceConflict,
    UnknownField,
    field,
    render,
)

# The table of the HTTP contract.
CONTRACT = {
    "invalid_value": 400,
    "dimensions_not_supported": 400,
    "context_length_exceeded": 400,
    "max_tokens_per_request": 400,
    "ambiguous_token_ids": 400,
    "unknown_field": 400,
    "invalid_json": 400,
    "invalid_api_key": 401,
    "tier_not_allowed": 403,
    "collection_not_allowed": 403,
    "priority_not_allowed": 403,
    "admin_key_required": 403,
    "origin_not_allowed": 403,
    "model_not_found": 404,
    "not_found": 404,
    "method_not_allowed": 405,
    "request_timeout": 408,
    "space_conflict": 409,
    "name_conflict": 409,
    "request_too_large": 413,
    "not_supported": 426,
    "headers_too_large": 431,
    "rate_limit_exceeded": 429,
    "overloaded": 429,
    "internal_error": 500,
    "model_unavailable": 503,
    "budget_unreachable": 503,
    "deadline_exceeded": 504,
}
EXAMPLES = SAMPLES
by_code = pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: error.code)


def test_every_code_of_the_contract_has_one_class_and_no_class_is_outside_it() -> None:
    classes = [
        c
        for _, c in inspect.getmembers(errors, inspect.isclass)
        if issubclass(c, RouterError) and c is not RouterError
    ]
    assert {c.code: c.status for c in classes} == CONTRACT
    assert len(classes) == len(CONTRACT)
    assert {type(error) for error in EXAMPLES} == set(classes)


@by_code
def test_the_body_has_all_four_keys_and_says_something(error: RouterError) -> None:
    body = json.loads(render(error))
    assert list(body) == ["error"]
    assert list(body["error"]) == ["message", "type", "param", "code"]
    assert body["error"]["code"] == error.code
    assert len(body["error"]["message"]) > 20
    assert body["error"]["param"] is None or body["error"]["param"]


@by_code
def test_the_type_follows_from_the_status_as_at_openai(error: RouterError) -> None:
    assert (
        error.type == {4: "invalid_request_error", 5: "server_error"}[error.status // 100]
        or error.status == 429
    )
    assert (error.type == "rate_limit_error") == (error.status == 429)


@by_code
def test_header_names_are_lower_case(error: RouterError) -> None:
    assert [*error.headers] == [name.lower() for name in error.headers]


@by_code
def test_retry_after_is_there_in_both_forms_exactly_where_waiting_helps(error: RouterError) -> None:
    waiting_helps = error.status in (429, 503)
    assert ("retry-after" in error.headers) == ("retry-after-ms" in error.headers) == waiting_helps


def test_a_budget_that_no_waiting_meets_says_which_one_can_be_met() -> None:
    error = BudgetUnreachable(0.005, 0.0231, None)
    assert "raise latency_budget_ms to 24 or more" in error.message
    assert error.headers == {
        "x-should-retry": "false",
        "retry-after": "60",
        "retry-after-ms": "60000",
    }


@pytest.mark.parametrize(
    ("seconds", "whole", "milliseconds"),
    [
        (0.0, "1", "1"),
        (-3.0, "1", "1"),
        (0.25, "1", "250"),
        (1.2, "2", "1200"),
        (60.0, "60", "60000"),
        (math.inf, "60", "60000"),
        (math.nan, "60", "60000"),
    ],
    ids=["none", "negative", "quarter", "rounded up", "whole", "never", "unknown"],
)
def test_retry_after_is_never_earlier_than_asked_and_never_zero(
    seconds: float, whole: str, milliseconds: str
) -> None:
    assert Overloaded("small", seconds).headers == {
        "retry-after": whole,
        "retry-after-ms": milliseconds,
    }


def test_openai_clients_are_told_not_to_repeat_a_space_conflict() -> None:
    assert SpaceConflict("space and model disagree").headers == {"x-should-retry": "false"}


def test_an_unknown_field_names_the_nearest_valid_one_and_all_others() -> None:
    error = UnknownField("dimension", ["input", "dimensions"])
    assert error.param == "dimension"
    assert "'dimension'; did you mean 'dimensions'?" in error.message
    assert "valid fields are input, dimensions" in error.message


def test_a_field_that_resembles_nothing_gets_the_list_without_a_guess() -> None:
    assert "did you mean" not in UnknownField("zzz", ["input", "dimensions"]).message


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("Qwen/Qwen3-Embedding-4", "qwen3-embedding-4b"),
        ("all-MiniLM-L6-v3", "all-minilm-l6-v2"),
        ("balance", "balanced"),
        ("balanc@50ms", "balanced"),
        ("text-embedding-3-small", None),
        ("gpt-4o", None),
        ("", None),
    ],
)
def test_an_unknown_model_gets_the_nearest_name_if_one_resembles_it_and_then_all(
    name: str, nearest: str | None
) -> None:
    valid = ["all-minilm-l6-v2", "qwen3-embedding-8b", "qwen3-embedding-4b", "balanced"]
    message = ModelNotFound(name, valid).message
    assert message.endswith(f" valid names are {', '.join(valid)}")
    assert ("did you mean" in message) == (nearest is not None)
    assert nearest is None or f"; did you mean '{nearest}'?" in message


@pytest.mark.parametrize(("path", "nearest"), [("/in/dosc/query", "docs"), ("/in/nothing", None)])
def test_an_unknown_collection_gets_the_nearest_name_and_then_all(
    path: str, nearest: str | None
) -> None:
    message = NotFound(path, collections=["docs", "faq"]).message
    assert message.endswith(" this service has docs, faq")
    assert ("did you mean 'docs'?" in message) == (nearest == "docs")


def test_the_fix_for_langchain_is_named_where_token_ids_are_refused() -> None:
    assert "check_embedding_ctx_length=False" in AmbiguousTokenIds().message


def test_a_hostile_name_is_quoted_short_and_on_one_line() -> None:
    for error in (
        UnknownField("x" * 10_000, ["input"]),
        ModelNotFound("a\nb\udc80" * 5_000, ["small"]),
        NotFound("/" * 9_000),
    ):
        assert len(error.message) < 300
        assert "\n" not in error.message
        render(error)


def test_a_message_is_written_in_other_words_and_leaves_a_callers_own_alone() -> None:
    error = InvalidValue(f"{INPUT}[3] is bad, as {field('size')} is; it is 'input[3]'", "input")
    assert error.message == "input[3] is bad, as size is; it is 'input[3]'"
    other = error.renamed({"input": "documents"})
    assert (other.message, other.param) == (
        "documents[3] is bad, as size is; it is 'input[3]'",
        "documents",
    )
    other = other.renamed({"documents": "texts", "documents[3]": "the last text", "size": ""})
    assert (other.message, other.param) == (
        "the last text is bad, as  is; it is 'input[3]'",
        "texts",
    )
    assert (error.message, error.param) == (
        "input[3] is bad, as size is; it is 'input[3]'",
        "input",
    )


@by_code
def test_a_copy_of_an_error_is_equal_and_changes_nothing_of_it(error: RouterError) -> None:
    before, headers = render(error), dict(error.headers)
    made = error.copied()
    assert (type(made), made.status, str(made)) == (type(error), error.status, str(error))
    assert (render(made), made.headers) == (before, headers)
    made.message, made.param, made.counted = "other", "other", True
    made.headers["x-other"] = "1"
    assert (render(error), error.headers, error.counted) == (before, headers, False)
    assert render(error.renamed({"input": "texts"})) == render(error.renamed({"input": "texts"}))
    assert render(error) == before


def test_advice_is_of_one_request_alone() -> None:
    error = Overloaded("small", 3.0)
    error.has_faster = True
    for _ in range(2):
        told = error.advised(True, True)
        assert told.message.count("bulk") == told.message.count("latency_budget_ms") == 1
        assert told.headers == error.headers
    assert "bulk" not in error.message
    assert error.advised(False, False).message == error.message
    at_server = Overloaded("small", 3.0, at_server=True)
    assert at_server.advised(True, True).message == at_server.message
