"""The service as an OpenAPI 3.1 document, with the models and spaces of its own config in the
examples.

The request comes from router.schema, the `routing` object from router.encoding, the errors from
router.errors; only what no class of ours describes is written here.
"""

import json
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, get_args

from pydantic import TypeAdapter

from router.config import Routing as Routing_
from router.domain import Reason, Tier, Why
from router.encoding import Routing
from router.errors import SAMPLES, RouterError, render
from router.schema import EmbeddingsBody
from router.spaces import Catalogue
from router.strict import ENGINE_KINDS

Json = dict[str, Any]

_REFERENCE = "#/components/schemas/{model}"
_ON_REQUEST = (400, 401, 403, 404, 408, 409, 413, 429, 431, 500, 503, 504)
_ON_READ = (401, 500)
_ON_ADMIN = (401, 403, 500)


def document(catalogue: Catalogue) -> Json:
    """The whole document, ready for JSON."""
    body = EmbeddingsBody.model_json_schema(ref_template=_REFERENCE)
    routing = _routing()
    schemas = {
        "EmbeddingsRequest": body,
        **body.pop("$defs"),
        **_SCHEMAS,
        "Routing": routing,
        **routing.pop("$defs"),
    }
    body["properties"]["model"]["examples"] = list(catalogue.names)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "embedding-router",
            "version": _version(),
            "description": "OpenAI-compatible embeddings. Each request goes to the model that "
            "serves it best now; every vector "
            "says which vector space it belongs to, and a caller can pin one.",
        },
        "security": [{"apiKey": []}, {"azureKey": []}, {}],
        "paths": _paths(catalogue),
        "components": {
            "schemas": schemas,
            "responses": {
                str(status): _error_response(status)
                for status in sorted({error.status for error in _errors()})
            },
            "parameters": _PARAMETERS,
            "securitySchemes": {
                "apiKey": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Where the service is configured with keys.",
                },
                "azureKey": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "api-key",
                    "description": "As Azure's clients send it.",
                },
            },
        },
    }


