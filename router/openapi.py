"""The service as an OpenAPI 3.1 document, with the models and spaces of its own config in the
examples.

The request comes from router.schema, the `routing` object from router.encoding, the errors from
router.errors; only what no class of ours describes is written here.
"""

import json
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

from pydantic import TypeAdapter

from router.encoding import OPTIONAL, Routing
from router.error_samples import SAMPLES
from router.errors import RouterError, render
from router.openapi_batches import batch_operations, batch_schemas
from router.openapi_examples import policy, request_body, response_example
from router.openapi_headers import HEADERS, LIMITS, PARAMETERS
from router.openapi_rerank import operation as rerank
from router.openapi_rerank import with_rerankers
from router.openapi_routing import ROUTING
from router.openapi_schemas import (
    REASON,
    REFERENCE,
    SCHEMAS,
    STRING,
    TIER_OR_NULL,
    Json,
    errors,
    ref,
)
from router.openapi_shapes import shape_operations, shape_schemas
from router.routes import ROUTES, Caller, paths_of
from router.schema import EmbeddingsBody
from router.spaces import Catalogue

_ON_REQUEST = (400, 401, 403, 404, 408, 409, 413, 429, 431, 500, 503, 504)
_ON_READ = (401, 500)
_ON_ADMIN = (401, 403, 500)


def document(catalogue: Catalogue) -> Json:
    """The whole document, ready for JSON."""
    body = EmbeddingsBody.model_json_schema(ref_template=REFERENCE)
    routing = _routing()
    schemas = {
        "EmbeddingsRequest": body,
        **body.pop("$defs"),
        **with_rerankers(SCHEMAS),
        **shape_schemas(),
        **batch_schemas(),
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
                for status in sorted({error.status for error in errors()})
            },
            "parameters": PARAMETERS,
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
    """The routes of the table, each described by its operation."""
    operations = _operations(catalogue)
    paths: Json = {}
    for route in ROUTES:
        operation = operations[route.handler]
        first, *aliases = paths_of(route.handler)
        if route.path in aliases:
            place = aliases.index(route.path) + 1
            name = f"{operation['operationId']}Alias{'' if place == 1 else place}"
            operation = {
                **operation,
                "operationId": name,
                "description": f"The same as {first}.",
            }
        if route.caller is Caller.ANYONE:
            operation = {**operation, "security": [{}]}
        paths.setdefault(route.path, {})[route.methods[0].lower()] = operation
    return paths


