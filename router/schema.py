"""The body of POST /v1/embeddings and /v1/route: bytes and headers in, one checked request out.

What holds for every field:
- `null` is the same as not given, `model` included: clients write null for what their caller left
  out.
- Nothing is converted: "1" and true are not numbers, 1.0 is not an integer; NaN and infinity are
  refused.
- A key that stands twice in the object counts with its last value, as in JavaScript, Python and Go.
- Token ids are embedded as they stand: no prompt, so no `input_type` and no `instruction`.
- An extension may be a header instead: X-Quality-Tier, X-Latency-Budget-Ms, X-Embedding-Space. The
  body wins, and a header that loses is not looked at.

`input_type` chooses the side of the prompt. `query` and `search_query` are queries, `document` and
`search_document` are documents. `classification` and `clustering` are symmetric: both texts of a
comparison get the same prompt, so they take the side that the model's config calls its default,
unless an `instruction` is given, which only a query prompt can carry. An `instruction` without
`input_type` makes a query; with a document it is an error, not a sentence that is silently dropped.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema
from pydantic_core import from_json

from router.arrays import TokenIds
from router.config import Limits
from router.domain import OnMiss, Tier
from router.errors import (
    AmbiguousTokenIds,
    InvalidJson,
    InvalidValue,
    MaxTokensPerRequest,
    RequestTooLarge,
    UnknownField,
    shorten,
    suggest,
)

EncodingFormat = Literal["float", "base64", "int8", "uint8", "binary", "ubinary"]
InputType = Literal[
    "query", "document", "search_query", "search_document", "classification", "clustering"
]
Truncate = Literal["none", "end", "start"]
Priority = Literal["interactive", "bulk"]
Side = Literal["query", "document"]

_TIERS = frozenset(tier.value for tier in Tier)
_SURROGATE = re.compile("[\ud800-\udfff]")
_LARGEST_ID = 2**31 - 1
_LARGE_BODY = 65_536
_LARGEST_SIZE = 2**31 - 1
_NUMBER = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?")
_LANGUAGE = r"^[A-Za-z]{2,8}([-_][A-Za-z0-9]{1,8})*$"
_SIDES: dict[str | None, Side | None] = {
    None: None,
    "query": "query",
    "search_query": "query",
    "document": "document",
    "search_document": "document",
    "classification": None,
    "clustering": None,
}
_TEXT_SCHEMA = {"type": "string", "minLength": 1}
_IDS_SCHEMA = {
    "type": "array",
    "minItems": 1,
    "items": {"type": "integer", "minimum": 0, "maximum": _LARGEST_ID},
}
_INPUT_SCHEMA = {
    "title": "Input",
    "description": "Text, or at most limits.max_items (2048) texts. Token ids only with "
    "token_ids and a model id in model.",
    "anyOf": [
        {"title": "Text", **_TEXT_SCHEMA},
        {"title": "Texts", "type": "array", "minItems": 1, "items": _TEXT_SCHEMA},
        {"title": "Token ids of one text", **_IDS_SCHEMA},
        {"title": "Token ids of texts", "type": "array", "minItems": 1, "items": _IDS_SCHEMA},
    ],
}


class EmbeddingsBody(BaseModel):
    """What a caller sends, as it is published; `input` is checked by `_read_input`, which is faster
    and can say what is wrong.
    """

    # Unknown keys are let in only to be named one at a time: a million of them must not make a
    # million errors.
    model_config = ConfigDict(
        title="EmbeddingsRequest",
        strict=True,
        allow_inf_nan=False,
        extra="allow",
        json_schema_extra={
            "additionalProperties": False,
            "description": "OpenAI's request and what this service adds to it.",
        },
    )

    input: Annotated[Any, WithJsonSchema(_INPUT_SCHEMA)]
    model: str | None = Field(
        None,
        min_length=1,
        description="A model id, or a tier: auto (default), fast, balanced, best.",
    )
    dimensions: int | None = Field(
        None,
        ge=1,
        le=_LARGEST_SIZE,
        description="Size of the vectors: the model's own, or less where it is Matryoshka-trained.",
    )
    encoding_format: EncodingFormat | None = Field(
        None,
        description="float (default): numbers. base64: little-endian float32. The others: "
        "quantised bytes in base64.",
    )
    user: str | None = Field(None, description="Accepted for compatibility.")
    quality: Tier | None = Field(
        None, description="The tier when model is auto or missing. Header: X-Quality-Tier."
    )
    latency_budget_ms: float | None = Field(
        None, gt=0, description="Milliseconds for the whole request. Header: X-Latency-Budget-Ms."
    )
    on_budget_miss: OnMiss | None = Field(
        None,
        description="When no model fits the budget: degrade (default) to the fastest, serve "
        "late, or reject with 503.",
    )
    space: str | None = Field(
        None,
        min_length=1,
        description="The vector space to answer in: MODEL/DIMENSIONS or a collection. Header: "
        "X-Embedding-Space.",
    )
    input_type: InputType | None = Field(
        None, description="What the texts are; chooses the prompt."
    )
    instruction: str | None = Field(
        None, min_length=1, description="The task sentence of a query prompt."
    )
    language: str | None = Field(
        None,
        max_length=64,
        pattern=_LANGUAGE,
        description="BCP-47 tag of the texts; replaces detection.",
    )
    truncate: Truncate | None = Field(
        None,
        description="What to do with a text the model cannot read whole: none (default) refuses, "
        "end and start cut there.",
    )
    priority: Priority | None = Field(
        None, description="interactive (default), or bulk, which yields to it."
    )
    token_ids: Literal["model"] | None = Field(
        None, description="Declares that input holds ids of the tokenizer of model."
    )


FIELDS = tuple(EmbeddingsBody.model_fields)


class EmbeddingsRequest(NamedTuple):
    """A checked request; exactly one of `texts` and `ids` is given, in input order."""

    texts: Sequence[str] | None
    ids: Sequence[TokenIds] | None
    model: str | None = None  # as the caller wrote it; router.spaces says which model it is
    dimensions: int | None = None
    encoding_format: EncodingFormat = "float"
    user: str | None = None
    quality: Tier = Tier.AUTO
    latency_budget_ms: float | None = None
    on_budget_miss: OnMiss = OnMiss.DEGRADE
    space: str | None = None
    side: Side | None = None  # None: the default of the model that will embed it
    input_type: InputType | None = None
    instruction: str | None = None
    language: str | None = None
    truncate: Truncate | None = None  # None: as the collection says, else none
    priority: Priority = "interactive"

    @property
    def items(self) -> int:
        """How many vectors the answer has."""
        return len(self.texts if self.texts is not None else self.ids or ())


def parse(
    body: bytes, headers: Mapping[str, str], limits: Limits, priority: Priority = "interactive"
) -> EmbeddingsRequest:
    """Check a request; `headers` has its names in lower case, or does not mind their case.

    `priority` is that of a request which gives none.
    Raises RequestTooLarge, InvalidJson, UnknownField, InvalidValue or AmbiguousTokenIds.
    """
    if len(body) > limits.max_body_bytes:
        raise RequestTooLarge(limits.max_body_bytes)
    if len(body) > _LARGE_BODY:
        return _parse_large(body, headers, limits, priority)
    try:
        given = EmbeddingsBody.model_validate_json(body)
    except ValidationError as invalid:
        raise _explain(invalid, body) from None
    return _request(given, given.input, headers, limits, priority)


def _parse_large(
    body: bytes, headers: Mapping[str, str], limits: Limits, priority: Priority
) -> EmbeddingsRequest:
    """The same with orjson, which reads megabytes ten times as fast: while one body is read, nobody
    else is answered.
    """
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidJson(_explain_json(body, error.msg)) from None
    if not isinstance(data, dict):
        raise InvalidJson(
            f'the body must be a JSON object such as {{"input": "text"}}, it is {_kind(data)}'
        )
    for key in data:
        if key not in FIELDS:
            raise UnknownField(key, FIELDS)
    value = data.get("input")
    small = orjson.dumps({name: None if name == "input" else part for name, part in data.items()})
    try:
        given = EmbeddingsBody.model_validate_json(small)
    except ValidationError as invalid:
        raise _explain(invalid, small) from None
    return _request(given, value, headers, limits, priority)


def _request(
    given: EmbeddingsBody,
    value: object,
    headers: Mapping[str, str],
    limits: Limits,
    priority: Priority,
) -> EmbeddingsRequest:
    if given.__pydantic_extra__:
        raise UnknownField(next(iter(given.__pydantic_extra__)), FIELDS)
    texts, ids = _read_input(value, limits)
    if ids is not None and (
        given.token_ids is None or given.model is None or given.model.lower() in _TIERS
    ):
        raise AmbiguousTokenIds
    side = _SIDES[given.input_type]
    if given.instruction is not None:
        if side == "document":
            raise InvalidValue(
                f"instruction belongs to queries and input_type is {given.input_type!r}; leave "
                "one of them out",
                "instruction",
            )
        side = "query"
        _check_instruction(given.instruction, limits)
    if ids is not None and (given.instruction or given.input_type):
        field = "instruction" if given.instruction else "input_type"
        raise InvalidValue(
            f"{field} makes a prompt, and token ids are embedded as they stand; leave it out, or "
            "send text",
            field,
        )
    return EmbeddingsRequest(
        texts,
        ids,
        given.model,
        given.dimensions,
        given.encoding_format or "float",
        given.user,
        given.quality
        or (
            _quality_header(headers.get("x-quality-tier"))
            if _leaves_tier_open(given.model)
            else Tier.AUTO
        ),
        given.latency_budget_ms or _budget_header(headers.get("x-latency-budget-ms")),
        given.on_budget_miss or OnMiss.DEGRADE,
        given.space or _space_header(headers.get("x-embedding-space")),
        side,
        given.input_type,
        given.instruction,
        given.language,
        given.truncate,
        given.priority or priority,
    )


def _read_input(
    value: object, limits: Limits
) -> tuple[Sequence[str] | None, Sequence[TokenIds] | None]:
    """Texts or token ids, or InvalidValue naming the first item that is wrong."""
    if type(value) is str:
        if not value:
            raise InvalidValue("input is an empty string; send text", "input")
        return (value,), None
    if type(value) is not list:
        raise InvalidValue(
            f"input must be a string or an array of strings, it is {_kind(value)}", "input"
        )
    if not value:
        raise InvalidValue("input is an empty array; send at least one text", "input")
    first, max_items = type(value[0]), limits.max_items
    if first is int:
        _check_count(len(value), limits)
        return None, (_read_ids(value, "input"),)
    if len(value) > max_items:
        raise InvalidValue(
            f"input has {len(value)} items and a request may have {max_items}; send them in "
            "several requests",
            "input",
        )
    if first is str:
        _check_alike(value, str, "input", "a string")
        if "" in value:
            raise InvalidValue(
                f"input[{value.index('')}] is an empty string; leave it out", "input"
            )
        return tuple(value), None
    if first is list:
        _check_alike(value, list, "input", "an array of token ids")
        _check_count(sum(map(len, value)), limits)
        return None, tuple(_read_ids(ids, f"input[{index}]") for index, ids in enumerate(value))
    raise InvalidValue(f"input[0] must be a string, it is {_kind(value[0])}", "input")


def _check_count(tokens: int, limits: Limits) -> None:
    """Before they are looked at one by one."""
    if tokens > limits.max_tokens_per_request:
        raise MaxTokensPerRequest(tokens, limits.max_tokens_per_request)


def _check_instruction(instruction: str, limits: Limits) -> None:
    """It is copied into the prompt of every text."""
    if len(instruction) > (most := limits.max_instruction_characters):
        raise InvalidValue(
            f"instruction has {len(instruction)} characters and may have {most} "
            "(limits.max_instruction_characters); shorten it, or put it into the texts",
            "instruction",
        )


def _read_ids(value: list[object], where: str) -> TokenIds:
    if not value:
        raise InvalidValue(f"{where} is an empty array; leave it out", "input")
    _check_alike(value, int, where, "a token id")
    try:
        ids = np.array(value, dtype=np.int64)
        valid = bool(ids.min() >= 0 and ids.max() <= _LARGEST_ID)
    except OverflowError:
        valid = False
    if not valid:
        raise InvalidValue(
            f"{where} holds a token id that is not between 0 and {_LARGEST_ID}", "input"
        )
    return ids.astype(np.int32)


def _check_alike(items: list[object], wanted: type, where: str, noun: str) -> None:
    if set(map(type, items)) == {wanted}:
        return
    index = next(i for i, item in enumerate(items) if type(item) is not wanted)
    raise InvalidValue(
        f"{where}[{index}] must be {noun} like the items before it, it is {_kind(items[index])}"
        if index
        else f"{where}[0] must be {noun}, it is {_kind(items[0])}",
        "input",
    )


def _leaves_tier_open(model: str | None) -> bool:
    """Whether the body says nothing about the tier, so that the header may."""
    return model is None or model.lower() == Tier.AUTO


def _quality_header(value: str | None) -> Tier:
    if value is None:
        return Tier.AUTO
    try:
        return Tier(value.strip().lower())
    except ValueError:
        raise InvalidValue(
            f"the header X-Quality-Tier must be one of {', '.join(Tier)}, it is "
            f"{shorten(value)}{suggest(value, Tier)}",
            "X-Quality-Tier",
        ) from None


def _budget_header(value: str | None) -> float | None:
    if value is None:
        return None
    if not _NUMBER.fullmatch(value.strip()) or not float(value):
        raise InvalidValue(
            "the header X-Latency-Budget-Ms must be a number of milliseconds above 0, it is "
            f"{shorten(value)}",
            "X-Latency-Budget-Ms",
        )
    return float(value)


def _space_header(value: str | None) -> str | None:
    if value is None:
        return None
    if not value.strip():
        raise InvalidValue(
            "the header X-Embedding-Space is empty; send MODEL/DIMENSIONS or leave it out",
            "X-Embedding-Space",
        )
    return value.strip()


def _explain(invalid: ValidationError, body: bytes) -> InvalidJson | InvalidValue | UnknownField:
    """The first thing that is wrong, in a sentence; an unknown key first, for a misspelt one is why
    another is missing.
    """
    problem = invalid.errors(include_url=False)[0]
    kind = problem["type"]
    if kind == "json_invalid":
        return InvalidJson(_explain_json(body, problem["ctx"]["error"]))
    data = from_json(body)
    if kind == "model_type":
        return InvalidJson(
            f'the body must be a JSON object such as {{"input": "text"}}, it is {_kind(data)}'
        )
    for key in data:
        if key not in FIELDS:
            return UnknownField(key, FIELDS)
    field = str(problem["loc"][0])
    if kind == "missing":
        return InvalidValue(f"{field} is missing; send the text or texts to embed", field)
    if kind == "string_pattern_mismatch":
        must = "must be a BCP-47 tag such as 'en' or 'zh-Hant'"
    else:
        must = re.sub(r"^(Input|String) should ", "must ", problem["msg"])
    value = problem["input"]
    hint = (
        suggest(value, re.findall(r"'([^']+)'", must))
        if kind in ("enum", "literal_error") and isinstance(value, str)
        else ""
    )
    return InvalidValue(f"{field} {must}, it is {_kind(value)}{hint}", field)


def _explain_json(body: bytes, reason: str) -> str:
    if not body.strip():
        return 'the body is empty; send a JSON object such as {"input": "text"}'
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
    """Where half a surrogate pair stands, as the end of a sentence; nothing where none is found."""
    try:
        data = json.loads(body)  # which takes them
    except (ValueError, RecursionError):
        return ""
    fields = data.items() if isinstance(data, dict) else ()
    for field, value in fields:
        items = value if isinstance(value, list) else [value]
        for index, item in enumerate(items):
            if isinstance(item, str) and _SURROGATE.search(item):
                place = f"{field}[{index}]" if isinstance(value, list) else field
                if _SURROGATE.search(place):
                    return ""
                return f"; {shorten(place)[1:-1]} has half of one"
    return ""


def _kind(value: object) -> str:
    """A JSON value in few words."""
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
