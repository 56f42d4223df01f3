"""The parts of a config that decide, in a file of their own or in a whole Serve config."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from deployments.launch.serve_config import application
from router.routing_config import NamedTier, Routing
from router.strict import ConfigError, sentences, unknown_keys
from router.strict_yaml import read


class PolicyFile(BaseModel):
    """The parts of a config that decide."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    routing: Routing = Routing()
    tiers: dict[NamedTier, str] | None = None


def read_policy(path: Path) -> PolicyFile:
    """The policy of a Serve config or of a bare policy file; raises ConfigError."""
    data = read(path.read_bytes())
    if isinstance(data, dict) and ("applications" in data or data.get("kind") == "RayService"):
        args, _ = application(path)
        return PolicyFile(routing=args.routing, tiers=args.tiers)
    if not isinstance(data, dict) or (unknown := unknown_keys(PolicyFile, data)):
        raise ConfigError(
            unknown
            if isinstance(data, dict)
            else [f"{path} holds no `routing:`, no `tiers:` and no config"]
        )
    try:
        return PolicyFile.model_validate(data)
    except ValidationError as error:
        raise ConfigError(sentences(error, data)) from None