def _paths(catalogue: Catalogue) -> Json:
    embeddings = {
        "summary": "Embed texts",
        "description": "OpenAI's endpoint. All texts of a request are embedded by one model, in "
        "one vector space.",
        "requestBody": _request_body(catalogue),
        "parameters": [{"$ref": f"#/components/parameters/{name}"} for name in _PARAMETERS],
        "responses": {
            "200": {
                "description": "The vectors in the order of the input, and how the request was "
                "routed.",
                "headers": {
                    name: {"description": text, "schema": schema}
                    for name, (text, schema) in _HEADERS.items()
                }
                | _LIMITS,
                "content": {
                    "application/json": {
                        "schema": _ref("EmbeddingsResponse"),
                        "example": _response_example(catalogue),
                    }
                },
            },
            **_refused(_ON_REQUEST),
        },
    }
    return {
        "/v1/embeddings": {"post": {"operationId": "embed", "tags": ["embeddings"], **embeddings}},
        "/embeddings": {
            "post": {
                "operationId": "embedAlias",
                "tags": ["embeddings"],
                **embeddings,
                "description": "The same as /v1/embeddings.",
            }
        },
        "/v1/route": {
            "post": {
                "operationId": "route",
                "tags": ["routing"],
                "summary": "Explain where a request would go",
                "description": "The body of /v1/embeddings; answers the decision and why each "
                "other model was not chosen.",
                "requestBody": embeddings["requestBody"],
                "parameters": embeddings["parameters"],
                "responses": {
                    "200": _json_response("The decision.", "Route"),
                    **_refused(_ON_REQUEST),
                },
            }
        },
        "/v1/models": {
            "get": {
                "operationId": "listModels",
                "tags": ["models"],
                "summary": "List models and tiers",
                "responses": {
                    "200": _json_response("Everything that `model` may be.", "ModelList"),
                    **_refused(_ON_READ),
                },
            }
        },
        "/v1/models/{id}": {
            "get": {
                "operationId": "getModel",
                "tags": ["models"],
                "summary": "Show one model or tier",
                "description": "An id may be written without case, with its hub prefix, and with "
                "`/` as it is.",
                "parameters": [
                    {
                        "name": "id",
                        "in": "path",
                        "required": True,
                        "schema": {"type": "string"},
                        "example": next(iter(catalogue.models)),
                    }
                ],
                "responses": {
                    "200": _json_response("The model.", "Model"),
                    **_refused((404, *_ON_READ)),
                },
            }
        },
        "/v1/tiers": {
            "get": {
                "operationId": "listTiers",
                "tags": ["routing"],
                "summary": "Show the decision matrix, live",
                "description": "What each model can do, what it costs, and what is happening at "
                "it now.",
                "responses": {
                    "200": _json_response("One row a model, from small to large.", "Tiers"),
                    **_refused(_ON_READ),
                },
            }
        },
        "/v1/compare": {
            "get": {
                "operationId": "compare",
                "tags": ["routing"],
                "summary": "Show what a shadow or a canary has found on live traffic",
                "description": "What `compare:` of the config asks for, as this router replica "
                "has counted it since it began.",
                "responses": {
                    "200": _json_response("Both; null where none runs.", "Comparison"),
                    **_refused(_ON_ADMIN),
                },
            }
        },
        "/v1/decisions": {
            "get": {
                "operationId": "listDecisions",
                "tags": ["routing"],
                "summary": "List the last decisions of one router replica",
                "description": "Oldest first, never with a text. Router replicas share nothing: "
                "the answer says whose decisions "
                "it has, and of how many routers. To see those of all, poll with the `next` of "
                "every router that has answered.",
                "parameters": [
                    {
                        "name": "after",
                        "in": "query",
                        "schema": _STRING,
                        "example": "5f0c2a9e:17",
                        "description": "Only later ones: the last `next` of each router, "
                        "separated by commas.",
                    },
                    {
                        "name": "limit",
                        "in": "query",
                        "description": "At most so many, the newest.",
                        "schema": {"type": "integer", "minimum": 1, "maximum": 200, "default": 100},
                    },
                ],
                "responses": {
                    "200": _json_response("The decisions.", "Decisions"),
                    **_refused((400, *_ON_ADMIN)),
                },
            }
        },
        "/v1/what-if": {
            "get": {
                "operationId": "getPolicy",
                "tags": ["routing"],
                "summary": "Show the routing rules in force, ready to be edited and posted back",
                "responses": {
                    "200": {
                        "description": "`routing:` and `tiers:`.",
                        "content": {"application/yaml": {"schema": _ref("Policy")}},
                    },
                    **_refused(_ON_ADMIN),
                },
            },
            "post": {
                "operationId": "whatIf",
                "tags": ["routing"],
                "summary": "Decide the last requests again by other rules",
                "description": "`routing:`, `tiers:` or both, as in the config file; what is "
                "left out stays as it is. Changes "
                "nothing. Each request meets the loads of its own moment, so times are "
                "predictions; `require_space` refuses "
                "requests before they are decided and is not replayed.",
                "requestBody": {
                    "required": True,
                    "content": {
                        "application/json": {
                            "schema": _ref("Policy"),
                            "example": _policy(catalogue),
                        },
                        "application/yaml": {"schema": _ref("Policy")},
                    },
                },
                "responses": {
                    "200": _json_response("What would have moved.", "WhatIf"),
                    **_refused((400, 413, *_ON_ADMIN)),
                },
            },
        },
        "/health": {
            "get": {
                "operationId": "health",
                "tags": ["health"],
                "summary": "Say whether every model that must be ready is",
                "security": [{}],
                "responses": {
                    "200": _json_response("Ready.", "Health"),
                    "503": _json_response(
                        "Not ready; names the models that are missing.", "Health"
                    ),
                    **_refused((401,)),
                },
            }
        },
        "/health/live": {
            "get": {
                "operationId": "live",
                "tags": ["health"],
                "summary": "Say that the router runs",
                "security": [{}],
                "responses": {"200": _json_response("It runs.", "Health"), **_refused((401,))},
            }
        },
        "/openapi.json": {
            "get": {
                "operationId": "document",
                "tags": ["pages"],
                "summary": "This document",
                "security": [{}],
                "responses": {
                    "200": {
                        "description": "OpenAPI 3.1.",
                        "content": {"application/json": {"schema": {"type": "object"}}},
                    },
                    **_refused((401,)),
                },
            }
        },
        "/": {"get": _page("console", "The console: a page to try requests and watch decisions")},
        "/docs": {"get": _page("docs", "This document as a page")},
    }


