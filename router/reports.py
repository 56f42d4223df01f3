"""Answers of a router about itself: /v1/tiers, /v1/compare, /v1/decisions, /v1/what-if and /health.
Fields are described as in router/answers.py.
"""

from typing import Annotated, Any, Literal, NotRequired, get_args

from pydantic import ConfigDict, WithJsonSchema, with_config
from typing_extensions import TypedDict

from router.answers import TierName, described
from router.rerank_config import Score
from router.routing_config import RoutingConfig
from router.schema import Priority
from router.strict import ENGINE_KINDS

AnyObject = dict[str, Any]
EngineKind = Annotated[str, WithJsonSchema({"enum": list(ENGINE_KINDS)})]
_POLICIES = list(get_args(RoutingConfig.model_fields["policy"].annotation))
PolicyName = Annotated[str, WithJsonSchema({"enum": _POLICIES})]


class _Load(TypedDict):
    ahead_tokens: float
    queued_tokens: float
    margin: float


@described
class _TierRow(TypedDict):
    model: str
    tier: TierName
    engine: EngineKind
    dimensions: int
    space: str
    sizes: str
    max_tokens: int
    answers: int
    quality: dict[str, float]
    memory_bytes: int | None
    devices: float
    """Accelerators that one replica occupies."""
    shares_device_with: list[str]
    """Other models with a replica on the same accelerator, as replicas report it
    (`transport: direct`)."""
    matryoshka: list[int] | dict[str, int] | None
    """Smaller sizes that a request can set: a list, {min: N} for all from N up, or null."""
    p50_ms: float | None
    p95_ms: float | None
    predicted_ms: dict[str, float]
    """Predictions for one text of so many tokens, now."""
    replicas_ready: int
    load: _Load
    good_for: str
    start: dict[str, float] | None
    """Seconds of each phase of the last replica's start: import, download, load, compile, warm_up,
    proof."""
    fingerprint: str | None
    """The identity that its replicas have proved."""


class RerankerLoad(TypedDict):
    """The state of the deployment that computes the scores."""

    ahead_tokens: float
    margin: float


class Reranker(TypedDict):
    """The current state of a reranker."""

    model: str
    tier: TierName
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


@described
class Tiers(TypedDict):
    """The current models, tiers and rules, with loads and latencies."""

    object: Literal["list"]
    policy: PolicyName
    tiers: dict[str, str]
    """The model that each tier names."""
    collections: AnyObject
    """The space that each collection's name selects in a request."""
    reload_error: str | None
    """The last config change was rejected; an admin key sees why."""
    router: str
    """The router replica that answers; loads and latencies are as it sees them."""
    routers: int
    """The number of router replicas."""
    front: Literal["haproxy", "serve"]
    """The proxy in front of the routers: HAProxy, or Serve's own Python proxy, which answers fewer
    requests."""
    data: list[_TierRow]
    rerank_tiers: dict[str, str]
    rerankers: list[Reranker]


class ComparisonReport(TypedDict):
    """The results of a shadow and a canary."""

    object: Literal["comparison"]
    shadow: AnyObject | None
    canary: AnyObject | None


@described
class _Recent(TypedDict):
    id: str
    task: Literal["embed", "rerank"]
    at_s: float
    """Seconds since 1970."""
    tokens: int | None
    """Tokens of the texts that were not in the cache."""
    language: str | None
    script: str | None
    mixed: bool
    code: bool
    tier: str | None
    """The requested tier; null if the request named a model or a space."""
    pinned: bool
    input_type: str | None
    priority: Priority
    budget_ms: float | None
    model: str | None
    target: str | None
    space: str | None
    encoder: str | None
    expected_recall: float | None
    reason: str
    degraded: bool
    predicted_ms: float | None
    actual_ms: float | None
    outcome: str
    """answered, cancelled, or the code of the error."""
    stamps_ms: NotRequired[dict[str, float]]
    """With `stamps: true`: the times at which the request passed each point, in milliseconds since
    its arrival."""
    call_texts: NotRequired[int | None]
    """With `stamps: true`: the number of texts, also of other requests, in the call to a replica
    that carried the last of its texts."""


@described
class Decisions(TypedDict):
    """The last decisions of one router replica."""

    object: Literal["list"]
    router: str
    """The router replica whose decisions these are."""
    routers: int
    """The number of router replicas."""
    next: str
    """The value of `after` that returns the following ones."""
    missed: int
    """Later decisions that are not here: more than the limit, or than are kept."""
    data: list[_Recent]


@with_config(ConfigDict(use_attribute_docstrings=True, extra="forbid"))
class PolicyReport(TypedDict, total=False):
    """Routing rules and tiers."""

    routing: AnyObject
    """As `args.routing` of the config."""
    tiers: dict[str, str]
    """As `args.tiers` of the config."""


@described
class _Side(TypedDict):
    p50_ms: float | None
    p95_ms: float | None
    models: dict[str, int]
    """Requests by the model that answers, or `refused`."""
    quality: float | None
    degraded: int
    misses: int
    expected_recall: float | None
    """Mean share of the best search that queries of collections with several encoders keep."""
    assumed_recall: int
    """Queries whose share was assumed, not measured: the mean leaves them out."""


class _Measured(TypedDict):
    p50_ms: float | None
    p95_ms: float | None
    misses: int


_Moved = TypedDict("_Moved", {"from": str, "to": str, "requests": int, "reasons": dict[str, int]})


class _Slice(TypedDict):
    dimension: Literal["language", "script", "kind"]
    value: str
    requests: int
    moved: int
    quality_before: float | None
    quality_after: float | None
    falls: bool


@described
class WhatIfReport(TypedDict):
    """The changes of the last requests under other rules."""

    object: Literal["what_if"]
    router: str
    routers: int
    since_s: float | None
    until_s: float | None
    requests: int
    budgets: int
    before: _Side
    after: _Side
    measured: _Measured
    moved: list[_Moved]
    changed: int
    """Decisions that differ in any detail, including those that moved."""
    slices: list[_Slice]


@described
class Health(TypedDict):
    """Whether every required model is ready."""

    status: Literal["ok", "starting"]
    waiting_for: NotRequired[list[str]]
    unavailable: NotRequired[list[str]]
    """Models without a replica that are not required."""
