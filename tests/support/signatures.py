"""What functions take and classes have."""

import ast
import inspect
import textwrap
from collections.abc import Callable
from typing import Any


def parameters(function: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(function).parameters)


def attributes(owner: type) -> set[str]:
    """What a class defines, and what its methods set on `self`."""
    found = set(dir(owner))
    for base in owner.__mro__[:-1]:
        tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        found |= {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id == "self"
        }
    return found
