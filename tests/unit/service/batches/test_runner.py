"""The runner where its folder fails, or it is cancelled at an unlucky moment."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from deployments.service.batches.disk import to_the_end
from deployments.service.batches.files import FileStore
from deployments.service.batches.in_flight import Weight
from deployments.service.batches.runner import Line, LineAnswer, Runner, read_some
from deployments.service.batches.store import STATE, BatchStore, Place, load, lock, save
from router.batches import BatchBody, BatchStatus, Counts
from router.keys import Grant

GRANT = Grant("key")


async def answer(grant: Grant, body: bytes, address: str) -> LineAnswer:
    return LineAnswer(200, {}, b"{}", "request")


def begun(store: BatchStore, count: int = 3) -> Place:
    """A batch of some lines."""
    upload = store.files.upload("key", 10**6)
    for number in range(count):
        line = {
            "custom_id": f"c{number}",
            "method": "POST",
            "url": "/v1/embeddings",
            "body": {"model": "small", "input": "text"},
        }
        upload.write(json.dumps(line).encode() + b"\n")
    file = upload.finish("in.jsonl", "batch", 1)
    body = BatchBody(
        input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h", metadata=None
    )
    batch = store.create(GRANT, body)
    return Place("key", batch.id, store.folder / "batches" / "key" / batch.id)


@asynccontextmanager
async def running(runner: Runner) -> AsyncIterator["asyncio.Task[None]"]:
    task = asyncio.create_task(runner.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  # threads and files have no event for it
            await asyncio.sleep(0.01)


class Held(FileStore):
    """Files that are put in place only once a test allows it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, 10**9)
        self.entered, self.go_on = threading.Event(), threading.Event()

    def adopt(self, key: str, id: str, content: Path, filename: str, now: int) -> None:
        self.entered.set()
        assert self.go_on.wait(60)
        super().adopt(key, id, content, filename, now)


class Failing(BatchStore):
    """Batches whose folder fails once, with an error of any kind."""

    fails = True

    def unfinished(self) -> list[Place]:
        if self.fails:
            self.fails = False
            raise ValueError("not a folder")
        return super().unfinished()


def status(store: BatchStore, place: Place) -> BatchStatus:
    return store.get("key", place.id).status


async def test_a_batch_is_locked_until_the_last_step_of_a_cancelled_router(tmp_path: Path) -> None:
    files = Held(tmp_path)
    store = BatchStore(tmp_path, files)
    place = begun(store)
    runner = Runner(store, answer, 10**6, 10, look_every_s=0.01)
    async with running(runner) as task:
        await until(files.entered.is_set)
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0.05)
            assert lock(place) is None
            assert not task.done()
        files.go_on.set()
        await asyncio.wait({task})
    assert status(store, place) is BatchStatus.COMPLETED
    taken = lock(place)
    assert taken is not None
    taken.release()


async def test_a_call_in_a_thread_ends_before_its_cancelled_caller() -> None:
    go_on, over = threading.Event(), list[bool]()

    def step() -> None:
        go_on.wait(60)
        over.append(True)
        raise OSError("no one waits for it")

    task = asyncio.create_task(to_the_end(step))
    for _ in range(3):
        await asyncio.sleep(0.01)
        task.cancel()
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert over == [True]
    with pytest.raises(OSError, match="no one"):
        await to_the_end(step)


async def test_a_runner_outlives_every_error_of_its_folder(tmp_path: Path) -> None:
    store = Failing(tmp_path, FileStore(tmp_path, 10**9))
    bad, torn, place = begun(store), begun(store), begun(store)
    (bad.folder / STATE).write_bytes(b"{")
    (torn.folder / "lock").mkdir()
    store.fails = True
    async with running(Runner(store, answer, 10**6, 10, look_every_s=0.01)):
        await until(lambda: status(store, place) is BatchStatus.COMPLETED)
        again = begun(store)
        await until(lambda: status(store, again) is BatchStatus.COMPLETED)


async def test_a_line_that_never_began_is_no_longer_in_flight(tmp_path: Path) -> None:
    store = BatchStore(tmp_path, FileStore(tmp_path, 10**9))
    place = begun(store, 5)
    failed = asyncio.Event()

    async def fails(grant: Grant, body: bytes, address: str) -> LineAnswer:
        failed.set()
        raise RuntimeError("at once, while the next line is being begun")

    runner = Runner(store, fails, 10**6, 10, look_every_s=0.01)
    async with running(runner):
        await failed.wait()
        taken = None
        while taken is None:
            await asyncio.sleep(0.01)
            taken = lock(place)
        taken.release()
        assert runner.in_flight.lines == 0


@pytest.mark.parametrize("ended", [False, True], ids=["lines are left", "its window is over"])
async def test_a_batch_whose_input_is_gone_fails(tmp_path: Path, ended: bool) -> None:
    store = BatchStore(tmp_path, FileStore(tmp_path, 10**9))
    place = begun(store)
    batch = load(place).validated(3, [], 1)
    save(place, batch.ended(BatchStatus.EXPIRED, Counts(), 2) if ended else batch)
    store.files.content("key", batch.input_file_id).unlink()
    async with running(Runner(store, answer, 10**6, 10, look_every_s=0.01)):
        await until(lambda: load(place).over)
    problems = load(place).problems
    assert (status(store, place), [one.code for one in problems]) == ("failed", ["file_not_found"])


async def test_a_batch_whose_output_is_gone_fails(tmp_path: Path) -> None:
    store = BatchStore(tmp_path, FileStore(tmp_path, 10**9))
    place = begun(store)
    batch = load(place).validated(3, [], 1)
    save(place, batch.ended(BatchStatus.COMPLETED, Counts(3, 0), 2))
    async with running(Runner(store, answer, 10**6, 10, look_every_s=0.01)):
        await until(lambda: load(place).over)
    problems = load(place).problems
    assert (status(store, place), [one.code for one in problems]) == ("failed", ["file_not_found"])


def test_lines_are_read_ahead_within_bounds() -> None:
    def lines(size: int) -> Iterator[Line]:
        return (Line(number, "c", b"", Weight(1, size)) for number in range(1000))

    assert len(read_some(lines(1))) == 64
    assert len(read_some(lines(300_000))) == 4
    source = lines(10**7)
    assert [[line.number for line in read_some(source)] for _ in range(2)] == [[0], [1]]
