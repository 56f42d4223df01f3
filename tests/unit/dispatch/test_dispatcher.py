"""The dispatcher and its shell against a transport worked by hand: who shares a call, who waits,
who is touched by a failure. What depends on time alone is in tests/unit/router/test_dispatching.py.
"""

import asyncio
import gc
import math
import random
import weakref
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest
import uvloop

from deployments.dispatch.chunks import Rows
from deployments.dispatch.dispatcher import ModelDispatcher
from deployments.dispatch.wire import Failure, Reply
from router.calls import MESSAGE_BYTES, max_rows
from router.domain import Curve, Model
from router.errors import DeadlineExceeded, InternalError, ModelUnavailable, Overloaded
from router.feedback import Feedback
from router.ledger import Ledger
from router.replica_health import FAILURES_IN_A_ROW
from router.routing_config import RoutingConfig
from router.steps import ReplicaCounters, Step
from tests.support.hand_transport import HandTransport, settle

BATCH = 1000


SHORT = Curve(0.001, 0.001, 0.0001, 0.0, BATCH)


def feedback(curve: Curve = SHORT, cold_start_s: float | None = None) -> Feedback:
    return Feedback(Model("m", 0, 100_000, curve, {}), True, RoutingConfig(), 0.0, cold_start_s)


class BrokenFeedback(Feedback):
    """A fault of ours in what happens after an answer."""

    def replied(
        self, replica: str, call: Step, counters: ReplicaCounters, alone: bool, idle: bool
    ) -> None:
        raise KeyError("ours")


class Clock:
    """Seconds that only a test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class LoopClock:
    """The loop's own clock; counts how often it is read."""

    reads = 0

    def __call__(self) -> float:
        self.reads += 1
        return asyncio.get_running_loop().time()


class Bench:
    """One dispatcher, its transport, and the shorthand of the tests."""

    def __init__(
        self,
        learned: Feedback | None = None,
        clock: Callable[[], float] | None = None,
        max_queue_s: float = 1000.0,
        replica_timeout_s: float = 1000.0,
        steps: bool = True,
        bulk_call_s: float = math.inf,
    ) -> None:
        self.transport, self.clock = HandTransport(), Clock()
        self.ledger = Ledger({"m": 3})
        self.dispatcher = ModelDispatcher(
            model="m",
            dimensions=4,
            batch_tokens=BATCH,
            calls_in_flight=3,
            max_queued_tokens=50_000,
            max_queue_s=max_queue_s,
            replica_timeout_s=replica_timeout_s,
            transport=self.transport,
            ledger=self.ledger,
            feedback=learned or feedback(),
            clock=clock or self.clock,
            rng=random.Random(1),
            steps=steps,
            bulk_call_s=bulk_call_s,
        )

    def submit(
        self, first: int, *lengths: int, bulk: bool = False, deadline_s: float | None = None
    ) -> list[asyncio.Future[Rows]]:
        ids = [np.full(length, first + index, np.int32) for index, length in enumerate(lengths)]
        chunks = self.dispatcher.submit(ids, None, list(lengths), "document", deadline_s, bulk)
        return [chunk.future for chunk in chunks]

    async def occupied(self, calls: int = 3) -> None:
        """Submit so many small texts that each take a call, as the one before should be nearly
        done; so should the last be.
        """
        for index in range(calls):
            self.submit(index, 10)
            await settle()
            self.clock.now += 1.0


@pytest.fixture
async def make_bench() -> AsyncIterator[Callable[..., Bench]]:
    """Make a bench that is closed after the test."""
    benches = list[Bench]()

    def make(*args: Any, **options: Any) -> Bench:
        benches.append(Bench(*args, **options))
        return benches[-1]

    yield make
    for made in benches:
        await made.dispatcher.close()
        await settle()
        made.ledger.assert_empty()


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    made = make_bench()
    made.dispatcher.replicas_changed(["a"])
    return made


def firsts(rows: list[Rows]) -> list[int]:
    return [int(value) for answer in rows for value in answer.vectors[:, 0]]


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


async def test_a_large_request_is_cut_into_batches_and_answered_in_order(bench: Bench) -> None:
    futures = bench.submit(0, *[300] * 10)
    await bench.transport.answer_all()
    assert all(int(call.call.lengths.sum()) <= BATCH for call in bench.transport.sent)
    assert firsts([await future for future in futures]) == list(range(10))


async def test_texts_that_begin_alike_go_to_one_replica_while_it_has_room(bench: Bench) -> None:
    bench.dispatcher.replicas_changed(["a", "b", "c", "d"])
    row = [np.full(900, 1, np.int32)]

    async def sent_to(prefix: bytes | None) -> str:
        bench.dispatcher.submit(row, None, [900], "document", None, prefix=prefix)
        await settle()
        (call,) = bench.transport.open
        call.answer()
        await settle()
        return call.replica

    for query in (b"one", b"other"):
        assert len({await sent_to(query) for _ in range(10)}) == 1
    assert len({await sent_to(None) for _ in range(30)}) > 1, "others are drawn"


