"""Cohere's POST /v2/embed: texts in, one list of vectors for each requested type."""

from typing import Annotated, Any

import orjson
from pydantic import Field, WithJsonSchema, model_validator

from router.config import Limits
from router.encoding import AS_NUMBER, json_rows, quantise
from router.errors import AmbiguousTokenIds, InvalidValue, RequestTooLarge, RouterError
from router.ignoring import Ignore
from router.schema import EncodingFormat, InputType, Truncate
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
from router.synonyms import ANY_CASE, in_lower_case


class CohereEmbedRequest(ShapeBody):
    """Cohere's request. `images` and `inputs` are refused: this service embeds only texts."""

    texts: Annotated[Any, WithJsonSchema(TEXTS_SCHEMA)] = None
    model: str | None = Field(None, min_length=1)
    input_type: Annotated[InputType | None, ANY_CASE] = None
    embedding_types: list[EncodingFormat] | None = Field(
        None, min_length=1, max_length=16, description="float where it is not given."
    )
    output_dimension: int | None = Field(None, ge=1, le=2**31 - 1)
    truncate: Annotated[Truncate | None, ANY_CASE] = Field(
        None, description="NONE, START or END; END where it is not given, as at Cohere."
    )
    images: Any = None
    inputs: Any = None

    @model_validator(mode="before")
    @classmethod
    def _has_only_texts(cls, data: Any) -> Any:
        """Refuse images first: other fields are wrong only because of them."""
        for name, what in (("images", "images"), ("inputs", "texts and images together")):
            if data.get(name) is not None:
                raise _needs_more(name, name, what)
        if in_lower_case(data.get("input_type")) == "image":
            raise _needs_more('input_type "image"', "input_type", "images")
        return data


def _needs_more(given: str, param: str, what: str) -> InvalidValue:
    """The error for what only a model of `what` can embed."""
    return InvalidValue(
        f"{given} needs a model that reads {what}, and the models of this service read text; send "
        f"text in texts, and leave {param} out",
        param,
    )


def _read(body: bytes, limits: Limits, ignore: Ignore, name: str) -> Incoming:
    fields, ignored = read_body(CohereEmbedRequest, body, limits, ignore)
    if not isinstance(fields.texts, list):
        raise InvalidValue("texts must be an array of the texts to embed", "texts")
    given = given_of(
        fields.texts,
        limits,
        ignored,
        model=fields.model,
        input_type=fields.input_type,
        dimensions=fields.output_dimension,
        truncate=fields.truncate or "end",
    )
    types: list[EncodingFormat] = list(dict.fromkeys(fields.embedding_types or ("float",)))

    def write(made: AnswerContent) -> bytes:
        rest = {
            "id": made.id,
            "texts": given.texts,
            "meta": {
                "api_version": {"version": "2"},
                "billed_units": {"input_tokens": made.prompt_tokens},
            },
            "response_type": "embeddings_by_type",
            "routing": made.routing,
        }
        lists = [b'"%s":%s' % (kind.encode(), _vectors(made, kind)) for kind in types]
        return b'{"embeddings":{' + b",".join(lists) + b"}," + orjson.dumps(rest)[1:]

    return Incoming(given, write, sum(AS_NUMBER[kind] for kind in types))


def _vectors(made: AnswerContent, kind: EncodingFormat) -> bytes:
    rows = quantise(made.vectors, kind)
    return json_rows(rows, in_base64=kind == "base64")


def _render(error: RouterError) -> bytes:
    return orjson.dumps({"message": error.message})


NAMES = {
    "input": "texts",
    "dimensions": "output_dimension",
    '{"input": "text"}': '{"texts": ["text"]}',
    SPACE: '"model"',
    OR_MODEL: "",
    RequestTooLarge.SMALLER: ', or ask for "embedding_types": ["base64"] or a smaller '
    "output_dimension",
    AmbiguousTokenIds.WITH_IDS: "",
    **OF_HEADERS,
}
COHERE = Form(_read, Errors(_render, NAMES))
