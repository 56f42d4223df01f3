"""A file is what it was before or what was written, never a part of it."""

from pathlib import Path

import pytest

from router.files import replacing


def test_what_was_written_takes_the_place_of_the_old(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_interrupted_leaves_the_old(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def interrupted() -> None:
        with replacing(path) as file:
            file.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_of_one_file_do_not_write_into_each_other(tmp_path: Path) -> None:
    file = tmp_path / "vectors.npy"
    with replacing(file) as one:
        one.write(b"A" * 8)
        one.flush()
        with replacing(file) as other:
            other.write(b"B" * 20)
        assert file.read_bytes() == b"B" * 20
        one.write(b"A" * 8)
    assert file.read_bytes() == b"A" * 16
    assert list(tmp_path.iterdir()) == [file]
