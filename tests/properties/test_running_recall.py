"""The laws of a collection's account: all its queries together keep the floor, less one request."""

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.running_recall import ROUNDING, Booking, RunningRecall

floors = st.floats(0.5, 0.999)
windows = st.floats(1.0, 2000.0)
recalls = st.one_of(st.floats(0.0, 1.0), st.just(0.5))
queries = st.sampled_from((1, 2, 7, 50, 256, 1024, 2048))
# a request: what it keeps where it may be answered by an encoder, texts, how many others begin
# before it ends, and whether it is answered
requests = st.tuples(recalls, queries, st.integers(0, 5), st.booleans())


def state(running: RunningRecall) -> dict[str, Any]:
    return {name: getattr(running, name) for name in RunningRecall.__slots__}


@settings(deadline=None, max_examples=200)
@given(floors, windows, st.lists(requests, max_size=80))
def test_all_queries_together_keep_the_floor_less_one_request(
    floor: float, window: float, sent: list[tuple[float, int, int, bool]]
) -> None:
    running = RunningRecall(floor, window)
    counted: dict[int, tuple[float, int]] = {}  # requests in flight below the floor, and answered
    open_: list[tuple[int, int, float, int, Booking | None, bool]] = []
    for place, (recall, texts, others, answered) in enumerate(sent):
        # the native model answers where the encoder may not
        kept = 1.0 if running.low and recall < floor else recall
        booking = running.decided(kept, texts)
        if booking is not None:
            counted[place] = kept, texts
        open_.append((place + others, place, kept, texts, booking, answered))
        for one in [one for one in open_ if one[0] <= place]:
            open_.remove(one)
            _, own, kept, texts, booking, answered = one
            if answered:
                counted[own] = kept, texts
            else:
                counted.pop(own, None)
            if booking is None and answered:
                running.answered(kept, texts)
            elif booking is not None:
                (running.keep if answered else running.take_back)(booking)
        short = math.fsum((floor - kept) * texts for kept, texts in counted.values())
        most = max((texts * (floor - kept) for kept, texts in counted.values()), default=0.0)
        assert short <= max(0.0, most) + 2 * ROUNDING
        assert running.average is None or 0.0 <= running.average <= 1.0
    assert all(isinstance(value, int | float) for value in state(running).values())


@settings(deadline=None, max_examples=100)
@given(floors, windows, st.lists(st.tuples(recalls, queries), max_size=20), st.data())
def test_a_booking_that_is_taken_back_leaves_no_trace(
    floor: float, window: float, sent: list[tuple[float, int]], data: st.DataObject
) -> None:
    """Whatever was booked, answered and taken back between the two."""
    one, other = RunningRecall(floor, window), RunningRecall(floor, window)
    extra: list[Booking] = []
    open_: list[tuple[Booking, Booking]] = []
    for recall, texts in sent:
        if (booking := one.decided(data.draw(recalls), data.draw(queries))) is not None:
            extra.append(booking)
        both = one.decided(recall, texts), other.decided(recall, texts)
        if both[0] is None or both[1] is None:
            one.answered(recall, texts)
            other.answered(recall, texts)
        else:
            open_.append((both[0], both[1]))
        if data.draw(st.booleans()) and extra:
            one.take_back(extra.pop(data.draw(st.integers(0, len(extra) - 1))))
        if data.draw(st.booleans()) and open_:
            kept = open_.pop(0)
            one.keep(kept[0])
            other.keep(kept[1])
    for booking in extra:
        one.take_back(booking)
    assert state(one) == pytest.approx(state(other), abs=1e-9)


@pytest.mark.parametrize("recall", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("texts", [1, 16, 256, 1024, 2048])
def test_lists_keep_the_floor_where_the_native_model_is_used_only_if_it_must(
    recall: float, texts: int
) -> None:
    running, kept, rounds = RunningRecall(0.95), 0.0, 1000
    for _ in range(rounds):
        one = 1.0 if running.low else recall
        if (booking := running.decided(one, texts)) is None:
            running.answered(one, texts)
        else:
            running.keep(booking)
        kept += one
    assert kept / rounds >= 0.95 - (0.95 - recall) / rounds


def test_native_answers_count_1_and_earn_answers_below_the_floor() -> None:
    running = RunningRecall(0.95)
    assert running.average is None
    assert not running.low
    assert running.decided(0.9, 1) is not None  # the one request that may overdraw
    assert running.low
    running.answered(1.0, 1)
    assert not running.low
    shares = 0
    for _ in range(4000):
        if running.low:
            running.answered(1.0, 1)
        else:
            booking = running.decided(0.9, 1)
            assert booking is not None
            running.keep(booking)
            shares += 1
    assert shares / 4000 == pytest.approx(0.5, abs=0.01)  # (1 - 0.95) / (1 - 0.9)
    assert running.average == pytest.approx(0.95, abs=1e-3)


def test_an_encoder_that_keeps_the_floor_is_never_booked_and_never_low() -> None:
    running = RunningRecall(0.95)
    for _ in range(100):
        assert running.decided(0.95, 3) is None
        running.answered(0.95, 3)
    assert not running.low


def test_a_quiet_night_does_not_pay_for_a_day() -> None:
    running, spent = RunningRecall(0.95), 0
    for _ in range(100_000):
        running.answered(1.0, 1)
    while not running.low:
        assert running.decided(0.5, 1) is not None
        spent += 1
    assert spent == pytest.approx(0.05 * 1000 / 0.45, abs=2)


def test_the_average_is_that_of_the_last_answers() -> None:
    running = RunningRecall(0.95, window=100.0)
    for _ in range(1000):
        running.answered(1.0, 1)
    for _ in range(500):
        running.answered(0.5, 1)
    assert running.average == pytest.approx(0.5, abs=0.01)
    assert running.decided(0.1, 50) is not None
    assert running.average == pytest.approx(0.5, abs=0.01)
