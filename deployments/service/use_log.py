"""Keeps what keys used: in files that routers share, one of each router and day, or in memory.

A request costs the event loop one addition. A thread appends what has come together twice a second;
a router that is killed loses that half second. Files of days that are over are folded to hours.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from deployments.service.batches.disk import Appended, made, write_whole
from router.config import RouterArgs
from router.usage import (
    DAY_S,
    HOUR_S,
    Slot,
    Slots,
    Sums,
    Usage,
    UsageQuery,
    Use,
    add,
    folded,
    lines,
    merge,
    read_lines,
    usage,
)

WRITE_EVERY_S = 0.5
SECONDS, HOURS = ".seconds.jsonl", ".hours.jsonl"  # how fine a file of a day is

log = logging.getLogger("ray.serve")


class UseLog:
    """What one router counts; `add` on the event loop, `run` beside it."""

    def __init__(
        self,
        args: RouterArgs,
        folder: Path | None,
        router: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`folder` None: in memory. Raises OSError where the folder cannot be made."""
        served = {
            **args.models,
            **{
                id: args.models.get(one.similarity or "", one) for id, one in args.rerankers.items()
            },
        }
        self._costs = {name: model.device_hour_cost for name, model in served.items()}
        self._folder = None if folder is None else made(folder / "usage")
        self._router, self.clock = router, clock
        self._since_s = clock()
        self._kept: Slots = {}  # what is in no file
        self._file: tuple[str, Appended] | None = None  # of a day
        self._writing = asyncio.Lock()
        self._failing = False

    def add(self, use: Use) -> None:
        """Count one request that was answered."""
        add(self._kept, self.clock(), use, self._costs.get(use.model))

    async def run(self) -> None:
        """Write what was counted, forever, and what is left at the end."""
        fold_at_s = 0.0
        try:
            while True:
                await asyncio.sleep(WRITE_EVERY_S)
                await self._write()
                if time.monotonic() > fold_at_s:
                    fold_at_s = time.monotonic() + HOUR_S
                    await asyncio.to_thread(self._fold_files)
        finally:
            await self._write()
            if self._file is not None:
                self._file[1].close()

    async def answer(self, asked: UsageQuery) -> Usage:
        """The sums of all routers, or in memory those of this one since it began."""
        await self._write()
        kept = list(self._kept.items())
        if self._folder is None:
            return usage(kept, asked, "memory", self._since_s)
        return await asyncio.to_thread(self._answer, asked, kept)

    async def _write(self) -> None:
        """Put what was counted into the file, or shorten it where there is none."""
        async with self._writing:
            new, self._kept = self._kept, {}
            try:
                if self._folder is not None and new:
                    await asyncio.to_thread(self._append, self._folder, new)
                    new = {}
                self._failing = False
            except OSError as error:
                if not self._failing:
                    log.error("what keys used cannot be written and waits: %s", error)
                self._failing = True
            merge(self._kept, folded(new, self.clock()).items())

    def _append(self, folder: Path, slots: Slots) -> None:
        day = _day(self.clock())
        if self._file is None or self._file[0] != day:
            if self._file is not None:
                self._file[1].close()
            self._file = day, Appended(folder / f"{day}.{self._router}{SECONDS}")
        self._file[1].append(lines(slots))

    def _answer(self, asked: UsageQuery, kept: list[tuple[Slot, Sums]]) -> Usage:
        def slots() -> Iterator[tuple[Slot, Sums]]:
            yield from kept
            for path in self._files():
                start_s = _start_s(path)
                if asked.touches(start_s, start_s + DAY_S):
                    yield from _slots_of(path)

        return usage(slots(), asked, "folder", None)

    def _files(self) -> list[Path]:
        return [] if self._folder is None else sorted(self._folder.glob("*.jsonl"))

    def _fold_files(self) -> None:
        """Fold the files of days before yesterday; a file has one name at any time, so nothing is
        counted twice.
        """
        now = self.clock()
        for path in self._files():
            if path.name.endswith(SECONDS) and _start_s(path) + 2 * DAY_S < now:
                with suppress(FileNotFoundError):  # another router does the same
                    slots: Slots = {}
                    merge(slots, read_lines(path.read_bytes()))
                    write_whole(path, lines(folded(slots, now)))
                    path.rename(path.with_name(path.name.removesuffix(SECONDS) + HOURS))


def _day(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d")


def _start_s(path: Path) -> float:
    return datetime.fromisoformat(path.name[:10]).replace(tzinfo=UTC).timestamp()


def _slots_of(path: Path) -> Iterator[tuple[Slot, Sums]]:
    """The sums of a file, which another router may be folding."""
    folded_path = path.with_name(path.name.removesuffix(SECONDS) + HOURS)
    for one in (path, folded_path):
        with suppress(FileNotFoundError):
            yield from read_lines(one.read_bytes())
            return
