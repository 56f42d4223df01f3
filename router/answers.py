"""Response bodies for embeddings, rankings and model names.

The reference is generated from these types, and a test checks real responses against them
(tests/http/test_reference.py). The text below a field is its description in the reference. A
`NotRequired` field is left out when it does not apply.
"""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, WithJsonSchema, with_config
from typing_extensions import TypedDict

from router.domain import Reason, Tier, Why
from router.encoders import EncoderKind
from router.errors import RouterError
from router.rerank_config import Score
from router.schema import Priority, Source

described = with_config(ConfigDict(use_attribute_docstrings=True))

_REASONS = "|".join(reason for reason in Reason if reason is not Reason.RULE)
_CODES = sorted({error.code for error in RouterError.__subclasses__()})
ReasonLabel = Annotated[str, Field(pattern=f"^({_REASONS}|rule:[a-z0-9-]+)$")]
_TIERS = [*(tier.value for tier in Tier if tier is not Tier.AUTO), None]
TierName = Annotated[str | None, WithJsonSchema({"enum": _TIERS, "type": ["string", "null"]})]
WhyText = Annotated[str, WithJsonSchema({"enum": [why.value for why in Why]})]
ErrorCode = Annotated[str, WithJsonSchema({"enum": _CODES})]


def _default(value: Any) -> Any:
    """A default that the reference documents, although the field is always present."""
    return Field(json_schema_extra={"default": value})


NumberList = Annotated[list[float], Field(title="float")]
Bytes = Annotated[
    str,
    Field(
        title="every other encoding_format, as base64 bytes",
        json_schema_extra={"contentEncoding": "base64"},
    ),
]


@described
class AdapterUse(TypedDict):
    """The adapter that vectors came over into a space that is not their model's own."""

    source: str
    """The space they came from."""
    expected_recall: float
    """Share of the recall@10 of the best search that these queries keep, as measured; if that space
    was not compared with the best one, of a search in it."""


@described
class _Decided(TypedDict):
    """The routing decision for a request."""

    model: str
    """The model that read the texts."""
    tier: TierName
    """The tier that names this model."""
    reason: ReasonLabel
    """Reason for this model: pinned, tier, rule:NAME, auto, quality, context, unavailable, budget
    or late."""
    language: str | None
    """ISO 639-1 code of the texts, null if it is not known."""
    tokens: int
    """Tokens that the model read, including prompts and special tokens."""
    degraded: bool
    """The model has fewer points of quality for this text than the target; where the config gives
    no figure, it is smaller."""
    cached: int
    """The number of texts whose vectors came from the cache."""


@described
class Routing(_Decided):
    """The `routing` object of a response: the routing decision."""

    space: str
    """MODEL/DIMENSIONS: compare only vectors of the same space."""
    predicted_ms: float | None
    """The predicted duration of the request."""
    truncated: Annotated[list[int], _default([])]
    """Indices of the texts that were cut."""
    adapter: Annotated[AdapterUse | None, _default(None)]
    """The adapter that the vectors came over from another model's space, and the share of recall
    that it keeps."""
    encoder: Annotated[EncoderKind, _default("native")]
    """Relation of the model to the space: native (its own), same (the same weights
    elsewhere), adapter or student."""
    expected_recall: Annotated[float | None, _default(None)]
    """Share of the recall@10 of the best search that these queries keep, as measured; null where
    the model is native, and where the space was not compared with the best one."""
    canary: Annotated[bool, _default(False)]
    """Decided by the rules that are being tried, not by the usual ones."""
    languages: NotRequired[Annotated[dict[str, int] | None, _default(None)]]
    """Texts by language, for a list of several texts."""
    unread: NotRequired[Annotated[float | None, _default(None)]]
    """Share of the texts' tokens that the model does not know, where there are any."""
    elapsed_ms: NotRequired[Annotated[float | None, _default(None)]]
    """If reason is late: the time from the request's arrival to the decision, which was already
    gone from its latency budget."""
    recall_measured_for: NotRequired[Annotated[list[str] | None, _default(None)]]
    """Languages for which expected_recall was measured, where a text has another one: the figure
    is that of all queries measured."""


class _Usage(TypedDict):
    prompt_tokens: int
    total_tokens: int


