"""Building blocks of OpenAPI operations: headers, parameters, answers and errors."""

from typing import Any

from pydantic import TypeAdapter

from router import ignoring
from router.answers import ReasonLabel
from router.encoders import EncoderKind
from router.openapi_schemas import Json, ref

STRING: Json = {"type": "string"}
ON_REQUEST = (400, 401, 403, 404, 408, 409, 413, 429, 431, 500, 503, 504)
ON_READ = (401, 500)
ON_ADMIN = (401, 403, 500)
ON_KEY = (400, 401, 403, 404, 500)
_MS = {"type": "number", "minimum": 0}

_DESCRIBED: dict[str, tuple[str, Json]] = {
    "x-request-id": ("Of this request: the caller's own, or a new one.", STRING),
    "x-embedding-model": ("routing.model", STRING),
    "x-embedding-space": ("routing.space", STRING),
    "x-embedding-encoder": ("routing.encoder", TypeAdapter(EncoderKind).json_schema()),
    "x-expected-recall": (
        "routing.expected_recall, where it is not null.",
        {"type": "number", "minimum": 0, "maximum": 1},
    ),
    "x-routing-reason": ("routing.reason", TypeAdapter(ReasonLabel).json_schema()),
    "x-predicted-ms": ("routing.predicted_ms", _MS),
    "x-queue-ms": ("Time spent waiting.", _MS),
    "x-inference-ms": ("Time in the model.", _MS),
    "x-total-ms": ("Time in the service.", _MS),
    ignoring.HEADER: ("Fields of the body that were dropped, if there were any.", STRING),
}
OF_VECTORS = ("x-embedding-space", "x-embedding-encoder", "x-expected-recall")
HEADERS: Json = {
    name: {"description": text, "schema": schema} for name, (text, schema) in _DESCRIBED.items()
} | {
    f"x-ratelimit-{what}-{kind}": {
        "description": f"{text} {kind}, where the key has such a limit.",
        "schema": schema,
    }
    for kind in ("requests", "tokens")
    for what, text, schema in (
        ("limit", "Per minute, of", {"type": "integer", "minimum": 1}),
        ("remaining", "Left now, of", {"type": "integer", "minimum": 0}),
        (
            "reset",
            "Time until all are back, e.g. 6m0s, of",
            {"type": "string", "pattern": "^([0-9]+m)?[0-9.]+(s|ms)$"},
        ),
    )
}
IGNORED: Json = {"headers": {ignoring.HEADER: HEADERS[ignoring.HEADER]}}
RETRY: Json = {
    name: {"description": text, "schema": {"type": "integer", "minimum": 1}}
    for name, text in (
        ("Retry-After", "Seconds to wait."),
        ("retry-after-ms", "The same in milliseconds."),
    )
}
PARAMETERS: Json = {
    name: {
        "name": name,
        "in": "header",
        "description": f"As {field}; the body wins.",
        "schema": schema,
    }
    for name, field, schema in (
        ("X-Quality-Tier", "quality", ref("Tier")),
        ("X-Latency-Budget-Ms", "latency_budget_ms", {"type": "number", "exclusiveMinimum": 0}),
        ("X-Embedding-Space", "space", {"type": "string", "minLength": 1}),
    )
}
BY_HEADER: list[Json] = [{"$ref": f"#/components/parameters/{name}"} for name in PARAMETERS]


def content(schema: Json | str, kind: str = "application/json", **more: Any) -> Json:
    """A body of one media type; `schema` can be the name of a schema."""
    return {kind: {"schema": ref(schema) if isinstance(schema, str) else schema, **more}}


def answer(description: str, schema: Json | str, kind: str = "application/json") -> Json:
    """A response with a description and a body."""
    return {"description": description, "content": content(schema, kind)}


def body(inside: Json) -> Json:
    """A required request body of the media types in `inside`."""
    return {"required": True, "content": inside}


def query(name: str, schema: Json, **more: Any) -> Json:
    """A query parameter."""
    return {"name": name, "in": "query", "schema": schema, **more}


def in_path(name: str, **more: Any) -> Json:
    """A path parameter."""
    return {"name": name, "in": "path", "required": True, "schema": STRING, **more}


def operation(id: str, ok: Json, statuses: tuple[int, ...] = (), **more: Any) -> Json:
    """An operation, with its success response and a response for each error status. The table of
    routes has its summary.
    """
    refused = {
        str(status): {"$ref": f"#/components/responses/{status}"} for status in sorted(statuses)
    }
    return {
        "operationId": id,
        **more,
        "responses": {"200": ok, **refused},
    }
