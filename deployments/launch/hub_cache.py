"""Weights from a model hub: which are cached, which are missing, and whether they fit the disk."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from deployments.launch.machine import (
    GIB,
    Finding,
    Machine,
)
from router.config import RouterArgs

HUB = "https://huggingface.co"


def of_hub(name: str, pattern: Any) -> bool:
    return (
        bool(pattern.fullmatch(name))
        and not Path(name).exists()
        and not name.startswith(("package:", "callable:"))
    )


def _cache(machine: Machine) -> Path:
    """Return the folder of the hub's downloads."""
    given = machine.environment.get("HF_HUB_CACHE")
    home = machine.environment.get("HF_HOME") or machine.home / ".cache" / "huggingface"
    return Path(given) if given else Path(home) / "hub"


def not_cached(machine: Machine, commits: Mapping[str, str | None]) -> list[str]:
    """Return the repositories that are not in the cache.

    A repository with a commit counts as cached only if that commit is there.
    """
    missing = []
    for name, commit in commits.items():
        folder = _cache(machine) / f"models--{name.replace('/', '--')}"
        if not (folder if commit is None else folder / "snapshots" / commit).is_dir():
            missing.append(name)
    return missing


def room_for_weights(machine: Machine, args: RouterArgs, missing: list[str]) -> Iterator[Finding]:
    """Yield a finding if the disk of the cache is too small for the downloads.

    Their size is taken as memory_bytes, which is not smaller.
    """
    needed = sum(
        model.memory_bytes or 0
        for model in args.served.values()
        if model.engine.hub_source in missing
    )
    there = _cache(machine)
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if needed > free:
        yield Finding(
            "weights",
            "fail",
            f"up to {needed / GIB:.1f} GiB to download, {free / GIB:.1f} GiB free in {there}",
            "make room, or set HF_HOME to a larger disk",
        )


def hub_finding(machine: Machine, names: list[str], missing: list[str]) -> Finding:
    """Report whether the hub can be reached, or is not needed because everything is cached."""
    cache = _cache(machine)
    if not missing:
        return Finding("hub", "ok", f"not needed: {', '.join(names)} in {cache}")
    if machine.environment.get("HF_HUB_OFFLINE") == "1":
        return Finding(
            "hub",
            "fail",
            f"HF_HUB_OFFLINE is 1 and {', '.join(missing)} not in {cache}",
            "download them first",
        )
    url = machine.environment.get("HF_ENDPOINT", HUB)
    try:
        status = httpx.head(url, timeout=10, follow_redirects=True).status_code
    except httpx.HTTPError as error:
        return Finding(
            "hub",
            "fail",
            f"{url} cannot be reached ({type(error).__name__}) and {', '.join(missing)} must "
            "come from there",
            "set HF_ENDPOINT to a mirror, or name folders that hold the models as `source` and "
            "`tokenizer`",
        )
    return Finding(
        "hub",
        "ok" if status < 500 else "warn",
        f"{url} answers {status}; {', '.join(missing)} will be downloaded",
    )