def _operations(catalogue: Catalogue) -> Json:
    """What each handler does, by its name in router/routes.py."""
    embeddings = {
        "summary": "Embed texts",
        "description": "OpenAI's endpoint. All texts of a request are embedded by one model, in "
        "one vector space.",
        "requestBody": request_body(catalogue),
        "parameters": [{"$ref": f"#/components/parameters/{name}"} for name in PARAMETERS],
        "responses": {
            "200": {
                "description": "The vectors in the order of the input, and how the request was "
                "routed.",
                "headers": {
                    name: {"description": text, "schema": schema}
                    for name, (text, schema) in HEADERS.items()
                }
                | LIMITS,
                "content": {
                    "application/json": {
                        "schema": ref("EmbeddingsResponse"),
                        "example": response_example(catalogue),
                    }
                },
            },
            **_refused(_ON_REQUEST),
        },
    }
    return {
        **shape_operations(_ON_REQUEST, embeddings),
        "embed": {"operationId": "embed", "tags": ["embeddings"], **embeddings},
        "rerank": rerank(list(catalogue.rerankers), _refused(_ON_REQUEST)),
        "explain": {
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
        },
        "models": {
            "operationId": "listModels",
            "tags": ["models"],
            "summary": "List models and tiers",
            "responses": {
                "200": _json_response("Everything that `model` may be.", "ModelList"),
                **_refused(_ON_READ),
            },
        },
        "model": {
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
        },
        "tiers": {
            "operationId": "listTiers",
            "tags": ["routing"],
            "summary": "Show the decision matrix, live",
            "description": "What each model can do, what it costs, and what is happening at "
            "it now.",
            "responses": {
                "200": _json_response("One row a model, from small to large.", "Tiers"),
                **_refused(_ON_READ),
            },
        },
        "compare": {
            "operationId": "compare",
            "tags": ["routing"],
            "summary": "Show what a shadow or a canary has found on live traffic",
            "description": "What `compare:` of the config asks for, as this router replica "
            "has counted it since it began.",
            "responses": {
                "200": _json_response("Both; null where none runs.", "Comparison"),
                **_refused(_ON_ADMIN),
            },
        },
        "decisions": {
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
                    "schema": STRING,
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
        },
        "policy": {
            "operationId": "getPolicy",
            "tags": ["routing"],
            "summary": "Show the routing rules in force, ready to be edited and posted back",
            "responses": {
                "200": {
                    "description": "`routing:` and `tiers:`.",
                    "content": {"application/yaml": {"schema": ref("Policy")}},
                },
                **_refused(_ON_ADMIN),
            },
        },
        "what_if": {
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
                        "schema": ref("Policy"),
                        "example": policy(catalogue),
                    },
                    "application/yaml": {"schema": ref("Policy")},
                },
            },
            "responses": {
                "200": _json_response("What would have moved.", "WhatIf"),
                **_refused((400, 413, *_ON_ADMIN)),
            },
        },
        "health": {
            "operationId": "health",
            "tags": ["health"],
            "summary": "Say whether every model that must be ready is",
            "responses": {
                "200": _json_response("Ready.", "Health"),
                "503": _json_response("Not ready; names the models that are missing.", "Health"),
                **_refused((401,)),
            },
        },
        "live": {
            "operationId": "live",
            "tags": ["health"],
            "summary": "Say that the router runs",
            "responses": {"200": _json_response("It runs.", "Health"), **_refused((401,))},
        },
        "reference": {
            "operationId": "document",
            "tags": ["pages"],
            "summary": "This document",
            "responses": {
                "200": {
                    "description": "OpenAPI 3.1.",
                    "content": {"application/json": {"schema": {"type": "object"}}},
                },
                **_refused((401,)),
            },
        },
        **batch_operations(),
        "console": _page("console", "The console: a page to try requests and watch decisions"),
        "docs": _page("docs", "This document as a page"),
    }


def _routing() -> Json:
    made = TypeAdapter(Routing).json_schema(mode="serialization", ref_template=REFERENCE)
    # Clients are generated from this document: the schema keeps the name that it was published by.
    schema: Json = json.loads(json.dumps(made).replace("AdapterUse", "Crossing"))
    schema["required"] = [name for name in schema["properties"] if name not in OPTIONAL]
    schema["properties"]["reason"] = dict(REASON)
    schema["properties"]["tier"] = dict(TIER_OR_NULL)
    for name, text in ROUTING.items():
        schema["properties"][name]["description"] = text
    return schema


def summary(error: type[RouterError]) -> str:
    """The first paragraph of its docstring, on one line."""
    return " ".join((error.__doc__ or "").partition("\n\n")[0].split())


def _error_response(status: int) -> Json:
    refusals = [error for error in errors() if error.status == status]
    response: Json = {
        "description": " ".join(f"`{error.code}`: {summary(error)}" for error in refusals),
        "content": {
            "application/json": {
                "schema": {
                    "allOf": [
                        ref("Error"),
                        {
                            "properties": {
                                "error": {
                                    "properties": {
                                        "code": {"enum": [error.code for error in refusals]}
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
    return {"description": description, "content": {"application/json": {"schema": ref(schema)}}}


def _page(operation: str, summary: str) -> Json:
    html = {"description": "A web page.", "content": {"text/html": {"schema": {"type": "string"}}}}
    responses = {"200": html, **_refused((401,))}
    return {
        "operationId": operation,
        "tags": ["pages"],
        "summary": summary,
        "responses": responses,
    }


def _version() -> str:
    try:
        return version("embedding-router")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "0"
