"""Small requests that wait gather in a call, for as long as that keeps nobody waiting."""

import asyncio
from collections.abc import Callable

import numpy as np
import uvloop

from router.domain import Curve
from tests.support.dispatch_bench import BATCH, Bench, LoopClock, feedback, firsts
from tests.support.hand_transport import settle


async def test_small_requests_that_wait_share_a_call(bench: Bench) -> None:
    futures = bench.submit(0, 10)
    await settle()
    futures += [bench.submit(index, 10)[0] for index in range(1, 20)]
    await bench.transport.answer_all()
    assert [call.firsts for call in bench.transport.sent] == [[0], list(range(1, 20))]
    assert firsts([await future for future in futures]) == list(range(20))


async def test_small_requests_that_are_read_in_one_turn_share_a_call(bench: Bench) -> None:
    futures = [bench.submit(index, 10)[0] for index in range(3)]
    await bench.transport.answer_all()
    assert [call.firsts for call in bench.transport.sent] == [[0, 1, 2]]
    rows = [await future for future in futures]
    assert firsts(rows) == [0, 1, 2]
    assert [answer.joined for answer in rows] == [True, False, False], "longer by half"


async def test_small_requests_gather_no_longer_than_until_they_fill_a_batch(bench: Bench) -> None:
    bench.submit(0, 10)
    await settle()
    for index in range(1, BATCH // 10):
        bench.submit(index, 10)
    await settle()
    assert [call.firsts for call in bench.transport.sent] == [[0]]
    bench.submit(BATCH // 10, 10)
    await settle()
    assert [call.firsts for call in bench.transport.sent] == [[0], list(range(1, BATCH // 10 + 1))]
    await bench.transport.answer_all()


async def test_small_requests_that_gather_go_when_the_call_before_them_is_answered_sooner(
    bench: Bench,
) -> None:
    bench.submit(0, 10)
    await settle()
    bench.submit(1, 10)
    await settle()
    bench.transport.open[0].answer()
    await settle()
    assert [call.firsts for call in bench.transport.open] == [[1]]
    await bench.transport.answer_all()


async def test_queries_and_documents_that_gather_go_together(bench: Bench) -> None:
    bench.submit(0, 10)
    await settle()
    for index in range(1, 9):
        ids = [np.full(10, index, np.int32)]
        bench.dispatcher.submit(ids, None, [10], "query" if index % 2 else "document", None)
    await bench.transport.answer_all()
    assert [call.firsts for call in bench.transport.sent] == [[0], list(range(1, 9))]


async def test_texts_that_gather_go_side_by_side_where_an_engine_writes_their_prompts(
    bench: Bench,
) -> None:
    for index in range(5):
        bench.dispatcher.submit(
            None, [f"text {index}"], [10], "query" if index in (3, 4) else "document", None
        )
        await settle()
    bench.transport.open[0].refuse(1.0)
    await settle()
    assert [(call.call.input_type, call.call.texts) for call in bench.transport.open] == [
        ("document", ["text 1", "text 2"]),
        ("query", ["text 3", "text 4"]),
    ]
    for call in bench.transport.open:
        call.refuse(1.0)
    await settle()


async def test_small_requests_do_not_gather_for_an_engine_that_takes_calls_side_by_side(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench(steps=False)
    bench.dispatcher.replicas_changed(["a"])
    for index in range(3):
        bench.submit(index, 10)
    await settle()
    assert [call.firsts for call in bench.transport.open] == [[0], [1], [2]]
    await bench.transport.answer_all()


async def test_small_requests_gather_however_many_large_and_bulk_ones_wait(bench: Bench) -> None:
    for index in range(10):
        bench.submit(100 + index, 900, bulk=index % 2 == 0)
    bench.submit(0, 10)
    await settle()
    for index in range(1, 4):
        bench.submit(index, 10)
    await settle()
    bench.clock.now += 1.0
    bench.submit(4, 10)
    await settle()
    small = [call.firsts for call in bench.transport.sent if call.firsts[0] < 100]
    assert small == [[0]], "the large ones take the other calls"
    await bench.transport.answer_all()
    small = [call.firsts for call in bench.transport.sent if call.firsts[0] < 100]
    assert small == [[0], [1, 2, 3, 4]]


async def test_a_dispatcher_that_is_closed_has_no_timer_left() -> None:
    clock = LoopClock()
    bench = Bench(feedback(Curve(0.0, 0.01, 0.0, 0.0, BATCH)), clock, replica_timeout_s=0.01)
    bench.dispatcher.replicas_changed(["a"])
    futures = [bench.submit(0, 10)[0], bench.submit(1, 10)[0]]
    await settle()
    await bench.dispatcher.close()
    await settle()
    assert all(future.exception() is not None for future in futures)
    reads = clock.reads
    await asyncio.sleep(0.1)
    assert clock.reads == reads
    assert len(bench.transport.sent) == 1


def test_gathering_costs_one_timer_on_uvloop_too() -> None:
    async def main() -> int:
        clock = LoopClock()
        bench = Bench(feedback(Curve(0.1055, 0.0, 0.0, 0.0, BATCH)), clock)
        bench.dispatcher.replicas_changed(["a"])
        futures = bench.submit(0, 10)
        await settle()
        futures += bench.submit(1, 10)
        await settle()
        before = clock.reads
        async with asyncio.timeout(10):
            while len(bench.transport.sent) < 2:  # noqa: ASYNC110  the dispatcher's own timer is what is tested
                await asyncio.sleep(0)
        found = clock.reads - before
        await bench.transport.answer_all()
        await asyncio.gather(*futures)
        return found

    assert uvloop.run(main()) <= 2, "one for the timer and one for the call that it launches"


async def test_small_requests_that_gather_at_one_replica_keep_no_large_one_waiting(
    bench: Bench,
) -> None:
    bench.submit(0, 10)
    await settle()
    bench.submit(1, 10)
    bench.submit(500, 900)
    await settle()
    assert [call.firsts for call in bench.transport.sent] == [[0], [500]]
    await bench.transport.answer_all()
