"""Text Embeddings Inference: POST /embed, and the body and errors of its /rerank."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import orjson
from pydantic import ConfigDict, Field, ValidationError, WithJsonSchema

from router.body_errors import explain_problem
from router.config import Limits
from router.encoding import json_rows
from router.errors import AmbiguousTokenIds, InvalidValue, RequestTooLarge, RouterError
from router.ignoring import Ignore, unknown
from router.rerank_schema import OR_MODEL as OR_ANOTHER
from router.schema import FIELDS, INPUT_SCHEMA, TEXT_SCHEMA
from router.shapes.form import (
    OF_HEADERS,
    TEXTS_SCHEMA,
    AnswerContent,
    Errors,
    Form,
    Incoming,
    ShapeBody,
    given_of,
    read_body,
)
from router.spaces import OR_MODEL, SPACE
from router.synonyms import ANY_CASE

Direction = Annotated[Literal["left", "right"], ANY_CASE]


class TeiEmbedRequest(ShapeBody):
    """TEI's request. It names no model; the address or the key sets it."""

    inputs: Annotated[Any, WithJsonSchema(INPUT_SCHEMA)]
    truncate: bool | None = None
    truncation_direction: Direction | None = Field(None, description="Left or Right (default).")
    normalize: bool | None = Field(
        None, description="Vectors always have length 1: false is refused."
    )
    prompt_name: Literal["query", "document", "passage"] | None = None
    dimensions: int | None = Field(None, ge=1, le=2**31 - 1)


def _read(body: bytes, limits: Limits, ignore: Ignore, name: str) -> Incoming:
    fields, ignored = read_body(TeiEmbedRequest, body, limits, ignore)
    if fields.normalize is False:
        raise InvalidValue(
            "normalize false is not served: every vector has length 1; leave it out", "normalize"
        )
    given = given_of(
        fields.inputs,
        limits,
        ignored,
        input_type=fields.prompt_name,
        dimensions=fields.dimensions,
        truncate=cut(fields.truncate, fields.truncation_direction),
    )
    return Incoming(given, _write)


class TeiRerankRequest(ShapeBody):
    """TEI's request to /rerank."""

    model_config = ConfigDict(json_schema_extra={"required": ["query", "texts"]})

    query: Annotated[Any, WithJsonSchema(TEXT_SCHEMA)] = None
    texts: Annotated[Any, WithJsonSchema(TEXTS_SCHEMA)]
    raw_scores: bool | None = Field(
        None, description="Only rerankers whose scores are raw, for example logits."
    )
    return_text: bool | None = None
    truncate: bool | None = None
    truncation_direction: Direction | None = None


def read_rerank(
    data: Mapping[str, Any], ignore: Ignore
) -> tuple[tuple[str, ...], TeiRerankRequest]:
    """The fields of a request to /rerank, and the unknown ones that were dropped."""
    fields = tuple(TeiRerankRequest.model_fields)
    ignored = unknown((key for key in data if key not in fields), fields, ignore, FIELDS)
    try:
        return ignored, TeiRerankRequest.model_validate(
            {name: item for name, item in data.items() if name in fields}
        )
    except ValidationError as invalid:
        raise explain_problem(invalid.errors(include_url=False)[0]) from None


def cut(truncate: bool | None, direction: str | None) -> Literal["end", "start", "none"] | None:
    """Translate TEI's fields to this service's `truncate`; None if `truncate` is not given."""
    if not truncate:
        return None if truncate is None else "none"
    return "start" if direction == "left" else "end"


def _write(made: AnswerContent) -> bytes:
    return json_rows(made.vectors)


def _render(error: RouterError) -> bytes:
    """An error in TEI's form."""
    kind = "overloaded" if error.status == 429 else "backend"
    if error.status == 503:
        kind = "unhealthy"
    elif error.status < 500 and error.status != 429:
        kind = "validation"
    return orjson.dumps({"error": error.message, "error_type": kind})


_NAMES = {
    '"truncate": "end"': '"truncate": true',
    SPACE: "the header X-Embedding-Space",
    OR_MODEL: "",
    RequestTooLarge.SMALLER: ", or ask for fewer dimensions",
    "input_type": "prompt_name",
    '"input_type": "query"': '"prompt_name": "query"',
    AmbiguousTokenIds.WITH_IDS: "",
    **OF_HEADERS,
}
TEI = Form(
    _read, Errors(_render, _NAMES | {"input": "inputs", '{"input": "text"}': '{"inputs": "text"}'})
)
RERANK_ERRORS = Errors(
    _render,
    _NAMES
    | {
        **dict.fromkeys(("input", "documents"), "texts"),
        "score": "raw_scores",
        OR_ANOTHER: "",
        '{"input": "text"}': '{"query": "text", "texts": ["text"]}',
    },
)
