"""Response models of other embedding APIs, for the OpenAPI reference."""

from typing import Literal, NotRequired

from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from router.answers import Routing

Numbers = list[list[float]]


class CohereEmbeddings(BaseModel):
    """A list of vectors for each requested type."""

    float_: Numbers | None = Field(None, alias="float")
    int8: list[list[int]] | None = None
    uint8: list[list[int]] | None = None
    binary: list[list[int]] | None = None
    ubinary: list[list[int]] | None = None
    base64: list[str] | None = None


class BilledUnits(BaseModel):
    """Tokens that the model read."""

    input_tokens: int


class CohereMeta(BaseModel):
    """The cost of a request."""

    api_version: dict[str, str]
    billed_units: BilledUnits


class CohereEmbedResponse(BaseModel):
    """Cohere's response with the routing decision."""

    id: str
    embeddings: CohereEmbeddings
    texts: list[str]
    meta: CohereMeta
    response_type: Literal["embeddings_by_type"]
    routing: Routing


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


class TeiRank(TypedDict):
    """One text's place in the request, and its score; the text where return_text is true."""

    index: int
    score: float
    text: NotRequired[str]


class TeiError(BaseModel):
    """An error of Text Embeddings Inference."""

    error: str
    error_type: Literal["validation", "overloaded", "unhealthy", "backend"]
