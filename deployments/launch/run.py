"""`embedding-router run`: serve one config in the foreground, with a Ray of its own.

Ray Serve reads its switches from the environment when it is imported, so `environment`
(deployments/launch/environment.py) is called before anything else.
"""

import logging
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Any

import click
import psutil

from deployments.launch import haproxy
from deployments.launch.environment import (
    FOLDERS,
    OWNER,
    SCRATCH,
    NoPorts,
    NotOurs,
    environment,
    owner,
    sweep,
)
from deployments.launch.machine import devices
from deployments.launch.profiles import foreign_profiles
from deployments.launch.ray_process import (
    StartError,
    announce,
    serving,
)
from deployments.launch.watching import Ended, wait_until_ready, watch
from deployments.serve_internals import haproxy_binary
from router.config import Limits
from router.strict import ConfigError, parse_args
from router.strict_yaml import read
from router.switches import CLIENT_S


@click.command()
@click.option(
    "--config", "path", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help="HTTP port; the config's, or 8000, where not given.",
)
@click.option("--host", help="Address to listen on; the config's, or 127.0.0.1, where not given.")
@click.option(
    "--auth",
    type=click.Choice(["none"]),
    help="Answer other machines without keys, as `auth: none` in the config: for a container whose "
    "port only you publish.",
)
@click.option(
    "--dashboard-port",
    type=click.IntRange(1, 65535),
    help="Also start Ray's dashboard, on 127.0.0.1.",
)
@click.option(
    "--metrics-port",
    type=click.IntRange(1, 65535),
    help="Where Prometheus finds the metrics. Default: a free port.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print events as JSON lines, each with an `event` field.",
)
def main(
    path: Path,
    port: int | None,
    host: str | None,
    auth: str | None,
    dashboard_port: int | None,
    metrics_port: int | None,
    as_json: bool,
) -> None:
    """Serve a config on this machine until Ctrl-C. Ray and Serve are restarted if they die."""
    given_environment = dict(os.environ)
    config = _read(path)
    given = config.get("http_options")
    http = {"host": "127.0.0.1", "port": 8000, **(given if isinstance(given, dict) else {})}
    http |= {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    if not isinstance(http["host"], str) or not isinstance(http["port"], int):
        raise click.ClickException(
            f"{path}: http_options.host is a name or an address, http_options.port a number"
        )
    config["http_options"] = http
    announce(f"checking {path}", "checking", file=str(path))
    stopped = Event()
    try:
        _require_free(http["host"], http["port"])
        if metrics_port is not None:
            _require_free("0.0.0.0", metrics_port, "--metrics-port")
        sweep(FOLDERS)
        with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=FOLDERS) as scratch:
            folder = Path(scratch)
            (folder / OWNER).write_text(owner(psutil.Process()))
            limits = _limits(config)
            headers_s, body_s = (
                min(limit.headers_timeout_s for limit in limits),
                max(limit.body_timeout_s for limit in limits),
            )
            in_front = None if http.get("ssl_certfile") else _haproxy(folder, headers_s, body_s)
            client_s = max(CLIENT_S, body_s + CLIENT_S / 4)  # the error for a late body comes first
            requests = max(limit.max_requests for limit in limits)
            os.environ.update(
                environment(os.environ, http["port"], folder, in_front, client_s, requests)
            )
            if auth == "none":
                _open(path, config)
            _check(path, "127.0.0.1" if auth == "none" else http["host"])
            drain_s = max(limit.request_timeout_s for limit in limits)
            with serving(
                config,
                dashboard_port,
                metrics_port,
                stopped,
                folder if in_front else None,
                drain_s,
                folder,
            ) as logs:
                reported = wait_until_ready(config, logs, stopped)
                watch(logs, reported, stopped)
                announce("stopping", "stopping")
    except Ended as problem:
        if not stopped.is_set():
            announce(f"{problem}; starting again", "restart", message=str(problem))
            # a new process: this one's variables were read when Serve was imported
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], given_environment)
    except (StartError, NoPorts, NotOurs) as problem:
        raise click.ClickException(str(problem)) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        config = read(path.read_bytes())
    except ConfigError as error:
        raise click.ClickException(
            "\n".join(f"{path}: {problem}" for problem in error.problems)
        ) from None
    if not isinstance(config, dict) or not config.get("applications"):
        from deployments.launch.serve_config import check

        message = f"{path} is no Serve config: it has no `applications:`"
        raise click.ClickException("\n".join([message, *check(path)]))
    if not isinstance(config["applications"], list):
        raise click.ClickException(f"{path}: `applications` must be a list")
    return config


def _open(path: Path, config: dict[str, Any]) -> None:
    """Write `auth: none` into our applications; raises StartError for one that has keys."""
    from deployments.launch.serve_config import IMPORT_PATHS

    for application in config["applications"]:
        if not isinstance(application, dict) or application.get("import_path") not in IMPORT_PATHS:
            continue
        args = application.get("args") or {}
        if isinstance(args, dict):  # `_check` reports what else it is
            if args.get("keys"):
                raise StartError(f"{path} has `keys:`, so its callers need one: remove --auth none")
            application["args"] = {**args, "auth": "none"}


def _check(path: Path, host: str) -> None:
    """Raise StartError for problems that can be found before Ray starts."""
    from deployments.launch.model_check import hub_problems
    from deployments.launch.serve_config import IMPORT_PATH, check, slow_path_warning

    if problems := check(path, host):
        raise StartError("\n".join([f"{path} has {len(problems)} problem(s):", *problems]))
    if (note := slow_path_warning(path)) is not None:
        announce(note, "access_log")
    here = devices()
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)  # it logs every attempt
    for index, application in enumerate(_read(path)["applications"]):
        if application.get("import_path") == IMPORT_PATH:
            args = parse_args(application.get("args") or {})
            if (foreign := foreign_profiles(args, here)) is not None:
                announce(f"{foreign.found(here)}; {foreign.todo(str(path))}", "profiles")
            for name, model in args.served.items():
                for problem in hub_problems(
                    model, args.base_dir, f"applications[{index}].args.{args.place_of(name)}"
                ):
                    raise StartError(f"{path}: {problem}")


def _require_free(host: str, port: int, options: str = "--port or --host") -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StartError(
                f"cannot listen on {host}:{port} ({error.strerror}); choose another {options}"
            ) from None


def _limits(config: Mapping[str, Any]) -> list[Limits]:
    """Return the limits of every application; the defaults where it sets none."""
    given = []
    for application in config["applications"]:
        with suppress(
            AttributeError, TypeError, ValueError
        ):  # `_check` reports what is wrong with it
            given.append(Limits.model_validate((application.get("args") or {}).get("limits") or {}))
    return given or [Limits()]


def _haproxy(scratch: Path, headers_s: float, body_s: float) -> Path | None:
    """Write the program to put in front and return it; None if HAProxy does not run here."""
    try:
        binary = haproxy_binary()
        if subprocess.run([binary, "-v"], capture_output=True, timeout=10).returncode != 0:
            return None
    except (ImportError, OSError, subprocess.TimeoutExpired):
        return None
    return haproxy.starter(scratch, binary, headers_s, body_s)
