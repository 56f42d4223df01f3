"""Runs the batches of a shared folder. A batch is run by the router that holds its lock; if that
router dies, another one takes over.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

from deployments.service.batches.disk import Lock, lines_of, to_the_end
from deployments.service.batches.in_flight import InFlightLimit, InFlightSlot, Weight
from deployments.service.batches.results import Result, Results
from deployments.service.batches.store import (
    ERRORS,
    LOCK,
    OUTPUT,
    BatchStore,
    Place,
    cancel_requested,
    load,
    lock,
    save,
)
from deployments.telemetry.logs import where
from router.batch_lines import Validation, answered_line, bulk, read_line, texts_in
from router.batches import (
    BatchProblem,
    BatchStatus,
    Ending,
    StoredBatch,
    Tries,
    again,
    ending_of,
    grant_of,
)
from router.keys import Grant

LOOK_EVERY_S = 1.0  # to find new batches and cancellations, and to save progress
MAX_AT_ONCE, MAX_OF_KEY = 16, 4  # batches that one router runs, and of one key
READ_LINES, READ_BYTES = 64, 1024 * 1024  # of an input file at a time
AFTER_FAILURE_S = 10.0  # before a batch that raised an error is tried again

log = logging.getLogger("ray.serve")


class LineAnswer(NamedTuple):
    """The service's answer to the body of one line."""

    status: int
    headers: dict[str, str]
    body: bytes
    request_id: str
    sent: bool = False  # its texts were sent to a replica
    release: Callable[[], None] = lambda: None  # called once the body is written


class Submit(Protocol):
    """Runs the body of one line as a request of its key at an address."""

    def __call__(self, grant: Grant, body: bytes, address: str) -> Awaitable[LineAnswer]: ...


class Line(NamedTuple):
    """One line that has not been run yet."""

    number: int
    custom_id: str
    body: bytes
    weight: Weight


