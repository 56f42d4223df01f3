"""Callers that leave or wait no longer take their work along, and nothing of their neighbours'."""

import gc
import weakref

import numpy as np
import pytest

from router.errors import DeadlineExceeded
from tests.support.dispatch_bench import Bench, firsts
from tests.support.hand_transport import settle


async def test_one_caller_that_leaves_takes_nothing_from_its_neighbours(bench: Bench) -> None:
    await bench.occupied()
    await settle()
    leaving, staying = bench.submit(7, 10)[0], bench.submit(8, 10)[0]
    bench.transport.open[0].answer()
    await settle()
    shared = bench.transport.sent[3]
    assert shared.firsts == [7, 8]
    leaving.cancel()
    await settle()
    assert not shared.cancelled
    await bench.transport.answer_all()
    assert firsts([await staying]) == [8]


async def test_a_call_is_cancelled_when_all_its_callers_left(bench: Bench) -> None:
    futures = bench.submit(0, 900)
    await settle()
    futures[0].cancel()
    await settle()
    assert bench.transport.sent[0].cancelled
    assert bench.dispatcher.counters.cancelled_calls == 1


async def test_a_caller_that_leaves_at_once_leaves_nothing_behind(bench: Bench) -> None:
    futures = bench.submit(0, 900)
    futures[0].cancel()  # before the call's task has run for the first time
    await settle()
    bench.ledger.assert_empty()
    again = bench.submit(1, 900)
    await bench.transport.answer_all()
    assert firsts([await again[0]]) == [1]


async def test_work_whose_caller_left_is_dropped_before_it_is_sent(bench: Bench) -> None:
    for index in range(3):
        bench.submit(index, 900)
    await settle()
    waiting = bench.submit(9, 900)[0]
    waiting.cancel()
    await bench.transport.answer_all()
    assert [9] not in [call.firsts for call in bench.transport.sent]
    assert bench.dispatcher.counters.dropped == 1


async def test_texts_whose_callers_left_are_not_kept_while_no_replica_is_ready(
    bench: Bench,
) -> None:
    bench.dispatcher.replicas_changed([])
    live = bench.submit(0, 900)[0]
    ids = [np.full(900, number, np.int32) for number in range(1, 4)]
    kept = [weakref.ref(one) for one in ids]
    left = [
        bench.dispatcher.submit([one], None, [len(one)], "document", None)[0].future
        for one in ids[:2]
    ]
    (last,) = bench.dispatcher.submit([ids[2]], None, [900], "document", None)
    del ids
    for future in left:
        future.cancel()
    await settle()
    assert [one() is None for one in kept] == [True, True, False]
    bench.dispatcher.replicas_changed(["a"])
    await settle()
    await bench.transport.answer_all()
    assert firsts([await live, await last.future]) == [0, 3]


@pytest.mark.parametrize("leaves", [False, True])
async def test_texts_leave_memory_with_their_call_without_the_garbage_collector(
    bench: Bench, leaves: bool
) -> None:
    ids = np.full(10, 1, np.int32)
    kept = weakref.ref(ids)
    (chunk,) = bench.dispatcher.submit([ids], None, [10], "document", None)
    (other,) = bench.submit(2, 10)
    await settle()
    if leaves:
        chunk.future.cancel()
    await bench.transport.answer_all()
    await other
    bench.transport.sent.clear()
    await settle()
    gc.disable()
    try:
        del ids, chunk
        assert kept() is None
    finally:
        gc.enable()


async def test_a_neighbour_s_texts_are_sent_although_another_caller_left_first(
    bench: Bench,
) -> None:
    left, stays = bench.submit(1, 10)[0], bench.submit(2, 10)[0]
    bench.dispatcher.replicas_changed(["a"])  # both share a call that has not been written yet
    left.cancel()
    await settle()
    await bench.transport.answer_all()
    assert firsts([await stays]) == [2]


async def test_work_whose_deadline_passed_is_dropped_with_an_error(bench: Bench) -> None:
    for index in range(3):
        bench.submit(index, 900)
    late = bench.submit(9, 900, deadline_s=bench.clock() + 1)[0]
    await settle()
    bench.clock.now += 2
    await bench.transport.answer_all()
    with pytest.raises(DeadlineExceeded):
        await late
    assert [9] not in [call.firsts for call in bench.transport.sent]
