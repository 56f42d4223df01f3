"""What an instance's processes are told by their environment."""

import resource
from pathlib import Path

import pytest

from deployments.launch.environment import environment

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