class _Embedding(TypedDict):
    object: Literal["embedding"]
    index: int
    embedding: NumberList | Bytes


class EmbeddingsResponse(TypedDict):
    """OpenAI's response with the routing decision."""

    object: Literal["list"]
    data: list[_Embedding]
    model: str
    usage: _Usage
    routing: Routing


class RerankDocument(TypedDict):
    """A document of the request."""

    text: str


@described
class RerankResult(TypedDict):
    """One document's place in the request, and its score."""

    index: int
    relevance_score: float
    document: NotRequired[RerankDocument]
    """Only if return_documents is true."""


class RerankUsage(_Usage):
    """Tokens that the model read."""


@described
class RerankRouting(_Decided):
    """The routing decision for the request."""

    predicted_ms: float
    """The predicted duration of the request."""
    score: Score
    """The scale of the scores."""
    truncated: list[int]
    """Indices of the documents that were cut."""
    languages: NotRequired[dict[str, int]]
    """Documents by language, for several documents."""
    unread: NotRequired[float]
    """Share of the texts' tokens that the model does not know, where there are any."""
    elapsed_ms: NotRequired[float]
    """If reason is late: the time from the request's arrival to the decision, which was already
    gone from its latency budget."""


class RerankResponse(TypedDict):
    """Documents by falling score, equal scores in the order of the request."""

    id: str
    model: str
    results: list[RerankResult]
    usage: RerankUsage
    routing: RerankRouting


@described
class _Features(TypedDict):
    tokens: int
    language: str | None
    script: str | None
    mixed: bool
    code: bool
    languages: NotRequired[dict[str, int]]
    """Texts by language, for a list of several texts."""


@described
class _Decision(TypedDict):
    model: str | None
    tier: TierName
    reason: ReasonLabel
    space: str | None
    predicted_ms: float | None
    degraded: bool
    canary: bool
    encoder: Literal["native", "same", "adapter", "student", None]
    expected_recall: float | None
    unread: NotRequired[float]
    """As routing.unread of an answer."""
    elapsed_ms: float
    """Time from the request's arrival to the decision, gone from its latency budget."""
    recall_measured_for: NotRequired[list[str]]
    """As routing.recall_measured_for of an answer."""


_Text = TypedDict("_Text", {"value": str | None, "from": Source})
_Number = TypedDict("_Number", {"value": float | None, "from": Source})
_PriorityValue = TypedDict("_PriorityValue", {"value": Priority, "from": Source})
_Quality = TypedDict(
    "_Quality", {"value": Literal["auto", "fast", "balanced", "best"], "from": Source}
)


class _Settings(TypedDict):
    space: _Text
    input_type: _Text
    quality: _Quality
    latency_budget_ms: _Number
    priority: _PriorityValue


@described
class _Candidate(TypedDict):
    model: str
    predicted_ms: float | None
    wait_ms: float | None
    work_ms: float | None
    margin: float
    chosen: bool
    why: WhyText
    space: NotRequired[str]
    """Only if several encoders can answer; `encoder` and `expected_recall` too."""
    encoder: NotRequired[EncoderKind]
    expected_recall: NotRequired[float | None]
    """Null where the space was not compared with the best one."""
    recall_measured_for: NotRequired[list[str]]
    """Languages for which expected_recall was measured; for others it is that of all queries."""


class RouteExplanation(TypedDict):
    """The model that would answer a request, and the reason."""

    features: _Features
    decision: _Decision
    settings: _Settings
    models: list[_Candidate]


@described
class ModelObject(TypedDict):
    """A name that `model` accepts."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    kind: Literal["embedding", "rerank", "tier", "collection", "alias"]
    model: NotRequired[str]
    """The model that a tier, an alias or a collection names."""
    dimensions: NotRequired[int]
    max_tokens: NotRequired[int]
    score: NotRequired[Score]
    """The scale of a reranker's scores."""
    spaces: NotRequired[list[str]]
    """The spaces of a collection that has several."""


class ModelListResponse(TypedDict):
    """The names that `model` accepts."""

    object: Literal["list"]
    data: list[ModelObject]


class _Problem(TypedDict):
    message: str
    type: Literal["invalid_request_error", "rate_limit_error", "server_error"]
    param: str | None
    code: ErrorCode


class Error(TypedDict):
    """The body of every response that is not 200."""

    error: _Problem
