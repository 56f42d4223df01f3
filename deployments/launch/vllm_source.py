"""The names that vLLM accepts, read from its source: importing it takes seconds."""

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path

# a class of vLLM's config: its fields, each with the names in its type
Fields = Mapping[str, frozenset[str]]


@cache
def dtypes() -> frozenset[str]:
    """Return the values that vLLM accepts for `dtype`; empty if it is not installed."""
    for node in _parsed("config/model.py").body:
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and node.targets[0].id == "ModelDType"
        ):
            return frozenset(
                str(word.value) for word in ast.walk(node.value) if isinstance(word, ast.Constant)
            )
    return frozenset()


@cache
def arguments() -> Fields:
    """Return the fields of vLLM's EngineArgs; empty if it is not installed."""
    return dict(_classes(_parsed("engine/arg_utils.py"))).get("EngineArgs", {})


@cache
def config_classes() -> Mapping[str, Fields]:
    """Return the config classes that arguments and their fields can be, by name."""
    root = _root()
    found: dict[str, Fields] = {}
    for path in () if root is None else sorted((root / "config").glob("*.py")):
        found |= _classes(ast.parse(path.read_text()))
    return found


def config_class(types: frozenset[str]) -> str | None:
    """Return the config class among the names of a type; None if a mapping is free or has none."""
    if types & {"dict", "Dict", "Mapping", "Any"}:
        return None
    return next(iter(sorted(types & config_classes().keys())), None)


def _root() -> Path | None:
    spec = find_spec("vllm")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def _parsed(path: str) -> ast.Module:
    root = _root()
    if root is None or not (root / path).exists():
        return ast.Module([], [])
    return ast.parse((root / path).read_text())


def _classes(tree: ast.Module) -> Iterator[tuple[str, Fields]]:
    """Yield the classes that take exactly their own fields: the dataclasses without a base."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.bases and node.decorator_list:
            yield (
                node.name,
                {
                    field.target.id: frozenset(_names(field.annotation))
                    for field in node.body
                    if isinstance(field, ast.AnnAssign)
                    and isinstance(field.target, ast.Name)
                    and not _is_set_later(field)
                },
            )


def _is_set_later(field: ast.AnnAssign) -> bool:
    """Return whether a field is no argument of its class."""
    if "ClassVar" in _names(field.annotation):
        return True
    return isinstance(field.value, ast.Call) and any(
        keyword.arg == "init"
        and isinstance(keyword.value, ast.Constant)
        and keyword.value.value is False
        for keyword in field.value.keywords
    )


def _names(annotation: ast.expr) -> Iterator[str]:
    for node in ast.walk(annotation):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            try:
                yield from _names(ast.parse(node.value, mode="eval").body)
            except SyntaxError:  # a word of a Literal
                continue
