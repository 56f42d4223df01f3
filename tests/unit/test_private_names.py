"""Tests use what the product offers to everybody: no test reads or patches its private names."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("router", "deployments", "benchmarks")


DEFINED = re.compile(r"(?:self\.|cls\.|def |class |^)(_[A-Za-z]\w*)", re.MULTILINE)
WORD = re.compile(r"\b_[A-Za-z]\w*")
FOREIGN = {  # files that name what Ray, Serve and uvicorn keep to themselves
    Path("tests/support/fast_path_stage.py"),
    Path("tests/unit/test_serve_internals.py"),
    Path("tests/unit/test_serve_internals_start.py"),
}
OF_TUPLES = {"_asdict", "_fields", "_make", "_replace"}  # public names of every NamedTuple


def texts(*folders: str) -> Iterator[tuple[Path, str]]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT), path.read_text()


def used(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and private name of each use, but for those of an object or class of its own names."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls")):
                continue
            case ast.Attribute(attr=name, lineno=line):
                yield line, name
            case ast.ImportFrom(module=str(module), names=names, lineno=line):
                if module.split(".")[0] in PACKAGES:
                    yield from ((line, alias.name) for alias in names)
            case ast.Call(func=ast.Name(id=call) | ast.Attribute(attr=call), args=args):
                for given in args if call in ("setattr", "getattr", "delattr") else ():
                    if isinstance(given, ast.Constant) and isinstance(given.value, str):
                        yield given.lineno, given.value.rpartition(".")[2]


def found(source: str, private: set[str]) -> list[tuple[int, str]]:
    if private.isdisjoint(WORD.findall(source)):  # most files, and parsing takes time
        return []
    return [(line, name) for line, name in used(ast.parse(source)) if name in private]


def test_no_test_reads_or_patches_a_private_name_of_the_product() -> None:
    private = {name for _, text in texts(*PACKAGES) for name in DEFINED.findall(text)} - OF_TUPLES
    assert len(private) > 1000
    wrong = [
        f"{path}:{line}: {name}"
        for path, text in texts("tests")
        if path not in FOREIGN
        for line, name in found(text, private)
    ]
    assert not wrong


@pytest.mark.parametrize(
    "line",
    [
        'monkeypatch.setattr(module, "_wait_s", 0.0)',
        'monkeypatch.setattr("deployments.module._wait_s", 0.0)',
        'getattr(module, "_wait_s")',
        "one.other._wait_s = 1",
        "assert not thing._wait_s",
        "from deployments.module import _wait_s",
    ],
)
def test_every_way_to_a_private_name_is_seen(line: str) -> None:
    assert found(line, {"_wait_s"}) == [(1, "_wait_s")]
    assert not found(line.replace("_wait_s", "wait_s"), {"_wait_s"})


def test_a_fakes_own_names_and_those_of_others_are_no_business_of_the_product() -> None:
    assert not found("self._wait_s = 1\nentry._replace(a=1)", {"_wait_s"})
    assert not found("from somebody import _wait_s", {"_wait_s"})
