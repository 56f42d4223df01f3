"""Start, watch, drain and end Ray on this machine."""

import errno
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from threading import Event, Thread
from types import FrameType
from typing import Any, TypeVar

import click
import psutil

from deployments import serve_internals
from deployments.launch import haproxy
from router.config import SEALED

T = TypeVar("T")

POLL_S = 0.25


SILENT_S = 1.0  # of waiting for requests in flight before a message is printed


SHUTDOWN_S = 8.0  # for Serve to shut down after that


START_TRIES = 3  # Ray allows 30 s per try, too few on a busy machine


LINGER_S = 3.0  # for processes to end by themselves before they are killed


class StartError(Exception):
    """The service cannot start, or ended by itself; the message says why and what to do."""


def _on_signals(stopped: Event) -> None:
    """Let SIGINT, SIGTERM and SIGHUP set `stopped`; a second signal kills everything at once."""

    def stop(number: int, frame: FrameType | None) -> None:
        if stopped.is_set():
            _end(psutil.Process().children(recursive=True), linger_s=0)
            os._exit(128 + number)
        stopped.set()

    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, stop)


@contextmanager
def serving(
    config: Mapping[str, Any],
    dashboard_port: int | None,
    metrics_port: int | None,
    stopped: Event,
    haproxy_folder: Path | None,
    drain_s: float,
    folder: Path,
) -> Iterator[Path]:
    """Start Ray, Serve and the config's applications, and yield the folder of their logs.

    No process is left behind at the end. Requests in flight get `drain_s` to end; meanwhile
    HAProxy, where it is in front, refuses new ones. `folder` is private and has the same lifetime.
    The steps are those of `serve run`, which neither reports a failed application nor accepts
    options for Ray.
    """
    import ray
    from ray.serve.schema import ServeDeploySchema

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    wanted = ServeDeploySchema.model_validate(sealed(config, folder))
    client = None
    try:
        try:
            _on_signals(stopped)
            announce("starting Ray", "starting", what="Ray")
            context = _start_ray(dashboard_port, metrics_port, stopped)
            _on_signals(stopped)  # Ray installed its own handler of SIGTERM
            _require_room(config)
            announce("starting Ray Serve", "starting", what="Ray Serve")
            client = serve_internals.start_serve(wanted)
            serve_internals.deploy(client, wanted)
        except (ray.exceptions.RayError, RuntimeError, OSError) as error:
            raise StartError(f"Ray Serve did not start: {error}") from error
        yield Path(context.address_info["session_dir"]) / "logs"
    finally:
        started = psutil.Process().children(recursive=True)
        try:
            if client is not None and not gone():
                _drain(config, haproxy_folder, drain_s)
            with redirect_stdout(
                StringIO()
            ):  # Ray reports the controller's death, which is intended here
                if not gone():  # otherwise a call that waits in another thread could never end
                    if client is not None:
                        serve_internals.shut_down(client, SHUTDOWN_S)
                    ray.shutdown()
        finally:
            _end(started, LINGER_S)


