"""Sums of use on a disk that is full, closed or holds what nobody expects."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from deployments.service.batches.disk import Appended
from deployments.service.use_log import UseLog
from router.strict import parse_args
from router.usage import DAY_S, HOUR_S, Slot, Sums, UsageQuery, Use, lines, read_lines
from tests.support.full_disk import no_room

ARGS: dict[str, Any] = {
    "models": {"small": {"engine": {"kind": "fake"}, "dimensions": 8, "max_tokens": 64}},
    "tiers": {"fast": "small"},
}
USE = Use("one", "small", "", 1, 2, 3.0)
NOON = datetime(2026, 3, 5, 12, tzinfo=UTC).timestamp()
ALL = UsageQuery(0.0, NOON * 2, ("key",), None)


class Clock:
    """The time of a log, which a test moves."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


OPENED: list[UseLog] = []


def use_log(folder: Path | None, clock: Clock, router: str = "router") -> UseLog:
    OPENED.append(UseLog(parse_args(ARGS), folder, router, clock))
    return OPENED[-1]


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """Every log of a test is closed after it."""
    yield
    while OPENED:
        OPENED.pop().close()


async def requests(log: UseLog) -> int:
    return sum(row.requests for row in (await log.answer(ALL)).data)


def rows_of(path: Path) -> list[tuple[int, int]]:
    with path.open("rb") as stream:
        return [(slot.length_s, sums.requests) for slot, sums in read_lines(stream)]


@asynccontextmanager
async def running(log: UseLog) -> AsyncIterator["asyncio.Task[None]"]:
    task = asyncio.create_task(log.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Any, task: "asyncio.Task[None]") -> None:
    while not condition():
        assert not task.done(), task
        await asyncio.sleep(0.05)


async def test_what_cannot_be_folded_stops_nothing(tmp_path: Path) -> None:
    clock = Clock()
    usage = tmp_path / "usage"
    old = use_log(tmp_path, clock, "old")
    clock.now = NOON - 5 * DAY_S
    old.add(USE)
    assert await requests(old) == 1
    clock.now = NOON
    (usage / "notes.jsonl").write_text("{}\n")
    (usage / "2026-99-99.x.seconds.jsonl").write_text("[]\n")
    (usage / "2026-02-01.folder.seconds.jsonl").mkdir()
    odd = usage / "2026-02-01.other.seconds.jsonl"
    row = lines([(Slot(int(NOON) - 9 * DAY_S, 1, "one", "small", ""), Sums(1, 1, 1, 1.0))])
    odd.write_bytes(b'{"a":1}\n[1]\n7\n' + row)
    before = odd.read_bytes()
    log = use_log(tmp_path, clock)
    async with running(log) as task:
        await until(lambda: bool(list(usage.glob("*.old.hours.jsonl"))), task)
        assert await requests(log) == 2
        log.add(USE)
        await until(lambda: bool(list(usage.glob("*.router.seconds.jsonl"))), task)
        assert await requests(log) == 3
    assert odd.read_bytes() == before


async def test_a_full_disk_at_midnight_closes_the_old_file_once(tmp_path: Path) -> None:
    clock = Clock()
    log = use_log(tmp_path, clock)
    log.add(USE)
    assert await requests(log) == 1
    clock.now += DAY_S
    log.add(USE)
    folder = tmp_path / "usage"
    away = folder.rename(tmp_path / "away")  # the file of the new day cannot be made
    for _ in range(2):
        await log.answer(ALL)
    with (tmp_path / "other").open("w+b") as other:  # its number may be that of the old file
        await log.answer(ALL)
        assert os.fstat(other.fileno()).st_size == 0
    away.rename(folder)
    assert await requests(log) == 2
    assert len(list(folder.glob("*.seconds.jsonl"))) == 2


async def test_use_waits_on_a_full_disk_and_is_written_once(tmp_path: Path) -> None:
    clock = Clock()
    log = use_log(tmp_path, clock)
    with no_room():
        for _ in range(3):
            log.add(USE)
            clock.now += 1
            await log.answer(ALL)
    assert await requests(log) == 3
    (path,) = (tmp_path / "usage").iterdir()
    assert sum(count for _, count in rows_of(path)) == 3


def test_a_closed_file_writes_to_no_other(tmp_path: Path) -> None:
    closed = Appended(tmp_path / "one")
    closed.close()
    closed.close()
    other = tmp_path / "other"
    with other.open("wb") as stream:
        stream.write(b"kept")
        stream.flush()
        with pytest.raises(ValueError, match="closed"):
            closed.append(b"lost")
        with pytest.raises(ValueError, match="closed"):
            closed.sync()
    assert other.read_bytes() == b"kept"


async def test_a_file_that_is_opened_again_keeps_what_it_has(tmp_path: Path) -> None:
    clock = Clock()
    log = use_log(tmp_path, clock)
    for day in (0, 1, 0):  # the clock is set back
        clock.now = NOON + day * DAY_S
        log.add(USE)
        await log.answer(ALL)
    assert await requests(log) == 3


async def test_the_file_that_is_written_is_folded_while_it_grows(tmp_path: Path) -> None:
    clock = Clock()
    log = use_log(tmp_path, clock)
    for _ in range(120):
        log.add(USE)
        clock.now += 1
    assert await requests(log) == 120
    (path,) = (tmp_path / "usage").iterdir()
    assert len(rows_of(path)) == 120
    clock.now += HOUR_S
    async with running(log) as task:
        await until(lambda: len(rows_of(path)) == 2, task)
        log.add(USE)
        await until(lambda: len(rows_of(path)) == 3, task)
    assert rows_of(path) == [(60, 60), (60, 60), (1, 1)]
    assert await requests(log) == 121


async def test_usage_is_published_once_whether_it_is_written_or_not(tmp_path: Path) -> None:
    clock = Clock()
    log = use_log(tmp_path, clock)
    names = "one", "small", ""
    log.add(USE)
    assert log.unpublished() == {names: Sums(1, 1, 2, 3.0)}
    log.add(USE)
    assert await requests(log) == 2
    clock.now += 1
    log.add(USE)
    log.add(USE._replace(key="other"))
    assert log.unpublished() == {
        names: Sums(2, 2, 4, 6.0),
        ("other", "small", ""): Sums(1, 1, 2, 3.0),
    }
    assert log.unpublished() == {}
    assert await requests(log) == 4
