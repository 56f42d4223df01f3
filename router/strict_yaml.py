"""Read YAML, refuse a key given twice, and report all other errors in sentences too."""

from collections.abc import Iterator
from typing import Any

import yaml

from router.strict import (
    ConfigError,
)

MAX_DEPTH = 64
MAX_NUMBER = 400  # characters: Python refuses to write much longer ones, and reads base 60 slowly
MAX_NODES = 200_000
MAX_INTEGER = 2**63  # what JSON and all later libraries can hold


class _Loader(yaml.SafeLoader):
    """PyYAML's loader with bounds that include what aliases stand for. A value that cannot be
    constructed is an error with its line.
    """

    def __init__(self, stream: str | bytes) -> None:
        super().__init__(stream)
        self._depth = 0
        self._sizes: dict[yaml.Node, tuple[int, int]] = {}  # nodes in it, levels

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        is_alias = self.check_event(yaml.AliasEvent)
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        if self._depth > MAX_DEPTH:
            raise _wrong(mark, f"nested deeper than {MAX_DEPTH} levels")
        self._depth += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        if node is not None and node not in self._sizes:
            if is_alias:
                raise _wrong(mark, "an alias refers to something that it is part of")
            sizes = [self._sizes[child] for child in _children(node)]
            size, levels = (
                1 + sum(size for size, _ in sizes),
                1 + max((levels for _, levels in sizes), default=0),
            )
            if size > MAX_NODES or levels > MAX_DEPTH + 1:
                raise _wrong(mark, "aliases stand for too much here; write it out")
            self._sizes[node] = size, levels
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        number = node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
        if number and len(str(node.value)) > MAX_NUMBER:
            raise _wrong(
                node.start_mark, f"a number has at most {MAX_NUMBER} characters; quote text"
            )
        try:
            value: Any = super().construct_object(node, deep)
        except (ValueError, ArithmeticError, LookupError, AttributeError, TypeError) as error:
            why = f"{str(node.value)[:60]!r} cannot be read as {node.tag.rpartition(':')[2]}"
            raise _wrong(node.start_mark, f"{why}; quote it if it is text") from error
        if isinstance(value, int) and not -MAX_INTEGER <= value < MAX_INTEGER:
            raise _wrong(node.start_mark, "a whole number has at most 64 bits; quote text")
        return value


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        return list(node.value)
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return []


def _wrong(mark: Any, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def read(text: str | bytes) -> Any:
    """Read one YAML document; raises ConfigError with line numbers for bad syntax and for keys
    given twice.
    """
    try:
        loader = _Loader(text)  # reads the beginning already
    except (yaml.YAMLError, UnicodeDecodeError):
        raise ConfigError(["this is not UTF-8 text; a config is YAML"]) from None
    try:
        root = loader.get_single_node()
        if root is None:
            raise ConfigError(["the file is empty"])
        if twice := list(_twice(root, set())):
            raise ConfigError(twice)
        return loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        what = ", ".join(part for part in (error.context, error.problem) if part)
        mark = error.problem_mark or error.context_mark
        raise ConfigError(
            [f"line {mark.line + 1}, column {mark.column + 1}: {what}" if mark else what]
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise ConfigError(["this is not UTF-8 text; a config is YAML"]) from None
    finally:
        loader.dispose()


def _twice(node: yaml.Node, seen: set[int]) -> Iterator[str]:
    """Yield a sentence for each key given twice; nodes are read, as the data no longer shows it."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        first: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and first.setdefault(key.value, line) != line:
                yield (
                    f"line {line}: {key.value} is given twice, first in line "
                    f"{first[key.value]}; YAML would keep only the last"
                )
            yield from _twice(value, seen)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _twice(item, seen)