async def test_a_text_longer_than_a_batch_has_a_call_of_its_own(bench: Bench) -> None:
    futures = bench.submit(0, 10, BATCH * 3, 10)
    await bench.transport.answer_all()
    assert firsts([await future for future in futures]) == [0, 1, 2]


async def test_a_reply_never_exceeds_the_message_limit() -> None:
    assert max_rows(4096) * 4096 * 4 < 4 * 1024 * 1024
    transport, ledger = HandTransport(width=4096), Ledger({"m": 3})
    dispatcher = ModelDispatcher(
        "m",
        4096,
        100_000,
        3,
        1_000_000,
        1000.0,
        1000.0,
        transport,
        ledger,
        feedback(),
        Clock(),
        random.Random(1),
    )
    dispatcher.replicas_changed(["a"])
    ids = [np.array([index], np.int32) for index in range(2048)]
    futures = [chunk.future for chunk in dispatcher.submit(ids, None, [1] * 2048, "document", None)]
    rows: list[Rows] = []
    while len(rows) < len(futures):
        await settle()
        for call in transport.open:
            assert len(call.call.lengths) <= max_rows(4096)
            call.answer()
        await settle()
        rows = [future.result() for future in futures if future.done()]
    assert firsts(rows) == list(range(2048))
    ledger.assert_empty()


async def test_small_requests_that_share_a_call_keep_its_reply_below_the_message_limit() -> None:
    transport, ledger, most = HandTransport(width=4096), Ledger({"m": 3}), max_rows(4096)
    dispatcher = ModelDispatcher(
        "m",
        4096,
        100_000,
        3,
        1_000_000,
        1000.0,
        1000.0,
        transport,
        ledger,
        feedback(),
        Clock(),
        random.Random(1),
    )
    dispatcher.replicas_changed(["a"])
    texts = [
        [np.array([100 * request + row], np.int32) for row in range(32)] for request in range(20)
    ]
    futures = [dispatcher.submit(ids, None, [1] * 32, "document", None)[0].future for ids in texts]
    await transport.answer_all()
    rows = [len(sent.call.lengths) for sent in transport.sent]
    assert max(rows) == most // 32 * 32  # as many as fit
    assert firsts([await future for future in futures]) == [
        100 * request + row for request in range(20) for row in range(32)
    ]
    ledger.assert_empty()


async def test_a_small_request_does_not_wait_behind_fifty_long_ones(bench: Bench) -> None:
    long = [bench.submit(1000 + index, 900)[0] for index in range(50)]
    await settle()
    small = bench.submit(1, 10)[0]
    await settle()
    assert [1] in [call.firsts for call in bench.transport.open]
    next(call for call in bench.transport.open if call.firsts == [1]).answer()
    await settle()
    assert small.done()
    assert not any(future.done() for future in long)
    await bench.transport.answer_all()
    assert firsts([await future for future in long]) == list(range(1000, 1050))


async def test_small_requests_do_not_starve_a_large_one(bench: Bench) -> None:
    await bench.occupied()
    await settle()
    large = bench.submit(500, 900)[0]
    for index in range(3, 30):
        bench.submit(index, 10)
    for _ in range(3):
        await settle()
        bench.transport.open[0].answer()
    await settle()
    assert [500] in [call.firsts for call in bench.transport.sent]
    await bench.transport.answer_all()
    assert large.done()


async def test_bulk_yields_to_interactive(bench: Bench) -> None:
    await bench.occupied()
    await settle()
    bench.submit(100, 10, bulk=True)
    bench.submit(200, 10)
    bench.transport.open[0].answer()
    await settle()
    assert bench.transport.sent[3].firsts == [200, 100]
    await bench.transport.answer_all()


async def test_bulk_travels_in_calls_of_bounded_work(make_bench: Callable[..., Bench]) -> None:
    a_text_s = 0.001 * 40
    bench = make_bench(feedback(Curve(0.0, 0.0, 0.001, 0.0, BATCH)), bulk_call_s=2.5 * a_text_s)
    bench.dispatcher.replicas_changed(["a"])
    ingest = bench.submit(0, *[40] * 7, bulk=True)
    assert len(ingest) == 4  # of one request: cut
    await bench.transport.answer_all()
    for index in range(100, 107):  # of many requests: joined, and no more
        bench.submit(index, 40, bulk=True)
    bench.submit(200, 900, bulk=True)  # one text is never cut
    await bench.transport.answer_all()
    texts = [len(call.call.lengths) for call in bench.transport.sent]
    assert max(texts) == 2
    assert sum(texts) == 7 + 7 + 1
    bench.submit(300, *[40] * 7)
    await bench.transport.answer_all()
    assert len(bench.transport.sent[-1].call.lengths) == 7  # interactive requests are whole


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


