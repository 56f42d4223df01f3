"""Keep the usage of keys in shared files or in memory.

A request costs the event loop one addition. A thread appends the sums twice a second; a router that
is killed loses that half second. Usage older than an hour is folded to minutes, and files of
days before yesterday are folded to hours.
"""

import asyncio
import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from deployments.service.batches.disk import Appended, Gently, made, to_the_end, write_whole
from deployments.telemetry.logs import where
from router.config import RouterArgs
from router.usage import (
    DAY_S,
    HOUR_S,
    NO_USE,
    FoldedSlots,
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
SECONDS, HOURS = ".seconds.jsonl", ".hours.jsonl"  # resolution of a day's file
_NAME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\.[^.]+\.(seconds|hours)\.jsonl")

log = logging.getLogger("ray.serve")


class UseLog:
    """The usage that one router counts; call `add` on the event loop, with `run` as a task."""

    def __init__(
        self,
        args: RouterArgs,
        folder: Path | None,
        router: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`folder` None: in memory. Raises OSError if the folder cannot be created."""
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
        self._new: Slots = {}  # in none of the two below
        self._unwritten: Slots = {}
        self._unpublished: dict[tuple[str, str, str], Sums] = {}
        self._kept = FoldedSlots()  # sums that are in no file
        self._file: tuple[str, Appended] | None = None  # the day and its file
        self._writing = asyncio.Lock()
        self._failing = False

    def add(self, use: Use) -> None:
        """Count one answered request."""
        add(self._new, self.clock(), use, self._costs.get(use.model))

    def unpublished(self) -> dict[tuple[str, str, str], Sums]:
        """The usage since the last call, for metrics, by key, model and collection."""
        self._gather()
        sums, self._unpublished = self._unpublished, {}
        return sums

    def _gather(self) -> None:
        """Add the new usage to what is not written and to what is not published."""
        new, self._new = self._new, {}
        merge(self._unwritten, new.items())
        for slot, sums in new.items():
            names = slot.key, slot.model, slot.collection
            self._unpublished[names] = self._unpublished.get(names, NO_USE).plus(sums)

    async def run(self) -> None:
        """Write the counted usage forever, and the rest when cancelled."""
        fold_at_s = 0.0
        try:
            while True:
                await asyncio.sleep(WRITE_EVERY_S)
                try:
                    await self._write()
                    if time.monotonic() > fold_at_s:
                        fold_at_s = time.monotonic() + HOUR_S
                        await self._fold()
                except Exception as error:
                    log.error("what keys used could not be written:\n%s", where(error))
        finally:
            await self._write()
            async with self._writing:
                self.close()

    async def answer(self, asked: UsageQuery) -> Usage:
        """The sums of all routers; in memory, those of this one since it started."""
        await self._write()
        return await asyncio.to_thread(self._answer, asked, list(self._kept.items()))

    async def _write(self) -> None:
        """Append the counted usage to the file, or keep it if there is none."""
        async with self._writing:
            self._gather()
            new, self._unwritten = self._unwritten, {}
            self._kept.merge(new.items(), self.clock())
            try:
                if self._folder is not None and len(self._kept):
                    await to_the_end(self._append, self._folder)
                self._failing = False
            except OSError as error:
                if not self._failing:
                    log.error("what keys used cannot be written and waits: %s", error)
                self._failing = True

    def _append(self, folder: Path) -> None:
        day = _day(self.clock())
        if self._file is None or self._file[0] != day:
            self.close()
            self._file = day, Appended(folder / f"{day}.{self._router}{SECONDS}")
        self._file[1].append(lines(self._kept.items()))
        self._kept = FoldedSlots()

    def close(self) -> None:
        """Close the file; the next write opens it again."""
        file, self._file = self._file, None
        if file is not None:
            file[1].close()

    def _answer(self, asked: UsageQuery, kept: list[tuple[Slot, Sums]]) -> Usage:
        def slots() -> Iterator[tuple[Slot, Sums]]:
            yield from kept
            for path in self._files():
                start_s = _start_s(path)
                if asked.touches(start_s, start_s + DAY_S):
                    try:
                        yield from _slots_of(path)
                    except OSError as error:
                        log.error("%s cannot be read and is not counted: %s", path, error)

        if self._folder is None:
            return usage(gently(slots()), asked, "memory", self._since_s)
        return usage(gently(slots()), asked, "folder", None)

    def _files(self) -> list[Path]:
        found = [] if self._folder is None else self._folder.glob("*.jsonl")
        return sorted(path for path in found if _is_day(path.name))

    async def _fold(self) -> None:
        """Fold the file that is being written and the files of days before yesterday; one that
        cannot be folded stays as it is.
        """
        async with self._writing:
            if self._file is not None:
                await to_the_end(self._fold_own)
        await to_the_end(self._fold_files)

    def _fold_own(self) -> None:
        """Fold usage older than an hour in the file that is being written."""
        self.close()  # the next write opens the folded file
        for path in self._files():
            if path.name.endswith(f".{self._router}{SECONDS}"):
                self._try_to_fold(path, path.name)

    def _fold_files(self) -> None:
        """Fold the files of days before yesterday; a file has one name at any time, so nothing is
        counted twice.
        """
        now = self.clock()
        for path in self._files():
            if path.name.endswith(SECONDS) and _start_s(path) + 2 * DAY_S < now:
                self._try_to_fold(path, path.name.removesuffix(SECONDS) + HOURS)

    def _try_to_fold(self, path: Path, name: str) -> None:
        """Fold a file and rename it to `name`."""
        try:
            with path.open("rb") as stream:
                slots = folded(gently(read_lines(stream, strict=True)), self.clock())
            write_whole(path, lines(slots.items()))
            path.rename(path.with_name(name))
        except FileNotFoundError:
            pass  # another router does the same
        except (OSError, ValueError) as error:
            log.error("%s cannot be folded and stays as it is: %s", path, error)


def gently(slots: Iterable[tuple[Slot, Sums]]) -> Iterator[tuple[Slot, Sums]]:
    """The same slots, with pauses in which requests are answered."""
    rests = Gently()
    for one in slots:
        rests.step()
        yield one


def _day(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d")


def _start_s(path: Path) -> float:
    return datetime.fromisoformat(path.name[:10]).replace(tzinfo=UTC).timestamp()


def _is_day(name: str) -> bool:
    """Whether this is the name of a usage file."""
    try:
        return _NAME.fullmatch(name) is not None and bool(datetime.fromisoformat(name[:10]))
    except ValueError:
        return False


def _slots_of(path: Path) -> Iterator[tuple[Slot, Sums]]:
    """The sums of a file, which another router might be folding."""
    folded_path = path.with_name(path.name.removesuffix(SECONDS) + HOURS)
    for one in (path, folded_path):
        with suppress(FileNotFoundError), one.open("rb") as stream:
            yield from read_lines(stream)
            return
