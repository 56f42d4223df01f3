"""Batches in a folder that holds what a crash or another version left there."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deployments.service.batches.disk import write_whole
from deployments.service.batches.files import FileStore
from deployments.service.batches.store import STATE, BatchStore
from router.batches import BatchBody
from router.errors import NotFound, RequestTooLarge
from router.keys import Grant
from tests.support.full_disk import no_room

GRANT = Grant("key")


def opened(folder: Path) -> BatchStore:
    return BatchStore(folder, FileStore(folder, 10**9))


def body(store: BatchStore) -> BatchBody:
    upload = store.files.upload("key", 1000)
    upload.write(b"{}\n")
    file = upload.finish("in.jsonl", "batch", 1)
    return BatchBody(
        input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h", metadata=None
    )


@pytest.mark.parametrize("state", [b"", b"\0" * 40, b"{}", b"[1", None, "folder"], ids=str)
def test_a_batch_that_cannot_be_read_stops_no_other(
    tmp_path: Path, state: bytes | str | None
) -> None:
    store = opened(tmp_path)
    first, bad, last = (store.create(GRANT, body(store)).id for _ in range(3))
    path = tmp_path / "batches" / "key" / bad / STATE
    whole = path.read_bytes()
    path.unlink()
    if state == "folder":
        path.mkdir()
    elif isinstance(state, bytes):
        path.write_bytes(state)
    for one in (store, opened(tmp_path)):
        assert [place.id for place in one.unfinished()] == [first, last]
        found, more = one.page("key", None, 2)
        assert ([batch.id for batch in found], more) == ([last, first], False)
        found, more = one.page("key", None, 1)
        assert ([batch.id for batch in found], more) == ([last], True)
        with pytest.raises(NotFound):
            one.get("key", bad)
        file = one.files.page("key", None, 1, True, None)[0][0]
        one.delete_file("key", file.id)
        assert one.create(GRANT, body(one))
        path.parent.parent.joinpath(one.page("key", None, 1)[0][0].id, STATE).unlink()
    if state == "folder":
        path.rmdir()
    path.write_bytes(whole)
    assert [place.id for place in store.unfinished()] == [first, bad, last]


def test_a_batch_that_could_not_be_saved_leaves_nothing(tmp_path: Path) -> None:
    store = opened(tmp_path)
    wanted = body(store)
    with no_room(), pytest.raises(OSError, match="too large"):
        store.create(GRANT, wanted)
    assert list((tmp_path / "batches" / "key").iterdir()) == []
    assert store.page("key", None, 20) == ([], False)


def test_a_state_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(tmp_path)
    batch = store.create(GRANT, body(store))
    path = tmp_path / "batches" / "key" / batch.id / STATE
    synced: list[int] = []
    fsync = os.fsync

    def recorded(handle: int) -> None:
        synced.append(os.fstat(handle).st_ino)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", recorded)
    write_whole(path, path.read_bytes())
    assert synced == [path.stat().st_ino, path.parent.stat().st_ino]


def test_an_upload_that_finds_no_room_leaves_nothing(tmp_path: Path) -> None:
    store = opened(tmp_path)
    upload = store.files.upload("key", 1000)
    upload.write(b"still in memory")
    with no_room():
        upload.abandon()
    assert list((tmp_path / "files" / "key").iterdir()) == []


def test_uploads_at_once_may_not_pass_what_a_key_may_keep(tmp_path: Path) -> None:
    routers = [FileStore(tmp_path, 100), FileStore(tmp_path, 100)]
    uploads = [router.upload("key", 1000) for router in (*routers, *routers)]
    for one in uploads:
        one.write(b"x" * 60)
    with ThreadPoolExecutor(len(uploads)) as pool:
        done = [pool.submit(one.finish, "in.jsonl", "batch", 0) for one in uploads]
    refused = [one for one in done if isinstance(one.exception(), RequestTooLarge)]
    assert len(refused) == len(uploads) - 1
    assert [router.taken("key") for router in routers] == [60, 60]
