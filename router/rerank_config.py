"""The config of rerankers: the engine that scores a document for a query, and the template of
pairs.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from router.engine_config import (
    EngineSection,
    FakeEngineConfig,
    Flag,
    Float,
    PositiveFloat,
    PositiveInt,
    RemoteEngineConfig,
    Section,
    VllmEngineConfig,
)
from router.model_config import ModelConfig
from router.routing_config import RoutingConfig

Score = Literal["probability", "cosine", "raw"]


class SimilarityEngineConfig(EngineSection):
    """Rescoring by an embedding model of the same config: the score is the cosine of its vectors.

    It has no deployment of its own; the embedding model does the work.
    """

    kind: Literal["similarity"]
    model: str  # an id in `models`


class VllmRerankEngineConfig(VllmEngineConfig):
    """vLLM with a classifier of one label; `args` can hold the `hf_overrides` that make one."""

    module: ClassVar[str] = "vllm_rerank"

    def stored_dimensions(self, resolve: Any) -> None:
        """Return None: a score has no dimensions."""


class RemoteRerankEngineConfig(RemoteEngineConfig):
    """Any server with a rerank route, in the format of Cohere (also Jina and `vllm serve`) or of
    Text Embeddings Inference.
    """

    module: ClassVar[str] = "remote_rerank"

    path: str = "rerank"  # below base_url
    form: Literal["cohere", "tei"] = "cohere"  # what the route reads and answers


class FakeRerankEngineConfig(FakeEngineConfig):
    """Scores made from a hash; for tests only."""

    module: ClassVar[str] = "fake_rerank"


RerankEngine = Annotated[
    SimilarityEngineConfig
    | VllmRerankEngineConfig
    | RemoteRerankEngineConfig
    | FakeRerankEngineConfig,
    Field(discriminator="kind"),
]


class ScoreFingerprintConfig(Section):
    """The stored scores that a replica must reproduce before it serves; a path alone is `file`."""

    file: str  # made by `embedding-router fingerprint`
    max_difference: Float = Field(default=0.02, gt=0.0, le=1.0)  # of any score
    every_s: PositiveFloat = 600.0  # how often a serving replica is checked again

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, data: Any) -> Any:
        return {"file": data} if isinstance(data, str) else data


class RerankerConfig(ModelConfig):
    """One reranker. All but `similarity` have a deployment of their own, of the same name."""

    engine: RerankEngine  # type: ignore[assignment]  # every member is an EngineSection
    dimensions: PositiveInt = 1
    max_tokens: PositiveInt = 8192
    special_tokens: Flag = False  # the template has them
    # the text of a pair, special tokens included: {query} and {document} once each, and
    # {instruction} if the model reads one; None: the other server has its own
    template: str | None = None
    instruction: str = ""  # used if a request gives none
    fingerprint: ScoreFingerprintConfig | None = None  # type: ignore[assignment]
    score: Score | None = None  # None: cosine for `similarity`, else probability

    @property
    def similarity(self) -> str | None:
        """The embedding model whose cosine is the score; None for other engines."""
        return self.engine.model if isinstance(self.engine, SimilarityEngineConfig) else None

    @property
    def score_kind(self) -> Score:
        """The kind of its scores; scores of different kinds cannot be compared."""
        return self.score or ("probability" if self.similarity is None else "cosine")

    @field_validator("template")
    @classmethod
    def _has_both(cls, template: str | None) -> str | None:
        for name in ("{query}", "{document}") if template is not None else ():
            if template is not None and template.count(name) != 1:
                raise ValueError(f"must contain {name} exactly once, it is {template!r}")
        return template

    @model_validator(mode="after")
    def _reads_as_its_card(self) -> "RerankerConfig":
        """Refuse what only embedding models have, and what a similarity reranker takes from its
        model. A reranker has no card.
        """
        allowed = type(self).model_fields
        unused: tuple[str, ...] = ("dimensions", "prompts", "matryoshka", "space_of")
        if self.similarity is not None:
            own = ("engine", "aliases", "quality", "good_for", "rank", "required", "score")
            unused = tuple(name for name in allowed if name not in own)
        for name in unused:
            if getattr(self, name) != allowed[name].get_default(call_default_factory=True):
                raise ValueError(
                    f"{name}: a similarity reranker takes it from the model that it names; "
                    "remove it"
                    if self.similarity is not None
                    else f"{name}: a reranker makes no vectors; write `template` and `instruction`"
                )
        if (self.template is None) != (self.similarity is not None or self.engine.runs_elsewhere):
            raise ValueError(
                "template: missing; write the text that the model was trained to judge, from its "
                "model card: without it scores are a random order"
                if self.template is None
                else "template: the other server writes its own; remove it"
            )
        if (self.score_kind == "cosine") != (self.similarity is not None):
            raise ValueError(
                f"score: {self.score_kind!r} is not what a {self.engine.kind} reranker makes; "
                "remove it"
            )
        return self


def deployed_config(data: Mapping[str, Any]) -> ModelConfig:
    """The config of a deployment, from the JSON of a ModelConfig or a RerankerConfig."""
    return (RerankerConfig if "template" in data else ModelConfig).model_validate(data)


def check_rerankers(
    rerankers: Mapping[str, RerankerConfig],
    models: Mapping[str, ModelConfig],
    routing: RoutingConfig,
) -> None:
    """Raise ValueError if rerankers and embedding models do not fit together."""
    names = {name.lower(): id for id, model in models.items() for name in (id, *model.aliases)}
    for id, reranker in rerankers.items():
        if reranker.similarity is not None and reranker.similarity not in models:
            raise ValueError(
                f"rerankers.{id}.engine.model: {reranker.similarity!r} is not an embedding model; "
                f"models are {', '.join(models)}"
            )
        if reranker.similarity is not None and models[reranker.similarity].engine.in_router:
            raise ValueError(
                f"rerankers.{id}.engine.model: {reranker.similarity} has no deployment; name "
                "the model that it stands for"
            )
        for name in (id, *reranker.aliases):
            if (other := names.setdefault(name.lower(), id)) != id or id in models:
                raise ValueError(
                    f"rerankers.{id}: the name {name!r} already means {other}; choose another"
                )
    if routing.require_space:
        raise ValueError("rerank_routing.require_space: scores lie in no space; remove it")
