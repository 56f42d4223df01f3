"""The operations of other embedding APIs in the reference."""

from typing import Any, Literal

from pydantic import BaseModel, Field, TypeAdapter

from router.openapi_schemas import REFERENCE, Json, ref
from router.shapes.cohere import CohereEmbedRequest
from router.shapes.ollama import OllamaEmbedRequest
from router.shapes.tei import TeiEmbedRequest

Numbers = list[list[float]]


class CohereEmbeddings(BaseModel):
    """A list of vectors for each type that was named."""

    float_: Numbers | None = Field(None, alias="float")
    int8: list[list[int]] | None = None
    uint8: list[list[int]] | None = None
    binary: list[list[int]] | None = None
    ubinary: list[list[int]] | None = None
    base64: list[str] | None = None


class BilledUnits(BaseModel):
    """What the model read."""

    input_tokens: int


class CohereMeta(BaseModel):
    """What a request cost."""

    api_version: dict[str, str]
    billed_units: BilledUnits


class CohereEmbedResponse(BaseModel):
    """Cohere's answer, and how the request was routed."""

    id: str
    embeddings: CohereEmbeddings
    texts: list[str]
    meta: CohereMeta
    response_type: Literal["embeddings_by_type"]
    routing: dict[str, Any]


class CohereError(BaseModel):
    """Cohere's error."""

    message: str


class OllamaEmbedResponse(BaseModel):
    """Ollama's answer; `model` is the one that embedded the texts."""

    model: str
    embeddings: Numbers
    prompt_eval_count: int


class OllamaError(BaseModel):
    """Ollama's error."""

    error: str


class TeiError(BaseModel):
    """An error of Text Embeddings Inference."""

    error: str
    error_type: Literal["validation", "overloaded", "unhealthy", "backend"]


_MODELS: tuple[type[BaseModel], ...] = (
    CohereEmbedRequest,
    CohereEmbedResponse,
    CohereError,
    OllamaEmbedRequest,
    OllamaEmbedResponse,
    OllamaError,
    TeiEmbedRequest,
    TeiError,
)


def shape_schemas() -> Json:
    """The schemas of the other APIs by name."""
    schemas: Json = {"TeiEmbedResponse": TypeAdapter(Numbers).json_schema()}
    for model in _MODELS:
        request = model.__name__.endswith("Request")
        mode: Literal["validation", "serialization"] = "validation" if request else "serialization"
        schema = model.model_json_schema(ref_template=REFERENCE, mode=mode)
        schemas |= schema.pop("$defs", {})
        schemas[model.__name__] = schema
    schemas["CohereEmbedResponse"]["properties"]["routing"] = ref("Routing")
    return schemas


def shape_operations(statuses: tuple[int, ...], embeddings: Json) -> Json:
    """What each handler does, by its name in router/routes.py; `embeddings` is OpenAI's."""
    return {
        "azure_embed": {
            **embeddings,
            "operationId": "azureEmbed",
            "tags": ["embeddings"],
            "summary": "Embed texts, as Azure's clients ask for it",
            "description": "OpenAI's endpoint with the name of the model in the path.",
            "parameters": [
                {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}},
                {"name": "api-version", "in": "query", "schema": {"type": "string"}},
                *embeddings["parameters"],
            ],
        },
        "cohere_embed": _operation("Cohere", "CohereError", statuses, embeddings),
        "ollama_embed": _operation("Ollama", "OllamaError", statuses, embeddings),
        "tei_embed": _operation("Tei", "TeiError", statuses, embeddings),
    }


def _operation(name: str, error: str, statuses: tuple[int, ...], embeddings: Json) -> Json:
    def body(schema: str) -> Json:
        return {"application/json": {"schema": ref(schema)}}

    refused = {"description": "Refused.", "content": body(error)}
    headers = embeddings["responses"]["200"]["headers"]
    return {
        "operationId": f"{name.lower()}Embed",
        "tags": ["embeddings"],
        "summary": f"Embed texts, as {name}'s clients ask for it",
        "description": "A translation of /v1/embeddings; headers and errors are those of a request "
        "there, errors in this API's form.",
        "parameters": embeddings["parameters"],
        "requestBody": {"required": True, "content": body(f"{name}EmbedRequest")},
        "responses": {
            "200": {
                "description": "The vectors in the order of the texts.",
                "headers": headers,
                "content": body(f"{name}EmbedResponse"),
            },
            **{str(status): refused for status in statuses},
        },
    }
