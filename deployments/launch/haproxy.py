"""HAProxy as `embedding-router run` needs it.

It dies with its parent, is closed to strangers, and is drained before it ends.

Ray Serve writes HAProxy's config and has no switch for some of its settings, so this file changes
that text before HAProxy reads it. It is also the program that Serve starts, and as such imports
only the standard library: see `starter`.
"""

import ctypes
import json
import os
import re
import signal
import socket
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1  # linux/prctl.h
POLL_S = 0.1
CONFIG = "hardened.cfg"
# HAProxy's own errors, in the format of the service. They include 502 to 504: Serve turns these
# into 500, which no client retries by itself. HAProxy's parser has HTML errors that no setting
# changes: for input that is not HTTP, and for headers that are too large or do not end.
ERRORS = {
    400: (
        400,
        "invalid_value",
        "the client closed its side of the connection before the answer, which counts as leaving; "
        "keep it open until then",
    ),
    408: (408, "request_timeout", "the request did not arrive in time; send it again"),
    502: (
        503,
        "model_unavailable",
        "the service lost this request; send it again after the time in Retry-After",
    ),
    503: (
        503,
        "model_unavailable",
        "no router can answer now; send the request again after the time in Retry-After",
    ),
    504: (
        503,
        "model_unavailable",
        "a router did not answer; send the request again after the time in Retry-After",
    ),
}
REASONS = {
    400: "Bad Request",
    408: "Request Timeout",
    503: "Service Unavailable",
}


def starter(folder: Path, binary: str, headers_s: float, body_s: float) -> Path:
    """Write a program into `folder` that runs the HAProxy at `binary` with a `hardened` config.

    A client has `headers_s` to send all headers of a request, and `body_s` to send its body.
    """
    from router.routes import ROUTES  # here, because the program runs without packages

    served = {route.path.rpartition("/")[2] for route in ROUTES if route.model_serves}
    endings = " ".join(f"/{part}" for part in sorted(served))
    given = [str(folder), binary, str(headers_s), str(body_s), endings]
    for status in ERRORS:
        (folder / f"{status}.http").write_bytes(error_response(status))
    program = folder / "haproxy"
    program.write_text(
        f"#!{sys.executable} -IS\n"
        "import runpy, sys\n"
        f"sys.argv[1:1] = {given!r}\n"
        f"runpy.run_path({__file__!r}, run_name='__main__')\n"
    )
    program.chmod(0o700)
    return program


def error_response(status: int) -> bytes:
    """Return the whole response for one of HAProxy's own errors.

    Its body has the service's four keys. A 503 has headers for the retry.
    """
    answered, code, message = ERRORS[status]
    kind = "server_error" if answered >= 500 else "invalid_request_error"
    body = json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}})
    lines = [
        f"HTTP/1.1 {answered} {REASONS[answered]}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        "x-content-type-options: nosniff",
    ]
    if answered == 503:
        lines += ["retry-after: 1", "retry-after-ms: 1000"]
    return "\r\n".join([*lines, "connection: close", "", body]).encode()


def hardened(config: str, folder: Path, headers_s: float, body_s: float, endings: str) -> str:
    """Return Serve's HAProxy config with our changes.

    Statistics are on loopback, headers have a time limit, errors are ours, and routers get the
    client's address. Only failures are logged: Serve would log a line for each request to a syslog
    that rarely exists.

    A request goes to a router only once its body has arrived, as far as it fits the buffer. HAProxy
    cannot resend a request that it does not hold whole: if the router died, it would close the
    connection without an answer. Many clients send headers and body apart.

    As long as no application exists, every 404 is a 503 instead: the service is starting.

    Requests that models serve, whose paths end in one of `endings`, carry a header that turns off
    Serve's disconnect watcher, because the router watches for disconnects itself. With it, Serve
    creates one task per request instead of two, and none for a request that is answered at once.
    """
    config = re.sub(
        r"(?m)^((?:frontend prometheus|listen stats)\n\s*bind )\*?:", r"\g<1>127.0.0.1:", config
    )
    config = re.sub(r"(?m)^\s*errorfile \d+ .*\n", "", config)
    config = re.sub(r"(?m)^\s*timeout http-request .*\n", "", config)
    config = re.sub(
        r"(?m)^frontend http_frontend\n\s*bind .*\n",
        lambda found: (
            f"{found[0]}    http-request set-header x-request-disconnect-disabled ?1 if {{ "
            f"path_end {endings} }}\n"
            f"    http-request wait-for-body time {_ms(body_s)}ms if METH_POST\n"
        ),
        config,
    )
    if not re.search(r"(?m)^backend http-", config):
        config = re.sub(
            r"(?m)^(\s*http-request return status) 404 .*\n", r"\1 503 default-errorfiles\n", config
        )
    own = [
        f"    timeout http-request {_ms(headers_s)}ms",
        "    option forwardfor",
        "    option dontlog-normal",
    ]
    own += [f"    errorfile {status} {folder / f'{status}.http'}" for status in ERRORS]
    return re.sub(
        r"(?m)^defaults\n    mode http\n",
        lambda found: found[0] + "\n".join(own) + "\n",
        config,
        count=1,
    )


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def drain(folder: Path, seconds: float) -> bool:
    """Drain all servers, wait up to `seconds`, and return whether all requests in flight ended.

    `folder` is where HAProxy's admin socket was configured; Serve puts it into a folder of the node
    below that. Serve starts a new HAProxy with every change of replicas. The new one does not
    inherit the drained state; the old one ends with its last connection. A client that keeps a
    connection open without a request can hold the old one for minutes, and is not waited for; nor
    is a request there whose body has not arrived. One that was replaced a few seconds ago counts as
    busy while it keeps unused connections to routers.
    """
    until_s = time.monotonic() + seconds
    while True:
        sockets = [*folder.glob("admin.sock"), *folder.glob("*/admin.sock")]
        drained = dict(found for found in map(_drained, sockets) if found is not None)
        if not any(drained.values()) and _all_idle(folder, set(drained)):
            return True
        if time.monotonic() > until_s:
            return False
        time.sleep(POLL_S)


