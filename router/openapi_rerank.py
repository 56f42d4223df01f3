"""Reranking in the OpenAPI document: the request from router.rerank_schema, the answers from the
types below.
"""

from dataclasses import dataclass
from typing import Any, get_args

from pydantic import TypeAdapter

from router.openapi_headers import HEADERS, LIMITS, PARAMETERS
from router.openapi_schemas import REASON, REFERENCE, Json, ref
from router.rerank_config import Score
from router.rerank_schema import RerankBody

_OWN_PARAMETERS = ("X-Quality-Tier", "X-Latency-Budget-Ms")
OPTIONAL = ("document", "languages", "unread")  # left out where they have nothing to say
_TEXT = {
    "query": "capital of France",
    "documents": ["Paris is the capital of France.", "Cats sleep a lot."],
}


@dataclass
class RerankDocument:
    """A document of the request."""

    text: str


@dataclass
class RerankResult:
    """One document's place in the request, and its score."""

    index: int
    relevance_score: float
    document: RerankDocument  # where return_documents is true


@dataclass
class RerankUsage:
    """What the model read."""

    prompt_tokens: int
    total_tokens: int


@dataclass
class RerankRouting:
    """What was decided for the request; `score` says what its scores are."""

    model: str
    tier: str | None
    reason: str
    score: Score
    language: str | None
    tokens: int
    predicted_ms: float
    degraded: bool
    cached: int
    truncated: list[int]
    languages: dict[str, int]
    unread: float


@dataclass
class RerankResponse:
    """Documents by falling score, equal scores in the order of the request."""

    id: str
    model: str
    results: list[RerankResult]
    usage: RerankUsage
    routing: RerankRouting


@dataclass
class RerankerLoad:
    """What is happening at what computes the scores."""

    ahead_tokens: float
    margin: float


@dataclass
class Reranker:
    """A reranker, live."""

    model: str
    tier: str | None
    engine: str
    served_by: str
    score: Score
    max_tokens: int
    quality: dict[str, float]
    p50_ms: float | None
    p95_ms: float | None
    answers: int
    replicas_ready: int
    load: RerankerLoad
    good_for: str


def with_rerankers(schemas: Json) -> Json:
    """The document's schemas with those of reranking, and what it adds to the others."""
    body = RerankBody.model_json_schema(ref_template=REFERENCE)
    made: Json = {"RerankRequest": body, **body.pop("$defs")}
    for name, kind in (("RerankResponse", RerankResponse), ("Reranker", Reranker)):
        schema = TypeAdapter(kind).json_schema(ref_template=REFERENCE)
        made |= {name: schema, **schema.pop("$defs", {})}
    for schema in made.values():
        if "required" in schema:
            schema["required"] = [name for name in schema["required"] if name not in OPTIONAL]
    made["RerankRouting"]["properties"]["reason"] = dict(REASON)
    strings = {"type": "object", "additionalProperties": {"type": "string"}}
    rows = {"type": "array", "items": ref("Reranker")}
    task = {"enum": ["embed", "rerank"]}
    score = {"enum": list(get_args(Score))}
    decision = _grown(schemas["Decisions"]["properties"]["data"]["items"], {"task": task})
    decisions = {"type": "array", "items": decision}
    kinds = [*schemas["Model"]["properties"]["kind"]["enum"]]
    return {
        **schemas,
        **made,
        "Tiers": _grown(schemas["Tiers"], {"rerank_tiers": strings, "rerankers": rows}),
        "Decisions": _grown(schemas["Decisions"], {"data": decisions}),
        "Model": _grown(
            schemas["Model"],
            {"kind": {"enum": [*dict.fromkeys((*kinds, "rerank"))]}, "score": score},
            optional=True,
        ),
    }


def operation(rerankers: list[str], refused: Json) -> Json:
    """POST /v1/rerank; `refused` are its errors."""
    headers = {name: one for name, one in HEADERS.items() if name != "x-embedding-space"}
    example: Json = {"query": _TEXT["query"], "documents": _TEXT["documents"], "top_n": 1}
    named = {
        name: {"summary": "By one reranker", "value": {**example, "model": name}}
        for name in rerankers[:1]
    }
    return {
        "operationId": "rerank",
        "tags": ["reranking"],
        "summary": "Rank documents for a query",
        "description": "Cohere's and Jina's endpoint. One reranker reads all documents.",
        "parameters": [
            {"$ref": f"#/components/parameters/{name}"}
            for name in PARAMETERS
            if name in _OWN_PARAMETERS
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": ref("RerankRequest"),
                    "examples": {
                        "auto": {"summary": "The router chooses", "value": example},
                        **named,
                    },
                }
            },
        },
        "responses": {
            "200": {
                "description": "The documents by falling score, and how the request was routed.",
                "headers": {
                    name: {"description": text, "schema": schema}
                    for name, (text, schema) in headers.items()
                }
                | LIMITS,
                "content": {"application/json": {"schema": ref("RerankResponse")}},
            },
            **refused,
        },
    }


def _grown(schema: Any, properties: Json, optional: bool = False) -> Json:
    """An object's schema with more properties, which answers always have unless `optional`."""
    grown = {**schema, "properties": {**schema["properties"], **properties}}
    if not optional:
        grown["required"] = [*dict.fromkeys((*schema["required"], *properties))]
    return grown
