"""The files of each key in a folder: `files/KEY/ID/content`, with `meta.json` beside it.

A file exists while its `meta.json` does, which is written last and removed first.
"""

import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, Literal

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
from router.batch_objects import FileObject
from router.batches import not_found
from router.errors import InvalidValue, NotFound, RequestTooLarge

PREFIX = "file-"
META, CONTENT, LOCK = "meta.json", "content", "lock"
UNFINISHED_S = 7 * 24 * 3600.0  # an older folder was left by a router that died

Purpose = Literal["batch", "batch_output"]


class FileStore:
    """The files of all keys; each key sees its own. The methods block on the disk: call them in
    threads.
    """

    def __init__(
        self, folder: Path, max_bytes_of_key: int, clock: Callable[[], float] = time.time
    ) -> None:
        """Create the folder. Raises OSError if that fails."""
        self._folder, self._max_bytes, self._clock = (
            made(folder / "files"),
            max_bytes_of_key,
            clock,
        )

    def upload(self, key: str, max_bytes: int) -> "Upload":
        """Start an upload of this key. Raises RequestTooLarge if the key has no room left."""
        room = partial(self._room, key)
        if room() <= 0:
            raise self._full()
        place = made(of_key(self._folder, key) / new_id(PREFIX, self._clock()))
        try:
            return Upload(place, max_bytes, room, self._full())
        except OSError:
            shutil.rmtree(place, ignore_errors=True)
            raise

    def taken(self, key: str) -> int:
        """Total bytes of a key's files."""
        return sum(file.bytes for file in self._all(key))

    def _room(self, key: str) -> int:
        """Bytes that a key can still store."""
        return self._max_bytes - self.taken(key)

    def _full(self) -> RequestTooLarge:
        error = RequestTooLarge(self._max_bytes)
        error.message = (
            f"the files of this key would have more than {self._max_bytes} bytes "
            "(batches.max_bytes_per_key); delete some first"
        )
        return error

    def get(self, key: str, id: str, param: str | None = None) -> FileObject:
        """Return one file. Raises NotFound, also for a file of another key."""
        if is_id(id):
            try:
                return FileObject.model_validate_json((self._place(key, id) / META).read_bytes())
            except FileNotFoundError:
                pass
        raise not_found("file", id, "GET /v1/files lists yours", param)

    def page(
        self, key: str, after: str | None, limit: int, descending: bool, purpose: str | None
    ) -> tuple[list[FileObject], bool]:
        """Return at most `limit` files after `after`, and whether there are more."""
        found: list[FileObject] = []
        names = behind(names_in(of_key(self._folder, key), descending), after)
        for name in names:
            try:
                file = self.get(key, name)
            except NotFound:
                continue  # an upload, or deleted a moment ago
            if purpose is None or file.purpose == purpose:
                if len(found) == limit:
                    return found, True
                found.append(file)
        return found, False

    def open(self, key: str, id: str) -> tuple[FileObject, BinaryIO]:
        """Return one file and its open content. Raises NotFound."""
        file = self.get(key, id)
        try:
            return file, (self._place(key, id) / CONTENT).open("rb")
        except FileNotFoundError:
            raise not_found("file", id, "GET /v1/files lists yours") from None

    def content(self, key: str, id: str) -> Path:
        """The path of a file's content."""
        return self._place(key, id) / CONTENT

    def delete(self, key: str, id: str, keep_content: bool) -> None:
        """Delete a file. With `keep_content`, for a batch that still reads it, the content stays
        until `forget`. Raises NotFound.
        """
        self.get(key, id)
        place = self._place(key, id)
        (place / META).unlink(missing_ok=True)
        sync_folder(place)
        if not keep_content:
            shutil.rmtree(place, ignore_errors=True)

    def forget(self, key: str, id: str) -> None:
        """Remove the content of a file that was deleted while a batch read it."""
        place = self._place(key, id)
        if not (place / META).exists():
            shutil.rmtree(place, ignore_errors=True)

    def adopt(self, key: str, id: str, content: Path, filename: str, now: int) -> None:
        """Turn `content` into an output file of a key; repeating an interrupted call is safe."""
        place = made(self._place(key, id))
        if content.exists():
            with content.open("rb") as stream:
                os.fsync(stream.fileno())
            content.replace(place / CONTENT)
            sync_folder(place)
        file = FileObject(
            id=id,
            bytes=(place / CONTENT).stat().st_size,
            created_at=now,
            filename=filename,
            purpose="batch_output",
        )
        write_whole(place / META, file.model_dump_json().encode())
        sync_folder(place.parent)

    def _place(self, key: str, id: str) -> Path:
        return of_key(self._folder, key) / id

    def _all(self, key: str) -> list[FileObject]:
        return self.page(key, None, 10**9, True, None)[0]

    def clean(self, used: set[str]) -> None:
        """Remove uploads and contents that a router left behind when it died; `used` are ids that
        batches still need.
        """
        for place in self._folder.glob(f"*/{PREFIX}*"):
            left = (
                not (place / META).exists()
                and place.name not in used
                and self._clock() - place.stat().st_mtime > UNFINISHED_S
            )
            if left:
                shutil.rmtree(place, ignore_errors=True)


class Upload:
    """A file that is being uploaded, invisible until `finish`. `room` returns the bytes that the
    key's finished files leave.
    """

    def __init__(
        self, place: Path, max_bytes: int, room: Callable[[], int], full: RequestTooLarge
    ) -> None:
        self._place, self._max_bytes, self._full = place, max_bytes, full
        self._room, self._room_at_start = room, room()
        self._part = place / f"{CONTENT}.part"
        self._stream = os.fdopen(
            os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb"
        )
        self.size = 0

    def write(self, data: bytes) -> None:
        """Append bytes. Raises RequestTooLarge."""
        self.size += len(data)
        if self.size > self._max_bytes:
            raise RequestTooLarge(self._max_bytes, "upload several files (limits.max_file_bytes)")
        if self.size > self._room_at_start:
            raise self._full
        self._stream.write(data)

    def finish(self, filename: str, purpose: Purpose, now: int) -> FileObject:
        """Make the complete file visible and durable. Raises RequestTooLarge if another upload took
        the room meanwhile.
        """
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        file = FileObject(
            id=self._place.name,
            bytes=self.size,
            created_at=now,
            filename=filename,
            purpose=purpose,
        )
        with Lock.held(self._place.parent / LOCK):  # one upload of a key at a time in all routers
            if self.size > self._room():
                raise self._full
            self._part.replace(self._place / CONTENT)
            write_whole(self._place / META, file.model_dump_json().encode())
        sync_folder(self._place.parent)
        return file

    def abandon(self) -> None:
        """Remove everything that was uploaded."""
        with suppress(OSError):  # the disk can be full
            self._stream.close()
        shutil.rmtree(self._place, ignore_errors=True)


def behind(names: list[str], after: str | None) -> list[str]:
    """The names that follow `after`. Raises InvalidValue if it is not among them."""
    if after is None:
        return names
    if after not in names:
        raise InvalidValue(
            f"after: there is no {after[:80]!r}; leave it out to begin anew", "after"
        )
    return names[names.index(after) + 1 :]