class FileGone(Exception):
    """A file that a batch needs was removed."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.problem = BatchProblem(code="file_not_found", message=message, param=param)


def read_some(lines: Iterator[Line]) -> list[Line]:
    """Read the next lines, up to READ_LINES or READ_BYTES; none at the end."""
    found: list[Line] = []
    size = 0
    for line in lines:
        found.append(line)
        size += line.weight.size
        if len(found) >= READ_LINES or size >= READ_BYTES:
            break
    return found


class _Answered(NamedTuple):
    """A line and its answer that are not written yet."""

    line: Line
    answer: LineAnswer
    written: "asyncio.Future[None]"


def _result(one: _Answered) -> Result:
    line, answer = one.line, one.answer
    row = answered_line(line.number, line.custom_id, answer.status, answer.request_id, answer.body)
    return Result(line.number, answer.status == 200, row)


class Runner:
    """Runs batches while `run` runs; nothing is lost when it is cancelled or killed."""

    def __init__(
        self,
        store: BatchStore,
        submit: Submit,
        max_line_bytes: int,
        max_lines: int,
        look_every_s: float = LOOK_EVERY_S,
    ) -> None:
        self.store, self.submit = store, submit
        self.max_line_bytes, self.max_lines = max_line_bytes, max_lines
        self.look_every_s = look_every_s
        self.in_flight = InFlightLimit(max_lines)
        self._running: dict[Place, asyncio.Task[None]] = {}
        self._not_before_s: dict[Place, float] = {}

    async def run(self) -> None:
        """Run unfinished batches that no other router runs, forever."""
        try:
            while True:
                try:
                    await self._look()
                except Exception as error:
                    log.error("the folder of batches cannot be read:\n%s", where(error))
                await asyncio.sleep(self.look_every_s)
        finally:
            running = list(self._running.values())
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _look(self) -> None:
        unfinished = await asyncio.to_thread(self.store.unfinished)
        for place in unfinished:
            of_key = sum(other.key == place.key for other in self._running)
            if (
                place in self._running
                or len(self._running) >= MAX_AT_ONCE
                or of_key >= MAX_OF_KEY
                or time.monotonic() < self._not_before_s.get(place, 0.0)
            ):
                continue
            try:
                taken = await asyncio.to_thread(lock, place)
            except OSError as error:
                self._wait(place, error)
                continue
            if taken is not None:
                task = self._running[place] = asyncio.create_task(self._carry(place))
                task.add_done_callback(partial(self._ended, place, taken))

    def _ended(self, place: Place, taken: Lock, _: "asyncio.Task[None]") -> None:
        taken.release()
        del self._running[place]

    async def _carry(self, place: Place) -> None:
        try:
            await _Run(self, place).go()
            self._not_before_s.pop(place, None)
        except Exception as error:
            self._wait(place, error)

    def _wait(self, place: Place, error: Exception) -> None:
        self._not_before_s[place] = time.monotonic() + AFTER_FAILURE_S
        log.error("batch %s waits, and is tried again:\n%s", place.id, where(error))


class _Run:
    """Runs one batch from its stored state to its end."""

    def __init__(self, runner: Runner, place: Place) -> None:
        self._runner, self._place = runner, place
        self._store, self._in_flight = runner.store, runner.in_flight
        self._batch: StoredBatch
        self._unwritten: list[_Answered] = []
        self._writing: asyncio.Task[None] | None = None

    async def go(self) -> None:
        """Run all remaining steps; a batch whose files were removed fails."""
        self._batch = await asyncio.to_thread(load, self._place)
        try:
            await self._go()
        except FileGone as gone:
            await self._save(self._batch.failed(gone.problem, self._now()))
            await to_the_end(self._leave)

    async def _go(self) -> None:
        if self._batch.status is BatchStatus.VALIDATING:
            await self._validate()
        if self._batch.status is BatchStatus.IN_PROGRESS:
            results = await self._open()
            try:
                ending = await self._run_lines(results)
                await to_the_end(results.sync)
                await self._save(self._batch.ended(ending, results.counts, self._now()))
            finally:
                await self._close(results)
        if self._batch.ending is not None and not self._batch.over:
            await to_the_end(self._finish, self._batch, self._batch.ending)

    @property
    def _input(self) -> Path:
        return self._store.files.content(self._place.key, self._batch.input_file_id)

    def _now(self) -> int:
        return int(self._store.clock())

    async def _save(self, batch: StoredBatch) -> None:
        await to_the_end(save, self._place, batch)
        self._batch = batch

    async def _validate(self) -> None:
        if await asyncio.to_thread(cancel_requested, self._place):
            await self._save(
                self._batch.ended(BatchStatus.CANCELLED, self._batch.counts, self._now())
            )
            return
        found = await asyncio.to_thread(self._validated)
        batch = self._batch.validated(found.total, found.problems, self._now())
        await self._save(batch)
        if batch.over:
            await to_the_end(self._leave)

    def _validated(self) -> Validation:
        validation = Validation()
        try:
            for number, raw in lines_of(self._input, self._runner.max_line_bytes):
                validation.add(number, raw, self._runner.max_line_bytes)
                if validation.enough:
                    return validation
        except FileNotFoundError:
            validation.problems.append(self._input_gone("the batch was validated").problem)
            return validation
        validation.end()
        return validation

    async def _run_lines(self, results: Results) -> Ending:
        """Run the remaining lines until all are done, the window ends, or the key cancels."""
        feeding = asyncio.create_task(self._feed(results))
        try:
            while True:
                cancelled = await asyncio.to_thread(cancel_requested, self._place)
                left = self._batch.total - len(results.done)
                if ending := ending_of(self._batch, cancelled, left, self._store.clock()):
                    return ending
                if feeding.done():
                    await feeding  # raises the error that stopped it
                    raise RuntimeError(f"{left} lines of the batch are not in its input file")
                counted = self._batch.model_copy(update={"counts": results.counts})
                if counted != self._batch:
                    await self._save(counted)
                await asyncio.wait({feeding}, timeout=self._runner.look_every_s)
        finally:
            feeding.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.gather(feeding, return_exceptions=True)

    async def _feed(self, results: Results) -> None:
        """Read lines and run them, at most as many at once as the limit admits."""
        grant = grant_of(self._batch.grant)
        room = asyncio.Semaphore(self._runner.max_lines)
        source = self._left(set(results.done))

        def over(slot: InFlightSlot, _: object) -> None:  # also runs for a task that never started
            slot.leave()
            room.release()

        lines = await asyncio.to_thread(read_some, source)
        async with asyncio.TaskGroup() as group:
            while lines:
                for line in lines:
                    slot = InFlightSlot(self._in_flight, line.weight)
                    await room.acquire()
                    await slot.enter()
                    task = group.create_task(self._run_line(grant, line, slot, results))
                    task.add_done_callback(partial(over, slot))
                    await asyncio.sleep(0)  # other requests run between two lines
                lines = await asyncio.to_thread(read_some, source)

    def _left(self, done: set[int]) -> Iterator[Line]:
        try:
            for number, raw in lines_of(self._input, self._runner.max_line_bytes):
                if number not in done:
                    custom_id, body = read_line(raw)
                    yield Line(number, custom_id, bulk(body), Weight(texts_in(body), len(raw)))
        except FileNotFoundError:
            raise self._input_gone("all of its lines were run") from None

    def _input_gone(self, when: str) -> FileGone:
        return FileGone(f"the input file was removed before {when}", "input_file_id")

    async def _run_line(
        self, grant: Grant, line: Line, slot: InFlightSlot, results: Results
    ) -> None:
        """Run one line, which is in flight, until its answer is written."""
        tries = Tries()
        while True:
            try:
                answer = await self._runner.submit(grant, line.body, self._batch.address)
                try:
                    later = again(answer.status, answer.headers, answer.sent, tries)
                    if later is None:
                        await self._write(line, answer, results)
                        return
                finally:
                    answer.release()
            finally:
                slot.leave()
            wait_s, tries = later
            await asyncio.sleep(wait_s)
            await slot.enter()

    async def _write(self, line: Line, answer: LineAnswer, results: Results) -> None:
        written = asyncio.get_running_loop().create_future()
        self._unwritten.append(_Answered(line, answer, written))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_all(results))
        await asyncio.shield(written)

    async def _write_all(self, results: Results) -> None:
        """Append all waiting answers together."""
        while self._unwritten:
            now, self._unwritten = self._unwritten, []
            error: OSError | None = None
            try:
                await to_the_end(lambda: results.add(map(_result, now)))  # noqa: B023
            except OSError as failure:
                error = failure
            for line, _, written in now:
                if written.cancelled():
                    continue
                if error is not None and line.number not in results.done:
                    written.set_exception(error)
                else:
                    written.set_result(None)
        self._writing = None

    async def _open(self) -> Results:
        opened: list[Results] = []
        try:
            await to_the_end(lambda: opened.append(Results(self._place)))
        except asyncio.CancelledError:
            for one in opened:
                one.close()
            raise
        return opened[0]

    async def _close(self, results: Results) -> None:
        try:
            if self._writing is not None:
                await self._writing
        finally:
            await to_the_end(results.close)

    def _finish(self, batch: StoredBatch, ending: Ending) -> None:
        """Write the lines that were not run, and publish the output; every step can be repeated."""
        place, files = self._place, self._store.files
        if not batch.written:
            results = Results(place)
            try:
                try:
                    results.add_not_run(self._input, self._runner.max_line_bytes, ending)
                except FileNotFoundError:
                    raise self._input_gone("the lines that were not run were listed") from None
                results.sync()
                batch = batch.model_copy(update={"counts": results.counts})
                save(place, batch)
            finally:
                results.close()
        now = self._now()
        for name, id, lines in (
            (OUTPUT, batch.output_id, batch.counts.completed),
            (ERRORS, batch.error_id, batch.counts.failed),
        ):
            if lines:
                kind = name.removesuffix(".jsonl")
                try:
                    files.adopt(place.key, id, place.folder / name, f"{batch.id}_{kind}.jsonl", now)
                except FileNotFoundError:
                    raise FileGone(f"{name} of this batch was removed from its folder") from None
            (place.folder / name).unlink(missing_ok=True)
        self._batch = batch.finished(now)
        save(place, self._batch)
        self._leave()

    def _leave(self) -> None:
        """Remove what only a running batch needs."""
        self._store.forget_input(self._place, self._batch)
        (self._place.folder / LOCK).unlink(missing_ok=True)