def _request_body(catalogue: Catalogue) -> Json:
    models = list(catalogue.models)
    space = str(catalogue.space_of(models[-1]))
    tier = next(iter(catalogue.tiers))
    free = {
        "auto": ("The router chooses", {"input": "What is the capital of France?"}),
        "tier": (
            "A tier, within a latency budget",
            {"input": ["one text", "another"], "model": tier, "latency_budget_ms": 50},
        ),
    }
    examples = ({} if catalogue.requires_space else free) | {
        "model": (
            "A document, by one model, in base64",
            {
                "input": "Paris is in France.",
                "model": models[0],
                "input_type": "document",
                "encoding_format": "base64",
            },
        ),
        "space": (
            "A query for an index that exists",
            {"input": "capital of France", "space": space, "input_type": "query"},
        ),
    }
    return {
        "required": True,
        "content": {
            "application/json": {
                "schema": _ref("EmbeddingsRequest"),
                "examples": {
                    name: {"summary": summary, "value": value}
                    for name, (summary, value) in examples.items()
                },
            }
        },
    }


def _policy(catalogue: Catalogue) -> Json:
    tier = next(iter(catalogue.tiers)).value
    return {
        "routing": {
            "default_tier": tier,
            "rules": [{"name": "long", "when": {"min_tokens": 200}, "floor": tier}],
        }
    }


def _response_example(catalogue: Catalogue) -> Json:
    model = next(iter(catalogue.models))
    tier = catalogue.tier_of(model)
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.021, -0.114, 0.057]}],
        "model": model,
        "usage": {"prompt_tokens": 9, "total_tokens": 9},
        "routing": {
            "model": model,
            "tier": tier and tier.value,
            "reason": "auto",
            "space": str(catalogue.space_of(model)),
            "language": "en",
            "tokens": 9,
            "predicted_ms": 6.2,
            "degraded": False,
            "cached": 0,
            "truncated": [],
            "adapter": None,
            "canary": False,
        },
    }


def _routing() -> Json:
    schema = TypeAdapter(Routing).json_schema(mode="serialization", ref_template=_REFERENCE)
    schema["required"] = list(schema["properties"])
    schema["properties"]["reason"] = dict(_REASON)
    schema["properties"]["tier"] = dict(_TIER_OR_NULL)
    for name, text in _ROUTING.items():
        schema["properties"][name]["description"] = text
    return schema


def _errors() -> Iterable[type[RouterError]]:
    return RouterError.__subclasses__()


def _error_response(status: int) -> Json:
    errors = [error for error in _errors() if error.status == status]
    response: Json = {
        "description": " ".join(
            f"`{error.code}`: {(error.__doc__ or '').splitlines()[0]}" for error in errors
        ),
        "content": {
            "application/json": {
                "schema": {
                    "allOf": [
                        _ref("Error"),
                        {
                            "properties": {
                                "error": {
                                    "properties": {
                                        "code": {"enum": [error.code for error in errors]}
                                    }
                                }
                            }
                        },
                    ]
                }
            }
        },
    }
    examples = {
        error.code: json.loads(render(error)) for error in SAMPLES if error.status == status
    }
    response["content"]["application/json"]["examples"] = {
        code: {"value": value} for code, value in examples.items()
    }
    if status in (429, 503):
        response["headers"] = {
            "Retry-After": {
                "description": "Seconds to wait.",
                "schema": {"type": "integer", "minimum": 1},
            },
            "retry-after-ms": {
                "description": "The same in milliseconds.",
                "schema": {"type": "integer", "minimum": 1},
            },
        }
    return response


