"""Compare a model's config with the files, packages, modules and weights on this machine.

Nothing is loaded.
"""

import ast
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from deployments.launch import vllm_source
from router.model_config import ModelConfig, resolve_path
from router.strict import suggestion

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

FILE_ENDINGS = (".json", ".txt", ".model", ".safetensors", ".gguf")


@contextmanager
def own_folder_first() -> Iterator[None]:
    """Import from the folder that the process runs in, as `serve run` does."""
    sys.path.insert(0, os.getcwd())
    try:
        yield
    finally:
        sys.path.remove(os.getcwd())


def model_problems(model: ModelConfig, base_dir: str | None, where: str) -> Iterator[str]:
    """Yield problems of a model that can be found without loading it.

    They are missing files, packages and modules, a wrong vector size, and engine arguments that
    vLLM does not have.
    """
    engine = model.engine
    fingerprint = model.fingerprint.file if model.fingerprint else None
    paths = {"tokenizer": model.tokenizer, "profile": model.profile, "fingerprint": fingerprint}
    paths |= {f"engine.{key}": path for key, path in engine.files.items()}
    for key, target in engine.functions.items():
        if problem := _missing_function(target):
            yield f"{where}.engine.{key}: {problem}"
    for key, path in paths.items():
        if path is not None and (
            problem := _missing(path, base_dir, hub=key in ("tokenizer", "engine.source"))
        ):
            yield f"{where}.{key}: {problem}"
    if (real := _real_dimensions(model, base_dir)) is not None and real != model.dimensions:
        yield (
            f"{where}.dimensions: the model makes {real}, the config says {model.dimensions}; "
            "smaller ones go into matryoshka"
        )
    if engine.vllm_args is not None:
        yield from _vllm_problems(engine.vllm_args, f"{where}.engine.args")


def _vllm_problems(args: dict[str, Any], where: str) -> Iterator[str]:
    dtype, dtypes = args.get("dtype", "auto"), vllm_source.dtypes()
    if dtypes and dtype not in dtypes:
        yield (
            f"{where}.dtype: {dtype!r} is not known; "
            f"{suggestion(str(dtype), sorted(dtypes), 'it is one of')}"
        )
    if known := vllm_source.arguments():
        yield from _unknown_in_vllm(args, known, "EngineArgs", where)


def _unknown_in_vllm(
    values: Mapping[str, Any], known: vllm_source.Fields, kind: str, where: str
) -> Iterator[str]:
    """Yield a problem for each key that a class of vLLM does not have, also inside values."""
    for key, value in values.items():
        key = str(key)  # YAML reads no and off as false
        if (types := known.get(key)) is None:
            what = "vLLM" if kind == "EngineArgs" else f"vLLM's {kind}"
            close = get_close_matches(key, known, n=1)
            advice = f"did you mean {close[0]}?" if close else f"see vLLM's {kind} for those it has"
            yield f"{where}.{key}: {what} has no such argument; {advice}"
        elif isinstance(value, Mapping) and (inner := vllm_source.config_class(types)):
            fields = vllm_source.config_classes()[inner]
            yield from _unknown_in_vllm(value, fields, inner, f"{where}.{key}")


def hub_problems(model: ModelConfig, base_dir: str | None, where: str) -> Iterator[str]:
    """Yield a problem if a tokenizer of the hub cannot be downloaded.

    A downloaded tokenizer stays in the cache for the router.
    """
    source = model.tokenizer
    if source is None or not HUB_ID.fullmatch(source) or not _missing(source, base_dir, hub=False):
        return
    from router.tokenizer import load

    try:
        load(source, model.special_tokens, base_dir, model.pinned(source))
    except (OSError, ValueError) as error:
        yield (
            f"{where}.tokenizer: {source} cannot be had from the Hugging Face hub "
            f"({type(error.__cause__ or error).__name__}); "
            "write the folder that holds the model instead, as `source` and as `tokenizer`, or "
            "see that the hub can be reached"
        )


def _missing(path: str, base_dir: str | None, hub: bool) -> str | None:
    if hub and path.startswith("callable:"):
        return _missing_function(path.removeprefix("callable:"))
    try:
        resolve_path(path, base_dir)
    except FileNotFoundError as error:
        return None if hub and _may_be_on_hub(path, base_dir) else str(error)
    return None


def _may_be_on_hub(path: str, base_dir: str | None) -> bool:
    """Return whether a missing `path` looks like ORGANISATION/NAME and not like a file."""
    is_file = path.endswith(FILE_ENDINGS) or (Path(base_dir or ".") / path).parent.is_dir()
    return HUB_ID.fullmatch(path) is not None and not is_file


def _missing_function(target: str) -> str | None:
    """Return the problem with `module:function`, or None.

    The module is parsed, not imported, because importing it could load a model.
    """
    module, _, function = target.partition(":")
    if not module or not function:
        return f"must be module:function, it is {target!r}"
    with own_folder_first():
        try:
            spec = find_spec(module)
        except (ImportError, ValueError):
            spec = None
    if spec is None:
        return f"there is no module {module!r}"
    names = _names_in(Path(spec.origin)) if spec.origin and spec.origin.endswith(".py") else None
    if names is None or function.partition(".")[0] in names:
        return None
    return f"module {module!r} has no {function!r}; {suggestion(function, sorted(names), 'it has')}"


def _names_in(source: Path) -> set[str] | None:
    """Return the names that a module can define or import at its top level; None if unknown."""
    try:
        names = set(_bound(ast.parse(source.read_bytes()).body))
    except (OSError, SyntaxError, ValueError):
        return None
    return None if names & {"*", "__getattr__"} else names


def _bound(body: Sequence[ast.AST]) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        else:
            yield from _bound(list(ast.iter_child_nodes(node)))


def _real_dimensions(model: ModelConfig, base_dir: str | None) -> int | None:
    """Return the vector size of local weights; None if it is unknown without loading them."""
    try:
        return model.engine.stored_dimensions(lambda path: resolve_path(path, base_dir))
    except (OSError, ValueError, KeyError, AttributeError, OverflowError, MemoryError):
        return None