def sealed(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the config with the `args:` of our applications moved to files in `folder`.

    Serve logs `args:`, which can contain hashes of keys and a password in a URL.
    """
    from deployments.launch.serve_config import IMPORT_PATHS

    applications = []
    for index, application in enumerate(config["applications"]):
        if application.get("import_path") in IMPORT_PATHS and application.get("args"):
            file = folder / f"args-{index}.json"
            file.touch(mode=0o600)
            file.write_text(json.dumps(application["args"]), encoding="utf-8")
            application = {**application, "args": {SEALED: str(file)}}
        applications.append(application)
    return {**config, "applications": applications}


def metrics_url() -> str:
    """Return the URL of this machine's metrics; Ray's agent listens on every interface."""
    return f"http://127.0.0.1:{serve_internals.metrics_port()}/metrics"


def _start_ray(dashboard_port: int | None, metrics_port: int | None, stopped: Event) -> Any:
    """Start Ray, with START_TRIES tries, and return its context. Raises StartError."""
    import ray

    for left in reversed(range(START_TRIES)):
        try:
            return serve_internals.start_ray(
                metrics_port,
                address="local",
                namespace="serve",
                include_dashboard=dashboard_port is not None,
                dashboard_port=dashboard_port,
                logging_level=logging.WARNING,
                log_to_driver=False,  # _report_news prints what matters; the rest is in the logs
            )
        except Exception as error:  # a bare Exception if the machine was too busy
            ray.shutdown()
            _end(psutil.Process().children(recursive=True), linger_s=0)
            if not left or stopped.is_set():
                raise StartError(f"Ray did not start: {error}") from error
            announce(f"Ray did not start, once more: {error}", "retry", message=str(error))


def _require_room(config: Mapping[str, Any]) -> None:
    """Print which deployment would wait for which resource.

    Raises StartError if a required one would wait forever, as no node joins this Ray later.
    """
    import ray

    from deployments.launch.serve_config import IMPORT_PATHS
    from router.resources import bookings, first_ones, node, waiting
    from router.strict import parse_args

    booked = [
        booking
        for application in config["applications"]
        if application.get("import_path") in IMPORT_PATHS
        for booking in bookings(parse_args(application.get("args") or {}), application)
    ]
    have = [node(item["Resources"]) for item in ray.nodes()]  # type: ignore[no-untyped-call]
    if never := waiting(first_ones(booked), have):
        raise StartError("\n".join(wait.sentence for wait in never))
    for wait in waiting(booked, have):
        announce(wait.sentence, "waiting", name=wait.deployment, resource=wait.resource)


def _drain(config: Mapping[str, Any], haproxy_folder: Path | None, drain_s: float) -> None:
    """Let requests in flight end: through HAProxy, otherwise by deleting the applications.

    Serve's proxies can still answer while the applications are deleted.
    """
    from ray import serve

    if haproxy_folder is not None:
        if not haproxy.drain(haproxy_folder, SILENT_S):
            message = (
                f"requests are under way and get up to {drain_s:g} s to end; a second signal "
                "ends everything at once"
            )
            announce(message, "draining", seconds=drain_s)
            haproxy.drain(haproxy_folder, drain_s)
        return
    serve_internals.delete_applications(
        [application.get("name", "default") for application in config["applications"]]
    )
    until_s = time.monotonic() + drain_s
    while serve.status().applications and time.monotonic() < until_s:
        time.sleep(POLL_S)


def gone() -> list[str]:
    """Return which of Ray's vital processes are missing; without them its calls wait forever."""
    alive = {
        child.name()
        for child in psutil.Process().children()
        if child.status() != psutil.STATUS_ZOMBIE
    }
    return sorted(serve_internals.VITAL_PROCESSES - alive)


def unless_gone(call: Callable[[], T], gone: Callable[[], list[str]] = gone) -> T:
    """Return the result of a call to Ray. Raises RuntimeError as soon as a vital process is gone.

    The call runs in a thread of its own, which is left behind if it waits forever.
    """
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(call())
        except Exception as error:
            result.set_exception(error)

    if not (missing := gone()):
        Thread(target=run, daemon=True).start()
    while not missing:
        try:
            return result.result(POLL_S)
        except TimeoutError:
            if result.done():  # it ended just now, or the call itself ran out of time
                return result.result()
            missing = gone()
    raise RuntimeError(f"{' and '.join(missing)} died")


def _end(processes: list[psutil.Process], linger_s: float) -> None:
    _, alive = psutil.wait_procs(processes, timeout=linger_s)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=LINGER_S)


def announce(line: str, event: str, **fields: object) -> None:
    """Print one event: a line with the time since the start, or with --json an object.

    Events are dropped, and serving goes on, once the reader of the output has ended (`| head`, a
    closed terminal).
    """
    since_s = time.time() - psutil.Process().create_time()
    if click.get_current_context().params["as_json"]:
        line = json.dumps({"event": event, "since_start_s": round(since_s, 1), **fields})
    else:
        line = f"{since_s:6.1f} s  {line}"
    try:
        click.echo(line)
    except OSError as error:  # after a full disk, the next event can succeed
        if error.errno in (errno.EPIPE, errno.EIO):
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), sys.stdout.fileno())