def _refused(statuses: Iterable[int]) -> Json:
    return {str(status): {"$ref": f"#/components/responses/{status}"} for status in statuses}


def _json_response(description: str, schema: str) -> Json:
    return {"description": description, "content": {"application/json": {"schema": _ref(schema)}}}


def _page(operation: str, summary: str) -> Json:
    html = {"description": "A web page.", "content": {"text/html": {"schema": {"type": "string"}}}}
    responses = {"200": html, **_refused((401,))}
    return {
        "operationId": operation,
        "tags": ["pages"],
        "summary": summary,
        "security": [{}],
        "responses": responses,
    }


def _ref(name: str) -> Json:
    return {"$ref": _REFERENCE.format(model=name)}


def _version() -> str:
    try:
        return version("embedding-router")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "0"


def _object(properties: Json, optional: Iterable[str] = ()) -> Json:
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in set(optional)],
    }


def _array(items: Json) -> Json:
    return {"type": "array", "items": items}


_STRING, _INTEGER, _NUMBER, _BOOLEAN = (
    {"type": name} for name in ("string", "integer", "number", "boolean")
)
_STRING_OR_NULL, _NUMBER_OR_NULL, _OBJECT_OR_NULL = (
    {"type": [name, "null"]} for name in ("string", "number", "object")
)
_TIER_OR_NULL: Json = {"enum": [*(tier.value for tier in Tier if tier is not Tier.AUTO), None]}

