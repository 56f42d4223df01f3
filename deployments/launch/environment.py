"""An instance's own folder and ports, and the variables that Ray and Serve read.

The folder is swept once the instance is gone. Ray Serve reads its switches from the environment
when it is imported. Three of the choices made here need a reason:

- With Serve's Python proxy a short request takes 5 to 7 times the processor time
  (`python -m benchmarks fronts`). HAProxy and throughput mode are used where HAProxy runs.
- Ray listens on every interface, whatever host Serve gets, and anyone who reaches it can run code.
  Each instance therefore gets a secret token of its own. Set RAY_AUTH_MODE to choose otherwise.
- Everything that has a fixed port or path gets one of this instance's own. Otherwise a second
  instance would silently share them.
"""

import math
import os
import re
import resource
import secrets
import shutil
import socket
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from deployments.ingress.asgi import ADDRESS_HEADER_VARIABLE
from router.config import Limits
from router.switches import ALWAYS, CLIENT_S, WITH_HAPROXY

# folders of instances in /tmp, and the file in each that names its owner
SCRATCH, OWNER = (
    "er-",
    "owner",
)
FOLDERS = Path("/tmp")  # short: HAProxy's socket paths have at most 97 characters
OWNER_BYTES = 200
MAXCONN = "RAY_SERVE_HAPROXY_MAXCONN"
HAPROXY_OWN_FILES = 500  # in addition to those of connections
# below the kernel's range of ephemeral ports
PORT_BASE, PORT_SPAN, PORTS_EACH = (
    20_000,
    10_000,
    8,
)


class NotOurs(Exception):
    """A folder that must belong to this user does not; the message says what to do."""


class NoPorts(Exception):
    """This machine has too few free ports; the message says where."""


def owner(process: psutil.Process) -> str:
    """Return the pid and start time that identify a folder's owner: a pid alone can be reused."""
    return f"{process.pid} {process.create_time()}"


def private_folder(where: Path) -> Path:
    """Return this user's folder in `where`, which no other user can read or write.

    Ray makes its own folders readable by everybody, so they are put into this one. Raises NotOurs.
    """
    folder = where / f"{SCRATCH}{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise NotOurs(
            f"{folder} is not a folder of this user, so others could read Ray's files in it; "
            "remove it, or set RAY_TMPDIR to a folder of your own"
        )
    if stat.S_IMODE(found.st_mode) != 0o700:
        folder.chmod(0o700)
    return folder


def _own_text(file: Path) -> str:
    """Return the text of a regular file of this user in a folder of this user.

    Never blocks. Raises OSError for any other file.
    """
    folder = file.parent.lstat()
    if not stat.S_ISDIR(folder.st_mode) or folder.st_uid != os.getuid():
        raise PermissionError(f"{file.parent} belongs to another user")
    with open(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)) as opened:
        found = os.fstat(opened.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid():
            raise PermissionError(f"{file} is no regular file of this user")
        return opened.read(OWNER_BYTES)


def sweep(where: Path) -> None:
    """Remove the folders of this user's instances that were killed."""
    for folder, pid in _instances(where):
        if pid is None:
            with suppress(OSError):
                shutil.rmtree(folder)


def running(where: Path) -> list[int]:
    """Return the process ids of this user's instances that run."""
    return sorted(pid for _, pid in _instances(where) if pid is not None)


def _instances(where: Path) -> Iterator[tuple[Path, int | None]]:
    """Yield the folder of each instance of this user and its process id; None if it was killed."""
    for claim in where.glob(f"{SCRATCH}*/{OWNER}"):
        with suppress(OSError, ValueError):
            text = _own_text(claim)
            if re.fullmatch(r"\d{1,10} \d+\.\d+", text) is None:
                continue
            pid = int(text.split()[0])
            try:
                lives = owner(psutil.Process(pid)) == text
            except psutil.NoSuchProcess:
                lives = False
            yield claim.parent, pid if lives else None


def environment(
    given: Mapping[str, str],
    port: int,
    scratch: Path,
    haproxy: Path | None,
    client_s: float = CLIENT_S,
    max_requests: int = Limits().max_requests,
) -> dict[str, str]:
    """Return the variables for Ray, Serve and the processes that they start.

    Variables that the user set win, except for paths and ports of this instance.

    `port` is the instance's HTTP port, from which its inner ports derive. `scratch` is a folder of
    its own with the same lifetime. `haproxy` is the program to put in front: None where it does not
    run, or where the config asks for TLS, which Serve's HAProxy does not have. HAProxy drops a
    client that is silent for `client_s`. It accepts connections for `max_requests` and for as many
    idle clients.
    """
    chosen = {
        **ALWAYS,
        # the default of 30 s is for load balancers elsewhere
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, os.cpu_count() or 1)),
        MAXCONN: str(_connections(max_requests)),
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": str(math.ceil(client_s)),
    }
    if "RAY_AUTH_MODE" not in given:
        chosen |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    if haproxy is not None:
        chosen |= {
            **WITH_HAPROXY,
            "RAY_SERVE_HAPROXY_BINARY_PATH": str(haproxy),
            ADDRESS_HEADER_VARIABLE: "x-forwarded-for",
        }
    inner = iter(_free_ports(port))
    own = {
        "SERVE_SOCKET_REUSE_PORT_ENABLED": "0",
        "RAY_TMPDIR": str(private_folder(Path(_temporary(given)))),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(next(inner)),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(next(inner)),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(next(inner)),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(next(inner)),
        "AUTOSCALER_METRIC_PORT": str(next(inner)),
        "DASHBOARD_METRIC_PORT": str(next(inner)),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(scratch / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(scratch / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(scratch / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(scratch),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(scratch / "server-state"),
        # Applications are imported from the current folder, as with `serve run`.
        "PYTHONPATH": os.pathsep.join([os.getcwd(), *filter(None, [given.get("PYTHONPATH")])]),
    }
    return {name: value for name, value in chosen.items() if name not in given} | own


def _temporary(given: Mapping[str, str]) -> str:
    """Return where Ray would put its folder."""
    return given.get("RAY_TMPDIR") or given.get("TMPDIR") or "/tmp"


def files_for(connections: int) -> int:
    """Return how many files HAProxy opens for as many connections.

    Each needs 2.5: two of its own and a share of a pipe. HAProxy does not start if the system
    allows fewer.
    """
    return HAPROXY_OWN_FILES + (5 * connections + 1) // 2


def connections_with(files: int) -> int:
    """Return how many connections HAProxy can accept with as many files."""
    return (files - HAPROXY_OWN_FILES) * 2 // 5


def _connections(max_requests: int) -> int:
    """Return how many connections HAProxy accepts at once (Serve: 4096)."""
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(4096, 2 * max_requests)
    if files == resource.RLIM_INFINITY:
        return wanted
    return max(256, min(wanted, connections_with(files)))


def _free_ports(port: int) -> list[int]:
    """Return as many free ports as an instance needs.

    The search starts at a place derived from its HTTP port, which no other instance has. Raises
    NoPorts.
    """
    found: list[int] = []
    start = port * PORTS_EACH
    for offset in range(PORT_SPAN):
        candidate = PORT_BASE + (start + offset) % PORT_SPAN
        with socket.socket() as probe:
            try:
                probe.bind(("", candidate))
            except OSError:
                continue
        found.append(candidate)
        if len(found) == PORTS_EACH:
            return found
    raise NoPorts(
        f"no {PORTS_EACH} free ports between {PORT_BASE} and {PORT_BASE + PORT_SPAN}; stop what "
        "holds them"
    )
