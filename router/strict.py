"""Describe what is wrong with a config, one plain sentence per problem: where, what, and what to
write instead.

pydantic reports the same in its own terms, and once per branch of a union; users of a YAML file
should not have to know either. Unknown keys are found by walking the models' fields, not by
`extra="forbid"`, so that the same walk serves Ray Serve's own schema, which drops them silently.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from router import rerank_config
from router.config import RELOADABLE, RouterArgs
from router.engine_config import EngineConfig


def _kinds(engines: Any) -> tuple[str, ...]:
    return tuple(
        get_args(engine.model_fields["kind"].annotation)[0]
        for engine in get_args(get_args(engines)[0])
    )


NOTHING: Mapping[str, str] = {}
ENGINE_KINDS, RERANK_KINDS = _kinds(EngineConfig), _kinds(rerank_config.RerankEngine)


class ConfigError(Exception):
    """A config that cannot be used; `problems` has one sentence for each thing to fix."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems

    def __reduce__(self) -> tuple[type["ConfigError"], tuple[list[str]]]:
        # Serve pickles it to carry it from the process that builds the application
        return ConfigError, (self.problems,)


def parse_args(data: Any, where: str = "") -> RouterArgs:
    """Parse the config in `data`; raises ConfigError. `where` is the path of `data` in its file,
    for messages.
    """
    unknown = unknown_keys(RouterArgs, data, where)
    try:
        args = RouterArgs.model_validate(data)
    except ValidationError as error:
        raise ConfigError(unknown + sentences(error, data, where)) from None
    if unknown:
        raise ConfigError(unknown)
    return args


def changed(args: Mapping[str, Any], changes: Any, where: str = "") -> RouterArgs:
    """The config `args`, with its sections replaced by those in `changes`; raises ConfigError.

    `changes` is the `user_config` of the router's deployment, the only part that Serve reloads
    without a restart.
    """
    if not isinstance(changes, Mapping):
        raise ConfigError([f"{where or 'user_config'}: must be a mapping"])
    if fixed := [join(where, str(key)) for key in changes if key not in RELOADABLE]:
        raise ConfigError(
            [
                f"{key}: only {', '.join(RELOADABLE)} change without a restart; write it under args"
                for key in fixed
            ]
        )
    return parse_args({**args, **changes}, where)


def unknown_keys(model: type[BaseModel], data: Any, where: str = "") -> list[str]:
    """A sentence for every key in `data` that `model`, or a model inside it, does not have."""
    return list(_unknown(model, data, where))


def sentences(error: ValidationError, data: Any, where: str = "") -> list[str]:
    """A sentence for every problem in `error` except unknown keys; `data` is what was validated.

    For a union, only the branch of the same form as the value is reported; if there is none, one
    sentence lists all forms.
    """
    places = [_locate(detail, data, where) for detail in error.errors(include_url=False)]
    details = error.errors(include_url=False)
    fits = {
        place.union
        for place, detail in zip(places, details, strict=True)
        if place.union and not _wrong_form(place, detail)
    }
    forms: dict[str, list[str]] = {}
    out: dict[str, None] = {}
    for place, detail in zip(places, details, strict=True):
        if detail["type"] == "extra_forbidden" or (
            place.is_key and "expected" in detail.get("ctx", {})
        ):
            continue
        if place.union is None or not _wrong_form(place, detail):
            out[_sentence(place.path, detail)] = None
        elif place.union not in fits:
            forms.setdefault(place.path, []).append(_wanted(detail))
    out |= {f"{path}: must be {' or '.join(wanted)}": None for path, wanted in forms.items()}
    return list(out)


def suggestion(word: str, valid: Iterable[str], what: str = "valid keys are") -> str:
    """`did you mean X?` if one is close, otherwise all of them."""
    words = list(valid)
    close = get_close_matches(word.lower(), words, n=1)
    return f"did you mean {close[0]}?" if close else f"{what} {', '.join(words)}"


def join(path: str, part: str | int) -> str:
    """The dotted path of `part` inside `path`: `a.b`, `a[0]`."""
    if isinstance(part, int) and not isinstance(part, bool):
        return f"{path}[{part}]"
    return f"{path}.{part}" if path else str(part)


