"""Embed a corpus into a folder of Parquet parts; a kill loses at most the parts in progress.

A part holds the rows FIRST to LAST of the corpus, which its name contains. It is written under
another name, flushed to disk and renamed. A part that exists is therefore complete, and rows of
different parts never overlap. No other state is kept: a restart makes the missing parts only. The
manifest is written first and holds what must not change: the corpus and how it is read, the space
and its weights, the rows of a part. A lock keeps other processes out.

    DIR/manifest.json
    DIR/part-000000000-000002047.parquet
    DIR/part-000002048-000004095.parquet ...
    DIR/.lock
"""

import asyncio
import fcntl
import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from deployments.service.batches.disk import sync_folder
from deployments.tools.client import EmbeddingAnswer, RequestRefused, ServiceClient
from deployments.tools.corpus import CorpusError, Text, as_id
from deployments.tools.errors import ToolError
from router.arrays import Vectors

VERSION = 2
WHOLE = "none"  # texts that are too long are refused
FOR_ITS_TEXTS = (400, 413)  # HTTP statuses that fewer or other texts can avoid


class MigrationError(ToolError):
    """Writing cannot continue; finished parts stay, and the message says what to do."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of a folder of parts; a run with another manifest must not add to it."""

    space: str
    # of the model, as the router reports it; None: it has none
    fingerprint: str | None
    corpus_digest: str
    text_field: str
    id_field: str | None
    rows: int
    part_rows: int
    # where too long texts are cut; "none", as in folders without this field, can become any other
    truncate: str = WHOLE
    version: int = VERSION


def digest_of(corpus: Path) -> str:
    """Digest every byte of a corpus: a change in any row makes it another corpus."""
    with corpus.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


@contextmanager
def opened(folder: Path, manifest: Manifest) -> Iterator["Parts"]:
    """Open the parts in `folder`, which is created if needed and locked until the end of the block.

    Raises MigrationError if another process has locked it, or if it holds something else.
    """
    with locked(folder):
        file = folder / "manifest.json"
        if file.exists():
            before = _manifest_in(file)
            if before.get("truncate", WHOLE) == WHOLE:
                before["truncate"] = manifest.truncate
            if different := [
                key for key, value in asdict(manifest).items() if before.get(key) != value
            ]:
                differences = "; ".join(
                    f"{key} was {before.get(key)!r} and is {getattr(manifest, key)!r}"
                    for key in different
                )
                todo = "choose another folder or remove it"
                if different == ["truncate"]:
                    todo = f"give --truncate {before['truncate']}, or choose another folder"
                raise MigrationError(f"{folder} holds another index ({differences}); {todo}")
        write_whole(
            file, lambda path: path.write_text(json.dumps(asdict(manifest), indent=1) + "\n")
        )
        for unfinished in folder.glob("*.unfinished"):
            unfinished.unlink()
        yield Parts(folder, manifest)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder, which is created if needed, until the block ends.

    Raises MigrationError if another process has locked it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MigrationError(f"{folder}: another process is writing there") from None
        yield


def _manifest_in(file: Path) -> dict[str, Any]:
    """Read a manifest. Raises MigrationError if it is damaged."""
    try:
        found = json.loads(file.read_bytes())
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise MigrationError(
            f"{file} is damaged, so nothing says what the folder holds; choose another folder or "
            "remove it"
        )
    return found


def manifest_of(folder: Path) -> dict[str, Any]:
    """Return the manifest of a folder; an empty one if it has none that can be read."""
    try:
        return _manifest_in(folder / "manifest.json")
    except (OSError, MigrationError):  # none, or not one of `index`
        return {}


def truncate_of(folder: Path) -> str:
    """Return where too long texts of a folder were cut; "none" if it does not say."""
    return str(manifest_of(folder).get("truncate", WHOLE))


