"""Ollama's POST /api/embed."""

from typing import Annotated, Any

import orjson
from pydantic import Field, WithJsonSchema

from router.config import Limits
from router.encoding import json_rows
from router.errors import AmbiguousTokenIds, RequestTooLarge, RouterError
from router.ignoring import Ignore
from router.schema import INPUT_SCHEMA
from router.shapes.form import (
    OF_HEADERS,
    AnswerContent,
    Errors,
    Form,
    Incoming,
    ShapeBody,
    given_of,
    read_body,
)
from router.spaces import OR_MODEL, SPACE

_TAG = ":latest"


class OllamaEmbedRequest(ShapeBody):
    """Ollama's request."""

    model: str | None = Field(
        None, min_length=1, description="As at /v1/embeddings; :latest at its end is cut."
    )
    input: Annotated[Any, WithJsonSchema(INPUT_SCHEMA)]
    truncate: bool | None = Field(
        None, description="Whether long texts are cut: true where it is not given, as at Ollama."
    )
    dimensions: int | None = Field(None, ge=1, le=2**31 - 1)
    options: dict[str, Any] | None = Field(None, description="Accepted, without effect.")
    keep_alive: str | int | float | None = Field(None, description="Accepted, without effect.")


def _read(body: bytes, limits: Limits, ignore: Ignore, name: str) -> Incoming:
    fields, ignored = read_body(OllamaEmbedRequest, body, limits, ignore)
    model = fields.model
    given = given_of(
        fields.input,
        limits,
        ignored,
        model=None if model is None else model.removesuffix(_TAG) or model,
        dimensions=fields.dimensions,
        truncate="none" if fields.truncate is False else "end",
    )
    return Incoming(given, _write)


def _write(made: AnswerContent) -> bytes:
    rest = {"model": made.routing["model"], "prompt_eval_count": made.prompt_tokens}
    return b'{"embeddings":' + json_rows(made.vectors) + b"," + orjson.dumps(rest)[1:]


def _render(error: RouterError) -> bytes:
    return orjson.dumps({"error": error.message})


NAMES = {
    '{"input": "text"}': '{"model": "auto", "input": "text"}',
    '"truncate": "end"': '"truncate": true',
    SPACE: '"model"',
    OR_MODEL: "",
    RequestTooLarge.SMALLER: ", or ask for fewer dimensions",
    '"input_type": "query"': "a name that ends in -query",
    AmbiguousTokenIds.WITH_IDS: "",
    **OF_HEADERS,
}
OLLAMA = Form(_read, Errors(_render, NAMES))
