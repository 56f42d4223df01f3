"""Draining real HAProxies that hold real connections."""

import http.client
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from deployments import serve_internals
from deployments.launch import haproxy
from tests.support.ports import free_port
from tests.support.waiting import WAIT_S, wait_for


class Slow(BaseHTTPRequestHandler):
    """Answers at once, and `/slow` once `released` is set."""

    protocol_version = "HTTP/1.1"
    asked, released = threading.Event(), threading.Event()

    def do_GET(self) -> None:
        if self.path == "/slow":
            self.asked.set()
            assert self.released.wait(WAIT_S)
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *args: object) -> None:
        pass


class Proxies:
    """HAProxies that follow each other on one port, as Serve starts them."""

    def __init__(self, folder: Path, server_port: int) -> None:
        self.folder, self.port = folder, free_port()
        self.processes: list[subprocess.Popen[bytes]] = []
        (folder / haproxy.CONFIG).write_text(
            f"global\n    stats socket {folder}/admin.sock level admin expose-fd listeners\n"
            "defaults\n    mode http\n    timeout connect 5s\n    timeout client 60s\n"
            "    timeout server 60s\n    option idle-close-on-response\n"
            "    option http-server-close\n"  # or unused connections to servers linger for seconds
            f"frontend http_frontend\n    bind 127.0.0.1:{self.port}\n    default_backend slow\n"
            f"backend slow\n    server one 127.0.0.1:{server_port}\n"
        )

    def start(self) -> None:
        """Start one that takes over from the last one."""
        command = [serve_internals.haproxy_binary(), "-db", "-f", str(self.folder / haproxy.CONFIG)]
        if self.processes:
            command += ["-sf", str(self.processes[-1].pid), "-x", str(self.folder / "admin.sock")]
        self.processes.append(started := subprocess.Popen(command))
        wait_for(lambda: f"Pid: {started.pid}\n" in self._info(), "HAProxy to answer")

    def _info(self) -> str:
        try:
            return haproxy.command(self.folder / "admin.sock", "show info")
        except OSError:
            return ""


@pytest.fixture
def proxies(tmp_path: Path) -> Iterator[Proxies]:
    Slow.asked.clear()
    Slow.released.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        proxies = Proxies(tmp_path, server.server_port)
        try:
            proxies.start()
            yield proxies
        finally:
            Slow.released.set()
            for one in proxies.processes:
                one.kill()
                one.wait()
            server.shutdown()


@contextmanager
def idle_client(port: int) -> Iterator[http.client.HTTPConnection]:
    """A client that had an answer and keeps its connection."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)) as client:
        client.request("GET", "/")
        assert client.getresponse().read() == b"ok"
        yield client


@pytest.mark.parametrize("replaced", [0, 1, 2])
def test_an_idle_connection_is_no_request_in_flight(proxies: Proxies, replaced: int) -> None:
    with idle_client(proxies.port):
        for _ in range(replaced):
            proxies.start()
        assert haproxy.drain(proxies.folder, WAIT_S)
        assert all(one.poll() is None for one in (proxies.processes[0], proxies.processes[-1]))


@pytest.mark.parametrize("replaced", [0, 1, 2])
def test_a_request_in_flight_is_waited_for(proxies: Proxies, replaced: int) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", proxies.port, timeout=WAIT_S)) as client:
        client.request("GET", "/slow")
        assert Slow.asked.wait(WAIT_S)
        for _ in range(replaced):
            proxies.start()
        assert not haproxy.drain(proxies.folder, 0.5)
        Slow.released.set()
        assert haproxy.drain(proxies.folder, WAIT_S)
        assert client.getresponse().read() == b"ok"
