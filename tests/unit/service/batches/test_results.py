"""The output of a batch on a disk that may be torn or full."""

import json
import os
import resource
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.service.batches.disk import Lock, lines_of, write_whole
from deployments.service.batches.results import Result, Results
from deployments.service.batches.store import ERRORS, OUTPUT, Place
from router.batch_lines import answered_line
from router.batches import BatchStatus


def row(number: int, succeeded: bool = True) -> Result:
    line = answered_line(number, f"c{number}", 200 if succeeded else 400, "r", b'{"a":[1,2]}')
    return Result(number, succeeded, line)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place("key", "batch_1", tmp_path)


def test_the_next_router_knows_what_is_done(place: Place) -> None:
    first = Results(place)
    first.add([row(1), row(2, False), row(5)])
    assert (first.counts, first.done) == ((2, 1), {1, 2, 5})
    first.close()
    second = Results(place)
    assert (second.counts, second.done) == ((2, 1), {1, 2, 5})
    second.close()


@given(cut=st.integers(0, 400), junk=st.binary(max_size=30))
def test_a_torn_end_is_cut_off_and_what_is_whole_stays(
    tmp_path_factory: pytest.TempPathFactory, cut: int, junk: bytes
) -> None:
    place = Place("key", "batch_1", tmp_path_factory.mktemp("torn"))
    results = Results(place)
    results.add([row(number) for number in range(1, 4)])
    results.close()
    path = place.folder / OUTPUT
    whole = path.read_bytes()
    path.write_bytes(whole[:cut] + junk)
    again = Results(place)
    assert again.done >= set(range(1, 1 + whole[:cut].count(b"\n")))
    again.add([row(number) for number in range(1, 4) if number not in again.done])
    again.close()
    rows = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert sorted(one["custom_id"] for one in rows) == ["c1", "c2", "c3"]


def test_zeros_of_a_lost_page_are_cut_off(place: Place) -> None:
    results = Results(place)
    results.add([row(1), row(2)])
    results.close()
    path = place.folder / OUTPUT
    path.write_bytes(path.read_bytes()[:-20] + b"\0" * 20 + b"\n" + row(3).line)
    again = Results(place)
    assert again.done == {1}
    again.close()


def test_what_was_not_run_is_an_error_once(place: Place, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    line = {"method": "POST", "url": "/v1/embeddings", "body": {}}
    source.write_text(
        "\n\n".join(json.dumps({"custom_id": f"c{n}", **line}) for n in range(4)) + "\n"
    )
    results = Results(place)
    results.add([row(3)])
    for _ in range(2):
        results.add_not_run(source, 1000, BatchStatus.CANCELLED)
    assert (results.counts, results.done) == ((1, 3), {1, 3, 5, 7})
    results.close()
    errors = [json.loads(one) for one in (place.folder / ERRORS).read_text().splitlines()]
    assert [one["custom_id"] for one in errors] == ["c0", "c2", "c3"]
    assert {one["error"]["code"] for one in errors} == {"batch_cancelled"}
    assert {one["response"] for one in errors} == {None}


def test_a_full_disk_leaves_whole_lines(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    results = Results(place)
    results.add([row(1)])
    size = (place.folder / OUTPUT).stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            results.add([row(2)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert (results.done, (place.folder / OUTPUT).stat().st_size) == ({1}, size)
    results.add([row(2)])
    results.close()
    again = Results(place)
    assert again.done == {1, 2}
    again.close()


def test_a_lock_has_one_holder_and_ends_with_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first = Lock.take(path)
    assert first is not None
    assert Lock.take(path) is None
    child = os.fork()
    if not child:
        os._exit(0 if Lock.take(path) is None else 1)
    assert os.waitpid(child, 0)[1] == 0
    first.release()
    again = Lock.take(path)
    assert again is not None
    again.release()


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write_whole(path, b"one")
    write_whole(path, b"two")
    assert path.read_bytes() == b"two"
    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]


def test_lines_are_read_within_bounds(tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_bytes(b"ab\n\n  \n" + b"x" * 1000 + b"\nlast")
    found = list(lines_of(path, 10))
    assert [(number, len(line)) for number, line in found] == [(1, 2), (4, 12), (5, 4)]
