"""Default settings for the requests of an API key."""

from collections.abc import Collection, Mapping
from typing import Literal, Protocol

from router.domain import Tier
from router.engine_config import PositiveFloat, Section
from router.model_config import ModelConfig
from router.routing_config import NamedTier


class KeyDefaults(Section):
    """Default settings of a key's requests; values in a request take precedence."""

    space: str | None = None  # a collection or MODEL/DIMENSIONS
    input_type: Literal["query", "document"] | None = None
    quality: Tier | None = None
    latency_budget_ms: PositiveFloat | None = None
    priority: Literal["interactive", "bulk"] | None = None


class HasDefaults(Protocol):
    """The attributes of a config key that its defaults are checked against."""

    @property
    def tiers(self) -> Collection[NamedTier] | None: ...
    @property
    def models(self) -> Collection[str] | None: ...
    @property
    def collections(self) -> Collection[str] | None: ...
    @property
    def priorities(self) -> Collection[str] | None: ...
    @property
    def defaults(self) -> KeyDefaults: ...


def check_defaults(
    where: str,
    key: HasDefaults,
    models: Mapping[str, ModelConfig],
    tiers: Mapping[NamedTier, str],
    collections: Collection[str],
) -> None:
    """Raise ValueError for a default that does not exist or is not allowed for the key."""
    defaults = key.defaults
    allowed = None
    if key.models is not None or key.tiers is not None:
        allowed = {*(key.models or ()), *(tiers[tier] for tier in key.tiers or ())}
    if (space := defaults.space) is not None:
        if space in collections:
            if key.collections is not None and space not in key.collections:
                raise ValueError(f"{where}.space: the key may not use the collection {space!r}")
        else:
            model, _, size = space.rpartition("/")
            if model not in models or not size.isdecimal() or not models[model].serves(int(size)):
                raise ValueError(
                    f"{where}.space: {space!r} is neither a collection nor MODEL/DIMENSIONS of a "
                    "model and a size that it serves"
                )
            if allowed is not None and model not in allowed:
                raise ValueError(f"{where}.space: the key may not use the model {model!r}")
    tier = defaults.quality
    if tier is not None and tier is not Tier.AUTO:
        if tier not in tiers:
            raise ValueError(
                f"{where}.quality: there is no tier {tier.value!r}; there are {', '.join(tiers)}"
            )
        if allowed is not None and tiers[tier] not in allowed:
            raise ValueError(f"{where}.quality: the key may not use the tier {tier.value!r}")
    priority = defaults.priority
    if priority is not None and key.priorities is not None and priority not in key.priorities:
        raise ValueError(f"{where}.priority: the key may not use {priority!r}")
