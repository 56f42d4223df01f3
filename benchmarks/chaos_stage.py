"""The service under test: `embedding-router run` on fake engines, its processes by name, and its
redeploys.
"""

import asyncio
import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import aiohttp
import click
import psutil
import yaml

from benchmarks.chaos_load import Model
from benchmarks.live import ROOT, processes

MODELS = {"small": Model(64, 1), "large": Model(128, 2)}
REPLICAS = {"router": 2, "small": 1, "large": 2}
REQUEST_TIMEOUT_S = 20.0
READY_S = 240.0
RECOVER_S = 180.0
STEADY_POLLS = 4  # in a row, as each is answered by another router


def config(
    faults: Path, engines: dict[str, dict[str, Any]] | None = None, **sections: Any
) -> dict[str, Any]:
    """A Serve config: two fake models, two replicas of the large one, two routers, and short
    timeouts.
    """
    models: dict[str, Any] = {}
    for name, model in MODELS.items():
        slow = (
            {"base_s": 0.004, "s_per_token": 0.00004}
            if name == "small"
            else {"base_s": 0.01, "s_per_token": 0.0001}
        )
        models[name] = {
            "engine": {
                "kind": "fake",
                "seed": model.seed,
                "faults": str(faults),
                **slow,
                **(engines or {}).get(name, {}),
            },
            "dimensions": model.dimensions,
            "max_tokens": 2000,
            "health_timeout_s": 2.0,
            "curve": {
                "fixed_s": 0.001,
                "base_s": slow["base_s"],
                "s_per_token": slow["s_per_token"],
                "batch_tokens": 4096,
                "overhead_s": 0.01,
            },
        }
        if "kind" in (engines or {}).get(name, {}):
            models[name]["engine"] = (engines or {})[name]
    few = {"num_cpus": 0.05}
    deployments = [
        {
            "name": name,
            "num_replicas": count,
            "ray_actor_options": few,
            "health_check_period_s": 1,
            "health_check_timeout_s": 8,
            "graceful_shutdown_wait_loop_s": 0.5,
            "graceful_shutdown_timeout_s": 8,
        }
        for name, count in REPLICAS.items()
    ]
    args = {
        "models": models,
        "tiers": {"fast": "small", "best": "large"},
        "limits": {
            "request_timeout_s": REQUEST_TIMEOUT_S,
            "replica_timeout_s": 4.0,
            "max_queue_s": 4.0,
            "headers_timeout_s": 3.0,
            "body_timeout_s": 5.0,
        },
        "cache": {"max_bytes": 4_000_000},
        **sections,
    }
    return {
        "logging_config": {"enable_access_log": False},
        "applications": [
            {
                "name": "chaos",
                "route_prefix": "/",
                "import_path": "deployments.app:build",
                "args": args,
                "deployments": deployments,
            }
        ],
    }


