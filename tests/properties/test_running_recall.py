"""The laws of a collection's average: it is never below the floor by more than one request."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.running_recall import Booking, RunningRecall

floors = st.floats(0.5, 0.999)
recalls = st.floats(0.0, 1.0)
queries = st.integers(1, 50)
# a request: what it keeps where it may be answered by an encoder, texts, how many others begin
# before it ends, and whether it is answered
requests = st.tuples(recalls, queries, st.integers(0, 5), st.booleans())


@settings(deadline=None, max_examples=400)
@given(floors, st.floats(1.0, 2000.0), st.lists(requests, max_size=80))
def test_the_average_is_below_the_floor_by_one_request_at_most(
    floor: float, window: float, asked: list[tuple[float, int, int, bool]]
) -> None:
    running, most = RunningRecall(floor, window), 0.0
    open_: list[tuple[int, float, int, Booking | None, bool]] = []
    for place, (recall, texts, others, answered) in enumerate(asked):
        # the native model answers where the encoder may not
        kept = 1.0 if running.low and recall < floor else recall
        if kept < floor:
            most = max(most, texts * (floor - kept))
        open_.append((place + others, kept, texts, running.decided(kept, texts), answered))
        for one in [one for one in open_ if one[0] <= place]:
            open_.remove(one)
            _, kept, texts, booking, answered = one
            if booking is None and answered:
                running.answered(kept, texts)
            elif booking is not None and not answered:
                running.take_back(booking)
        short = running.floor * running.queries - running.kept
        assert short <= most + 1e-6
        assert running.average is None or 0.0 <= running.average <= 1.0 + 1e-9


def test_native_answers_count_1_and_earn_answers_below_the_floor() -> None:
    running = RunningRecall(0.95)
    assert running.average is None
    assert not running.low
    assert running.decided(0.9, 1) is not None  # the one request that may overdraw
    assert running.low
    running.answered(1.0, 1)
    assert running.average == pytest.approx(0.95, abs=1e-3)
    shares = 0
    for _ in range(4000):
        if running.low:
            running.answered(1.0, 1)
        else:
            running.decided(0.9, 1)
            shares += 1
    assert shares / 4000 == pytest.approx(0.5, abs=0.01)  # (1 - 0.95) / (1 - 0.9)


def test_an_encoder_that_keeps_the_floor_is_never_booked_and_never_low() -> None:
    running = RunningRecall(0.95)
    for _ in range(100):
        assert running.decided(0.95, 3) is None
        running.answered(0.95, 3)
    assert not running.low


def test_what_is_not_answered_does_not_count() -> None:
    running = RunningRecall(0.95)
    running.answered(1.0, 10)
    before = running.average
    booking = running.decided(0.5, 4)
    assert booking is not None
    running.take_back(booking)
    assert running.average == pytest.approx(before)


def test_old_queries_fade() -> None:
    running = RunningRecall(0.95, window=100.0)
    for _ in range(1000):
        running.answered(1.0, 1)
    for _ in range(500):
        running.answered(0.5, 1)
    assert running.average == pytest.approx(0.5, abs=0.01)
