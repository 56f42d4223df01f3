"""Large lists for a student take turns on the event loop with those of other requests."""

import asyncio

import numpy as np

from deployments.dispatch.chunks import Rows
from deployments.service.prepare import Prepared
from deployments.service.students import StudentGatherer
from deployments.service.turns import LARGE_TEXTS
from router.cache import VectorCache
from router.student import Student
from tests.support.hand_transport import settle
from tests.support.held_turns import HeldTurns
from tests.support.students import student

LARGE = LARGE_TEXTS + 1


class Bench:
    """One student's gatherer; a text is one number, and its tokens are some of the student's."""

    def __init__(self) -> None:
        self.turns, self.cache, self.student = HeldTurns(), VectorCache(10_000_000), student()
        self.gatherer = StudentGatherer("s", self.student, self.cache, self.turns)

    def ask(self, texts: range) -> "asyncio.Task[Rows]":
        ids = [ids_of(text, self.student) for text in texts]
        digests = [str(text).encode() for text in texts]
        prepared = Prepared(ids, None, [len(one) for one in ids], "query", True, digests)
        return asyncio.create_task(self.gatherer.gather(prepared, 60.0, False))

    def wanted(self, texts: range) -> np.ndarray:
        return self.student.encode_ids([ids_of(text, self.student) for text in texts])


def ids_of(text: int, student: Student) -> np.ndarray:
    known = student.about.tokens - 1
    return np.array([1 + text % known, 1 + text // known % known], np.int32)


async def test_a_large_list_waits_for_its_turn_before_each_long_step() -> None:
    bench, texts = Bench(), range(LARGE)
    task = bench.ask(texts)
    await bench.turns.asked.get()
    assert not bench.cache.misses
    bench.turns.allow(1)
    await bench.turns.asked.get()
    assert (bench.cache.misses, len(bench.cache), task.done()) == (LARGE, 0, False)
    bench.turns.allow(1)
    np.testing.assert_array_equal((await task).vectors, bench.wanted(texts))
    assert len(bench.cache) == LARGE


async def test_a_short_list_passes_large_ones_that_wait() -> None:
    bench, texts = Bench(), range(LARGE, LARGE + 5)
    large, short = bench.ask(range(LARGE)), bench.ask(texts)
    np.testing.assert_array_equal((await short).vectors, bench.wanted(texts))
    assert not large.done()
    bench.turns.allow(2)
    await large


async def test_a_large_list_of_known_texts_has_one_long_step() -> None:
    bench, texts = Bench(), range(LARGE)
    bench.turns.allow(3)
    await bench.ask(texts)
    gathered = await bench.ask(texts)
    assert bench.turns.asked.qsize() == 3
    assert gathered.known == LARGE
    np.testing.assert_array_equal(gathered.vectors, bench.wanted(texts))


async def test_what_was_made_is_kept_though_the_caller_left_before_its_turn() -> None:
    bench = Bench()
    bench.turns.allow(1)
    task = bench.ask(range(LARGE))
    await bench.turns.asked.get()
    await bench.turns.asked.get()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (task.cancelled(), len(bench.cache)) == (True, 0)
    bench.turns.allow(1)
    await settle()
    assert len(bench.cache) == LARGE
