"""Wait until a started service answers, and print what Serve reports of it until it ends."""

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import httpx

from deployments.launch.ray_process import (
    POLL_S,
    StartError,
    announce,
    gone,
    metrics_url,
    unless_gone,
)
from deployments.serve_internals import RAYLET_ENDS, RAYLET_LOG

if TYPE_CHECKING:
    from ray.serve.schema import ServeStatus

WATCH_S = 2.0
WATCHES_FAILED = 5  # in a row, before a running service counts as ended
LAST_LINES = 200  # of Ray's log


class Ended(StartError):
    """A service that ran has ended by itself."""


def wait_until_ready(config: Mapping[str, Any], logs: Path, stopped: Event) -> dict[str, str]:
    """Wait until GET /health answers 200 or `stopped` is set; return the printed states.

    Raises StartError.
    """
    base = _base_url(config)
    reported: dict[str, str] = {}
    while not stopped.is_set():
        status = _status(logs)
        _require_startable(status, logs)
        _report_news(status, reported)
        with suppress(httpx.HTTPError):
            if (
                httpx.get(f"{base}/health", timeout=WATCH_S, verify=False).status_code
                == httpx.codes.OK
            ):
                metrics = metrics_url()
                given = [application.get("args") or {} for application in config["applications"]]
                tiers = {
                    tier: model for args in given for tier, model in args.get("tiers", {}).items()
                }
                changes = [
                    deployment.get("user_config") or {}
                    for application in config["applications"]
                    for deployment in application.get("deployments") or ()
                ]
                key = (
                    " -H 'authorization: Bearer KEY'"
                    if any(args.get("keys") for args in (*given, *changes))
                    else ""
                )
                hint = (
                    f"curl {base}/v1/embeddings{key} -H 'content-type: application/json' -d "
                    f'\'{{"input": "hello"}}\''
                )
                named = (f"         {tier}: {model}" for tier, model in tiers.items())
                lines = [f"ready on {base}; metrics on {metrics}; logs in {logs}", *named, hint]
                announce(
                    "\n".join(lines),
                    "ready",
                    url=base,
                    metrics=metrics,
                    logs=str(logs),
                    tiers=tiers,
                )
                break
        stopped.wait(POLL_S)
    return reported


def watch(logs: Path, reported: dict[str, str], stopped: Event) -> None:
    """Print what happens until `stopped` is set.

    A failed deploy does not end the service. Raises Ended when Serve is gone.
    """
    failures = 0
    while not stopped.wait(WATCH_S):
        try:
            _report_news(_status(logs), reported)
        # the controller can be restarting while requests are answered
        except StartError as error:
            failures += 1
            if gone() or failures == WATCHES_FAILED:
                raise Ended(str(error)) from None
        else:
            failures = 0


def _status(logs: Path) -> "ServeStatus":
    """Return the status that Serve reports. Raises StartError if Serve is gone."""
    import ray
    from ray import serve

    try:
        return unless_gone(serve.status)
    except (ray.exceptions.RayError, RuntimeError, OSError) as error:
        why = _last_error(logs) if gone() else ""
        raise StartError(f"Ray Serve ended by itself ({error}{why}); see {logs}") from error


def _last_error(logs: Path) -> str:
    """Return the reason why Ray ended itself, if its log has one."""
    with suppress(OSError):
        lines = (logs / RAYLET_LOG).read_text(errors="replace").splitlines()
        for line in reversed(lines[-LAST_LINES:]):
            if (found := re.search(RAYLET_ENDS, line)) is not None:
                return f": {found[0]}"
    return ""


def _require_startable(status: "ServeStatus", logs: Path) -> None:
    """Raise StartError if an application can never run."""
    from ray.serve.schema import ApplicationStatus

    for name, application in status.applications.items():
        if application.status == ApplicationStatus.DEPLOY_FAILED:
            reasons = [_short(application.message)]
            reasons += [
                f"{key}: {_short(value.message)}"
                for key, value in application.deployments.items()
                if value.message
            ]
            raise StartError(
                "\n".join([f"application {name!r} failed to start; logs in {logs}", *reasons])
            )


def _report_news(status: "ServeStatus", reported: dict[str, str]) -> None:
    """Print what changed since the last call, one line per deployment; `reported` is updated."""
    for key, application in status.applications.items():
        state, why = application.status.value, _short(application.message)
        if reported.setdefault(f"/{key}", state) != state:
            reported[f"/{key}"] = state
            announce(
                f"application {key} {state.lower()} {why}".rstrip(),
                "application",
                name=key,
                status=state,
                message=why,
            )
        for name, deployment in application.deployments.items():
            line = " ".join(
                filter(None, [name, deployment.status.value.lower(), _short(deployment.message)])
            )
            if reported.get(name) != line:
                reported[name] = line
                announce(
                    line,
                    "deployment",
                    name=name,
                    status=deployment.status.value,
                    message=deployment.message,
                )


def _short(message: str) -> str:
    """Return the first and the last line; the traceback between them is in the logs too."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return " ".join(lines if len(lines) < 2 else [lines[0], lines[-1]])


def _base_url(config: Mapping[str, Any]) -> str:
    http, first = config["http_options"], config["applications"][0]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(http["host"], http["host"])
    scheme = "https" if http.get("ssl_certfile") else "http"
    prefix = (first.get("route_prefix") or "/").rstrip("/")
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{http['port']}{prefix}"
