"""The import graph: packages point down, and nothing points in a circle.

Every import counts, also those inside functions and those that only a type checker reads.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

from router.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[2]

# From top to bottom; packages of one line do not import each other.
LAYERS = (
    ("deployments.mteb_encoder",),
    ("deployments.tools",),
    ("deployments.launch",),
    ("deployments.app",),
    ("deployments.ingress", "deployments.replica"),
    ("deployments.service",),
    ("deployments.dispatch",),
    ("deployments.engines",),
    ("deployments.telemetry", "deployments.autoscale", "deployments.export_spans"),
    ("deployments.serve_internals",),
    ("router.sim",),
    ("router",),
)
MAX_LINES = 450  # of a file
DECISION_COMPLEXITY = 10  # pyproject.toml has the limit of the other files


def modules() -> dict[str, Path]:
    found = {}
    for package in ("router", "deployments"):
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(part for part in parts if part != "__init__")] = path
    return found


MODULES = modules()


def imported(path: Path) -> Iterator[str]:
    """Every module that the file imports, by its full name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            assert node.module
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module


@cache
def graph() -> dict[str, set[str]]:
    return {name: set(imported(path)) - {name} for name, path in MODULES.items()}


def layer(module: str) -> tuple[int, str] | None:
    """The place of a module in LAYERS; None for the empty package `deployments` itself."""
    for place, packages in enumerate(LAYERS):
        for package in packages:
            if module == package or module.startswith(package + "."):
                return place, package
    return None


def test_every_module_has_a_layer() -> None:
    assert [name for name in MODULES if layer(name) is None] == ["deployments"]


def test_no_import_points_up() -> None:
    wrong = []
    for name, others in graph().items():
        for other in others & MODULES.keys():
            own, below = layer(name), layer(other)
            if own is None or below is None or own[1] == below[1]:
                continue
            if own[0] >= below[0]:
                wrong.append(f"{name} imports {other}")
    assert not wrong


def test_the_pages_list_the_packages_in_the_order_of_the_layers() -> None:
    architecture = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    (packages,) = re.findall(r"^## Packages$(.*?)^## ", architecture, re.MULTILINE | re.DOTALL)
    table = (ROOT / "deployments" / "README.md").read_text("utf-8")
    ours = [package for packages in LAYERS for package in packages if "router" not in package]
    for lines, before in (
        (re.findall(r"^\*\*(`deployments/[^*]+)\*\*", packages, re.MULTILINE), ""),
        (re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE), "deployments/"),
    ):
        named = [before + name for line in lines for name in re.findall(r"`([\w/.]+)`", line)]
        modules = [name.removesuffix("/").removesuffix(".py").replace("/", ".") for name in named]
        assert modules == ours


def test_no_imports_go_in_a_circle() -> None:
    inside = {name: others & MODULES.keys() for name, others in graph().items()}
    try:
        TopologicalSorter(inside).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_nothing_that_serves_imports_the_simulator() -> None:
    allowed = ("router.sim", "deployments.tools")
    users = {
        name
        for name, others in graph().items()
        if any(other.startswith("router.sim") for other in others)
    }
    assert users
    assert not {name for name in users if not name.startswith(allowed)}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_names_a_function_that_exists(command: str) -> None:
    module, _, name = COMMANDS[command].target.partition(":")
    assert callable(getattr(import_module(module), name))


def test_no_file_is_long() -> None:
    pages = [path for end in ("js", "html") for path in (ROOT / "deployments").rglob(f"*.{end}")]
    assert pages
    others = [path for folder in ("tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    paths = (*MODULES.values(), *pages, *others)
    lengths = {path: len(path.read_text().splitlines()) for path in paths}
    assert not {str(path): n for path, n in lengths.items() if n > MAX_LINES}


def test_the_decision_is_simple() -> None:
    """ruff has no setting for one file."""
    limits = ("--select", "C901", "--config", f"lint.mccabe.max-complexity={DECISION_COMPLEXITY}")
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", *limits, "--no-cache", "router/policy.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_folders_of_the_unit_tests_are_packages() -> None:
    tests = ROOT / "tests" / "unit"
    folders = {str(path.parent.relative_to(tests)) for path in tests.rglob("test_*.py")} - {"."}
    assert folders
    assert not {
        folder
        for folder in folders
        if not any((root / folder).is_dir() for root in (ROOT, ROOT / "deployments"))
    }
