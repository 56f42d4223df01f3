"""Error messages for JSON bodies, as sentences for the caller."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from pydantic import ValidationError
from pydantic_core import ErrorDetails, from_json

from router.errors import InvalidJson, InvalidValue, UnknownField, field, shorten, suggest
from router.ignoring import Ignore, unknown

EXAMPLE = field('{"input": "text"}')
_SURROGATE = re.compile("[\ud800-\udfff]")


def explain(
    invalid: ValidationError, body: bytes, fields: Sequence[str], ignore: Ignore = False
) -> InvalidJson | InvalidValue | UnknownField:
    """Return an error for the first problem of a body.

    Unknown keys are reported first: a misspelt key is the usual reason why another one is missing.
    """
    problem = invalid.errors(include_url=False)[0]
    kind = problem["type"]
    if kind == "json_invalid":
        return InvalidJson(explain_json(body, problem["ctx"]["error"]))
    data = from_json(body)
    if kind == "model_type":
        return not_an_object(data)
    try:
        unknown((key for key in data if key not in fields), fields, ignore)
    except (InvalidValue, UnknownField) as error:
        return error
    return explain_problem(problem)


def explain_problem(problem: ErrorDetails) -> InvalidValue:
    """The error for one field."""
    kind = problem["type"]
    name = str(problem["loc"][0])
    if kind == "missing":
        return InvalidValue(f"{name} is missing; send the text or texts to embed", name)
    if kind == "string_pattern_mismatch":
        must = "must be a BCP-47 tag such as 'en' or 'zh-Hant'"
    else:
        must = sentence(problem["msg"])
    value = problem["input"]
    hint = (
        suggest(value, re.findall(r"'([^']+)'", must))
        if kind in ("enum", "literal_error") and isinstance(value, str)
        else ""
    )
    return InvalidValue(f"{name} {must}, it is {kind_of(value)}{hint}", name)


def sentence(message: str) -> str:
    """The requirement for a value, from pydantic's message."""
    must = re.sub(r"^(Input|String|List|Dictionary) should ", "must ", message)
    return must.replace(" after validation", "")


def not_an_object(data: object) -> InvalidJson:
    """The error for a body that is valid JSON, but not an object."""
    return InvalidJson(f"the body must be a JSON object such as {EXAMPLE}, it is {kind_of(data)}")


def explain_json(body: bytes, reason: str) -> str:
    if not body.strip():
        return f"the body is empty; send a JSON object such as {EXAMPLE}"
    try:
        body.decode()
    except UnicodeDecodeError as undecodable:
        return (
            f"the body is not UTF-8: byte 0x{body[undecodable.start]:02x} at offset "
            f"{undecodable.start}; encode it as UTF-8"
        )
    if body.startswith(b"\xef\xbb\xbf"):
        return "the body starts with a byte order mark; send the JSON without it"
    if "surrogate" in reason or "hex escape" in reason:
        return (
            f"the body is not valid JSON: {reason}; a \\u escape needs four hex digits, and "
            f"surrogates come in pairs{_lone_surrogate(body)}"
        )
    return f"the body is not valid JSON: {reason}"


def _lone_surrogate(body: bytes) -> str:
    """Locate half a surrogate pair, as the end of a sentence; empty if none is found."""
    try:
        data = json.loads(body)  # it accepts lone surrogates
    except (ValueError, RecursionError):
        return ""
    fields = data.items() if isinstance(data, dict) else ()
    for name, value in fields:
        items = value if isinstance(value, list) else [value]
        for index, item in enumerate(items):
            if isinstance(item, str) and _SURROGATE.search(item):
                place = f"{name}[{index}]" if isinstance(value, list) else name
                if _SURROGATE.search(place):
                    return ""
                return f"; {shorten(place)[1:-1]} has half of one"
    return ""


def dumped(data: Mapping[str, Any]) -> bytes:
    """Write as JSON what was read from JSON.

    Raises InvalidJson if it is nested too deeply: orjson reads deeper nesting than it writes.
    """
    try:
        return orjson.dumps(data)
    except TypeError:
        raise InvalidJson(
            "the body is nested too deeply: at most about 200 arrays and objects lie in one "
            "another; send plain values"
        ) from None


def kind_of(value: object) -> str:
    """Describe a JSON value in a few words."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return shorten(value) if value else "an empty string"
    if isinstance(value, int | float):
        return (
            f"{value:g}"
            if isinstance(value, float)
            else "a huge integer"
            if abs(value) >= 10**15
            else str(value)
        )
    return "an array" if isinstance(value, list | tuple) else "an object"
