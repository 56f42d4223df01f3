"""Example bodies for the OpenAPI reference."""

from router.openapi_parts import body, content
from router.openapi_schemas import Json
from router.spaces import Catalogue


def request_body(catalogue: Catalogue) -> Json:
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
    given = {
        name: {"summary": summary, "value": value} for name, (summary, value) in examples.items()
    }
    return body(content("EmbeddingsRequest", examples=given))


def rerank_bodies(catalogue: Catalogue) -> Json:
    """Example rerank requests."""
    query = "capital of France"
    texts = ["Paris is the capital of France.", "Cats sleep a lot."]
    free = {"query": query, "documents": texts, "top_n": 1}
    named = {
        name: {"summary": "By one reranker", "value": {**free, "model": name}}
        for name in list(catalogue.rerankers)[:1]
    }
    return {
        "auto": {"summary": "The router chooses", "value": free},
        **named,
        "tei": {
            "summary": "As clients of Text Embeddings Inference send it",
            "value": {"query": query, "texts": texts},
        },
    }


def policy(catalogue: Catalogue) -> Json:
    tier = next(iter(catalogue.tiers)).value
    return {
        "routing": {
            "default_tier": tier,
            "rules": [{"name": "long", "when": {"min_tokens": 200}, "floor": tier}],
        }
    }


def response_example(catalogue: Catalogue) -> Json:
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
            "encoder": "native",
            "expected_recall": None,
            "canary": False,
        },
    }