def _unknown(annotation: Any, value: Any, path: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield from _unknown_in_mapping(annotation, value, path)
    elif _is_list(value):
        origin, args = get_origin(annotation), get_args(annotation)
        if origin in (Union, UnionType):
            for member in args:
                yield from _unknown(member, value, path)
        elif origin in (list, tuple) and args:
            for index, inner in enumerate(value):
                yield from _unknown(args[0], inner, join(path, index))


def _unknown_in_mapping(annotation: Any, value: Mapping[Any, Any], path: str) -> Iterator[str]:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from _unknown(args[0], value, path)
    elif origin in (Union, UnionType):
        models = [member for member in args if _is_model(member) and _tags_agree(member, value)]
        if len(models) == 1:
            yield from _unknown(models[0], value, path)
    elif _is_model(annotation):
        fields = {name: field.annotation for name, field in annotation.model_fields.items()}
        yield from _unknown_keys(fields, value, path, getattr(annotation, "HINTS", NOTHING))
    elif origin is dict and args:
        named = get_origin(args[0]) is Literal
        keys = map(str, get_args(args[0])) if named else value
        yield from _unknown_keys(dict.fromkeys(keys, args[1]), value, path)


def _unknown_keys(
    valid: Mapping[Any, Any],
    value: Mapping[Any, Any],
    path: str,
    hints: Mapping[str, str] = NOTHING,
) -> Iterator[str]:
    """Yield a sentence for each unknown key: `valid` has the annotations of the valid keys, `hints`
    what to do about some others, such as those of older versions.
    """
    for key, inner in value.items():
        if key in valid:
            yield from _unknown(valid[key], inner, join(path, str(key)))
        else:
            what = hints.get(key) or f"unknown key; {suggestion(str(key), valid)}"
            yield f"{join(path, str(key))}: {what}"


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _tags_agree(model: type[BaseModel], value: Mapping[Any, Any]) -> bool:
    """Whether the fields that distinguish the models of a union (`kind`) have the values of this
    model.
    """
    return all(
        value.get(name) in get_args(field.annotation)
        for name, field in model.model_fields.items()
        if field.is_required() and get_origin(field.annotation) is Literal
    )


class _Place(NamedTuple):
    path: str
    union: str | None  # path of the union that the error is in, when it is in one
    is_key: bool  # the key itself is wrong, not its value


def _locate(detail: ErrorDetails, data: Any, where: str) -> _Place:
    """Locate an error in the data.

    pydantic puts the names of union branches between the keys. A part that the data does not have
    is such a name, unless it is the missing key itself.
    """
    loc, path, union = detail["loc"], where, None
    is_key = loc[-1:] == ("[key]",)
    for index, part in enumerate(loc[:-2] if is_key else loc):
        if (isinstance(data, Mapping) and part in data) or (
            _is_list(data) and isinstance(part, int)
        ):
            data, path = data[part], join(path, part)
        elif detail["type"] == "missing" and index == len(loc) - 1:
            path = join(path, part)
        else:
            union = path
    return _Place(join(path, _shown(detail["input"]).strip("'")) if is_key else path, union, is_key)


def _wrong_form(place: _Place, detail: ErrorDetails) -> bool:
    return place.path == place.union and detail["type"].endswith("_type")


def _sentence(path: str, detail: ErrorDetails) -> str:
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    where = path or "the config"
    match kind:
        case "missing":
            return f"{where}: missing, it has no default"
        case "union_tag_not_found":
            kinds = RERANK_KINDS if "rerankers" in path.split(".") else ENGINE_KINDS
            return f"{join(path, 'kind')}: missing; it is one of {', '.join(kinds)}"
        case "union_tag_invalid":
            return (
                f"{join(path, 'kind')}: {context['tag']!r} is not known; "
                f"{_choose(context['tag'], context['expected_tags'])}"
            )
        case "literal_error" | "enum":
            return f"{where}: {_shown(value)} is not known; {_choose(value, context['expected'])}"
        case "string_pattern_mismatch":
            return f"{where}: {_shown(value)} does not match {context['pattern']}"
        case "too_short":
            return f"{where}: must not be empty"
        case "value_error" | "assertion_error":
            return f"{where}: {detail['msg'].split(', ', 1)[1]}"
        case "string_type" if isinstance(value, bool):
            return (
                f"{where}: must be text; YAML reads no, off, on and yes as {_shown(value)}: "
                "put the word in quotes"
            )
    return f"{where}: must be {_wanted(detail)}, it is {_shown(value)}"


def _wanted(detail: ErrorDetails) -> str:
    match detail["type"]:
        case "dict_type" | "model_type" | "model_attributes_type":
            return "a mapping"
        case "list_type" | "tuple_type":
            return "a list"
        case "string_type":
            return "text"
    return re.sub(r"^Input should be |, (unable|got) .*$", "", detail["msg"])


def _choose(word: Any, expected: str) -> str:
    return suggestion(str(word), re.findall(r"'([^']*)'", expected), "it is one of")


def _shown(value: Any) -> str:
    """The value as in its YAML file; only the kind of a mapping or list, and a long text cut."""
    if isinstance(value, Mapping):
        return "a mapping"
    if _is_list(value):
        return "a list"
    if value is None or isinstance(value, bool):
        return {None: "empty", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
