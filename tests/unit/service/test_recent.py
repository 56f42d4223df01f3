"""The ring of the last decisions: what a poll gets, whoever's cursors it brings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.service.recent import MAX_SHOWN, Recent, parse_query
from router.errors import InvalidValue, UnknownField
from tests.support.decision_entries import context, entry


def ring(most: int, added: int) -> Recent:
    recent = Recent(most)
    for _ in range(added):
        recent.add(context(), entry())
    return recent


def numbers(page: dict) -> list[int]:
    return [int(one["id"].partition(":")[2]) for one in page["data"]]


@given(
    most=st.integers(1, 8),
    before=st.integers(0, 20),
    between=st.integers(0, 20),
    limit=st.integers(1, 9),
)
def test_a_poll_gets_the_newest_after_its_cursor_and_is_told_how_many_it_missed(
    most: int, before: int, between: int, limit: int
) -> None:
    recent = ring(most, before)
    cursor = recent.view(parse_query({}), 1)["next"]
    for _ in range(between):
        recent.add(context(), entry())
    page = recent.view(parse_query({"after": cursor, "limit": str(limit)}), 1)
    shown = min(between, limit, most)
    assert numbers(page) == list(range(before + between - shown + 1, before + between + 1))
    assert page["missed"] == between - shown
    assert recent.view(parse_query({"after": page["next"]}), 1)["data"] == []


def test_the_cursors_of_other_routers_are_passed_over_and_each_finds_its_own() -> None:
    first, second = ring(10, 3), ring(10, 5)
    after = f"{first.router}:2,{second.router}:4"
    assert numbers(first.view(parse_query({"after": after}), 2)) == [3]
    assert numbers(second.view(parse_query({"after": after}), 2)) == [5]
    assert second.view(parse_query({"after": f"{first.router}:2"}), 2)["missed"] == 0


def test_a_cursor_that_is_ahead_begins_anew() -> None:
    recent = ring(10, 3)
    assert numbers(recent.view(parse_query({"after": f"{recent.router}:999"}), 1)) == [1, 2, 3]


def test_a_decision_is_shown_with_what_was_predicted_and_what_it_took() -> None:
    recent = Recent()
    recent.add(context(), entry(budget_s=0.05, tokens=12))
    [shown] = recent.view(parse_query({}), 1)["data"]
    assert (shown["tokens"], shown["language"], shown["tier"], shown["model"]) == (
        12,
        "en",
        "auto",
        "middle",
    )
    assert (shown["budget_ms"], shown["actual_ms"], shown["outcome"]) == (50.0, 10.0, "answered")
    assert shown["predicted_ms"] > 0


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ({"limit": "0"}, InvalidValue),
        ({"limit": str(MAX_SHOWN + 1)}, InvalidValue),
        ({"limit": "ten"}, InvalidValue),
        ({"limit": ""}, InvalidValue),
        ({"after": "17"}, InvalidValue),
        ({"after": "0" * 8 + ":" + "9" * 400}, InvalidValue),
        ({"before": "1"}, UnknownField),
    ],
)
def test_a_query_that_means_nothing_is_refused(
    query: dict[str, str], error: type[Exception]
) -> None:
    with pytest.raises(error):
        parse_query(query)