def _drained(admin: Path) -> tuple[int, int] | None:
    """Drain the servers of one HAProxy and return its pid and how many requests are in flight.

    None if HAProxy does not answer, as while a new one replaces it.
    """
    try:
        for row in _servers(admin):
            if not row["status"].startswith("DRAIN"):
                command(admin, f"set server {row['pxname']}/{row['svname']} state drain")
        pid = re.search(r"(?m)^Pid: (\d+)$", command(admin, "show info"))
        return int(pid[1]) if pid else 0, sum(int(row["scur"] or 0) for row in _servers(admin))
    except (OSError, ValueError, KeyError):  # no answer, or half of one
        return None


def _all_idle(folder: Path, drained: set[int]) -> bool:
    """Whether the HAProxies of `folder` that are not `drained` have idle clients and nothing else.

    One without any connection starts or ends at this moment, and is waited for.
    """
    import psutil  # here, because the program that starts HAProxy runs without packages

    config = folder / CONFIG
    for process in psutil.process_iter(["name", "cmdline"]):
        if process.info["name"] != "haproxy" or str(config) not in (process.info["cmdline"] or ()):
            continue
        if process.pid not in drained:
            ports = set(map(int, re.findall(r"(?m)^\s*bind \S*:(\d+)", config.read_text())))
            try:
                connections = process.net_connections("tcp")
            except psutil.NoSuchProcess:
                continue
            if not connections or any(
                connection.status == psutil.CONN_LISTEN or connection.laddr.port not in ports
                for connection in connections
            ):
                return False
    return True


def _servers(admin: Path) -> list[dict[str, str]]:
    return [row for row in _rows(admin) if row["svname"] not in ("FRONTEND", "BACKEND")]


def _rows(admin: Path) -> list[dict[str, str]]:
    names, *rows = command(admin, "show stat").removeprefix("# ").strip().splitlines()
    return [dict(zip(names.split(","), row.split(","), strict=False)) for row in rows]


def command(admin: Path, text: str) -> str:
    """Send a command to the admin socket of a HAProxy, and return its reply. Raises OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as admin_socket:
        admin_socket.settimeout(2.0)
        admin_socket.connect(str(admin))
        admin_socket.sendall(f"{text}\n".encode())
        parts = []
        while part := admin_socket.recv(65536):
            parts.append(part)
    return b"".join(parts).decode()


def _start(
    folder: Path, binary: str, headers_s: float, body_s: float, endings: str, arguments: list[str]
) -> None:
    # otherwise it outlives a killed Ray and keeps the port
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setpgid(0, 0)  # Ctrl-C in a terminal must reach only the command, which drains first
    if "-f" in arguments:
        at = arguments.index("-f") + 1
        given = Path(arguments[at])
        changed = folder / CONFIG
        changed.write_text(hardened(given.read_text(), folder, headers_s, body_s, endings))
        arguments[at] = str(changed)
    os.execv(binary, [binary, *arguments])


if __name__ == "__main__":
    own, binary, headers_s, body_s, endings, *arguments = sys.argv[1:]
    _start(Path(own), binary, float(headers_s), float(body_s), endings, arguments)
