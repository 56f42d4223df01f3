"""The vectors of one request: order, duplicates, partial hits, and texts that another request is
already waiting for.
"""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest

from deployments.dispatch.chunks import Rows
from deployments.dispatch.dispatcher import ModelDispatcher
from deployments.dispatch.wire import Failure
from deployments.service.gather import Gatherer
from deployments.service.prepare import Prepared, fresh_scope
from deployments.service.turns import LARGE_TEXTS, Turns
from router.cache import CachedVector, VectorCache
from router.domain import Curve, Model
from router.errors import ContextLengthExceeded, DeadlineExceeded, ModelUnavailable
from router.feedback import Feedback
from router.ledger import Ledger
from router.routing_config import RoutingConfig
from tests.support.hand_transport import HandTransport, settle
from tests.support.held_turns import HeldTurns


class Bench:
    """One gatherer over a transport worked by hand; a text is a number, its vector repeats it."""

    def __init__(self, cache_bytes: int = 1_000_000, turns: Turns | None = None) -> None:
        self.transport, self.ledger, self.cache = (
            HandTransport(),
            Ledger({"m": 3}),
            VectorCache(cache_bytes),
        )
        model = Model("m", 0, 100_000, Curve(0.001, 0.001, 0.0001, 0.0, 1000), {})
        self.dispatcher = ModelDispatcher(
            model="m",
            dimensions=4,
            batch_tokens=1000,
            calls_in_flight=3,
            max_queued_tokens=100_000,
            max_queue_s=1000.0,
            replica_timeout_s=1000.0,
            transport=self.transport,
            ledger=self.ledger,
            feedback=Feedback(model, True, RoutingConfig(), 0.0),
            clock=lambda: 0.0,
            rng=random.Random(1),
        )
        self.dispatcher.replicas_changed(["a"])
        self.gatherer = Gatherer(self.dispatcher, self.cache, turns=turns)

    def ask(
        self, *texts: int, deadline_s: float = 60.0, bulk: bool = False, scope: str = ""
    ) -> "asyncio.Task[Rows]":
        ids = [np.full(10, text, np.int32) for text in texts]
        digests = [str(text).encode() for text in texts]
        prepared = Prepared(ids, None, [10] * len(texts), "document", True, digests, None, scope)
        return asyncio.create_task(self.gatherer.gather(prepared, deadline_s, bulk))

    @property
    def sent(self) -> list[int]:
        return [text for call in self.transport.sent for text in call.firsts]


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    yield made
    await made.dispatcher.close()
    await settle()
    made.ledger.assert_empty()
    assert not made.gatherer.in_flight


def texts(gathered: Rows) -> list[int]:
    return [int(value) for value in gathered.vectors[:, 0]]


async def test_duplicates_are_sent_once_and_come_back_where_they_were(bench: Bench) -> None:
    task = bench.ask(5, 7, 5, 9, 7, 5)
    await bench.transport.answer_all()
    gathered = await task
    assert texts(gathered) == [5, 7, 5, 9, 7, 5]
    assert gathered.tokens == [10] * 6
    assert gathered.known == 3
    assert sorted(bench.sent) == [5, 7, 9]


async def test_partial_hits_keep_the_order(bench: Bench) -> None:
    first = bench.ask(2, 4)
    await bench.transport.answer_all()
    await first
    second = bench.ask(1, 2, 3, 4, 5, 2)
    await bench.transport.answer_all()
    gathered = await second
    assert texts(gathered) == [1, 2, 3, 4, 5, 2]
    assert gathered.known == 3
    assert bench.sent == [2, 4, 1, 3, 5]


async def test_a_fully_known_request_sends_nothing(bench: Bench) -> None:
    first = bench.ask(2, 4)
    await bench.transport.answer_all()
    await first
    assert texts(await bench.ask(4, 2, 4)) == [4, 2, 4]
    assert len(bench.transport.sent) == 1