_ROUTING = {
    "model": "The model that embedded the texts.",
    "tier": "The tier that this model stands for.",
    "reason": "Why this model: pinned, tier, rule:NAME, auto, context, unavailable, budget, load "
    "or late.",
    "space": "MODEL/DIMENSIONS: only vectors of the same space may be compared.",
    "language": "ISO 639-1 code of the texts, null where it is not known.",
    "tokens": "What the model read, prompts and special tokens included.",
    "predicted_ms": "What the router expected the answer to take.",
    "degraded": "A smaller model than the target answered, or another one over an adapter.",
    "cached": "How many of the vectors were known already.",
    "truncated": "Indices of the inputs that were cut.",
    "canary": "Decided by the rules that are being tried, not by the usual ones.",
    "adapter": "The adapter that the vectors came over from another model's space, and the share "
    "of recall that it keeps.",
}
_REASONS = "|".join(reason for reason in Reason if reason is not Reason.RULE)
_REASON = {"type": "string", "pattern": f"^({_REASONS}|rule:[a-z0-9-]+)$"}
_MS = {"type": "number", "minimum": 0}
_HEADERS: dict[str, tuple[str, Json]] = {
    "x-request-id": ("Of this request: the caller's own, or a new one.", _STRING),
    "x-embedding-model": ("routing.model", _STRING),
    "x-embedding-space": ("routing.space", _STRING),
    "x-routing-reason": ("routing.reason", _REASON),
    "x-predicted-ms": ("routing.predicted_ms", _MS),
    "x-queue-ms": ("Time spent waiting.", _MS),
    "x-inference-ms": ("Time in the model.", _MS),
    "x-total-ms": ("Time in the service.", _MS),
}
_LIMITS: Json = {
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
_PARAMETERS: Json = {
    "X-Quality-Tier": {
        "name": "X-Quality-Tier",
        "in": "header",
        "description": "As quality; the body wins.",
        "schema": _ref("Tier"),
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
_DECISION = _object(
    {
        "model": _STRING_OR_NULL,
        "tier": _TIER_OR_NULL,
        "reason": _REASON,
        "space": _STRING_OR_NULL,
        "predicted_ms": _NUMBER_OR_NULL,
        "degraded": _BOOLEAN,
        "canary": _BOOLEAN,
        "expected_recall": _NUMBER_OR_NULL,
    }
)
_SIDE = _object(
    {
        "p50_ms": _NUMBER_OR_NULL,
        "p95_ms": _NUMBER_OR_NULL,
        "models": {
            "type": "object",
            "additionalProperties": _INTEGER,
            "description": "By the model that answers, or `refused`.",
        },
        "quality": _NUMBER_OR_NULL,
        "degraded": _INTEGER,
        "misses": _INTEGER,
    }
)
_SCHEMAS: Json = {
    "EmbeddingsResponse": _object(
        {
            "object": {"const": "list"},
            "data": _array(
                _object(
                    {
                        "object": {"const": "embedding"},
                        "index": _INTEGER,
                        "embedding": {
                            "oneOf": [
                                {"title": "float", **_array(_NUMBER)},
                                {
                                    "title": "every other encoding_format, as base64 bytes",
                                    **_STRING,
                                    "contentEncoding": "base64",
                                },
                            ]
                        },
                    }
                )
            ),
            "model": _STRING,
            "usage": _object({"prompt_tokens": _INTEGER, "total_tokens": _INTEGER}),
            "routing": _ref("Routing"),
        }
    ),
    "Route": _object(
        {
            "features": _object(
                {
                    "tokens": _INTEGER,
                    "language": _STRING_OR_NULL,
                    "script": _STRING_OR_NULL,
                    "mixed": _BOOLEAN,
                    "code": _BOOLEAN,
                }
            ),
            "decision": _DECISION,
            "models": _array(
                _object(
                    {
                        "model": _STRING,
                        "predicted_ms": _NUMBER_OR_NULL,
                        "wait_ms": _NUMBER_OR_NULL,
                        "work_ms": _NUMBER_OR_NULL,
                        "margin": _NUMBER,
                        "price": _NUMBER,
                        "chosen": _BOOLEAN,
                        "why": {"enum": [why.value for why in Why]},
                    }
                )
            ),
        }
    ),
    "Model": _object(
        {
            "id": _STRING,
            "object": {"const": "model"},
            "created": _INTEGER,
            "owned_by": _STRING,
            "model": {**_STRING, "description": "The model that a tier stands for."},
            "dimensions": _INTEGER,
            "max_tokens": _INTEGER,
        },
        optional=["model", "dimensions", "max_tokens"],
    ),
    "ModelList": _object({"object": {"const": "list"}, "data": _array(_ref("Model"))}),
    "Tiers": _object(
        {
            "object": {"const": "list"},
            "policy": {"enum": list(get_args(Routing_.model_fields["policy"].annotation))},
            "tiers": {
                "type": "object",
                "additionalProperties": _STRING,
                "description": "The model that each tier stands for.",
            },
            "collections": {
                "type": "object",
                "description": "What each collection's name means as a request's space.",
            },
            "reload_error": {
                **_STRING_OR_NULL,
                "description": "That the last change of the config was not taken; to an admin why.",
            },
            "router": {
                **_STRING,
                "description": "The router replica that answers; loads and latencies are as it "
                "knows them.",
            },
            "routers": {**_INTEGER, "description": "How many router replicas there are."},
            "data": _array(
                _object(
                    {
                        "model": _STRING,
                        "tier": _TIER_OR_NULL,
                        "engine": {"enum": list(ENGINE_KINDS)},
                        "dimensions": _INTEGER,
                        "space": _STRING,
                        "sizes": _STRING,
                        "max_tokens": _INTEGER,
                        "answers": _INTEGER,
                        "quality": {"type": "object", "additionalProperties": _NUMBER},
                        "memory_bytes": {"type": ["integer", "null"]},
                        "devices": {
                            **_NUMBER,
                            "description": "Accelerators that one replica occupies.",
                        },
                        "matryoshka": {
                            "description": "Smaller sizes that may be asked for: a list, {min: "
                            "N} for all from N up, or null."
                        },
                        "p50_ms": _NUMBER_OR_NULL,
                        "p95_ms": _NUMBER_OR_NULL,
                        "predicted_ms": {
                            "type": "object",
                            "additionalProperties": _NUMBER,
                            "description": "For one text of so many tokens, now.",
                        },
                        "replicas_ready": _INTEGER,
                        "load": _object(
                            {
                                "ahead_tokens": _NUMBER,
                                "queued_tokens": _NUMBER,
                                "margin": _NUMBER,
                                "price": _NUMBER,
                            }
                        ),
                        "good_for": _STRING,
                        "fingerprint": {
                            **_STRING_OR_NULL,
                            "description": "What its replicas have proved to be.",
                        },
                    }
                )
            ),
        }
    ),
    "Comparison": _object(
        {"object": {"const": "comparison"}, "shadow": _OBJECT_OR_NULL, "canary": _OBJECT_OR_NULL}
    ),
    "Decisions": _object(
        {
            "object": {"const": "list"},
            "router": {**_STRING, "description": "The router replica whose decisions these are."},
            "routers": {**_INTEGER, "description": "How many router replicas there are."},
            "next": {
                **_STRING,
                "description": "What to send as `after` to see the ones that follow.",
            },
            "missed": {
                **_INTEGER,
                "description": "Later decisions that are not here: more than the limit, or than "
                "are kept.",
            },
            "data": _array(
                _object(
                    {
                        "id": _STRING,
                        "at_s": {**_NUMBER, "description": "Seconds since 1970."},
                        "tokens": {
                            "type": ["integer", "null"],
                            "description": "Of the texts that were not in the cache.",
                        },
                        "language": _STRING_OR_NULL,
                        "script": _STRING_OR_NULL,
                        "mixed": _BOOLEAN,
                        "code": _BOOLEAN,
                        "tier": {
                            **_STRING_OR_NULL,
                            "description": "As asked; null where a model or a space was named.",
                        },
                        "pinned": _BOOLEAN,
                        "input_type": _STRING_OR_NULL,
                        "budget_ms": _NUMBER_OR_NULL,
                        "model": _STRING_OR_NULL,
                        "target": _STRING_OR_NULL,
                        "reason": _STRING,
                        "degraded": _BOOLEAN,
                        "predicted_ms": _NUMBER_OR_NULL,
                        "actual_ms": _NUMBER_OR_NULL,
                        "outcome": {
                            **_STRING,
                            "description": "answered, cancelled, or the code of the error.",
                        },
                    }
                )
            ),
        }
    ),
    "Policy": {
        "type": "object",
        "properties": {
            "routing": {"type": "object", "description": "As `args.routing` of the config."},
            "tiers": {
                "type": "object",
                "additionalProperties": _STRING,
                "description": "As `args.tiers` of the config.",
            },
        },
        "additionalProperties": False,
    },
    "WhatIf": _object(
        {
            "object": {"const": "what_if"},
            "router": _STRING,
            "routers": _INTEGER,
            "since_s": _NUMBER_OR_NULL,
            "until_s": _NUMBER_OR_NULL,
            "requests": _INTEGER,
            "budgets": _INTEGER,
            "before": _SIDE,
            "after": _SIDE,
            "measured": _object(
                {"p50_ms": _NUMBER_OR_NULL, "p95_ms": _NUMBER_OR_NULL, "misses": _INTEGER}
            ),
            "moved": _array(
                _object(
                    {
                        "from": _STRING,
                        "to": _STRING,
                        "requests": _INTEGER,
                        "reasons": {"type": "object", "additionalProperties": _INTEGER},
                    }
                )
            ),
            "changed": {
                **_INTEGER,
                "description": "Decisions that differ in any detail, those that moved among them.",
            },
        }
    ),
    "Health": _object(
        {"status": {"enum": ["ok", "starting"]}, "waiting_for": _array(_STRING)},
        optional=["waiting_for"],
    ),
    "Error": _object(
        {
            "error": _object(
                {
                    "message": _STRING,
                    "type": {"enum": ["invalid_request_error", "rate_limit_error", "server_error"]},
                    "param": _STRING_OR_NULL,
                    "code": {"enum": sorted({error.code for error in _errors()})},
                }
            ),
        }
    ),
}