@pytest.mark.parametrize(("characters", "count"), [(16_000, 240), (400_000, 40)])
async def test_texts_of_few_tokens_and_many_bytes_make_no_call_larger_than_a_message(
    bench: Bench, characters: int, count: int
) -> None:
    futures = [
        bench.dispatcher.submit(None, [" " * characters], [4], "query", None)[0].future
        for _ in range(count)
    ]
    await settle()
    while bench.transport.open:
        for call in bench.transport.open:
            call.refuse(1.0)
        await settle()
    sent = [call.call.texts or [] for call in bench.transport.sent]
    assert sum(map(len, sent)) == len(futures)
    assert max(sum(map(len, texts)) for texts in sent) <= MESSAGE_BYTES
    for future in futures:
        with pytest.raises(Overloaded):
            await future


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


async def test_a_queue_that_is_too_long_to_wait_for_refuses_until_when_there_is_room(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench(max_queue_s=1.0)  # the curve serves 9,900 tokens a second
    bench.dispatcher.replicas_changed(["a"])
    for index in range(14):  # two are on their way, 12 wait: 10,800 tokens
        bench.submit(index, 900)
    with pytest.raises(Overloaded) as refused:
        bench.submit(20, 900)
    assert 1 <= int(refused.value.headers["retry-after"]) <= 2
    bulk = bench.submit(99, 900, bulk=True)
    assert not bulk[0].done()
    await bench.transport.answer_all()


async def test_a_request_that_cannot_be_served_by_its_deadline_is_refused_at_once(
    bench: Bench,
) -> None:
    for index in range(22):
        bench.submit(index, 900)
    with pytest.raises(Overloaded):
        bench.submit(50, 900, deadline_s=bench.clock() + 1.0)
    assert not bench.submit(51, 900, deadline_s=bench.clock() + 10.0)[0].done()
    await bench.transport.answer_all()


async def test_bulk_that_others_would_keep_waiting_beyond_its_deadline_is_refused_at_once(
    bench: Bench,
) -> None:
    # the curve serves 9,900 tokens a second; 4 s of work are there
    deadline_s = bench.clock() + 60.0
    for index in range(44):
        bench.submit(index, 900)
    assert not bench.submit(100, 900, bulk=True, deadline_s=deadline_s)[0].done()
    for index in range(100):  # and 9,000 tokens a second more come before it, as long as it waits
        bench.clock.now += 0.1
        bench.submit(200 + index, 900)
        await settle()
        bench.transport.open[0].answer()
        await settle()
    with pytest.raises(Overloaded) as refused:
        bench.submit(101, *[900] * 9, bulk=True, deadline_s=bench.clock() + 8.0)
    # a tenth of the time is enough for 7,920 tokens, and 900 wait
    assert not bench.submit(103, *[900] * 6, bulk=True, deadline_s=bench.clock() + 8.0)[0].done()
    assert int(refused.value.headers["retry-after"]) >= 1
    assert not bench.submit(102, 900, deadline_s=bench.clock() + 8.0)[
        0
    ].done()  # what is interactive would be in time
    await bench.transport.answer_all()


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


async def test_bulk_that_is_taken_back_makes_room_for_other_bulk(bench: Bench) -> None:
    futures = [bench.submit(index, 900, bulk=True)[0] for index in range(57)]
    with pytest.raises(Overloaded):
        bench.submit(57, 900, bulk=True)
    for future in futures[10:]:
        future.cancel()
    await settle()
    bench.submit(58, 900, bulk=True)
    await bench.transport.answer_all()


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


async def test_bulk_that_waits_is_not_counted_in_the_wait_of_others(bench: Bench) -> None:
    for index in range(20):
        bench.submit(index, 900, bulk=True)
    assert bench.ledger.waiting_tokens("m") == 0
    await bench.transport.answer_all()


async def test_work_that_is_taken_back_stops_counting_wherever_it_stands(bench: Bench) -> None:
    futures = [bench.submit(index, 900)[0] for index in range(10)]
    await settle()
    before = bench.ledger.waiting_tokens("m")
    for future in futures[5:]:
        future.cancel()
    await settle()
    assert bench.ledger.waiting_tokens("m") == before - 5 * 900
    await bench.transport.answer_all()


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


async def test_work_waits_for_the_first_replica(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench()
    future = bench.submit(3, 10)[0]
    await settle()
    assert not bench.transport.sent
    bench.dispatcher.replicas_changed(["late"])
    await bench.transport.answer_all()
    assert firsts([await future]) == [3]
    bench.ledger.assert_empty()


async def test_work_for_a_model_at_zero_replicas_asks_for_one_once(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench(feedback(cold_start_s=30.0))
    futures = [bench.submit(index, 10)[0] for index in range(3)]
    await settle()
    assert bench.transport.woken == ["m"]
    bench.dispatcher.replicas_changed(["a"])
    await bench.transport.answer_all()
    assert firsts([await future for future in futures]) == [0, 1, 2]
    bench.dispatcher.replicas_changed([])
    again = bench.submit(9, 10)[0]
    await settle()
    assert bench.transport.woken == ["m", "m"]
    again.cancel()
    await settle()
    bench.ledger.assert_empty()


async def test_a_full_queue_refuses_with_a_time_to_retry(bench: Bench) -> None:
    for index in range(57):  # two of them are on their way, 55 wait: 49,500 of 50,000 tokens
        bench.submit(index, 900)
    with pytest.raises(Overloaded) as refused:
        bench.submit(57, 900)
    # 49,500 tokens at 9,900 a second, until 25,000 are left
    assert refused.value.headers["retry-after-ms"] == "2475"
    with pytest.raises(Overloaded) as refused:
        bench.submit(58, 900, deadline_s=bench.clock() + 4.0)
    assert refused.value.headers["retry-after-ms"] == "3000", "5 s, until half of 4 s are left"
    with pytest.raises(Overloaded) as refused:
        bench.submit(59, *[900] * 50)  # 45,000 tokens: room for them once 5,000 are left
    assert refused.value.headers["retry-after-ms"] == "4495"
    with pytest.raises(Overloaded) as refused:
        bench.submit(59, *[900] * 60)  # more than the queue may hold: once it is empty
    assert refused.value.headers["retry-after-ms"] == "5000"


@pytest.mark.parametrize("speed", [0.5, 1.0, 2.0], ids=["half as fast", "as fast", "twice as fast"])
async def test_clients_that_wait_as_long_as_they_are_told_come_neither_in_vain_nor_to_an_idle_queue(
    bench: Bench, speed: float
) -> None:
    for index in range(57):
        bench.submit(index, 900)
    told_s = []
    for index in range(12):
        with pytest.raises(Overloaded) as refused:
            bench.submit(100 + index, 900)
        told_s.append(int(refused.value.headers["retry-after-ms"]) / 1000)
    assert len(set(told_s)) == 1
    answered = int(told_s[0] * 9_900 * speed / 900)  # in that time
    await settle()
    for _ in range(answered):
        assert bench.transport.open, "the replica has no more work"
        bench.transport.open[0].answer()
        await settle()
        bench.clock.now += told_s[0] / answered
    assert bench.ledger.waiting_tokens("m") > 0
    for index in range(12):
        assert not bench.submit(100 + index, 900)[0].done()
    await bench.transport.answer_all()


async def test_bulk_has_a_time_to_retry_that_is_of_its_own_queue(bench: Bench) -> None:
    for index in range(57):  # two of them are on their way, 55 wait: 49,500 of 50,000 tokens
        bench.submit(index, 900, bulk=True)
    with pytest.raises(Overloaded) as refused:
        bench.submit(57, 900, bulk=True)
    assert refused.value.headers["retry-after-ms"] == "2475", "until 25,000 tokens are left"
    with pytest.raises(Overloaded) as refused:
        bench.submit(58, 900, bulk=True, deadline_s=bench.clock() + 4.0)
    assert refused.value.headers["retry-after-ms"] == "3000", "5 s, until half of 4 s are left"
    assert not bench.submit(59, 900)[0].done()
    await bench.transport.answer_all()


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


async def test_a_full_queue_of_slow_work_asks_for_no_longer_time_than_clients_wait(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench(feedback(Curve(0.001, 0.001, 0.01, 0.0, BATCH)))  # 500 s wait
    bench.dispatcher.replicas_changed(["a"])
    for index in range(57):
        bench.submit(index, 900)
    with pytest.raises(Overloaded) as refused:
        bench.submit(57, 900)
    assert refused.value.headers["retry-after"] == "60"


async def test_a_full_queue_without_a_replica_has_no_prediction(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench()
    for index in range(55):
        bench.submit(index, 900)
    with pytest.raises(Overloaded) as refused:
        bench.submit(57, 900)
    assert refused.value.headers["retry-after"] == "1"


async def test_closing_fails_what_waits_and_says_so() -> None:
    bench = Bench()
    bench.dispatcher.replicas_changed(["a"])
    futures = [bench.submit(index, 900)[0] for index in range(6)]
    await settle()
    await bench.dispatcher.close()
    for future in futures:
        with pytest.raises(ModelUnavailable, match="stopping"):
            await future
    bench.ledger.assert_empty()
