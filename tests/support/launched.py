"""A router started as a user starts it, in separate processes."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]


class Launched:
    """`embedding-router run`, ready; `url` is its base URL."""

    def __init__(self, process: "subprocess.Popen[str]", url: str, said: str) -> None:
        self.process, self.url, self.output = process, url, said

    @property
    def logs(self) -> Path:
        """The log folder of Serve's processes."""
        return Path(re.findall(r"logs in (\S+)", self.output)[-1]) / "serve"

    def complaints(self, most: int = 40) -> list[str]:
        """The last warnings and errors of each process with the lines below them, by the name of
        its log.
        """
        found = []
        for log in sorted(self.logs.glob("*.log")):
            lines, bad = list[str](), False
            for line in log.read_text(errors="replace").splitlines():
                if (
                    level := re.match(r'(?:\{.*"levelname": ")?(DEBUG|INFO|WARNING|ERROR)\b', line)
                ) is not None:
                    bad = level[1] in ("WARNING", "ERROR")
                if bad:
                    lines.append(line)
            found += [f"{log.name}:", *lines[-most:]] if lines else []
        return found

    def processes(self, title: str) -> list[psutil.Process]:
        """Started processes whose title matches."""
        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess, IndexError):
                if re.match(title, child.cmdline()[0].strip()):
                    found.append(child)
        return found

    def replicas(self, deployment: str) -> list[psutil.Process]:
        """The processes of one deployment's replicas; while one works the name of a method follows
        its own.
        """
        return self.processes(rf"ray::ServeReplica:[^:]*:{re.escape(deployment)}(\.\w+)?( |$)")


def has_line(router: psutil.Process, replica: psutil.Process) -> bool:
    """Whether a router is connected to the socket of deployments/dispatch/socket_transport.py: the
    one bound to an address; Ray's sockets are bound to any.
    """
    heard = {
        line.laddr for line in replica.net_connections("tcp") if line.status == psutil.CONN_LISTEN
    }
    own = {address for address in heard if address.ip not in ("::", "0.0.0.0")}
    return any(
        line.raddr in own
        for line in router.net_connections("tcp")
        if line.status == psutil.CONN_ESTABLISHED
    )


@contextmanager
def launched(
    config: Path,
    options: Sequence[str] = (),
    before_ready: Callable[[str], object] | None = None,
) -> Iterator[Launched]:
    """Start the router on a free port; stop everything it started after the block.

    `before_ready` gets its base URL, and returns before the router is waited for.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [
        sys.executable,
        "-m",
        "router.cli",
        "run",
        "--config",
        str(config),
        "--port",
        str(port),
        *options,
    ]
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "disabled",
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
    }
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    said: list[str] = []
    try:
        if before_ready is not None:
            before_ready(url)
        for line in process.stdout:
            said.append(line)
            if "ready on" in line:
                break
        else:
            raise AssertionError("the router ended before it was ready:\n" + "".join(said))
        yield Launched(process, url, "".join(said))
    finally:
        started = (
            psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        )
        process.send_signal(signal.SIGINT)
        try:
            output, _ = process.communicate(timeout=60)
            ended = True
        except subprocess.TimeoutExpired as late:
            output, ended = (late.output or b"").decode(), False
            process.kill()
        _, left = psutil.wait_procs(started, timeout=10)
        assert not left, f"still running: {left}, after:\n{output}"
        assert ended, f"it did not end within 60 s:\n{output}"
        assert not started or process.returncode == 0, output