async def test_a_text_on_its_way_is_waited_for_by_the_next_request(bench: Bench) -> None:
    first, second = bench.ask(1, 2), bench.ask(2, 3)
    await bench.transport.answer_all()
    assert texts(await first) == [1, 2]
    assert texts(await second) == [2, 3]
    assert sorted(bench.sent) == [1, 2, 3]
    assert bench.gatherer.coalesced == 1


async def test_when_the_sender_leaves_the_one_who_waited_sends_it(bench: Bench) -> None:
    first, second = bench.ask(1, 2), bench.ask(2, 3)
    await settle()
    first.cancel()
    await bench.transport.answer_all()
    assert texts(await second) == [2, 3]
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_when_the_sender_fails_the_one_who_waited_tries_for_itself(bench: Bench) -> None:
    first = bench.ask(1)
    await settle()
    second = bench.ask(1, 8)  # whose other text is in no call with the first
    for _ in range(2):
        await settle()
        next(call for call in bench.transport.open if 1 in call.firsts).lose()
        await settle()
        bench.dispatcher.replicas_changed([])
        bench.dispatcher.replicas_changed(["a"])
    await settle()
    await bench.transport.answer_all()
    with pytest.raises(ModelUnavailable):
        await first
    assert texts(await second) == [1, 8]


async def test_an_interactive_request_does_not_wait_for_a_bulk_one(bench: Bench) -> None:
    bulk, interactive = bench.ask(1, bulk=True), bench.ask(1)
    await bench.transport.answer_all()
    assert texts(await bulk) == texts(await interactive) == [1]
    assert bench.sent == [1, 1]


async def test_a_failed_text_is_named_by_its_place_in_the_request(bench: Bench) -> None:
    known = bench.ask(1, 2)
    await bench.transport.answer_all()
    await known
    task = bench.ask(1, 9, 2, 8)
    await settle()
    bench.transport.open[0].answer({1: Failure("too_long", "too long", 300, 256)})
    with pytest.raises(ContextLengthExceeded, match=r"input\[3\] has 300 tokens"):
        await task
    again = bench.ask(9)
    await bench.transport.answer_all()
    assert texts(await again) == [9]


async def test_no_answer_in_time_is_an_error_that_says_so() -> None:
    bench = Bench()
    task = bench.ask(1, deadline_s=0.01)
    with pytest.raises(DeadlineExceeded):
        await task
    await settle()
    assert bench.transport.sent[0].cancelled
    bench.ledger.assert_empty()


MANY = range(1, 251)  # three chunks of a hundred at most


@pytest.mark.parametrize("ends", ["left", "late", "failed", "lost"])
async def test_what_was_made_is_kept_though_the_request_has_no_answer(
    bench: Bench, ends: str
) -> None:
    task = bench.ask(*MANY, deadline_s=0.5 if ends == "late" else 60.0)
    await settle()
    whole = bench.transport.open[-1]
    whole.answer({5: Failure("invalid", "a text")} if ends == "failed" else None)
    await settle()
    bench.transport.open[-1].answer()
    await settle()
    (last,) = bench.transport.open
    if ends == "failed":
        last.answer()
    elif ends == "left":
        task.cancel()
    elif ends == "lost":
        last.fail()
        await settle()
        bench.transport.open[0].fail()
    (error,) = await asyncio.gather(task, return_exceptions=True)
    assert isinstance(error, BaseException)
    await settle()
    missing = whole.firsts[5:6] if ends == "failed" else last.firsts
    before = len(bench.sent)
    again = bench.ask(*MANY)
    await bench.transport.answer_all()
    assert texts(await again) == list(MANY)
    assert sorted(bench.sent[before:]) == sorted(missing)


