"""The dispatcher and its shell against a transport worked by hand: how requests are cut into calls,
and who goes first. What depends on time alone is in tests/unit/router/test_dispatching.py.
"""

import random
from collections.abc import Callable

import numpy as np
import pytest

from deployments.dispatch.chunks import Rows
from deployments.dispatch.dispatcher import ModelDispatcher
from router.calls import MESSAGE_BYTES, max_rows
from router.domain import Curve
from router.errors import Overloaded
from router.ledger import Ledger
from tests.support.dispatch_bench import BATCH, Bench, Clock, feedback, firsts
from tests.support.hand_transport import HandTransport, settle


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
