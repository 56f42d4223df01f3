"""The headers of the reference: those that are read and those that are answered."""

from router.openapi_schemas import REASON, STRING, Json, ref

_MS = {"type": "number", "minimum": 0}


HEADERS: dict[str, tuple[str, Json]] = {
    "x-request-id": ("Of this request: the caller's own, or a new one.", STRING),
    "x-embedding-model": ("routing.model", STRING),
    "x-embedding-space": ("routing.space", STRING),
    "x-routing-reason": ("routing.reason", REASON),
    "x-predicted-ms": ("routing.predicted_ms", _MS),
    "x-queue-ms": ("Time spent waiting.", _MS),
    "x-inference-ms": ("Time in the model.", _MS),
    "x-total-ms": ("Time in the service.", _MS),
}


LIMITS: Json = {
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


PARAMETERS: Json = {
    "X-Quality-Tier": {
        "name": "X-Quality-Tier",
        "in": "header",
        "description": "As quality; the body wins.",
        "schema": ref("Tier"),
    },
    "X-Latency-Budget-Ms": {
        "name": "X-Latency-Budget-Ms",
        "in": "header",
        "description": "As latency_budget_ms; the body wins.",
        "schema": {"type": "number", "exclusiveMinimum": 0},
    },
    "X-Embedding-Space": {
        "name": "X-Embedding-Space",
        "in": "header",
        "description": "As space; the body wins.",
        "schema": {"type": "string", "minLength": 1},
    },
}
