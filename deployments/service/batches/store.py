"""The batches of each key in a folder, `batches/KEY/ID/`, with

batch.json     the state; written by the router that holds the lock, and by the one that creates it
cancel         its cancellation was requested
lock           held by the router that runs it
output.jsonl   answers so far, and
errors.jsonl   refusals so far; both become files at the end
"""

import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from deployments.service.batches.disk import (
    Lock,
    is_id,
    made,
    names_in,
    new_id,
    of_key,
    sync_folder,
    write_whole,
)
from deployments.service.batches.files import PREFIX as FILE
from deployments.service.batches.files import FileStore, behind
from deployments.telemetry.logs import where
from router import config
from router.batch_objects import BatchObject, shown
from router.batches import (
    CANCELLABLE,
    BatchBody,
    BatchStatus,
    StoredBatch,
    not_found,
    stored_grant,
    window_s,
    wrong_endpoint,
)
from router.errors import InvalidValue, NotFound, RateLimitExceeded
from router.keys import Grant

PREFIX = "batch_"
STATE, CANCEL, LOCK = "batch.json", "cancel", "lock"
OUTPUT, ERRORS = "output.jsonl", "errors.jsonl"
MAX_UNFINISHED = 100  # of one key
BUSY_RETRY_S = 60.0

log = logging.getLogger("ray.serve")


class Place(NamedTuple):
    """The key, id and folder of a batch."""

    key: str
    id: str
    folder: Path


