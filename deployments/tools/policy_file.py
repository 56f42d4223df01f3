"""A routing policy in a file: a Serve config, or `routing:` and `tiers:` alone."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from deployments.launch.serve_config import application
from router.domain import Tier
from router.replay import Other
from router.routing_config import NamedTier, RoutingConfig
from router.strict import ConfigError, sentences, unknown_keys
from router.strict_yaml import read


class PolicyFile(BaseModel):
    """The parts of a config that decide, in a file of their own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    routing: RoutingConfig = RoutingConfig()
    tiers: dict[NamedTier, str] | None = None


def read_policy(path: Path) -> Other:
    """Read the policy of a Serve config or of a bare policy file. Raises ConfigError."""
    text = path.read_bytes()
    data = read(text)
    if isinstance(data, dict) and ("applications" in data or data.get("kind") == "RayService"):
        args, _ = application(path)
        return Other(args.routing, _tiers(args.tiers))
    return parse_policy(text, str(path))


def parse_policy(text: bytes, name: str) -> Other:
    """Parse the text of a bare policy file called `name`. Raises ConfigError."""
    data = read(text)
    if not isinstance(data, dict) or (unknown := unknown_keys(PolicyFile, data)):
        raise ConfigError(
            unknown
            if isinstance(data, dict)
            else [f"{name} holds no `routing:`, no `tiers:` and no config"]
        )
    try:
        given = PolicyFile.model_validate(data)
    except ValidationError as error:
        raise ConfigError(sentences(error, data)) from None
    return Other(given.routing, None if given.tiers is None else _tiers(given.tiers))


def with_tiers(policy: Other, tiers: Mapping[Any, str], path: Path) -> Other:
    """Return the policy of a file, with `tiers` if it has none of its own.

    Raises ConfigError if its routing names a tier that is missing.
    """
    own: Mapping[Any, str] = tiers if policy.tiers is None else policy.tiers
    wanted = {policy.routing.default_tier, *(rule.floor for rule in policy.routing.rules)}
    if missing := sorted(wanted - set(own)):
        raise ConfigError(
            [f"{path}: routing names tier {missing[0].value!r}; tiers are {', '.join(own)}"]
        )
    return Other(policy.routing, own)


def text_of(other: Other) -> str:
    """Format a policy as the text of a bare policy file; JSON is valid YAML."""
    routing = other.routing.model_dump(mode="json", exclude_defaults=True)
    tiers = {} if other.tiers is None else {"tiers": dict(other.tiers)}
    return json.dumps({"routing": routing, **tiers})


def _tiers(tiers: Mapping[NamedTier, str]) -> dict[Tier, str]:
    return {Tier(tier): model for tier, model in tiers.items()}
