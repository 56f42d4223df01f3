"""The config tree under `args:` of a Serve config file, parsed and checked in one place.

Every section rejects unknown keys; `router.strict` turns that into a sentence that names the
nearest valid key.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, ClassVar, Literal

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from router.collection_config import CollectionConfig
from router.domain import Tier
from router.engine_config import (
    Float,
    Int,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Section,
)
from router.key_config import KeyConfig, check_keys
from router.limits_config import Limits as Limits
from router.model_config import ModelConfig
from router.rerank_config import RerankerConfig, check_rerankers
from router.routing_config import Compare, NamedTier, RoutingConfig


class Cache(Section):
    """The cache of vectors by exact text, in the memory of each router replica and, behind it, in a
    Redis that routers share.
    """

    max_bytes: Int = Field(default=256 * 1024 * 1024, ge=0)  # 0 turns it off
    scope: Literal["shared", "key"] | None = None  # None: key if there are keys, else shared
    redis_url: str | None = Field(
        default=None, pattern=r"^(rediss?|unix)://.|^env:[A-Za-z_][A-Za-z0-9_]*$"
    )
    redis_ttl_s: PositiveFloat = 7 * 24 * 3600.0
    redis_timeout_s: PositiveFloat = 0.005  # for each 32 texts of a request


class DecisionLogConfig(Section):
    """A log of JSON lines, one per request, for `embedding-router replay`; it never holds text."""

    path: str  # created if it does not exist; the routers of one machine can share it
    # at this size the file is renamed to PATH.1 and replaces the previous one
    max_bytes: PositiveInt = 256 * 1024 * 1024


class Batches(Section):
    """Storage of files, batches and usage by key; all routers share the folder."""

    folder: str  # created if it does not exist; its file system must support file locks
    max_bytes_per_key: PositiveInt = 10 * 1024**3  # of all files of one key
    lines_in_flight: PositiveInt = 64  # of all batches that one router runs


class Autoscaling(Section):
    """`policy_kwargs` of the autoscaling policy `deployments.autoscale:ByTokens`, explained in
    router/capacity.py.
    """

    utilisation: Float = Field(default=0.8, gt=0.0, le=1.0)
    drain_s: PositiveFloat = 60.0
    start_s: NonNegativeFloat = 60.0
    hold_s: NonNegativeFloat = 300.0
    slack: Float = Field(default=0.1, ge=0.0, lt=1.0)
    devices: PositiveFloat | None = None


class Cors(Section):
    """Origins whose web pages can call this service; none by default."""

    origins: tuple[str, ...] = ()  # SCHEME://HOST[:PORT], or * for all

    @field_validator("origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} is no origin: write https://HOST or https://HOST:PORT, lower "
                    "case, no path, or *"
                )
        return value


SEALED = "sealed_args"  # the key that replaces `args:` and names the file that holds them
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9_.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")

# sections that change without a restart
RELOADABLE = (
    "routing",
    "tiers",
    "collections",
    "compare",
    "keys",
    "rerank_tiers",
    "rerank_routing",
)


class RouterArgs(Section):
    """Everything under `args:`.

    `models` are ordered from small to large: as they are written, or by their `rank`.
    """

    HINTS: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("name", "route_prefix", "import_path", "deployments", "autoscaling_policy"),
        "it belongs beside `args:`, not under it",
    ) | dict.fromkeys(
        ("http_options", "logging_config"), "it belongs at the top of the file, not under `args:`"
    )

    models: dict[str, ModelConfig] = Field(min_length=1)
    tiers: dict[NamedTier, str] = Field(min_length=1)
    # by the name that a request can give as its space
    collections: dict[str, CollectionConfig] = Field(default_factory=dict)
    routing: RoutingConfig = RoutingConfig()
    rerankers: dict[str, RerankerConfig] = Field(default_factory=dict)  # from small to large
    rerank_tiers: dict[NamedTier, str] = Field(default_factory=dict)
    rerank_routing: RoutingConfig = RoutingConfig()
    compare: Compare = Compare()
    limits: Limits = Limits()
    cache: Cache = Cache()
    decision_log: DecisionLogConfig | None = None
    batches: Batches | None = None  # none: no files, no batches
    # by a name of your choice; none: no authentication
    keys: dict[str, KeyConfig] = Field(default_factory=dict)
    auth: Literal["none"] | None = None  # required to answer other machines without keys
    cors: Cors = Cors()
    transport: Literal["direct", "handles"] = "direct"  # of calls to replicas
    metrics: bool = True  # exported with Ray's metrics as embedding_router_*; those of vLLM too
    stamps: bool = False  # of each request, in /v1/decisions
    # folder of relative paths; default: the working directory of the process
    base_dir: str | None = None

    @property
    def served(self) -> dict[str, ModelConfig]:
        """Embedding models, and rerankers that are not the similarity of an embedding model."""
        own = {
            name: reranker
            for name, reranker in self.rerankers.items()
            if reranker.similarity is None
        }
        return {**self.models, **own}

    @property
    def native(self) -> dict[str, ModelConfig]:
        """Embedding models with a space of their own, from small to large: what a request that
        names no space can go to.
        """
        return {name: model for name, model in self.models.items() if model.space_of is None}

    @property
    def deployed(self) -> dict[str, ModelConfig]:
        """Served models that have a deployment."""
        return {name: model for name, model in self.served.items() if not model.engine.in_router}

    def place_of(self, name: str) -> str:
        """The config path of a model or reranker."""
        return f"{'models' if name in self.models else 'rerankers'}.{name}"

    @field_validator("models", "rerankers")
    @classmethod
    def _ranked(cls, models: dict[str, Any]) -> dict[str, Any]:
        others = {name: model for name, model in models.items() if model.space_of is not None}
        models = {name: model for name, model in models.items() if name not in others}
        if others and not models:
            raise ValueError("every model has `space_of`; a space needs a model of its own")
        ranks = {name: model.rank for name, model in models.items() if model.rank is not None}
        if ranks and len(ranks) < len(models):
            raise ValueError(
                f"rank: {', '.join(models.keys() - ranks.keys())} has no rank; give every model "
                "one, or none"
            )
        if len(set(ranks.values())) < len(ranks):
            raise ValueError(
                "rank: every model needs a different rank, not "
                f"{', '.join(f'{n}: {r}' for n, r in ranks.items())}"
            )
        if ranks:
            models = dict(sorted(models.items(), key=lambda item: ranks[item[0]]))
        return models | others

    @model_validator(mode="after")
    def _names_exist(self) -> "RouterArgs":
        self._check_spaces_of()
        self._check_tiers()
        self._check_routings()
        self._check_compared_models()
        self._check_order()
        self._check_collections()
        self._check_model_ids()
        check_rerankers(self.rerankers, self.models, self.rerank_routing)
        return self

    def _check_spaces_of(self) -> None:
        for name, model in self.models.items():
            if model.space_of is not None and (why := self._no_space(model.space_of)):
                raise ValueError(f"models.{name}.space_of: {why}")

    def _no_space(self, text: str) -> str | None:
        """The reason why this is no space of these models, as a clause; None if it is one."""
        model, _, size = text.rpartition("/")
        if (
            model not in self.models
            or not size.isdecimal()
            or not self.models[model].serves(int(size))
        ):
            return f"{text!r} is not MODEL/DIMENSIONS of a model and a size that it serves"
        if (other := self.models[model].space_of) is not None:
            return f"{model} has no space of its own: its vectors are of {other}"
        return None

    def _check_tiers(self) -> None:
        for key, tiers, _, models in self._kinds():
            for tier, model in tiers.items():
                if model not in models:
                    raise ValueError(
                        f"{key}.{tier} names model {model!r}; models are {', '.join(models)}"
                    )
                if (space := models[model].space_of) is not None:
                    raise ValueError(
                        f"{key}.{tier} names {model!r}, which has no tier: it makes vectors of "
                        f"{space} for requests that name that space"
                    )

    def _kinds(
        self,
    ) -> Iterator[tuple[str, Mapping[NamedTier, str], str, Mapping[str, ModelConfig]]]:
        """Tiers and models of embeddings, then those of reranking, each with its config key."""
        yield "tiers", self.tiers, "models", self.models
        yield "rerank_tiers", self.rerank_tiers, "rerankers", self.rerankers

    def _check_routings(self) -> None:
        canary = self.compare.canary
        routings = {"routing": (self.routing, "tiers", self.tiers)}
        if canary is not None and canary.routing is not None:
            routings["compare.canary.routing"] = (canary.routing, "tiers", self.tiers)
        if self.rerankers:
            routings["rerank_routing"] = (self.rerank_routing, "rerank_tiers", self.rerank_tiers)
        for where, (routing, key, tiers) in routings.items():
            wanted = {rule.floor: f"{where}: rule {rule.name!r}" for rule in routing.rules}
            wanted[routing.default_tier] = f"{where}.default_tier"
            for tier, who in wanted.items():
                if tier not in tiers:
                    raise ValueError(
                        f"{who} names tier {str(tier)!r}, which {key}: does not map to a model"
                    )
            names = [rule.name for rule in routing.rules]
            if len(set(names)) != len(names):
                raise ValueError(f"{where}.rules: every rule needs a name of its own")

    def _check_compared_models(self) -> None:
        canary, shadow = self.compare.canary, self.compare.shadow
        for who, arm in (("shadow", shadow), ("canary", canary)):
            if arm is not None and arm.model is not None and arm.model not in self.models:
                raise ValueError(
                    f"compare.{who}.model: {arm.model!r} is not a model; models are "
                    f"{', '.join(self.models)}"
                )
            if arm is not None and arm.model and self.models[arm.model].space_of is not None:
                raise ValueError(
                    f"compare.{who}.model: {arm.model!r} makes vectors of another model's space; "
                    "name a model without `space_of`"
                )

    def _check_order(self) -> None:
        for key, tiers, where, models in self._kinds():
            order = list(models)
            ranked = [
                (tier, tiers[tier])
                for tier in (Tier.FAST, Tier.BALANCED, Tier.BEST)
                if tier in tiers
            ]
            for (lower, small), (upper, large) in pairwise(ranked):
                if order.index(small) > order.index(large):
                    raise ValueError(
                        f"{key}.{lower} names {small!r}, which stands after {large!r} of "
                        f"{key}.{upper} in {where}; write models from "
                        "small to large, or give each a rank (a tool that sorts keys may have "
                        "reordered them)"
                    )

    def _check_collections(self) -> None:
        for name, collection in self.collections.items():
            if "/" in name:
                raise ValueError(
                    f"collections.{name}: the name of a collection must not contain '/', "
                    "which marks MODEL/DIMENSIONS"
                )
            for space in collection.all_spaces:
                if why := self._no_space(space):
                    raise ValueError(f"collections.{name}: {why}")

    def _check_model_ids(self) -> None:
        for key, name in (
            *(("models", name) for name in self.models),
            *(("rerankers", name) for name in self.rerankers),
        ):
            if name != name.lower() or name in set(Tier) or name == "router":
                raise ValueError(
                    f"{key}.{name}: a model id must be lower case, and must not be a tier's "
                    "name or 'router'"
                )
            # it is sent in response headers
            if not name.isascii() or not name.isprintable() or " " in name:
                raise ValueError(
                    f"{key}.{name}: a model id has ASCII letters, digits and signs only, and no "
                    "space"
                )

    @model_validator(mode="after")
    def _no_half_precision_for_qwen3(self) -> "RouterArgs":
        """Qwen3-Embedding makes NaN in float16: users report that its activations overflow."""
        for name, model in self.models.items():
            dtype = model.engine.weights_dtype
            named = f"{name} {model.engine.hub_source}".lower()
            if dtype in ("half", "float16") and "qwen3-embedding" in named:
                raise ValueError(
                    f"models.{name}.engine: Qwen3-Embedding overflows in {dtype} and makes NaN; "
                    "write dtype: bfloat16, or float32 where a card has no bfloat16"
                )
        return self

    @model_validator(mode="after")
    def _keys_name_what_exists(self) -> "RouterArgs":
        check_keys(
            self.keys, self.models, (*self.models, *self.rerankers), self.tiers, self.collections
        )
        if self.keys and self.auth == "none":
            raise ValueError(
                "auth: none allows requests without a key, but keys: has some; remove one of them"
            )
        return self
