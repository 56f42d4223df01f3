"""Threads that read long texts, so that other requests do not wait for them.

Short texts go first, one thread never takes a long one, and a client has at most two threads, one
of them for long texts where there are two cores: long texts of one client do not block the others.
Their priority is that of the process: with a lower one, a thread that has to wait for a core keeps
the interpreter meanwhile, and the event loop waits for it. Waiting texts are bounded in characters.
"""

import asyncio
import os
from bisect import insort
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from deployments.service.memory import give_back
from deployments.service.turns import Turns
from router.errors import RateLimitExceeded

T = TypeVar("T")

THREADS = 3
THREADS_OF_A_CLIENT = 2
LONG_CHARACTERS = 50_000  # longer texts leave one thread to the others
BYTES_OF_A_CHARACTER = 20  # while it is read: tokens take about 80 bytes each
BUSY_RETRY_S = 1.0


@dataclass(order=True, slots=True)
class _Job:
    characters: int
    number: int
    client: str = field(compare=False)
    work: Callable[[], Any] = field(compare=False)
    result: "asyncio.Future[Any]" = field(compare=False)

    @property
    def long(self) -> bool:
        return self.characters > LONG_CHARACTERS


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class ReadingPool:
    """A pool for one event loop; at most `max_characters` at once, half of them of one client."""

    def __init__(self, max_characters: int, cores: int | None = None) -> None:
        self._max_characters = max_characters
        self.long_of_a_client = min(THREADS_OF_A_CLIENT, max(1, (cores or _cores()) // 2))
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="reading")
        self._waiting: list[_Job] = []  # by length, then by arrival
        self._running: list[_Job] = []
        self._characters: Counter[str] = Counter()  # waiting or being read, by client
        self._number = 0
        self.turns = Turns()

    def check(self, client: str, characters: int) -> None:
        """Raise RateLimitExceeded if this exceeds the limit together with the texts in work."""
        most = self._max_characters
        own, in_work = self._characters[client], self._characters.total()
        limit = "{} characters being read at once (limits.max_reading_characters)"
        if in_work and in_work + characters > most:
            raise RateLimitExceeded(limit.format(most), BUSY_RETRY_S, "this router")
        if own and own + characters > most // 2:
            raise RateLimitExceeded(limit.format(most // 2), BUSY_RETRY_S, "this client")

    async def admit(self, client: str, characters: int, work: Callable[[], T]) -> T:
        """Check, then run `work`; raises RateLimitExceeded."""
        self.check(client, characters)
        return await self.run(client, characters, work)

    async def run(self, client: str, characters: int, work: Callable[[], T]) -> T:
        """Run `work` in a thread, in its turn, and return its result. If it is cancelled before, it
        does not run.
        """
        self._number += 1
        result: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        job = _Job(characters, self._number, client, work, result)
        self._characters[client] += characters
        insort(self._waiting, job)
        self._start()
        try:
            read = await result
        finally:
            if job in self._waiting:
                self._waiting.remove(job)
                self._release(job)
        if job.long:  # many texts, and what follows on the loop takes long too
            await self.turns.next()
        return read

    def _start(self) -> None:
        while len(self._running) < THREADS and (job := self._next()) is not None:
            self._waiting.remove(job)
            self._running.append(job)
            loop = asyncio.get_running_loop()
            task = loop.run_in_executor(self._threads, job.work)
            task.add_done_callback(partial(self._done, job))

    def _next(self) -> _Job | None:
        of_clients = Counter(job.client for job in self._running)
        long_ones = Counter(job.client for job in self._running if job.long)
        for job in self._waiting:
            if of_clients[job.client] < THREADS_OF_A_CLIENT and (
                not job.long
                or (
                    long_ones.total() < THREADS - 1
                    and long_ones[job.client] < self.long_of_a_client
                )
            ):
                return job
        return None

    def _done(self, job: _Job, task: "asyncio.Future[Any]") -> None:
        self._running.remove(job)
        self._release(job)
        error = None if task.cancelled() else task.exception()
        if job.result.done():
            pass  # its caller has left
        elif task.cancelled():
            job.result.cancel()
        elif error is not None:
            job.result.set_exception(error)
        else:
            job.result.set_result(task.result())
        self._start()

    def _release(self, job: _Job) -> None:
        give_back(job.characters * BYTES_OF_A_CHARACTER)
        self._characters[job.client] -= job.characters
        if self._characters[job.client] <= 0:
            del self._characters[job.client]