async def test_a_large_request_that_has_no_answer_is_kept_in_its_turn() -> None:
    turns, numbers = HeldTurns(), range(1, LARGE_TEXTS + 2)
    turns.allow(1)
    bench = Bench(turns=turns)
    task = bench.ask(*numbers)
    await settle()
    first = bench.transport.open[0]
    first.answer()
    await settle()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await settle()
    assert (turns.asked.qsize(), len(bench.cache)) == (2, 0)
    turns.allow(1)
    await settle()
    assert len(bench.cache) == len(first.firsts)
    await bench.dispatcher.close()
    await settle()
    bench.ledger.assert_empty()


class Everything:
    """A shared cache that knows every text."""

    async def get_many(self, model: str, digests: Sequence[bytes]) -> list[CachedVector | None]:
        return [CachedVector(np.full(4, int(digest), np.float32), 10) for digest in digests]

    def put_many(self, *parts: object) -> None:
        raise AssertionError("nothing was made")


async def test_texts_of_the_shared_cache_are_kept_in_their_turn() -> None:
    turns, numbers = HeldTurns(), range(1, LARGE_TEXTS + 2)
    bench = Bench()
    bench.gatherer = Gatherer(bench.dispatcher, bench.cache, Everything(), turns)  # type: ignore[arg-type]
    turns.allow(1)
    task = bench.ask(*numbers)
    await settle()
    assert (turns.asked.qsize(), len(bench.cache)) == (2, 0)
    turns.allow(1)
    assert texts(await task) == list(numbers)
    assert len(bench.cache) == len(numbers)
    assert not bench.sent
    await bench.dispatcher.close()


async def test_without_a_cache_nothing_is_kept() -> None:
    bench = Bench(cache_bytes=0)
    for _ in range(2):
        task = bench.ask(1)
        await bench.transport.answer_all()
        assert texts(await task) == [1]
    assert bench.sent == [1, 1]


async def test_what_was_made_is_kept_though_the_caller_left_before_its_turn() -> None:
    turns = HeldTurns()
    turns.allow(1)
    bench, numbers = Bench(turns=turns), range(1, LARGE_TEXTS + 2)
    task = bench.ask(*numbers)
    await bench.transport.answer_all()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (task.cancelled(), turns.asked.qsize(), len(bench.cache)) == (True, 2, 0)
    turns.allow(2)
    await settle()
    sent = len(bench.transport.sent)
    assert texts(await bench.ask(*numbers)) == list(numbers)
    assert len(bench.transport.sent) == sent
    await bench.dispatcher.close()
    await settle()
    bench.ledger.assert_empty()


async def test_the_one_who_waits_needs_no_second_call_if_the_sender_leaves_before_its_turn() -> (
    None
):
    turns = HeldTurns()
    turns.allow(1)
    bench, numbers = Bench(turns=turns), [1] * LARGE_TEXTS + [2]
    first = bench.ask(*numbers)
    await settle()
    second = bench.ask(2, 1)
    await bench.transport.answer_all()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert texts(await second) == [2, 1]
    assert sorted(bench.sent) == [1, 2]
    turns.allow(1)
    await bench.dispatcher.close()
    await settle()
    bench.ledger.assert_empty()


async def test_a_fresh_request_shares_nothing_with_others(bench: Bench) -> None:
    kept = bench.ask(1, 2)
    await bench.transport.answer_all()
    await kept
    own, others = bench.ask(3), bench.ask(1, 3, 3, scope=fresh_scope("a key"))
    again = bench.ask(1, 3, scope=fresh_scope("a key"))
    await bench.transport.answer_all()
    assert [(await one).known for one in (own, others, again)] == [0, 0, 0]
    assert texts(await others) == [1, 3, 3]
    assert sorted(bench.sent) == [1, 1, 1, 2, 3, 3, 3]
    assert (len(bench.cache), bench.gatherer.coalesced) == (3, 0)


@pytest.mark.parametrize("scope", ["", "a", "k" * 64])
def test_a_fresh_scope_is_a_key_of_digests_and_belongs_to_one_scope(scope: str) -> None:
    made = fresh_scope(scope)
    assert len(made.encode()) <= hashlib.blake2b.MAX_KEY_SIZE
    assert made != fresh_scope(scope + "b")
