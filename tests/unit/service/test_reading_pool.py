"""Whose turn it is among long texts."""

import asyncio
import threading
from collections.abc import Callable

import pytest

from deployments.service import reading_pool
from deployments.service.reading_pool import LONG_CHARACTERS, ReadingPool
from router.errors import RateLimitExceeded

LONG = LONG_CHARACTERS + 1


class Bench:
    """Jobs that run until they are let go."""

    def __init__(self, pool: ReadingPool) -> None:
        self.pool, self.began = pool, list[str]()
        self._goes: dict[str, threading.Event] = {}
        self.tasks: dict[str, asyncio.Task[str]] = {}

    def put(self, name: str, client: str, characters: int) -> None:
        go = self._goes[name] = threading.Event()

        def work() -> str:
            self.began.append(name)
            go.wait()
            return name

        job = self.pool.run(client, characters, work)
        self.tasks[name] = asyncio.get_running_loop().create_task(job)

    async def until(self, when: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not when():  # noqa: ASYNC110  # threads have no event of the loop
                await asyncio.sleep(0.005)

    async def end(self, name: str) -> None:
        self._goes[name].set()
        assert await self.tasks[name] == name

    async def close(self) -> None:
        for go in self._goes.values():
            go.set()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)


async def test_a_client_has_two_threads_and_one_is_left_to_shorter_texts() -> None:
    bench = Bench(ReadingPool(10**9, cores=4))
    for index in range(3):
        bench.put(f"a{index}", "a", LONG)
    bench.put("b", "b", LONG)
    await bench.until(lambda: len(bench.began) == 2)
    bench.put("c", "c", 6000)
    await bench.until(lambda: len(bench.began) == 3)
    assert sorted(bench.began) == ["a0", "a1", "c"]
    await bench.end("c")
    bench.put("d", "a", 6000)  # a has two
    bench.put("e", "c", 7000)
    await bench.until(lambda: len(bench.began) == 4)
    assert bench.began[-1] == "e"
    await bench.end("a0")
    await bench.until(lambda: len(bench.began) == 5)
    assert bench.began[-1] == "d"
    await bench.close()
    assert sorted(bench.began) == ["a0", "a1", "a2", "b", "c", "d", "e"]


async def test_on_two_cores_one_client_reads_one_long_text_at_a_time() -> None:
    bench = Bench(ReadingPool(10**9, cores=2))
    for name, client, characters in (
        ("a0", "a", LONG),
        ("a1", "a", LONG + 1),
        ("b0", "b", LONG + 2),
        ("b1", "b", LONG + 3),
        ("a2", "a", 6000),
    ):
        bench.put(name, client, characters)
    await bench.until(lambda: len(bench.began) == 3)
    assert bench.began == ["a0", "b0", "a2"]
    await bench.end("a0")
    await bench.until(lambda: len(bench.began) == 4)
    assert bench.began[-1] == "a1"
    await bench.close()


async def test_short_texts_go_first() -> None:
    bench = Bench(ReadingPool(10**9))
    for index in range(3):
        bench.put(f"first{index}", f"{index}", 6000)
    await bench.until(lambda: len(bench.began) == 3)
    for characters in (40_000, 8_000, 20_000):
        bench.put(f"{characters}", f"{characters}", characters)
    for index, name in enumerate(("8000", "20000", "40000")):
        await bench.end(f"first{index}")
        await bench.until(lambda: len(bench.began) == 4 + index)  # noqa: B023
        assert bench.began[-1] == name
    await bench.close()


async def test_who_leaves_before_its_turn_takes_none_and_gives_its_characters_back() -> None:
    pool = ReadingPool(10_000)
    bench = Bench(pool)
    bench.put("a", "a", 4000)
    await bench.until(lambda: bench.began == ["a"])
    with pytest.raises(RateLimitExceeded, match=r"this client .* 5000 characters"):
        pool.check("a", 2000)
    pool.check("b", 6000)
    bench.put("b", "b", 6000)
    await bench.until(lambda: len(bench.began) == 2)
    with pytest.raises(RateLimitExceeded, match=r"this router .* 10000 .*max_reading_characters"):
        pool.check("c", 1)
    await bench.end("a")
    pool.check("a", 4000)
    await bench.end("b")
    pool.check("a", 50_000)  # alone it may be longer
    for name in ("c", "d", "e"):
        bench.put(name, "a", 3000)
    await bench.until(lambda: len(bench.began) == 4)
    bench.tasks["e"].cancel()
    await asyncio.wait([bench.tasks["e"]])
    await bench.close()
    assert "e" not in bench.began
    pool.check("a", 50_000)


async def test_what_a_job_raises_is_raised() -> None:
    def fails() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await ReadingPool(10).run("a", 5, fails)


@pytest.mark.parametrize("left", [False, True])
async def test_memory_is_given_back_once_the_text_was_read_and_not_before(
    monkeypatch: pytest.MonkeyPatch, left: bool
) -> None:
    given = list[int]()
    monkeypatch.setattr(reading_pool, "give_back", given.append)
    bench = Bench(ReadingPool(10**9))
    bench.put("a", "a", LONG)
    await bench.until(lambda: bench.began == ["a"])
    if left:  # its thread goes on
        bench.tasks["a"].cancel()
        await asyncio.wait([bench.tasks["a"]])
    assert not given
    await bench.close()
    await bench.until(lambda: given == [LONG * reading_pool.BYTES_OF_A_CHARACTER])
