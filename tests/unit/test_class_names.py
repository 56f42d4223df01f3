"""One name, one thing: a class name is defined once in router and deployments."""

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def classes() -> dict[str, list[str]]:
    """The files of each top-level class, by its name."""
    found = defaultdict(list)
    for package in ("router", "deployments"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.ClassDef):
                    found[node.name].append(str(path.relative_to(ROOT)))
    return found


def test_a_class_name_is_defined_once() -> None:
    found = classes()
    assert found
    assert not {name: files for name, files in found.items() if len(files) > 1}