class Parts:
    """The parts of one corpus in one folder."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest

    def ranges(self) -> list[range]:
        """Row ranges of all parts."""
        rows, each = self.manifest.rows, self.manifest.part_rows
        return [range(start, min(start + each, rows)) for start in range(0, rows, each)]

    def path(self, rows: range) -> Path:
        """Path of a part."""
        return self.folder / f"part-{rows.start:09d}-{rows.stop - 1:09d}.parquet"

    def missing(self) -> list[range]:
        """Row ranges of the parts that are still to be made."""
        return [rows for rows in self.ranges() if not self.path(rows).exists()]

    def write(self, rows: range, ids: Sequence[str], vectors: Vectors) -> None:
        """Write a whole part. Raises ValueError if rows, ids and vectors differ in number."""
        import pyarrow as pa
        from pyarrow import parquet

        if not len(rows) == len(ids) == len(vectors):
            raise ValueError(f"{len(ids)} ids and {len(vectors)} vectors for {len(rows)} rows")
        flat = pa.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
        table = pa.table(
            {
                "id": pa.array(ids, pa.string()),
                "vector": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
            },
            metadata={"embedding_space": self.manifest.space},
        )
        write_whole(self.path(rows), lambda path: parquet.write_table(table, path))


async def fill(
    parts: Parts,
    texts: Iterator[Text],
    client: ServiceClient,
    options: dict[str, Any],
    batch: int,
    in_flight: int,
    done: Callable[[int], object],
) -> None:
    """Embed every missing part of the corpus.

    `texts` yields the rows of the corpus in order; `done` gets the number of rows as they are
    embedded. Raises MigrationError for a text that cannot be embedded, for vectors of another
    space, for a router that has other weights now, before the part is written, and for a corpus
    that ends early; RequestRefused; RouterAway.
    """
    missing = {rows.start: rows for rows in parts.missing()}
    model = parts.manifest.space.rpartition("/")[0]
    gate, running = (
        asyncio.Semaphore(in_flight),
        deque[tuple[range, list[Text], list[asyncio.Task[Vectors]]]](),
    )

    async def one(some: list[Text]) -> Vectors:
        async with gate:
            made = await _embedded(parts.manifest.space, some, client, options)
        done(len(some))
        return made

    async def settle() -> None:
        rows, some, tasks = running[0]
        vectors = np.concatenate([await task for task in tasks])
        await check_weights(client, {model: parts.manifest.fingerprint})
        await asyncio.to_thread(parts.write, rows, [text.id for text in some], vectors)
        running.popleft()

    try:
        for rows in parts.ranges():
            some = list(islice(texts, len(rows)))
            if len(some) != len(rows):
                ended = rows.start + len(some)
                raise MigrationError(
                    f"the corpus ended at row {ended} of {parts.manifest.rows}: it changed "
                    "meanwhile"
                )
            if rows.start in missing:
                cuts = range(0, len(some), batch)
                running.append(
                    (
                        rows,
                        some,
                        [asyncio.create_task(one(some[start : start + batch])) for start in cuts],
                    )
                )
                while len(running) > 1:  # the next part keeps the router busy while this one ends
                    await settle()
        while running:
            await settle()
    finally:
        left = [task for _, _, tasks in running for task in tasks]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


async def check_weights(client: ServiceClient, fingerprints: Mapping[str, str | None]) -> None:
    """Raise MigrationError if the router has a model with another fingerprint than this one.

    A router can be restarted while a command waits for it. None means that nothing is known.
    """
    if all(before is None for before in fingerprints.values()):
        return
    current = await client.fingerprints()
    for model, before in fingerprints.items():
        if before is not None and (now := current.get(model)) != before:
            raise MigrationError(
                f"{model} is not what it was when this began: its fingerprint was {before} and is "
                f"{now}. Vectors of other weights must not join these: start the router with the "
                "former model and go on, or choose another folder"
            )


async def _embedded(
    space: str, texts: list[Text], client: ServiceClient, options: dict[str, Any]
) -> Vectors:
    """Return vectors of `space`.

    A request that is refused because of its texts is halved until the faulty text is alone; then
    MigrationError is raised. Raises RequestRefused for any other refusal, such as a revoked key.
    """
    try:
        answer: EmbeddingAnswer = await client.embed([text.text for text in texts], **options)
    except RequestRefused as error:
        if error.status not in FOR_ITS_TEXTS:
            raise
        if len(texts) == 1:
            then = (
                "take it out" if options.get("truncate") == "end" else "go on with --truncate end"
            )
            raise MigrationError(
                f"text {texts[0].id!r} cannot be embedded: {error}. Fix it, or {then}; what is "
                "done is kept"
            ) from None
        half = len(texts) // 2
        return np.concatenate(
            [
                await _embedded(space, texts[:half], client, options),
                await _embedded(space, texts[half:], client, options),
            ]
        )
    if answer.space != space or answer.adapter is not None:
        over = f" over an adapter from {answer.adapter}" if answer.adapter else ""
        raise MigrationError(
            f"the router answered in {answer.space}{over}, and this index is of {space}"
        )
    return answer.vectors


def vectors_at(parts: Parts, rows: Sequence[int]) -> Vectors:
    """Read the vectors of these rows of the corpus, which are in order.

    Raises ValueError for a row that is in no part, and MigrationError for a damaged part.
    """
    from pyarrow import ArrowException, parquet

    if rows and rows[-1] >= parts.manifest.rows:
        raise ValueError(f"{parts.folder} has {parts.manifest.rows} rows and none {rows[-1]}")
    wanted = np.array(rows, np.int64)
    found = []
    for part in parts.ranges():
        here = wanted[np.searchsorted(wanted, part.start) : np.searchsorted(wanted, part.stop)]
        if len(here):
            try:
                table = parquet.read_table(parts.path(part), columns=["vector"])
            except (OSError, ArrowException) as error:
                raise MigrationError(
                    f"{parts.path(part)} is damaged: {error}; remove it and start the same command "
                    "again"
                ) from None
            column = table.column("vector")
            flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
            found.append(flat.reshape(len(part), -1)[here - part.start])
    vectors: Vectors = np.concatenate(found).astype(np.float32)
    return vectors


def read_vectors(path: Path, wanted: set[str] | None = None) -> dict[str, Vectors]:
    """Read vectors by id from a Parquet file or folder with columns `id` and `vector`.

    Reads only the `wanted` ids, if given. Raises CorpusError.
    """
    from pyarrow import ArrowException, parquet

    found: dict[str, Vectors] = {}
    for file in sorted(path.glob("*.parquet")) if path.is_dir() else [path]:
        try:
            opened = parquet.ParquetFile(file)
            for rows in opened.iter_batches(columns=["id", "vector"]):
                vectors = (
                    rows.column("vector")
                    .flatten()
                    .to_numpy(zero_copy_only=False)
                    .reshape(len(rows), -1)
                )
                ids = [as_id(id) for id in rows.column("id").to_pylist()]
                for id, vector in zip(ids, vectors, strict=True):
                    if wanted is None or id in wanted:
                        found[id] = vector.astype(np.float32)
        except (OSError, KeyError, ValueError, ArrowException) as error:
            raise CorpusError(
                f"{file}: {error}; it must have the columns `id` and `vector`"
            ) from None
    return found


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file that is either complete or absent, even after a power failure.

    Raises MigrationError if it cannot be written, as on a full disk.
    """
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        write(unfinished)
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink()
        raise MigrationError(
            f"{path} cannot be written: {error.strerror or error}; what is done is kept: make room "
            "and start the same command again"
        ) from None
    sync_folder(path.parent)
