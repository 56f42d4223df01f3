"""The facts about a machine that `embedding-router doctor` checks."""

import os
import platform
import re
import resource
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

import psutil

from deployments.launch.environment import FOLDERS, running
from deployments.replica.device import processor
from deployments.serve_internals import counted_cpus

GIB = 2**30


ANSWER_S = 2.0


class Machine(NamedTuple):
    """The facts about one machine, as values, so that checks also run for other machines."""

    environment: dict[str, str]
    versions: Callable[[str], str | None]
    python: tuple[int, int]
    # name, memory, free memory, driver; or why there are none
    gpus: list[tuple[str, int, int, str]] | str
    home: Path
    temp: Path
    memory_bytes: int
    shm_bytes: int
    open_files: int
    cpus: float | None = None  # as Ray counts them; None if unknown
    processor: str | None = None  # named as in profiles
    cuda: str | None = None  # the version that torch was built for
    compiler: str | None = "cc"
    headers: Path | None = None  # the folder that should hold Python.h
    glibc: str | None = None  # None where the C library is another one
    max_open_files: int | None = None  # to which a process can raise its limit; None if any
    services: Sequence[int] = ()  # the processes of `embedding-router run` of this user


def this_machine() -> Machine:
    """The machine that this process runs on."""

    def version(package: str) -> str | None:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return None

    return Machine(
        dict(os.environ),
        version,
        sys.version_info[:2],
        _gpus(),
        Path.home(),
        Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()),
        psutil.virtual_memory().available,
        shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else 0,
        resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        _cpus(),
        processor(),
        _cuda(),
        next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None),
        Path(sysconfig.get_path("include")),
        _glibc(),
        _max_open_files(),
        running(FOLDERS),
    )


def devices() -> list[str]:
    """Return the devices that models can run on here, named as in profiles."""
    cards = _gpus()
    return [*([] if isinstance(cards, str) else [card[0] for card in cards]), processor()]


def _max_open_files() -> int | None:
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if limit == resource.RLIM_INFINITY else limit


def _cpus() -> float | None:
    try:
        return counted_cpus()
    except ImportError:
        return None


def _glibc() -> str | None:
    name, version = platform.libc_ver()
    return version if name == "glibc" else None


def _cuda() -> str | None:
    """Return the CUDA version of torch, read from its source: importing torch takes seconds."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    source = Path(spec.origin).parent / "version.py"
    text = source.read_text() if source.exists() else ""
    found = re.search(r"^cuda\b.*= '(\d[\d.]*)'", text, re.M)
    return found[1] if found else None


def _gpus() -> list[tuple[str, int, int, str]] | str:
    fields = "name,memory.total,memory.free,driver_version"
    command = shutil.which("nvidia-smi")
    if command is None:
        return "there is no nvidia-smi"
    try:
        done = subprocess.run(
            [command, f"--query-gpu={fields}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=20,
        )
        rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines()]
        found = [(row[0], int(row[1]) * 2**20, int(row[2]) * 2**20, row[3]) for row in rows]
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError) as error:
        return f"nvidia-smi says nothing of use: {error}"
    return found or f"nvidia-smi: {(done.stderr or done.stdout).strip() or 'no devices'}"


def taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=ANSWER_S):
            return True
    except (OSError, ValueError):
        return False


State = Literal["ok", "warn", "fail"]


class Finding(NamedTuple):
    """The result of one check; `todo` is empty if there is nothing to do."""

    check: str
    state: State
    found: str
    todo: str = ""
