"""YAML that refuses a key given twice."""

from collections.abc import Iterator
from typing import Any

import yaml

from router.strict import (
    ConfigError,
)


def read(text: str | bytes) -> Any:
    """The data of one YAML document; raises ConfigError with line numbers for bad syntax and for
    keys given twice.
    """
    try:
        loader = yaml.SafeLoader(text)  # reads the beginning already
    except (yaml.YAMLError, UnicodeDecodeError):
        raise ConfigError(["the file is not UTF-8 text; a config is YAML"]) from None
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
        raise ConfigError(["the file is not UTF-8 text; a config is YAML"]) from None
    finally:
        loader.dispose()


def _twice(node: yaml.Node, seen: set[int]) -> Iterator[str]:
    """A sentence for each key that a mapping gives twice; on nodes, because the data no longer
    shows it.
    """
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
