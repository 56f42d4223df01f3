"""Cohere's POST /v2/embed: texts in, one list of vectors for each requested type."""

from typing import Annotated, Any

import orjson
from pydantic import Field, WithJsonSchema

from router.config import Limits
from router.encoding import AS_NUMBER, json_rows, quantise
from router.errors import AmbiguousTokenIds, InvalidValue, RequestTooLarge, RouterError
from router.ignoring import Ignore
from router.schema import EncodingFormat, InputType, Truncate
from router.shapes.form import (
    TEXTS_SCHEMA,
    Errors,
    Form,
    Incoming,
    Made,
    ShapeBody,
    given_of,
    read_body,
)
from router.spaces import OR_MODEL, SPACE
from router.synonyms import ANY_CASE


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


def _read(body: bytes, limits: Limits, ignore: Ignore, name: str) -> Incoming:
    fields, ignored = read_body(CohereEmbedRequest, body, limits, ignore)
    for other, what in (("images", "images"), ("inputs", "texts and images together")):
        if getattr(fields, other) is not None:
            raise InvalidValue(
                f"{other} needs a model that reads {what}, and the models of this service read "
                f"text; send text in texts, and leave {other} out",
                other,
            )
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

    def write(made: Made) -> bytes:
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


def _vectors(made: Made, kind: EncodingFormat) -> bytes:
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
}
COHERE = Form(_read, Errors(_render, NAMES))
