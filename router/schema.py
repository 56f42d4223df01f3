"""The body of POST /v1/embeddings and /v1/route: bytes and headers in, one checked request out.

What holds for every field:
- `null` is the same as not given, `model` included: clients write null for what their caller left
  out.
- Nothing is converted: "1" and true are not numbers, 1.0 is not an integer; NaN and infinity are
  refused.
- If a key occurs twice in the object, its last value counts, as in JavaScript, Python and Go.
- Token ids are embedded as they are: no prompt, so no `input_type` and no `instruction`.

`input_type` chooses the side of the prompt. `classification` and `clustering` are symmetric and
take the side that the model's config calls its default. An `instruction` makes a query; with a
document it is an error. router/settings.py merges the body with headers and other sources.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from router.arrays import TokenIds
from router.body_errors import dumped, explain, explain_json, not_an_object
from router.config import Limits
from router.domain import TIERS, OnMiss, Tier
from router.errors import (
    AmbiguousTokenIds,
    InvalidJson,
    InvalidValue,
    RequestTooLarge,
    shorten,
    suggest,
)
from router.ignoring import Ignore, unknown
from router.input_items import LARGEST_ID, read_input
from router.shapes import jina
from router.synonyms import ANY_CASE

EncodingFormat = Literal["float", "base64", "int8", "uint8", "binary", "ubinary"]
InputType = Literal[
    "query",
    "document",
    "passage",
    "search_query",
    "search_document",
    "classification",
    "clustering",
]
Truncate = Literal["none", "end", "start"]
Priority = Literal["interactive", "bulk"]
Side = Literal["query", "document"]
# where a setting of a request comes from; later ones take precedence
Source = Literal["config", "key", "header", "address", "name", "body"]

_LARGE_BODY = 65_536
_LARGEST_SIZE = 2**31 - 1
_NUMBER = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?")
_LANGUAGE = r"^[A-Za-z]{2,8}([-_][A-Za-z0-9]{1,8})*$"
SIDES: dict[str | None, Side | None] = {
    None: None,
    "query": "query",
    "search_query": "query",
    "document": "document",
    "passage": "document",
    "search_document": "document",
    "classification": None,
    "clustering": None,
}
TEXT_SCHEMA = {"type": "string", "minLength": 1}
_IDS_SCHEMA = {
    "type": "array",
    "minItems": 1,
    "items": {"type": "integer", "minimum": 0, "maximum": LARGEST_ID},
}
INPUT_SCHEMA = {
    "title": "Input",
    "description": "Text, or at most limits.max_items (2048) texts. Token ids only with "
    "token_ids and a model id in model.",
    "anyOf": [
        {"title": "Text", **TEXT_SCHEMA},
        {"title": "Texts", "type": "array", "minItems": 1, "items": TEXT_SCHEMA},
        {"title": "Token ids of one text", **_IDS_SCHEMA},
        {"title": "Token ids of texts", "type": "array", "minItems": 1, "items": _IDS_SCHEMA},
    ],
}


class EmbeddingsBody(BaseModel):
    """The published body of a request; `input` is checked by `read_input`, which is faster
    and can say what is wrong.
    """

    # Unknown keys are accepted here and reported one at a time: a million of them must not make a
    # million errors.
    model_config = ConfigDict(
        title="EmbeddingsRequest",
        strict=True,
        allow_inf_nan=False,
        extra="allow",
        json_schema_extra={
            "additionalProperties": False,
            "description": "OpenAI's request with the extensions of this service.",
        },
    )

    input: Annotated[Any, WithJsonSchema(INPUT_SCHEMA)]
    model: str | None = Field(
        None,
        min_length=1,
        description="A model id or alias, a tier (auto is the default), a collection or "
        "MODEL/DIMENSIONS. `-query` or `-document` may follow, and then `@50ms`.",
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
    quality: Annotated[Tier | None, ANY_CASE] = Field(
        None, description="The tier when model is auto or missing. Header: X-Quality-Tier."
    )
    latency_budget_ms: float | None = Field(
        None, gt=0, description="Milliseconds for the whole request. Header: X-Latency-Budget-Ms."
    )
    on_budget_miss: Annotated[OnMiss | None, ANY_CASE] = Field(
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
    input_type: Annotated[InputType | None, ANY_CASE] = Field(
        None, description="What the texts are; chooses the prompt."
    )
    instruction: str | None = Field(
        None, min_length=1, description="The task sentence of a query prompt."
    )
    language: str | None = Field(
        None,
        max_length=64,
        pattern=_LANGUAGE,
        description="Language of the texts: a BCP-47 tag such as en or zh-Hant, or three "
        "letters of ISO 639; replaces detection.",
    )
    truncate: Annotated[Truncate | None, ANY_CASE] = Field(
        None,
        description="What to do with a text the model cannot read whole: none (default) refuses, "
        "end and start cut there.",
    )
    priority: Annotated[Priority | None, ANY_CASE] = Field(
        None, description="interactive (default), or bulk, which yields to it."
    )
    token_ids: Literal["model"] | None = Field(
        None, description="Declares that input holds ids of the tokenizer of model."
    )
    task: Annotated[jina.JinaTask | None, ANY_CASE] = Field(
        None, description="As Jina's clients write input_type."
    )
    embedding_type: EncodingFormat | None = Field(
        None, description="As Jina's clients write encoding_format."
    )
    normalized: bool | None = Field(
        None, description="Vectors always have length 1: false is refused."
    )
    late_chunking: bool | None = Field(
        None, description="Each text is embedded by itself: true is refused."
    )


FIELDS = tuple(EmbeddingsBody.model_fields)


class EmbeddingsRequest(NamedTuple):
    """A checked request; exactly one of `texts` and `ids` is given, in input order."""

    texts: Sequence[str] | None
    ids: Sequence[TokenIds] | None
    model: str | None = None  # as the caller wrote it; router.spaces resolves it
    dimensions: int | None = None
    encoding_format: EncodingFormat = "float"
    user: str | None = None
    quality: Tier = Tier.AUTO
    latency_budget_ms: float | None = None
    on_budget_miss: OnMiss = OnMiss.DEGRADE
    space: str | None = None
    side: Side | None = None  # None: the default of the model that embeds it
    input_type: InputType | None = None
    instruction: str | None = None
    language: str | None = None
    truncate: Truncate | None = None  # None: the setting of the collection, else none
    priority: Priority = "interactive"
    sources: Mapping[str, Source] | None = None  # of its settings, where they were looked up
    space_within: str | None = None  # the one of several spaces of the collection in `space`

    @property
    def items(self) -> int:
        """The number of vectors in the answer."""
        return len(self.texts if self.texts is not None else self.ids or ())


class Settings(NamedTuple):
    """The settings of a request that can have several sources."""

    model: str | None
    quality: Tier | None
    latency_budget_ms: float | None
    space: str | None
    space_within: str | None
    input_type: InputType | None
    priority: Priority
    sources: Mapping[str, Source] | None = None


class Given(NamedTuple):
    """A body that was read: its fields, and its input as texts or as token ids."""

    body: EmbeddingsBody
    texts: Sequence[str] | None
    ids: Sequence[TokenIds] | None
    ignored: tuple[str, ...] = ()  # unknown fields that were dropped


def parse(
    body: bytes, headers: Mapping[str, str], limits: Limits, priority: Priority = "interactive"
) -> EmbeddingsRequest:
    """Check a request whose `model` is a model or a tier; `headers` has lower-case names or ignores
    case.

    `priority` is for requests that give none. Raises RequestTooLarge, InvalidJson, UnknownField,
    InvalidValue or AmbiguousTokenIds.
    """
    given = read(body, limits)
    fields, quality = given.body, given.body.quality
    if quality is None and leaves_tier_open(fields.model):
        quality = quality_header(headers.get("x-quality-tier"))
    settings = Settings(
        fields.model,
        quality,
        fields.latency_budget_ms or budget_header(headers.get("x-latency-budget-ms")),
        fields.space or space_header(headers.get("x-embedding-space")),
        None,
        fields.input_type,
        fields.priority or priority,
    )
    return request_of(given, limits, settings)


def read(body: bytes, limits: Limits, ignore: Ignore = False) -> Given:
    """The fields of a body, each checked by itself; `ignore` says which unknown ones to drop."""
    if len(body) > limits.max_body_bytes:
        raise RequestTooLarge(limits.max_body_bytes)
    if len(body) > _LARGE_BODY:
        return _read_large(body, limits, ignore)
    try:
        fields = EmbeddingsBody.model_validate_json(body)
    except ValidationError as invalid:
        raise explain(invalid, body, FIELDS, ignore) from None
    extra = fields.__pydantic_extra__
    ignored = unknown(extra, FIELDS, ignore) if extra else ()
    return _given(fields, fields.input, limits, ignored)


def _read_large(body: bytes, limits: Limits, ignore: Ignore) -> Given:
    """Read with orjson, ten times as fast on megabytes: no other request is answered meanwhile."""
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidJson(explain_json(body, error.msg)) from None
    if not isinstance(data, dict):
        raise not_an_object(data)
    ignored = unknown((key for key in data if key not in FIELDS), FIELDS, ignore)
    value = data.get("input")
    small = dumped(
        {
            name: None if name == "input" else part
            for name, part in data.items()
            if name not in ignored
        }
    )
    try:
        fields = EmbeddingsBody.model_validate_json(small)
    except ValidationError as invalid:
        raise explain(invalid, small, FIELDS) from None
    return _given(fields, value, limits, ignored)


def _given(
    fields: EmbeddingsBody, value: object, limits: Limits, ignored: tuple[str, ...]
) -> Given:
    jina.check(fields)
    if fields.task is not None:
        fields.input_type = jina.input_type_of(fields.task, fields.input_type)
    if fields.embedding_type is not None:
        if fields.encoding_format not in (None, fields.embedding_type):
            raise InvalidValue(
                f"encoding_format is {fields.encoding_format!r} and embedding_type is "
                f"{fields.embedding_type!r}; leave one of them out",
                "embedding_type",
            )
        fields.encoding_format = fields.embedding_type
    return Given(fields, *read_input(value, limits), ignored)


def request_of(given: Given, limits: Limits, settings: Settings) -> EmbeddingsRequest:
    """Build the request from checked fields and settings; raises AmbiguousTokenIds or
    InvalidValue.
    """
    fields, texts, ids, _ = given
    model, quality, budget_ms, space, within, input_type, priority, sources = settings
    instruction = fields.instruction
    if ids is not None and (fields.token_ids is None or model is None or model.lower() in TIERS):
        raise AmbiguousTokenIds
    side = SIDES[input_type]
    if instruction is not None:
        if side == "document":
            raise InvalidValue(
                f"instruction belongs to queries and input_type is {input_type!r}; leave one of "
                "them out",
                "instruction",
            )
        side = "query"
        check_instruction(instruction, limits)
    if ids is not None and (instruction or input_type):
        field = "instruction" if instruction else "input_type"
        raise InvalidValue(
            f"{field} makes a prompt, and token ids are embedded as they stand; leave it out, or "
            "send text",
            field,
        )
    return EmbeddingsRequest(
        texts,
        ids,
        model,
        fields.dimensions,
        fields.encoding_format or "float",
        fields.user,
        quality or Tier.AUTO,
        budget_ms,
        fields.on_budget_miss or OnMiss.DEGRADE,
        space,
        side,
        input_type,
        instruction,
        fields.language,
        fields.truncate,
        priority,
        sources,
        within,
    )


def check_instruction(instruction: str, limits: Limits) -> None:
    """Raise InvalidValue for a long instruction: it is copied into the prompt of every text."""
    if len(instruction) > (limit := limits.max_instruction_characters):
        raise InvalidValue(
            f"instruction has {len(instruction)} characters; the limit is {limit} "
            "(limits.max_instruction_characters); shorten it, or put it into the texts",
            "instruction",
        )


def leaves_tier_open(model: str | None) -> bool:
    """Whether the body leaves the tier open, so that the header can give it."""
    return model is None or model.lower() == Tier.AUTO


def quality_header(value: str | None) -> Tier:
    """The tier in X-Quality-Tier; raises InvalidValue."""
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


def budget_header(value: str | None) -> float | None:
    """The milliseconds in X-Latency-Budget-Ms; raises InvalidValue."""
    if value is None:
        return None
    if not _NUMBER.fullmatch(value.strip()) or not float(value):
        raise InvalidValue(
            "the header X-Latency-Budget-Ms must be a number of milliseconds above 0, it is "
            f"{shorten(value)}",
            "X-Latency-Budget-Ms",
        )
    return float(value)


def space_header(value: str | None) -> str | None:
    """The space in X-Embedding-Space; raises InvalidValue."""
    if value is None:
        return None
    if not value.strip():
        raise InvalidValue(
            "the header X-Embedding-Space is empty; send MODEL/DIMENSIONS or leave it out",
            "X-Embedding-Space",
        )
    return value.strip()