class BatchStore:
    """The batches of all keys; each key sees its own. The methods block on the disk: call them in
    threads.
    """

    def __init__(
        self, folder: Path, files: FileStore, clock: Callable[[], float] = time.time
    ) -> None:
        """Create the folder. Raises OSError if that fails."""
        self.folder, self.files, self.clock = folder, files, clock
        self._folder = made(folder / "batches")
        self._over: set[Path] = set()  # finished batches, which are not read again
        self._unreadable: set[Path] = set()  # batches that were reported
        kept = [batch for key in self._keys() for _, batch in self._unfinished_of(key)]
        if not self._unreadable:  # which files those need is unknown
            files.clean(
                {id for one in kept for id in (one.input_file_id, one.output_id, one.error_id)}
            )

    def create(self, grant: Grant, body: BatchBody, address: str = "") -> BatchObject:
        """Create a batch of this key. Raises NotFound, InvalidValue or RateLimitExceeded."""
        file = self.files.get(grant.name, body.input_file_id, "input_file_id")
        if file.purpose != "batch":
            raise InvalidValue(
                "input_file_id names an output file; upload the input with purpose batch",
                "input_file_id",
            )
        if len(self._unfinished_of(grant.name)) >= MAX_UNFINISHED:
            raise RateLimitExceeded(
                f"{MAX_UNFINISHED} unfinished batches", BUSY_RETRY_S, "this client"
            )
        now = int(self.clock())
        batch = StoredBatch(
            id=new_id(PREFIX, self.clock()),
            grant=stored_grant(grant),
            endpoint=body.endpoint,
            input_file_id=body.input_file_id,
            completion_window=body.completion_window,
            metadata=body.metadata,
            address=address,
            created_at=now,
            expires_at=now + window_s(body.completion_window),
            output_id=new_id(FILE, self.clock()),
            error_id=new_id(FILE, self.clock()),
        )
        if (problem := wrong_endpoint(body.endpoint)) is not None:
            batch = batch.validated(0, [problem], now)
        place = self._place(grant.name, batch.id)
        made(place.folder)
        try:
            save(place, batch)
        except BaseException:
            shutil.rmtree(place.folder, ignore_errors=True)
            raise
        sync_folder(place.folder.parent)
        return shown(batch)

    def get(self, key: str, id: str) -> BatchObject:
        """Return OpenAI's object of one batch. Raises NotFound, also for a batch of another key."""
        if is_id(id):
            try:
                return self._shown(self._place(key, id))
            except FileNotFoundError:
                pass
            except (OSError, ValidationError) as error:
                self._report(self._place(key, id), error)
        raise not_found("batch", id, "GET /v1/batches lists yours")

    def page(self, key: str, after: str | None, limit: int) -> tuple[list[BatchObject], bool]:
        """Return up to `limit` batches after `after`, newest first, and whether more follow."""
        found: list[BatchObject] = []
        for name in behind(names_in(of_key(self._folder, key)), after):
            try:
                batch = self.get(key, name)
            except NotFound:
                continue  # being created, or its router died before it answered
            if len(found) == limit:
                return found, True
            found.append(batch)
        return found, False

    def cancel(self, key: str, id: str) -> BatchObject:
        """Request that no more lines of a batch are run. Raises NotFound or InvalidValue."""
        status = self.get(key, id).status
        if status in CANCELLABLE:
            (self._place(key, id).folder / CANCEL).touch(mode=0o600)
        elif status not in (BatchStatus.CANCELLING, BatchStatus.CANCELLED):
            raise InvalidValue(f"the batch is {status} and cannot be cancelled any more")
        return self.get(key, id)

    def unfinished(self) -> list[Place]:
        """Every unfinished batch, oldest first."""
        found = [place for key in self._keys() for place, _ in self._unfinished_of(key)]
        return sorted(found, key=lambda place: place.id)

    def delete_file(self, key: str, id: str) -> None:
        """Delete a file; a batch that reads it goes on. Raises NotFound."""
        read = any(batch.input_file_id == id for _, batch in self._unfinished_of(key))
        self.files.delete(key, id, read)

    def forget_input(self, place: Place, batch: StoredBatch) -> None:
        """Remove the input of an ended batch, if it was deleted and no other batch reads it."""
        others = self._unfinished_of(place.key)
        if all(other.input_file_id != batch.input_file_id for _, other in others):
            self.files.forget(place.key, batch.input_file_id)

    def _keys(self) -> list[str]:
        return sorted(entry.name for entry in self._folder.iterdir() if entry.is_dir())

    def _unfinished_of(self, key: str) -> list[tuple[Place, StoredBatch]]:
        found = []
        for name in names_in(of_key(self._folder, key), descending=False):
            place = self._place(key, name)
            if place.folder not in self._over:
                try:
                    batch = load(place)
                except FileNotFoundError:  # being created, or its router died before it answered
                    continue
                except (OSError, ValidationError) as error:
                    self._report(place, error)
                    continue
                self._unreadable.discard(place.folder)
                if batch.over:
                    self._over.add(place.folder)
                else:
                    found.append((place, batch))
        return found

    def _report(self, place: Place, error: Exception) -> None:
        """Log once that a batch cannot be read and is passed over."""
        if place.folder not in self._unreadable:
            self._unreadable.add(place.folder)
            log.error(
                "%s cannot be read, and its batch is passed over until it can:\n%s",
                place.folder / STATE,
                where(error),
            )

    def _shown(self, place: Place) -> BatchObject:
        try:
            cancelling_at = int((place.folder / CANCEL).stat().st_mtime)
        except FileNotFoundError:
            cancelling_at = None
        return shown(load(place), cancelling_at)

    def _place(self, key: str, id: str) -> Place:
        return Place(key, id, of_key(self._folder, key) / id)


def open_store(settings: config.Batches, base_dir: str | None) -> BatchStore:
    """Open the files and batches in the config's folder. Raises OSError if it cannot be used."""
    folder = Path(base_dir or ".") / Path(settings.folder).expanduser()
    made(folder)
    return BatchStore(folder, FileStore(folder, settings.max_bytes_per_key))


def load(place: Place) -> StoredBatch:
    """Return the last saved state of a batch. Raises OSError or ValidationError."""
    return StoredBatch.model_validate_json((place.folder / STATE).read_bytes())


def save(place: Place, batch: StoredBatch) -> None:
    """Replace the saved state of a batch."""
    write_whole(place.folder / STATE, batch.model_dump_json().encode())


def lock(place: Place) -> Lock | None:
    """Take the lock to run a batch; None if another router has it."""
    return Lock.take(place.folder / LOCK)


def cancel_requested(place: Place) -> bool:
    """Whether the cancellation of a batch was requested."""
    return (place.folder / CANCEL).exists()
