"""The operations of reranking and of other embedding APIs in the OpenAPI reference."""

from router.openapi_examples import rerank_bodies
from router.openapi_parts import (
    BY_HEADER,
    HEADERS,
    OF_VECTORS,
    ON_REQUEST,
    answer,
    body,
    content,
    in_path,
    operation,
    query,
)
from router.openapi_schemas import Json, ref
from router.spaces import Catalogue


def one_of(*names: str) -> Json:
    """A schema that is one of those named."""
    return {"oneOf": [ref(name) for name in names]}


def rerank(catalogue: Catalogue) -> Json:
    """The operation of `rerank`."""
    headers = {name: header for name, header in HEADERS.items() if name not in OF_VECTORS}
    ranked = one_of("RerankResponse", "TeiRerankResponse")
    made = operation(
        "rerank",
        answer("The documents by falling score, and how the request was routed.", ranked)
        | {"headers": headers},
        description="Cohere's and Jina's endpoint. One reranker reads all documents. A body with "
        "`texts` is one of Text Embeddings Inference, and has its answers and errors.",
        parameters=[field for field in BY_HEADER if not field["$ref"].endswith("Space")],
        requestBody=body(
            content(
                one_of("RerankRequest", "TeiRerankRequest"),
                examples=rerank_bodies(catalogue),
            )
        ),
    )
    made["responses"] |= _refused(one_of("Error", "TeiError"))
    return made


def shape_operations(embeddings: Json, model: str) -> Json:
    """The operation of each handler, by its name in router/routes.py; `embeddings` is OpenAI's,
    `model` an example.
    """
    return {
        "azure_embed": {
            **embeddings,
            "operationId": "azureEmbed",
            "description": "OpenAI's endpoint with the name of the model in the path.",
            "parameters": [
                in_path("model", example=model),
                query("api-version", {"type": "string"}),
                *BY_HEADER,
            ],
        },
        **{f"{name.lower()}_embed": _shape(name) for name in ("Cohere", "Ollama", "Tei")},
    }


def _shape(name: str) -> Json:
    vectors = answer("The vectors in the order of the texts.", f"{name}EmbedResponse")
    made = operation(
        f"{name.lower()}Embed",
        vectors | {"headers": HEADERS},
        description="A translation of /v1/embeddings; headers and errors are those of a request "
        "there, errors in this API's form.",
        parameters=BY_HEADER,
        requestBody=body(content(f"{name}EmbedRequest")),
    )
    made["responses"] |= _refused(ref(f"{name}Error"))
    return made


def _refused(schema: Json) -> Json:
    return {str(status): answer("Refused.", schema) for status in ON_REQUEST}
