"""A real Redis for one test, on a unix socket in its folder."""

import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.needs import needs

BINARY = shutil.which("redis-server")
needs_redis = needs("redis-server")
ALWAYS_S = 30.0  # a time box that a busy machine does not open


class RedisServer:
    """A server that a test starts, pauses, kills and restarts."""

    def __init__(self, folder: Path) -> None:
        self._socket = folder / "r.sock"
        self.url = f"unix://{self._socket}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert BINARY is not None
        self._process = subprocess.Popen(
            [
                BINARY,
                "--port",
                "0",
                "--unixsocket",
                str(self._socket),
                "--save",
                "",
                "--appendonly",
                "no",
                "--dir",
                str(self._socket.parent),
            ],
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if b"ready to accept connections" in line.lower():
                break
        else:
            raise AssertionError("redis-server ended before it was ready")
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(self._socket))

    def pause(self) -> None:
        """Stop answering (SIGSTOP)."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process = None
        with suppress(FileNotFoundError):
            self._socket.unlink()

    def stop(self) -> None:
        if self._process is not None:
            self.kill()


@contextmanager
def redis_server(folder: Path) -> Iterator[RedisServer]:
    """A server that is ready; stopped after the block."""
    server = RedisServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def redis_of_a_test() -> Iterator[RedisServer]:
    """A server in a folder of its own, whose path is short enough for a socket."""
    with (
        tempfile.TemporaryDirectory(prefix="er-", dir="/tmp") as folder,
        redis_server(Path(folder)) as running,
    ):
        yield running


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A Redis of its own for each test."""
    with redis_of_a_test() as running:
        yield running
