"""The queue of a dispatcher: who is refused, until when, and whose wait counts what."""

from collections.abc import Callable

import pytest

from router.domain import Curve
from router.errors import ModelUnavailable, Overloaded
from tests.support.dispatch_bench import BATCH, Bench, feedback, firsts
from tests.support.hand_transport import settle


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


async def test_bulk_that_is_taken_back_makes_room_for_other_bulk(bench: Bench) -> None:
    futures = [bench.submit(index, 900, bulk=True)[0] for index in range(57)]
    with pytest.raises(Overloaded):
        bench.submit(57, 900, bulk=True)
    for future in futures[10:]:
        future.cancel()
    await settle()
    bench.submit(58, 900, bulk=True)
    await bench.transport.answer_all()


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
