"""The common part of all API forms: reading a body, writing an answer, writing an error."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from router.answers import Routing
from router.arrays import Vectors
from router.body_errors import explain_json, explain_problem, not_an_object
from router.config import Limits
from router.encoding import AS_NUMBER
from router.errors import InvalidJson, Overloaded, RequestTooLarge, RouterError
from router.ignoring import Ignore, unknown
from router.input_items import read_input
from router.schema import FIELDS, TEXT_SCHEMA, EmbeddingsBody, Given

TEXTS_SCHEMA = {"type": "array", "minItems": 1, "items": TEXT_SCHEMA}
# names in errors of APIs that have no routing fields: headers stand for some
OF_HEADERS = {
    Overloaded.BULK: "",
    "latency_budget_ms": "the header X-Latency-Budget-Ms",
}
B = TypeVar("B", bound=BaseModel)


class AnswerContent(NamedTuple):
    """The content of an answer."""

    vectors: Vectors
    routing: Routing
    prompt_tokens: int
    id: str  # of the request


class Incoming(NamedTuple):
    """A parsed request, the function that writes its answer, and about how many bytes an answer
    takes for each number of a vector.
    """

    given: Given
    write: Callable[[AnswerContent], bytes]
    bytes_each: float = AS_NUMBER["float"]


class Errors(NamedTuple):
    """One API's errors: their format, and its names for what messages mention (error_base.py)."""

    render: Callable[[RouterError], bytes]
    names: Mapping[str, str] = MappingProxyType({})

    def write(self, error: RouterError) -> bytes:
        """The body of the error response."""
        return self.render(error.renamed(self.names))


class Form(NamedTuple):
    """One API's format of embedding requests; `read` also receives the name in the path."""

    read: Callable[[bytes, Limits, Ignore, str], Incoming]
    errors: Errors


class ShapeBody(BaseModel):
    """The base of other APIs' bodies; `read_body` handles unknown fields before validation."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="forbid")


def read_body(
    model: type[B], body: bytes, limits: Limits, ignore: Ignore
) -> tuple[B, tuple[str, ...]]:
    """The checked fields of a body, and the unknown ones that were dropped."""
    if len(body) > limits.max_body_bytes:
        raise RequestTooLarge(limits.max_body_bytes)
    try:
        data: Any = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidJson(explain_json(body, error.msg)) from None
    if not isinstance(data, dict):
        raise not_an_object(data)
    fields = tuple(model.model_fields)
    ignored = unknown((key for key in data if key not in fields), fields, ignore, FIELDS)
    for key in ignored:
        del data[key]
    try:
        return model.model_validate(data), ignored
    except ValidationError as invalid:
        raise explain_problem(invalid.errors(include_url=False)[0]) from None


def given_of(texts: object, limits: Limits, ignored: tuple[str, ...], **fields: Any) -> Given:
    """Build the request from texts and from fields under this service's names."""
    return Given(EmbeddingsBody.model_construct(**fields), *read_input(texts, limits), ignored)
