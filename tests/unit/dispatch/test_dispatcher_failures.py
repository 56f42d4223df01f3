"""Calls, texts and replicas that fail: who is asked again, and who hears of it."""

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from deployments.dispatch.wire import Failure, Reply
from router.domain import Curve, Model
from router.errors import InternalError, ModelUnavailable, Overloaded
from router.feedback import Feedback
from router.replica_health import FAILURES_IN_A_ROW
from router.routing_config import RoutingConfig
from router.steps import ReplicaCounters, Step
from tests.support.dispatch_bench import BATCH, SHORT, Bench, LoopClock, feedback, firsts
from tests.support.hand_transport import settle


class BrokenFeedback(Feedback):
    """A fault of ours in what happens after an answer."""

    def replied(
        self, replica: str, call: Step, counters: ReplicaCounters, alone: bool, idle: bool
    ) -> None:
        raise KeyError("ours")


async def test_a_call_that_hangs_is_cancelled_logged_and_sent_to_another_replica(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench(feedback(Curve(0.0, 0.001, 0.0, 0.0, BATCH)), LoopClock(), replica_timeout_s=0.05)
    bench.dispatcher.replicas_changed(["hangs", "works"])
    futures = [bench.submit(index, 900)[0] for index in range(4)]
    async with asyncio.timeout(10):
        while not all(future.done() for future in futures):
            for call in bench.transport.open:
                if call.replica == "works":
                    call.answer()
            await asyncio.sleep(0)
    assert firsts([await future for future in futures]) == list(range(4))
    hung = [call for call in bench.transport.sent if call.replica == "hangs"]
    assert hung
    assert all(call.cancelled for call in hung)
    assert "a call to replica hangs of m failed: it answered nothing for 0.05 s" in caplog.text
    assert bench.dispatcher.replicas == ("works",)
    bench.ledger.assert_empty()
    await bench.dispatcher.close()


async def test_a_dead_replica_is_retried_once_elsewhere(bench: Bench) -> None:
    bench.dispatcher.replicas_changed(["a", "b"])
    future = bench.submit(5, 900)[0]
    await settle()
    died = bench.transport.sent[0].replica
    bench.transport.sent[0].lose()
    bench.dispatcher.replicas_changed([name for name in ("a", "b") if name != died])
    await bench.transport.answer_all()
    assert firsts([await future]) == [5]
    assert bench.transport.sent[1].replica != died


async def test_what_an_engine_could_not_do_is_sent_to_another_replica(bench: Bench) -> None:
    bench.dispatcher.replicas_changed(["a", "b"])
    futures = [bench.submit(index, 900)[0] for index in range(20)]
    await settle()
    while bench.transport.open:
        for call in bench.transport.open:
            if call.replica == "a":
                call.fail()
            else:
                call.answer()
        await settle()
    assert firsts([await future for future in futures]) == list(range(20))


async def test_a_text_that_one_engine_makes_nonsense_of_is_sent_to_another_replica(
    bench: Bench,
) -> None:
    bench.dispatcher.replicas_changed(["a", "b"])
    futures = [bench.submit(index, 900)[0] for index in range(4)]
    await settle()
    while bench.transport.open:
        for call in bench.transport.open:
            call.answer({0: Failure("engine", "not a vector")} if call.replica == "a" else None)
        await settle()
    rows = [await future for future in futures]
    assert firsts(rows) == list(range(4))
    assert not any(row.failed for row in rows)


@pytest.mark.parametrize("replicas", [["a"], ["a", "b"]])
async def test_texts_that_no_engine_can_embed_take_no_replica_from_the_others(
    bench: Bench, replicas: list[str]
) -> None:
    bench.dispatcher.replicas_changed(replicas)
    for _ in range(2 * FAILURES_IN_A_ROW):
        future = bench.submit(1, 10)[0]
        for _ in range(2):
            await settle()
            bench.transport.open[0].answer({0: Failure("engine", "its vector is not finite")})
        await settle()
        assert list((await future).failed) == [0]
    assert bench.dispatcher.replicas == tuple(replicas)


async def test_a_replica_that_makes_nonsense_of_what_another_can_embed_is_left_alone(
    bench: Bench,
) -> None:
    bench.dispatcher.replicas_changed(["a", "b"])
    futures = [bench.submit(index, 900)[0] for index in range(40)]
    await settle()
    while bench.transport.open:
        for call in bench.transport.open:
            call.answer({0: Failure("engine", "not a vector")} if call.replica == "a" else None)
        await settle()
    assert firsts([await future for future in futures]) == list(range(40))
    assert bench.dispatcher.replicas == ("b",)


async def test_a_broken_line_takes_no_replica_out_and_counts_for_no_try(bench: Bench) -> None:
    future = bench.submit(5, 900)[0]
    await settle()
    bench.transport.open[0].hang_up()
    await settle()
    assert bench.dispatcher.replicas_out == 0
    bench.transport.open[0].lose()  # the handle says that it died
    await settle()
    assert bench.dispatcher.replicas_out == 1
    bench.dispatcher.replicas_changed([])
    bench.dispatcher.replicas_changed(["b"])
    await bench.transport.answer_all()
    assert firsts([await future]) == [5]


async def test_lines_that_break_again_and_again_end_in_an_error(bench: Bench) -> None:
    future = bench.submit(5, 900)[0]
    for _ in range(3):
        await settle()
        bench.transport.open[0].hang_up()
    await settle()
    with pytest.raises(ModelUnavailable, match="failed twice: broken"):
        await future


async def test_nobody_waits_behind_a_chunk_that_may_not_go_back_to_the_replica_with_room(
    bench: Bench,
) -> None:
    bench.dispatcher.replicas_changed(["busy"])
    for first, length in ((1, 900), (2, 900), (3, 10)):  # all the calls that it may have
        bench.submit(first, length)
    await settle()
    bench.dispatcher.replicas_changed(["busy", "idle"])
    poison = bench.submit(7, 900)[0]
    await settle()
    bench.transport.open[-1].fail()
    others = [bench.submit(index, 900)[0] for index in range(10, 15)]
    await settle()
    while here := [call for call in bench.transport.open if call.replica == "idle"]:
        for call in here:
            call.answer()
        await settle()
    assert firsts([future.result() for future in others]) == list(range(10, 15))
    assert not poison.done()
    await bench.transport.answer_all()
    assert firsts([await poison]) == [7]
    assert next(call for call in bench.transport.sent[::-1] if call.firsts == [7]).replica == "busy"


async def test_a_fault_of_ours_after_the_answer_is_logged_and_called_one(
    caplog: pytest.LogCaptureFixture, make_bench: Callable[..., Bench]
) -> None:
    bench = make_bench(
        BrokenFeedback(Model("m", 0, 100_000, SHORT, {}), True, RoutingConfig(), 0.0)
    )
    bench.dispatcher.replicas_changed(["a"])
    future = bench.submit(5, 900)[0]
    with caplog.at_level("ERROR", logger="ray.serve"):
        await bench.transport.answer_all()
    with pytest.raises(InternalError):
        await future
    assert "could not be read" in caplog.text
    assert "KeyError" in caplog.text
    bench.ledger.assert_empty()


async def test_an_instruction_that_fails_stops_no_other(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.dispatcher.replicas_changed(["a"])
    future = bench.submit(5, 10)[0]
    await settle()
    (call,) = bench.transport.open
    rows = np.zeros((1, 4), np.float32)
    counters = ReplicaCounters(0, 0.0)
    tokens: Any = None  # of which no part can be taken
    with caplog.at_level("ERROR", logger="ray.serve"):
        call.future.set_result(Reply(rows, tokens, {}, "a", 0.0, 0.0, 0, counters, None, ()))
        await settle()
    with pytest.raises(InternalError):
        await future
    assert "TypeError" in caplog.text
    later = [bench.submit(number, 10)[0] for number in (6, 7)]  # after the end of the turn
    await bench.transport.answer_all()
    assert firsts([await one for one in later]) == [6, 7]
    bench.ledger.assert_empty()


async def test_a_replica_whose_engine_fails_again_and_again_is_left_alone(bench: Bench) -> None:
    futures = [bench.submit(index, 900)[0] for index in range(20)]
    await settle()
    while bench.transport.open:
        bench.transport.open[0].fail()
        await settle()
    assert bench.dispatcher.replicas == ()
    assert len(bench.transport.sent) <= 7  # five in a row, and what was on its way
    bench.dispatcher.replicas_changed(["b"])
    await bench.transport.answer_all()
    assert sum(future.done() and future.exception() is None for future in futures) >= 16


async def test_what_a_lost_replica_still_does_takes_no_room_from_the_others(bench: Bench) -> None:
    await bench.occupied()
    await settle()
    assert len(bench.transport.open) == 3
    bench.dispatcher.replicas_changed(["b"])  # Serve drains a: its calls go on
    new = bench.submit(7, 10)[0]
    await settle()
    assert [call.replica for call in bench.transport.open] == ["a", "a", "a", "b"]
    await bench.transport.answer_all()
    assert firsts([await new]) == [7]


async def test_what_a_server_behind_the_engine_refuses_for_now_is_not_sent_again_and_its_time_is_passed_on(  # noqa: E501
    bench: Bench,
) -> None:
    for turn in range(2 * FAILURES_IN_A_ROW):
        one, other = bench.submit(1, 900)[0], bench.submit(2, 900)[0]
        await settle()
        for call in bench.transport.open:
            call.refuse(retry_after_s=7.0)
        await settle()
        for future in (one, other):
            with pytest.raises(Overloaded) as refused:
                await future
            assert refused.value.headers["retry-after"] == "7"
        assert (bench.dispatcher.counters.retries, len(bench.transport.sent)) == (0, 2 * (turn + 1))
    assert bench.dispatcher.replicas_out == 0


async def test_a_replica_that_fails_fast_is_not_taken_for_the_least_loaded(bench: Bench) -> None:
    bench.dispatcher.replicas_changed(["dead", "alive"])
    futures = []
    for index in range(20):
        futures.append(bench.submit(index, 900)[0])
        await settle()
        for call in bench.transport.open:
            if call.replica == "dead":
                call.lose()
            else:
                call.answer()
        await bench.transport.answer_all()
    assert firsts([await future for future in futures]) == list(range(20))
    assert sum(call.replica == "dead" for call in bench.transport.sent) == 1


async def test_a_chunk_whose_replica_dies_twice_is_an_error_that_says_so(bench: Bench) -> None:
    future = bench.submit(5, 900)[0]
    for _ in range(2):
        await settle()
        bench.transport.open[0].lose()
        await settle()
        bench.dispatcher.replicas_changed([])  # Serve replaces it
        bench.dispatcher.replicas_changed(["a"])
    with pytest.raises(ModelUnavailable, match="failed twice"):
        await future


async def test_a_poisoned_call_is_sent_again_one_request_at_a_time(bench: Bench) -> None:
    await bench.occupied()
    await settle()
    good, bad = bench.submit(7, 10)[0], bench.submit(8, 10)[0]
    bench.transport.open[0].answer()
    await settle()
    bench.transport.sent[3].fail()
    await settle()
    while bench.transport.open:
        for call in bench.transport.open:
            if call.firsts == [8]:
                call.fail()
            else:
                call.answer()
        await settle()
    assert firsts([await good]) == [7]
    with pytest.raises(ModelUnavailable, match="poison"):
        await bad


async def test_a_text_that_fails_alone_is_reported_in_its_own_request_only(bench: Bench) -> None:
    await bench.occupied()
    await settle()
    good, bad = bench.submit(7, 10)[0], bench.submit(8, 10, 10)[0]
    bench.transport.open[0].answer()
    await settle()
    bench.transport.sent[3].answer({2: Failure("too_long", "too long", 10, 5)})
    await settle()
    assert (await good).failed == {}
    assert list((await bad).failed) == [1]
    await bench.transport.answer_all()


async def test_an_answer_of_another_shape_is_an_error_not_a_vector(bench: Bench) -> None:
    bench.transport.width = 5
    future = bench.submit(0, 900)[0]
    await bench.transport.answer_all()
    with pytest.raises(ModelUnavailable, match="5"):
        await future


async def test_requests_that_share_a_call_get_errors_of_their_own(bench: Bench) -> None:
    await bench.occupied()
    futures = [bench.submit(10 + index, 10)[0] for index in range(3)]
    await settle()
    while bench.transport.open:
        for call in bench.transport.open:
            call.refuse(retry_after_s=7.0)
        await settle()
    errors = [future.exception() for future in futures]
    assert all(isinstance(error, Overloaded) and error.at_server for error in errors)
    assert len(set(map(id, errors))) == len(errors)
