"""What an instance's processes are told by their environment."""

import os
import resource
from pathlib import Path

import psutil
import pytest

from deployments.launch.environment import (
    OWNER,
    NotOurs,
    environment,
    owner,
    private_folder,
    running,
    sweep,
)

NAME = "RAY_SERVE_HAPROXY_MAXCONN"


@pytest.mark.parametrize(
    ("max_requests", "files", "connections"),
    [
        (10_000, resource.RLIM_INFINITY, 20_000),
        (10_000, 1_000_000, 20_000),
        (10_000, 20_000, 7_800),
        (100, 1_000_000, 4096),
        (50_000, resource.RLIM_INFINITY, 100_000),
    ],
)
def test_haproxy_has_connections_for_all_requests_as_far_as_there_are_files(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    max_requests: int,
    files: int,
    connections: int,
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, files))
    chosen = environment({}, 8000, tmp_path, tmp_path / "haproxy", max_requests=max_requests)
    assert chosen[NAME] == str(connections)
    assert NAME not in environment({NAME: "7"}, 8000, tmp_path, tmp_path / "haproxy")


GONE = "1 1.0"  # no process has this start


def claimed(where: Path, name: str, text: str = GONE) -> Path:
    folder = where / name
    folder.mkdir()
    (folder / OWNER).write_text(text)
    return folder


def test_the_folders_of_killed_instances_go_and_those_of_live_ones_stay(tmp_path: Path) -> None:
    dead = claimed(tmp_path, "er-dead")
    alive = claimed(tmp_path, "er-alive", owner(psutil.Process()))
    assert running(tmp_path) == [os.getpid()]
    sweep(tmp_path)
    assert not dead.exists()
    assert alive.exists()


@pytest.mark.parametrize("kind", ["fifo", "link", "folder", "empty", "huge", "linked folder"])
def test_a_folder_that_only_looks_like_ours_neither_goes_nor_hangs_a_start(
    tmp_path: Path, kind: str
) -> None:
    mine, elsewhere = tmp_path / "tmp" / "er-looks", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / OWNER).write_text(GONE)
    (tmp_path / "tmp").mkdir()
    if kind == "linked folder":
        mine.symlink_to(elsewhere)
    else:
        mine.mkdir()
    if kind == "fifo":
        os.mkfifo(mine / OWNER)
    elif kind == "link":
        (mine / OWNER).symlink_to(elsewhere / OWNER)
    elif kind == "folder":
        (mine / OWNER).mkdir()
    elif kind in ("empty", "huge"):
        (mine / OWNER).write_text("9" * 100_000 if kind == "huge" else "")
    sweep(tmp_path / "tmp")
    assert mine.exists()
    assert (elsewhere / OWNER).exists()


def test_what_another_user_wrote_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead, uid = claimed(tmp_path, "er-dead"), os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: uid + 1)
    sweep(tmp_path)
    assert dead.exists()


def test_rays_folder_is_closed_to_other_users(tmp_path: Path) -> None:
    folder = private_folder(tmp_path)
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)
    assert private_folder(tmp_path) == folder
    assert folder.stat().st_mode & 0o777 == 0o700
    chosen = environment({"RAY_TMPDIR": str(tmp_path)}, 8000, tmp_path, None)
    assert chosen["RAY_TMPDIR"] == str(folder)


@pytest.mark.parametrize("kind", ["link", "file", "another user's"])
def test_a_folder_of_somebody_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    uid = os.getuid()
    place = tmp_path / f"er-{uid}"
    if kind == "link":
        (tmp_path / "open").mkdir()
        place.symlink_to(tmp_path / "open")
    elif kind == "file":
        place.touch()
    else:
        (tmp_path / f"er-{uid + 1}").mkdir()
        monkeypatch.setattr(os, "getuid", lambda: uid + 1)
    with pytest.raises(NotOurs, match="set RAY_TMPDIR to a folder of your own"):
        private_folder(tmp_path)
