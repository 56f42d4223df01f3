"""Sums of what keys used: how they are kept, and what a query of them may ask."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.domain import Curve, Model, Work
from router.errors import AdminKeyRequired, InvalidValue, UnknownField
from router.usage import (
    DAY_S,
    HOUR_S,
    FoldedSlots,
    Slot,
    Slots,
    Sums,
    UsageQuery,
    Use,
    add,
    device_s,
    folded,
    lines,
    merge,
    parse_usage,
    read_lines,
    usage,
)

NOW = 1_800_000_000.0
ALL = UsageQuery(0.0, NOW * 2, ("key", "model", "collection"), None)


def total(slots: Slots) -> Sums:
    made = Sums()
    for sums in slots.values():
        made = made.plus(sums)
    return made


USES = st.lists(
    st.tuples(
        st.integers(0, 40 * DAY_S),
        st.builds(
            Use,
            st.sampled_from(["", "a", "b"]),
            st.sampled_from(["small", "large"]),
            st.sampled_from(["", "docs"]),
            st.integers(1, 5),
            st.integers(0, 99),
            st.integers(0, 64).map(float),
        ),
        st.sampled_from([None, 3600.0]),
    )
)


@given(USES)
def test_folding_and_storing_keep_the_sums(uses: Any) -> None:
    slots: Slots = {}
    for age_s, use, cost in uses:
        add(slots, NOW - age_s, use, cost)
    again = folded(folded(slots.items(), NOW).items(), NOW)
    assert total(again) == total(slots)
    assert dict(read_lines(lines(again.items()).splitlines(keepends=True))) == again
    assert len(again) <= len(slots)
    for slot in again:
        assert slot.start_s % slot.length_s == 0
        assert slot.length_s in (1, 60, HOUR_S)
    rows = usage(again.items(), ALL, "folder", None).data
    assert sum(row.requests for row in rows) == len(uses)
    assert sum(row.tokens for row in rows) == sum(use.tokens for _, use, _ in uses)
    assert len({(row.key, row.model, row.collection) for row in rows}) == len(rows)


@given(USES, st.integers(1, 20))
def test_sums_in_memory_are_those_of_folding_them_all(uses: Any, at_once: int) -> None:
    kept, whole = FoldedSlots(), Slots()
    uses.sort(key=lambda one: -one[0])
    for start in range(0, len(uses), at_once):
        new: Slots = {}
        for age_s, use, cost in uses[start : start + at_once]:
            add(new, NOW - age_s, use, cost)
        merge(whole, new.items())
        kept.merge(new.items(), NOW - uses[start][0])
    kept.merge([], NOW)
    assert dict(kept.items()) == folded(whole.items(), NOW)
    assert len(kept) == len(dict(kept.items()))


def test_sums_in_memory_are_looked_at_again_only_when_they_are_old() -> None:
    kept, moved = FoldedSlots(), []
    for second in range(2 * HOUR_S):
        new: Slots = {}
        for number in range(3):
            add(new, NOW + second, Use(f"key {number}", "small", "", 1, 2, 3.0), None)
        moved.append(kept.merge(new.items(), NOW + second))
    assert max(moved) == 3
    assert sum(moved) == 3 * HOUR_S


@pytest.mark.parametrize(
    "other",
    [b"{}", b"[]", b"7", b'[1,1,"a","b","c",1,1,1,1.0]', b'["x",1,"a","b","c",1,1,1,1.0,null]'],
)
def test_a_line_of_another_form_is_passed_over_or_refused(other: bytes) -> None:
    slots: Slots = {}
    add(slots, NOW, Use("a", "small", "", 1, 2, 3.0), None)
    raw = [other + b"\n", lines(slots.items())]
    assert dict(read_lines(raw)) == slots
    with pytest.raises(ValueError, match="another form"):
        dict(read_lines(raw, strict=True))


def test_half_a_line_is_passed_over() -> None:
    slots: Slots = {}
    add(slots, NOW, Use("a", "small", "", 1, 2, 3.0), None)
    raw = lines(slots.items())
    assert dict(read_lines([raw, raw[:10]])) == slots
    assert dict(read_lines([b"\0\0\n", raw])) == slots


def test_rows_are_grouped_as_asked_and_costs_add_up_where_there_are_any() -> None:
    slots: Slots = {}
    add(slots, NOW, Use("a", "small", "docs", 2, 10, 1.0), 36.0)
    add(slots, NOW, Use("a", "large", "", 1, 5, 2.0), None)
    add(slots, NOW + 5, Use("b", "small", "", 1, 7, 3.0), 36.0)

    def rows(**changes: Any) -> list[tuple[Any, ...]]:
        found = usage(slots.items(), ALL._replace(**changes), "memory", 0.0)
        assert (found.kept, found.since) == ("memory", "1970-01-01T00:00:00+00:00")
        return [
            (row.key, row.model, row.collection, row.requests, row.tokens, row.cost)
            for row in found.data
        ]

    assert rows(by=("key",)) == [
        ("a", None, None, 2, 15, pytest.approx(0.01)),
        ("b", None, None, 1, 7, pytest.approx(0.03)),
    ]
    assert rows(by=("model",), key="a") == [
        (None, "large", None, 1, 5, None),
        (None, "small", None, 1, 10, pytest.approx(0.01)),
    ]
    assert rows(by=("collection",), to_s=NOW + 1)[0][:4] == (None, None, None, 1)
    assert rows(from_s=NOW + 1) == [("b", "small", None, 1, 7, pytest.approx(0.03))]
    assert rows(from_s=NOW + 0.7, to_s=NOW + 0.8) == rows(to_s=NOW + 5)  # its second
    assert rows(from_s=NOW + 6) == []


@pytest.mark.parametrize(
    ("query", "error", "said"),
    [
        ([("form", "x")], UnknownField, "from"),
        ([("by", "model,spase")], InvalidValue, "key, model, collection"),
        ([("from", "2026-01-01")], InvalidValue, "RFC 3339"),
        ([("from", "2026-01-01T00:00:00")], InvalidValue, "RFC 3339"),
        ([("to", "yesterday")], InvalidValue, "RFC 3339"),
        ([("to", "9999-99-99T00:00:00Z")], InvalidValue, "RFC 3339"),
        (
            [("from", "2026-01-02T00:00:00Z"), ("to", "2026-01-01T00:00:00Z")],
            InvalidValue,
            "before",
        ),
        ([("key", "other")], AdminKeyRequired, "admin: true"),
    ],
    ids=str,
)
def test_a_wrong_query_is_refused(query: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        parse_usage(query, NOW, "own", False, "/v1/usage")


def test_a_key_sees_itself_and_an_admin_key_all_or_one() -> None:
    assert parse_usage([], NOW, "own", False, "").key == "own"
    assert parse_usage([("key", "own")], NOW, "own", False, "").key == "own"
    assert parse_usage([], NOW, "own", True, "").key is None
    assert parse_usage([("key", "other")], NOW, "own", True, "").key == "other"
    asked = parse_usage(
        [
            ("by", "model"),
            ("by", "key"),
            ("from", "2026-01-01T00:00:00 01:00"),  # the + of a query
            ("to", "2026-01-01T00:00:00.5Z"),
        ],
        NOW,
        "own",
        True,
        "",
    )
    assert asked.by == ("key", "model")
    assert asked.to_s - asked.from_s == 3600.5


def test_device_time_is_that_of_a_share_of_full_batches() -> None:
    curve = Curve(0.010, 0.002, 0.0001, 0.0, batch_tokens=1000, s_per_text=0.001)
    model = Model("small", 0, 512, curve, {}, devices=2.0)
    assert device_s(model, Work(0, 0, 0)) == 0.0
    whole = device_s(model, Work(1000, 100, 10_000, texts=10))
    assert whole == pytest.approx(2 * (0.002 + 0.1 + 0.01))
    tenth = device_s(model, Work(100, 100, 10_000, texts=1))
    assert tenth == pytest.approx(whole / 10)
    flat = Model("flat", 0, 512, Curve(0.5, 0.0, 0.0001, 0.0, batch_tokens=1000), {})
    assert device_s(flat, Work(100, 100, 0)) == pytest.approx(0.05)


def test_slots_of_any_order_come_together() -> None:
    slot = Slot(1, 1, "a", "small", "")
    slots: Slots = {}
    merge(slots, [(slot, Sums(1, 1, 1, 1.0)), (slot, Sums(1, 2, 3, 4.0, 5.0))])
    assert slots == {slot: Sums(2, 3, 4, 5.0, 5.0)}
