"""What each part of the project may import: router/ is values in, values out, and its core has no
clock, chance or log.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROUTER = Path(__file__).resolve().parents[3] / "router"
CORE = (
    "calls",
    "capacity",
    "dispatching",
    "domain",
    "instructions",
    "latency",
    "ledger",
    "policy",
    "queues",
    "replica_health",
    "space",
    "spaces",
)
NEVER = {
    "ray",
    "vllm",
    "torch",
    "transformers",
    "uvicorn",
    "asyncio",
    "deployments",
    "benchmarks",
    "tests",
}
NEVER_IN_CORE = {"time", "datetime", "random", "secrets", "os", "logging", "threading"}
NEVER_CALLED_IN_CORE = {"open", "print", "input", "__import__", "import_module"}


def imported(source: str) -> Iterator[str]:
    """Top-level names of every module imported anywhere in `source`, inside functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "router" if node.level else (node.module or "").partition(".")[0]


def chance_of_numpy(source: str) -> bool:
    """Whether numpy's random numbers are used: they come without an import of their own."""
    return any(
        isinstance(node, ast.Attribute)
        and node.attr == "random"
        and isinstance(node.value, ast.Name)
        and node.value.id in ("np", "numpy")
        for node in ast.walk(ast.parse(source))
    )


@pytest.mark.parametrize(
    "path", sorted(ROUTER.rglob("*.py")), ids=lambda path: str(path.relative_to(ROUTER))
)
def test_the_router_imports_neither_ray_nor_an_engine_nor_an_event_loop(path: Path) -> None:
    assert not set(imported(path.read_text())) & NEVER


@pytest.mark.parametrize("name", CORE)
def test_the_decision_core_reads_no_clock_draws_no_lots_and_writes_nothing(name: str) -> None:
    source = (ROUTER / f"{name}.py").read_text()
    assert not set(imported(source)) & NEVER_IN_CORE
    assert not chance_of_numpy(source)
    calls = (node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    assert (
        not {called.id for called in calls if isinstance(called, ast.Name)} & NEVER_CALLED_IN_CORE
    )


def test_the_check_sees_every_form_of_import() -> None:
    source = (
        "import os.path as p\ndef f():\n    from ray.serve import run\n    import torch, "
        "time\nfrom . import domain\n"
    )
    assert set(imported(source)) == {"os", "ray", "torch", "time", "router"}
    assert chance_of_numpy("import numpy as np\nnp.random.default_rng()")
