"""The section `keys:` of the config, and the default settings of a key's requests."""

import re
from collections.abc import Collection, Mapping
from typing import Literal

from pydantic import field_validator

from router.domain import Tier
from router.engine_config import Flag, PositiveFloat, PositiveInt, Section
from router.model_config import ModelConfig
from router.routing_config import NamedTier

_HASH = re.compile(r"sha256:[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class KeyDefaults(Section):
    """Default settings of a key's requests; values in a request take precedence."""

    space: str | None = None  # a collection or MODEL/DIMENSIONS
    input_type: Literal["query", "document"] | None = None
    quality: Tier | None = None
    latency_budget_ms: PositiveFloat | None = None
    priority: Literal["interactive", "bulk"] | None = None


class KeyConfig(Section):
    """The permissions of one API key; a list that is not given allows everything of its kind.

    The allowed models are those of `models` and of `tiers` together.
    """

    hash: str  # of the key, as `embedding-router keys new` prints it; the key itself is not stored
    tiers: tuple[NamedTier, ...] | None = None
    models: tuple[str, ...] | None = None
    collections: tuple[str, ...] | None = None
    priorities: tuple[Literal["interactive", "bulk"], ...] | None = None
    requests_per_minute: PositiveInt | None = None
    tokens_per_minute: PositiveInt | None = None
    weight: PositiveFloat = 1.0  # its share against other keys whose work waits
    admin: Flag = False  # can see the requests of other callers
    defaults: KeyDefaults = KeyDefaults()
    ignore_fields: Flag | tuple[str, ...] = False  # unknown fields that are dropped, not refused

    @field_validator("hash")
    @classmethod
    def _is_a_hash(cls, value: str) -> str:
        # The value is not shown: if a user writes the key itself here by mistake, it must not also
        # end up in a log.
        if not _HASH.fullmatch(value):
            raise ValueError(
                "must be sha256: and 64 hexadecimal digits, as `embedding-router keys new` "
                "prints them"
            )
        return value

    @field_validator("priorities")
    @classmethod
    def _some_priority(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value == ():
            raise ValueError("must not be empty: a key without a priority can send no requests")
        return value


def check_keys(
    keys: Mapping[str, KeyConfig],
    models: Mapping[str, ModelConfig],
    served: Collection[str],
    tiers: Mapping[NamedTier, str],
    collections: Collection[str],
) -> None:
    """Raise ValueError for a key that names what does not exist; `served` are the ids of models and
    rerankers.
    """
    owner: dict[str, str] = {}
    for name, key in keys.items():
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"keys: {name!r} is no name of a key: letters, digits, '.', '_' and '-', at most 64"
            )
        if (other := owner.setdefault(key.hash, name)) != name:
            raise ValueError(f"keys.{name}: its hash is that of keys.{other}; a key has one name")
        for kind, known in (("tiers", tiers), ("models", served), ("collections", collections)):
            for item in getattr(key, kind) or ():
                if item not in known:
                    raise ValueError(
                        f"keys.{name}.{kind}: there is no {str(item)!r}; there are "
                        f"{', '.join(known) or 'none'}"
                    )
        _check_defaults(f"keys.{name}.defaults", key, models, tiers, collections)


def _check_defaults(
    where: str,
    key: KeyConfig,
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
