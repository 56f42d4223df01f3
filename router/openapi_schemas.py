"""The schemas of the OpenAPI reference, generated from the types of requests and answers."""

from typing import Any, Literal

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from router import answers, reports
from router.batch_objects import BatchList, FileDeleted, FileList
from router.batches import BatchBody
from router.rerank_schema import RerankBody
from router.schema import EmbeddingsBody
from router.shapes import answers as shapes
from router.shapes.cohere import CohereEmbedRequest
from router.shapes.ollama import OllamaEmbedRequest
from router.shapes.tei import TeiEmbedRequest, TeiRerankRequest
from router.usage import Usage

Json = dict[str, Any]

REFERENCE = "#/components/schemas/{model}"
_REQUESTS: dict[str, Any] = {
    "EmbeddingsRequest": EmbeddingsBody,
    "RerankRequest": RerankBody,
    "BatchRequest": BatchBody,
    "CohereEmbedRequest": CohereEmbedRequest,
    "OllamaEmbedRequest": OllamaEmbedRequest,
    "TeiEmbedRequest": TeiEmbedRequest,
    "TeiRerankRequest": TeiRerankRequest,
}
_ANSWERS: dict[str, Any] = {
    "EmbeddingsResponse": answers.EmbeddingsResponse,
    "RerankResponse": answers.RerankResponse,
    "Route": answers.RouteExplanation,
    "Model": answers.ModelObject,
    "ModelList": answers.ModelListResponse,
    "Tiers": reports.Tiers,
    "Comparison": reports.ComparisonReport,
    "Decisions": reports.Decisions,
    "Policy": reports.PolicyReport,
    "WhatIf": reports.WhatIfReport,
    "Health": reports.Health,
    "Error": answers.Error,
    "FileList": FileList,
    "FileDeleted": FileDeleted,
    "BatchList": BatchList,
    "Usage": Usage,
    "CohereEmbedResponse": shapes.CohereEmbedResponse,
    "CohereError": shapes.CohereError,
    "OllamaEmbedResponse": shapes.OllamaEmbedResponse,
    "OllamaError": shapes.OllamaError,
    "TeiEmbedResponse": shapes.Numbers,
    "TeiRerankResponse": list[shapes.TeiRank],
    "TeiError": shapes.TeiError,
}
# clients are generated from the document, so types keep the names that were published
_PUBLISHED = {"AdapterUse": "Crossing", "ModelObject": "Model"}


class _WithoutTitles(GenerateJsonSchema):
    """A generator that omits titles, which only repeat the names of fields."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def ref(name: str) -> Json:
    """A reference to a schema."""
    return {"$ref": REFERENCE.format(model=name)}


def _schemas() -> Json:
    """All schemas by name."""
    made: Json = {}
    kinds: tuple[tuple[dict[str, Any], Literal["validation", "serialization"]], ...] = (
        (_REQUESTS, "validation"),
        (_ANSWERS, "serialization"),
    )
    for types, mode in kinds:
        for name, kind in types.items():
            schema = TypeAdapter(kind).json_schema(
                ref_template=REFERENCE, mode=mode, schema_generator=_WithoutTitles
            )
            inner = schema.pop("$defs", {})
            for each, item in {**inner, name: schema}.items():
                if not each.startswith("_"):
                    published = _PUBLISHED.get(each, each)
                    title = {"title": published} if "title" in item else {}
                    made[published] = _in_place(item, inner) | title
    return made


def _in_place(value: Any, inner: Json) -> Any:
    """Inline the schemas of private types where they are used."""
    if isinstance(value, list):
        return [_in_place(item, inner) for item in value]
    if not isinstance(value, dict):
        return value
    reference = value.get("$ref")
    if isinstance(reference, str):
        name = reference.rpartition("/")[2]
        if name.startswith("_"):
            rest = {key: entry for key, entry in value.items() if key != "$ref"}
            return _in_place(inner[name] | rest, inner)
        return value | ref(_PUBLISHED.get(name, name))
    return {key: _in_place(entry, inner) for key, entry in value.items()}


SCHEMAS = _schemas()
