"""The body of POST /v1/rerank, /v2/rerank and /rerank: bytes and headers in, one request out.

The request is that of Cohere and Jina, with the routing fields of /v1/embeddings. The rules for
fields and headers in router/schema.py also apply here.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Annotated, Any, NamedTuple

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from router.body_errors import dumped, explain, explain_json, kind_of, not_an_object
from router.config import Limits
from router.domain import OnMiss, Tier
from router.errors import (
    CollectionNotAllowed,
    InvalidJson,
    InvalidValue,
    ModelNotFound,
    RequestTooLarge,
    UnknownField,
    field,
    shorten,
)
from router.ignoring import Ignore, unknown
from router.names import Name
from router.rerank_config import Score
from router.schema import (
    TEXT_SCHEMA,
    EmbeddingsBody,
    EmbeddingsRequest,
    Given,
    Priority,
    Truncate,
    check_instruction,
)
from router.settings import Context, settled

DOCUMENTS = field("documents")
OR_MODEL = ", or name another model"
# names in errors that differ from those of /v1/embeddings
NAMES = {'{"input": "text"}': '{"query": "text", "documents": ["text"]}', "input": "documents"}
_DOCUMENTS_SCHEMA = {
    "title": "Documents",
    "description": "At most limits.max_documents (1000) texts, or objects with a text.",
    "type": "array",
    "minItems": 1,
    "items": {
        "anyOf": [
            TEXT_SCHEMA,
            {
                "type": "object",
                "properties": {"text": TEXT_SCHEMA},
                "required": ["text"],
                "additionalProperties": False,
            },
        ]
    },
}


def _same(name: str, description: str | None = None) -> Any:
    """The field of this name in /v1/embeddings."""
    field = EmbeddingsBody.model_fields[name]
    return Field(None, description=description or field.description)


class RerankBody(BaseModel):
    """The published body of a request; `query` and `documents` are checked by `parse`,
    which is faster and can say what is wrong.
    """

    model_config = ConfigDict(
        title="RerankRequest",
        strict=True,
        allow_inf_nan=False,
        extra="forbid",
        json_schema_extra={
            "description": "Cohere's and Jina's request with the extensions of this service."
        },
    )

    query: Annotated[Any, WithJsonSchema(TEXT_SCHEMA)]
    documents: Annotated[Any, WithJsonSchema(_DOCUMENTS_SCHEMA)]
    model: str | None = Field(
        None, min_length=1, description="A reranker's id, or a tier: auto (default), fast, ..."
    )
    top_n: int | None = Field(None, ge=1, description="How many results; all where not given.")
    return_documents: bool | None = Field(None, description="Whether results hold their texts.")
    max_tokens_per_doc: int | None = Field(
        None,
        ge=1,
        description="Cuts each document to so many tokens; routing.truncated says which were cut.",
    )
    score: Score | None = Field(
        None, description="What scores must be; rerankers of another scale are not used."
    )
    instruction: str | None = Field(
        None, min_length=1, description="The task sentence, where the reranker reads one."
    )
    quality: Tier | None = _same("quality")
    latency_budget_ms: float | None = Field(
        None, gt=0, description="Milliseconds for the whole request. Header: X-Latency-Budget-Ms."
    )
    on_budget_miss: OnMiss | None = _same("on_budget_miss")
    priority: Priority | None = _same("priority")
    language: str | None = Field(
        None,
        max_length=64,
        pattern=r"^[A-Za-z]{2,8}([-_][A-Za-z0-9]{1,8})*$",
        description="Language of the texts: a BCP-47 tag such as en or zh-Hant, or three "
        "letters of ISO 639; replaces detection.",
    )
    truncate: Truncate | None = Field(
        None,
        description="What to do with a document that the reranker cannot read whole: none "
        "(default) refuses, end and start cut there. The query is never cut.",
    )
    user: str | None = _same("user")


FIELDS = tuple(RerankBody.model_fields)
OF_VECTORS = EmbeddingsBody.model_fields.keys() - FIELDS - {"input"}
_OF_VECTORS = "of requests for vectors (POST /v1/embeddings), and a ranking has none; leave it out"
OF_RANKINGS = RerankBody.model_fields.keys() - EmbeddingsBody.model_fields
_TEXTS = ("query", "documents")
# fields with the same meaning as for embeddings
_SHARED = (
    "model", "user", "quality", "latency_budget_ms", "on_budget_miss", "language", "truncate",
    "priority",
)  # fmt: skip


class RerankRequest(NamedTuple):
    """A checked request; `common` holds the documents and their routing."""

    query: str
    common: EmbeddingsRequest
    top_n: int | None = None
    return_documents: bool = False
    max_tokens_per_doc: int | None = None
    score: Score | None = None
    ignored: tuple[str, ...] = ()  # unknown fields that were dropped

    @property
    def documents(self) -> Sequence[str]:
        """The texts in the order of the request."""
        return self.common.texts or ()


def read_object(body: bytes, limits: Limits) -> dict[str, Any]:
    """The JSON object that a body is; raises RequestTooLarge or InvalidJson."""
    if len(body) > limits.max_body_bytes:
        raise RequestTooLarge(limits.max_body_bytes)
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidJson(explain_json(body, error.msg)) from None
    if not isinstance(data, dict):
        raise not_an_object(data)
    return data


def parse(data: Mapping[str, Any], context: Context, ignore: Ignore = False) -> RerankRequest:
    """Check a request; the catalogue of `context` is that of rerankers.

    `ignore` drops unknown fields. Raises UnknownField, InvalidValue, and the errors of
    router.settings.
    """
    rerankers = ", ".join(context.catalogue.models)
    with explained(f", and name what ranks in model: auto, or one of the rerankers {rerankers}"):
        ignored = unknown((key for key in data if key not in FIELDS), FIELDS, ignore)
    data = {name: item for name, item in data.items() if name not in ignored}
    query = read_query(data.get("query"))
    documents = read_documents(data.get("documents"), context.limits)
    small = dumped({name: None if name in _TEXTS else item for name, item in data.items()})
    try:
        given = RerankBody.model_validate_json(small)
    except ValidationError as invalid:
        raise explain(invalid, small, FIELDS) from None
    if given.instruction is not None:
        check_instruction(given.instruction, context.limits)
    if given.model is not None:
        _check_model(given.model, context)
    shared = {name: getattr(given, name) for name in _SHARED}
    fields = EmbeddingsBody.model_construct(None, input=None, **shared)
    if "x-embedding-space" in context.headers:
        raise InvalidValue(f"X-Embedding-Space is a header {_OF_VECTORS}", "X-Embedding-Space")
    defaults = context.defaults.model_copy(update={"space": None})
    common = settled(Given(fields, documents, None), context._replace(defaults=defaults))
    return RerankRequest(
        query,
        common._replace(
            side="document", input_type=None, space=None, instruction=given.instruction
        ),
        given.top_n,
        bool(given.return_documents),
        given.max_tokens_per_doc,
        given.score,
        ignored,
    )


@contextmanager
def explained(more: str = "") -> Iterator[None]:
    """Add to the error of an unknown field that it belongs to requests for vectors; then `more`."""
    try:
        yield
    except UnknownField as error:
        if error.param in OF_VECTORS:
            error.message = f"{error.param} is a field {_OF_VECTORS}{more}"
        raise


def _check_model(text: str, context: Context) -> None:
    """Raise InvalidValue if `model` names a source of vectors, and ModelNotFound if it names
    nothing. A collection that is forbidden to the key counts as nothing.
    """
    catalogue, embeddings = context.catalogue, context.embeddings
    name = catalogue.read_name(text)
    if name.model is not None and name.space is None and catalogue.means(name.model):
        if name.side is not None:
            budget = "" if name.budget_ms is None else f"@{text.rpartition('@')[2]}"
            raise InvalidValue(
                f"model {shorten(text)} names one side, and a ranking reads the query and the "
                f"documents; send {name.model + budget!r}",
                "model",
            )
        return
    other = Name() if embeddings is None else embeddings.read_name(text)
    what: str | None = None
    space = other.space
    if embeddings is not None and space is not None and space in embeddings.collections:
        with suppress(CollectionNotAllowed):
            context.check_space(space)
            what = f"{space} is a collection"
    elif space is not None:
        what = f"{space} is a vector space"
    elif embeddings is not None and (model := embeddings.lookup(other.model or "")) is not None:
        what = f"{model} is an embedding model"
    if what is None:
        raise ModelNotFound(text, catalogue.names, more=catalogue.aliases, suffixes=())
    raise InvalidValue(
        f"{what} and ranks nothing; send auto, or one of the rerankers "
        f"{', '.join(catalogue.models)}",
        "model",
    )


def read_query(value: object) -> str:
    """The query; raises InvalidValue."""
    if value is None:
        raise InvalidValue("query is missing; send the text that documents are ranked for", "query")
    if not isinstance(value, str):
        raise InvalidValue(f"query must be a string, it is {kind_of(value)}", "query")
    if not value:
        raise InvalidValue("query is an empty string; send text", "query")
    return value


def read_documents(value: object, limits: Limits) -> tuple[str, ...]:
    """The documents, as strings or objects with a text; raises InvalidValue naming the
    first that is neither.
    """
    if value is None:
        raise InvalidValue(f"{DOCUMENTS} is missing; send the texts to rank", "documents")
    if not isinstance(value, list):
        raise InvalidValue(
            f"{DOCUMENTS} must be an array of strings, it is {kind_of(value)}", "documents"
        )
    if not value:
        raise InvalidValue(f"{DOCUMENTS} is an empty array; send at least one text", "documents")
    if len(value) > (limit := limits.max_documents):
        raise InvalidValue(
            f"{DOCUMENTS} has {len(value)} items; the limit is {limit} "
            "(limits.max_documents); send those that a first search ranks highest",
            "documents",
        )
    return tuple(_text_of(item, f"{DOCUMENTS}[{index}]") for index, item in enumerate(value))


def _text_of(value: object, where: str) -> str:
    if isinstance(value, dict):
        for key in value:
            if key != "text":
                raise InvalidValue(
                    f"{where} has the key {shorten(str(key))}, and only text is read; put all of "
                    "it into text",
                    "documents",
                )
        if "text" not in value:
            raise InvalidValue(f"{where} has no text; send a string", "documents")
        value = value["text"]
    if not isinstance(value, str):
        raise InvalidValue(f"{where} must be a string, it is {kind_of(value)}", "documents")
    if not value:
        raise InvalidValue(f"{where} is an empty string; leave it out", "documents")
    return value
