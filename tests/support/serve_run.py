"""The service as `serve run FILE` starts it: Serve's own proxy, without our launcher."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from router.switches import BRINGS
from tests.support.launched import ROOT, Launched
from tests.support.ports import free_port
from tests.support.waiting import WAIT_S, wait_for


def serve_run(config: Mapping[str, Any], folder: Path) -> tuple[list[str], dict[str, str], int]:
    """The command for a config, its environment for a machine with other services, and its port.

    `folder` gets the config and Ray's own folders, so its name must be short.
    """
    port = free_port()
    http = {**config.get("http_options", {}), "host": "127.0.0.1", "port": port}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({**config, "http_options": http}, sort_keys=False))
    environment = {
        "RAY_ADDRESS": "local",  # a Ray of its own, whatever else runs here
        "RAY_TMPDIR": str(folder),
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }
    return [str(Path(sys.executable).with_name("serve")), "run", str(path)], environment, port


class ServeRun(Launched):
    """`serve run`, ready; `url` is its base URL."""

    def __init__(self, process: "subprocess.Popen[str]", url: str, folder: Path) -> None:
        super().__init__(process, url, "")
        self._folder = folder

    @property
    def logs(self) -> Path:
        """The log folder of Serve's processes."""
        return self._folder / "ray" / "session_latest" / "logs" / "serve"

    def router_log(self) -> str:
        """The log lines of all routers."""
        return "".join(log.read_text(errors="replace") for log in self.logs.glob("*router*.log"))


@contextmanager
def served_by_serve_run(config: Mapping[str, Any]) -> Iterator[ServeRun]:
    """Run `serve run` with a config and wait until it is ready; stop everything after the block."""
    with ExitStack() as stack:
        # a short name: sockets lie in it
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="er-", dir="/tmp")))
        yield stack.enter_context(_served(config, folder))


@contextmanager
def _served(config: Mapping[str, Any], folder: Path) -> Iterator[ServeRun]:
    command, environment, port = serve_run(config, folder)
    given = {name: value for name, value in os.environ.items() if name not in BRINGS}
    log = folder / "serve-run.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**given, **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        assert process.poll() is None, log.read_text()
        with suppress(httpx.HTTPError):
            return httpx.get(f"{url}/health", timeout=5).status_code == httpx.codes.OK
        return False

    try:
        wait_for(ready, "`serve run` to be ready", 2 * WAIT_S, log.read_text)
        yield ServeRun(process, url, folder)
    finally:
        started = (
            psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        )
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=60)
        _, left = psutil.wait_procs(started, timeout=20)
        for one in left:  # Serve's own command leaves what it cannot end
            one.kill()
        process.kill()
        process.wait()