class Stage:
    """A running service."""

    def __init__(
        self, url: str, dashboard: str, process: psutil.Process, faults: Path, data: dict[str, Any]
    ) -> None:
        self.url, self.dashboard, self.process, self.faults, self.data = (
            url,
            dashboard,
            process,
            faults,
            data,
        )

    def processes(self, pattern: str) -> list[psutil.Process]:
        """Processes of the service whose title matches."""
        return processes(self.process, pattern)

    def replicas(self, deployment: str) -> list[psutil.Process]:
        """The replicas of one deployment; while one works the name of a method follows its own."""
        return self.processes(rf"^ray::ServeReplica:[^:]*:{deployment}(\.\w+)?$")

    def fault(self, process: psutil.Process, name: str | None) -> None:
        """Switch a fault of a fake engine on, or off."""
        switch = self.faults / str(process.pid)
        if name is None:
            switch.unlink(missing_ok=True)
        else:
            switch.with_suffix(".new").write_text(name)
            switch.with_suffix(".new").replace(switch)

    async def recovered(
        self, gone: Iterable[psutil.Process] = (), within_s: float = RECOVER_S
    ) -> float:
        """Seconds until every deployment has all its replicas, without those that are `gone`, and
        every router reports so.
        """
        start_s, steady, lost = time.monotonic(), 0, {process.pid for process in gone}
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            while (spent_s := time.monotonic() - start_s) < within_s:
                steady = steady + 1 if self._alive(lost) and await self._says_so(session) else 0
                if steady == STEADY_POLLS:
                    return spent_s
                await asyncio.sleep(0.25)
        raise click.ClickException(f"not recovered within {within_s:g} s")

    def _alive(self, lost: set[int]) -> bool:
        return all(
            len([process for process in self.replicas(name) if process.pid not in lost]) >= count
            for name, count in REPLICAS.items()
        )

    async def _says_so(self, session: aiohttp.ClientSession) -> bool:
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, KeyError, ValueError):
            async with session.get(f"{self.url}/v1/tiers") as answer:
                rows = (await answer.json())["data"]
                return all(row["replicas_ready"] == REPLICAS[row["model"]] for row in rows)
        return False

    async def deploy(self, data: dict[str, Any]) -> None:
        """Do what `serve deploy` does: send the config to the dashboard, which returns before
        anything has changed.
        """
        address = f"{self.dashboard}/api/serve/applications/"
        async with aiohttp.ClientSession() as session, session.put(address, json=data) as answer:
            if answer.status != 200:
                raise click.ClickException(f"the deploy was refused: {await answer.text()}")

    async def status(self) -> str:
        """Status of the application in Serve."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self.dashboard}/api/serve/applications/") as answer,
        ):
            return str((await answer.json())["applications"]["chaos"]["status"])

    async def until(self, statuses: tuple[str, ...], within_s: float = RECOVER_S) -> str:
        """Wait for one of these statuses and return it."""
        end_s = time.monotonic() + within_s
        while time.monotonic() < end_s:
            if (status := await self.status()) in statuses:
                return status
            await asyncio.sleep(0.25)
        raise click.ClickException(
            f"the application was {status}, not {' or '.join(statuses)}, after {within_s:g} s"
        )

    def memory_mib(self) -> dict[str, float]:
        """Proportional set size by role."""
        roles: dict[str, float] = {}
        for process in [self.process, *self.process.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                title = " ".join(process.cmdline()).strip()
                known = re.match(r"^ray::(?:ServeReplica:[^:]*:([\w.-]+?)(?:\.\w+)?$|(\w+))", title)
                role = next(filter(None, known.groups())) if known else process.name()
                if process.pid == self.process.pid:
                    role = "launcher"
                roles[role] = roles.get(role, 0.0) + process.memory_full_info().pss / 2**20
        return roles


@contextlib.asynccontextmanager
async def stage(
    scratch: Path, port: int, engines: dict[str, dict[str, Any]] | None = None, **sections: Any
) -> AsyncIterator[Stage]:
    """Start the service on `port` and its dashboard on the next port; stop everything after the
    block.
    """
    faults = scratch / "faults"
    faults.mkdir(exist_ok=True)
    data = config(faults, engines, **sections)
    path, log = scratch / "chaos.yaml", scratch / "log"
    path.write_text(yaml.safe_dump(data, sort_keys=False))  # the order of models is their rank
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0"}
    command = [
        sys.executable,
        "-m",
        "router.cli",
        "run",
        "--config",
        str(path),
        "--port",
        str(port),
        "--dashboard-port",
        str(port + 1),
    ]
    with log.open("wb") as out:
        started = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, stdout=out, stderr=out, env=environment
        )
    process = psutil.Process(started.pid)
    made = Stage(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port + 1}", process, faults, data)
    try:
        ready = asyncio.create_task(made.recovered(within_s=READY_S))
        ended = asyncio.create_task(started.wait())
        await asyncio.wait({ready, ended}, return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            ready.cancel()
            raise click.ClickException(f"the service did not start:\n{log.read_text()[-3000:]}")
        ready.result()
        yield made
    finally:
        if started.returncode is None:
            started.send_signal(signal.SIGINT)
        await asyncio.wait_for(started.wait(), 60)
