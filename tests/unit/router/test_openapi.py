import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import numpy as np
import pytest

from router.config import Limits, RouterArgs
from router.encoding import encode
from router.errors import (
    AmbiguousTokenIds,
    InternalError,
    Overloaded,
    RouterError,
    SpaceConflict,
    render,
)
from router.openapi import document, operations
from router.resolving import resolve
from router.routes import ROUTES
from router.schema import FIELDS, parse
from router.spaces import Catalogue


def catalogue(models: int = 2, require_space: bool = False) -> Catalogue:
    model = {"engine": {"kind": "fake"}, "dimensions": 8, "max_tokens": 64}
    names = ["small", "large"][:models]
    return Catalogue(
        RouterArgs.model_validate(
            {
                "models": dict.fromkeys(names, model),
                "tiers": {"fast": "small"},
                "routing": {"require_space": require_space},
            }
        )
    )


DOCUMENT = document(catalogue())


def schema(reference: dict[str, Any]) -> dict[str, Any]:
    return {**reference, "components": DOCUMENT["components"]}


def each_operation() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_it_is_json_and_an_openapi_3_1_document() -> None:
    from schemathesis.specs.openapi.definitions import OPENAPI_31  # takes a second to import

    jsonschema.Draft202012Validator(OPENAPI_31).validate(json.loads(json.dumps(DOCUMENT)))


def test_every_schema_is_a_json_schema_and_every_reference_leads_somewhere() -> None:
    for definition in DOCUMENT["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(definition)
    for reference in references(DOCUMENT):
        found: Any = DOCUMENT
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]


def test_the_table_of_routes_and_the_operations_have_the_same_handlers() -> None:
    assert operations(catalogue()).keys() == {route.handler for route in ROUTES}
    described = {(path, method): one for path, method, one in each_operation()}
    assert described.keys() == {(route.path, route.methods[0].lower()) for route in ROUTES}
    for route in ROUTES:
        one = described[route.path, route.methods[0].lower()]
        assert (one["summary"], one["tags"]) == (route.summary, [route.tag])
        assert route.summary
        assert route.tag
    names = [one["operationId"] for one in described.values()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "served", [catalogue(1), catalogue(2), catalogue(2, True)], ids=["one", "two", "space required"]
)
def test_every_example_request_is_accepted_by_the_service_and_by_the_schema(
    served: Catalogue,
) -> None:
    content = document(served)["paths"]["/v1/embeddings"]["post"]["requestBody"]["content"][
        "application/json"
    ]
    for example in content["examples"].values():
        jsonschema.Draft202012Validator(schema(content["schema"])).validate(example["value"])
        resolve(served, parse(json.dumps(example["value"]).encode(), {}, Limits()))


def test_the_request_is_the_one_that_is_parsed() -> None:
    body = DOCUMENT["components"]["schemas"]["EmbeddingsRequest"]
    assert tuple(body["properties"]) == FIELDS
    assert body["properties"]["model"]["examples"] == ["small", "large", "auto", "fast"]


@pytest.mark.parametrize("encoding_format", ["float", "base64", "binary"])
def test_an_encoded_response_is_what_is_documented(encoding_format: Any) -> None:
    content = DOCUMENT["paths"]["/v1/embeddings"]["post"]["responses"]["200"]["content"][
        "application/json"
    ]
    routing = content["example"]["routing"]
    validator = jsonschema.Draft202012Validator(schema(content["schema"]))
    validator.validate(json.loads(encode(np.eye(8, dtype=np.float32), encoding_format, routing, 1)))
    validator.validate(content["example"])
    assert not validator.is_valid({**content["example"], "routing": {}})


@pytest.mark.parametrize(
    "error",
    [
        AmbiguousTokenIds(),
        SpaceConflict("space and model disagree"),
        Overloaded("small", 1.0),
        InternalError(),
    ],
    ids=lambda error: error.code,
)
def test_an_error_is_what_is_documented_under_its_status(error: RouterError) -> None:
    response = DOCUMENT["components"]["responses"][str(error.status)]
    validator = jsonschema.Draft202012Validator(
        schema(response["content"]["application/json"]["schema"])
    )
    validator.validate(json.loads(render(error)))
    assert not validator.is_valid(
        {"error": {"message": "", "type": "", "param": None, "code": "unheard_of"}}
    )
    assert error.code in response["description"]
    assert {name.lower() for name in response.get("headers", {})} == set(error.headers) - {
        "x-should-retry"
    }
