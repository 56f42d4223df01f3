"""Build the decision's inputs from the config: models in order of rank, and the policy."""

import json
from collections.abc import Mapping

from router.config import RouterArgs
from router.domain import Curve, LongTexts, Model
from router.model_config import CurveConfig, LongTextsConfig, ModelConfig, resolve_path
from router.profile import Profile, load_profile, read_profile
from router.routing_config import NamedTier, RoutingConfig, When
from router.rules import Floor, Policy


def build_models(args: RouterArgs) -> dict[str, Model]:
    """Build a `Model` for each served model, in order of rank; raises ValueError naming an unusable
    profile.
    """
    return {
        name: Model(
            id=name,
            rank=rank,
            max_tokens=config.max_tokens,
            curve=curve_of(name, config, args.base_dir),
            quality=points_of(config),
            devices=config.devices,
            long=long_texts_of(config),
        )
        for rank, (name, config) in enumerate(args.served.items())
    }


def points_of(config: ModelConfig) -> dict[str, float]:
    """Quality points by language; `long_texts_of` has those of long texts."""
    return {
        key: value
        for key, value in config.quality.items()
        if not isinstance(value, LongTextsConfig)
    }


def long_texts_of(config: ModelConfig) -> LongTexts | None:
    """The model's quality on long texts; None if the config does not have it."""
    long = config.quality.get("long")
    return LongTexts(long.from_tokens, long.points) if isinstance(long, LongTextsConfig) else None


def memory_bytes(args: RouterArgs) -> dict[str, int | None]:
    """The memory of a replica of each model: as its profile measured it, else as configured, else
    None.
    """
    found = {}
    for name, config in args.served.items():
        measured = (
            None
            if config.profile is None
            else _profile(name, config.profile, args.base_dir).memory_bytes
        )
        found[name] = config.memory_bytes if measured is None else measured
    return found


def _profile(name: str, path: str, base_dir: str | None) -> Profile:
    return read_profile(json.loads(resolve_path(path, base_dir).read_text()), name)


def profile_device(name: str, config: ModelConfig, base_dir: str | None) -> str | None:
    """The device that the profile of a model was measured on; None if it has no profile."""
    return None if config.profile is None else _profile(name, config.profile, base_dir).device


def build_policy(routing: RoutingConfig, tiers: Mapping[NamedTier, str]) -> Policy:
    """Build the policy, with the tiers in rules replaced by the models that serve them."""
    return Policy(
        default=tiers[routing.default_tier],
        floors=tuple(
            build_floor(rule.name, rule.when, tiers[rule.floor]) for rule in routing.rules
        ),
        min_share=routing.min_share,
        max_unread=routing.max_unread,
    )


def build_floor(name: str, when: When, model: str) -> Floor:
    """Convert the conditions of a rule to the form that the decision uses."""
    return Floor(
        name=name,
        model=model,
        min_tokens=when.min_tokens,
        max_tokens=when.max_tokens,
        languages=_set(when.languages),
        not_languages=_set(when.not_languages),
        scripts=_set(when.scripts),
        mixed=when.mixed,
        code=when.code,
        input_type=when.input_type,
    )


def curve_of(name: str, config: ModelConfig, base_dir: str | None) -> Curve:
    """The latency curve of a model, from its profile, else from the config; raises ValueError for
    an unusable profile.
    """
    if config.profile is not None:
        return load_profile(json.loads(resolve_path(config.profile, base_dir).read_text()), name)
    prior = config.curve or CurveConfig()
    return Curve(
        fixed_s=prior.fixed_s,
        base_s=prior.base_s,
        s_per_token=prior.s_per_token,
        s_per_token_sq=prior.s_per_token_sq,
        batch_tokens=prior.batch_tokens,
        overhead_s=prior.overhead_s,
        s_per_text=prior.s_per_text,
    )


def _set(values: tuple[str, ...] | None) -> frozenset[str] | None:
    return None if values is None else frozenset(values)
