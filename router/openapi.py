"""Describe the service as an OpenAPI 3.1 document; its examples use the configured models and
spaces.
"""

import copy
import json
from importlib.metadata import PackageNotFoundError, version

from router.error_samples import SAMPLES
from router.errors import RouterError, render
from router.openapi_batches import batch_operations
from router.openapi_examples import policy, request_body, response_example
from router.openapi_parts import (
    BY_HEADER,
    HEADERS,
    IGNORED,
    ON_ADMIN,
    ON_READ,
    ON_REQUEST,
    PARAMETERS,
    RETRY,
    STRING,
    answer,
    body,
    content,
    in_path,
    operation,
    query,
)
from router.openapi_schemas import SCHEMAS, Json, ref
from router.openapi_shapes import rerank, shape_operations
from router.routes import ROUTES, Audience, paths_of
from router.spaces import Catalogue

_KEYS: Json = {
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
}


def document(catalogue: Catalogue) -> Json:
    """The complete document, ready for JSON."""
    request = copy.deepcopy(SCHEMAS["EmbeddingsRequest"])
    request["properties"]["model"]["examples"] = list(catalogue.names)
    statuses = sorted({error.status for error in RouterError.__subclasses__()})
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "embedding-router",
            "version": _version(),
            "description": "OpenAI-compatible embeddings. Each request goes to the model that "
            "serves it best now; every vector says which vector space it belongs to, and a caller "
            "can pin one. A path of `/v1` may begin with `/in/COLLECTION`, `/in/COLLECTION/query` "
            "or `/in/COLLECTION/document`, which set what `space` and `input_type` set.",
        },
        "security": [{"apiKey": []}, {"azureKey": []}, {}],
        "paths": _paths(catalogue),
        "components": {
            "schemas": {**SCHEMAS, "EmbeddingsRequest": request},
            "responses": {str(status): _error_response(status) for status in statuses},
            "parameters": PARAMETERS,
            "securitySchemes": _KEYS,
        },
    }


def _paths(catalogue: Catalogue) -> Json:
    """The routes of the table, each described by its operation."""
    described = operations(catalogue)
    paths: Json = {}
    for route in ROUTES:
        operation = {
            "tags": [route.tag],
            "summary": route.summary,
            **described[route.handler],
        }
        first, *aliases = paths_of(route.handler)
        if route.path in aliases:
            place = aliases.index(route.path) + 1
            name = f"{operation['operationId']}Alias{'' if place == 1 else place}"
            operation = {
                **operation,
                "operationId": name,
                "description": f"The same as {first}.",
            }
        if route.caller is Audience.ANYONE:
            operation = {**operation, "security": [{}]}
        paths.setdefault(route.path, {})[route.methods[0].lower()] = operation
    return paths


def operations(catalogue: Catalogue) -> Json:
    """The operation of each handler, by its name in router/routes.py."""
    vectors = {
        "description": "The vectors in the order of the input, and how the request was routed.",
        "headers": HEADERS,
        "content": content("EmbeddingsResponse", example=response_example(catalogue)),
    }
    embeddings = operation(
        "embed",
        vectors,
        ON_REQUEST,
        description="OpenAI's endpoint. All texts of a request are embedded by one model, in one "
        "vector space.",
        requestBody=request_body(catalogue),
        parameters=BY_HEADER,
    )
    page = answer("A web page.", STRING, "text/html")
    return {
        **shape_operations(embeddings, next(iter(catalogue.models))),
        "embed": embeddings,
        "rerank": rerank(catalogue),
        "explain": operation(
            "route",
            answer("The decision.", "Route") | IGNORED,
            ON_REQUEST,
            description="The body of /v1/embeddings; answers the decision and why each other "
            "model was not chosen.",
            requestBody=embeddings["requestBody"],
            parameters=BY_HEADER,
        ),
        "models": operation(
            "listModels",
            answer("Everything that `model` may be.", "ModelList"),
            ON_READ,
        ),
        "model": operation(
            "getModel",
            answer("The model.", "Model"),
            (404, *ON_READ),
            description="An id may be written without case, with its hub prefix, and with `/` as "
            "it is.",
            parameters=[in_path("id", example=next(iter(catalogue.models)))],
        ),
        "tiers": operation(
            "listTiers",
            answer("One row a model, from small to large.", "Tiers"),
            ON_READ,
            description="What each model can do, what it costs, and what is happening at it now.",
        ),
        "compare": operation(
            "compare",
            answer("The shadow and the canary; null if one is not running.", "Comparison"),
            ON_ADMIN,
            description="What `compare:` of the config asks for, as this router replica has "
            "counted it since it began.",
        ),
        "decisions": operation(
            "listDecisions",
            answer("The decisions.", "Decisions"),
            (400, *ON_ADMIN),
            description="Oldest first, never with a text. Router replicas share nothing: the "
            "answer says whose decisions it has, and of how many routers. To see those of all, "
            "poll with the `next` of every router that has answered.",
            parameters=[
                query(
                    "after",
                    STRING,
                    example="5f0c2a9e:17",
                    description="Only later ones: the last `next` of each router, separated by "
                    "commas.",
                ),
                query(
                    "limit",
                    {"type": "integer", "minimum": 1, "maximum": 200, "default": 100},
                    description="At most so many, the newest.",
                ),
            ],
        ),
        "policy": operation(
            "getPolicy",
            answer("`routing:` and `tiers:`.", "Policy", "application/yaml"),
            ON_ADMIN,
        ),
        "what_if": operation(
            "whatIf",
            answer("What would have moved.", "WhatIf"),
            (400, 413, *ON_ADMIN),
            description="`routing:`, `tiers:` or both, as in the config file; what is left out "
            "stays as it is. Changes nothing. Each request meets the loads of its own moment, so "
            "times are predictions; `require_space` refuses requests before they are decided and "
            "is not replayed.",
            requestBody=body(
                content("Policy", example=policy(catalogue)) | content("Policy", "application/yaml")
            ),
        ),
        "health": _health(),
        "live": operation("live", answer("It runs.", "Health"), (401,)),
        "reference": operation("document", answer("OpenAPI 3.1.", {"type": "object"}), (401,)),
        **batch_operations(),
        "console": operation("console", page, (401,)),
        "docs": operation("docs", page, (401,)),
    }


def _health() -> Json:
    made = operation(
        "health",
        answer("Ready.", "Health"),
        (401,),
    )
    made["responses"]["503"] = answer("Not ready; names the models that are missing.", "Health")
    return made


def summary(error: type[RouterError]) -> str:
    """The first paragraph of the error's docstring, on one line."""
    return " ".join((error.__doc__ or "").partition("\n\n")[0].split())


def _error_response(status: int) -> Json:
    refusals = [error for error in RouterError.__subclasses__() if error.status == status]
    codes = {"code": {"enum": [error.code for error in refusals]}}
    examples = {
        error.code: {"value": json.loads(render(error))}
        for error in SAMPLES
        if error.status == status
    }
    schema = {"allOf": [ref("Error"), {"properties": {"error": {"properties": codes}}}]}
    return {
        "description": " ".join(f"`{error.code}`: {summary(error)}" for error in refusals),
        "content": content(schema, examples=examples),
        **({"headers": RETRY} if status in (429, 503) else {}),
    }


def _version() -> str:
    try:
        return version("embedding-router")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "0"
