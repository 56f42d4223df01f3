"""From the config to what the decision works with: models in order of rank, and the policy."""

import json
from collections.abc import Mapping

from router.config import CurveConfig, ModelConfig, NamedTier, RouterArgs, Routing, resolve_path
from router.domain import Curve, Model
from router.latency import load_profile
from router.policy import Floor, Policy


def build_models(args: RouterArgs) -> dict[str, Model]:
    """One `Model` per configured model, in order; raises ValueError naming a profile that is not usable."""
    return {
        name: Model(
            id=name, rank=rank, max_tokens=config.max_tokens, curve=_curve(name, config, args.base_dir),
            quality=dict(config.quality), devices=config.devices,
        )
        for rank, (name, config) in enumerate(args.models.items())
    }


def build_policy(routing: Routing, tiers: Mapping[NamedTier, str]) -> Policy:
    """The rules with their tiers replaced by the models that serve them."""
    return Policy(
        default=tiers[routing.default_tier],
        floors=tuple(
            Floor(
                name=rule.name, model=tiers[rule.floor], min_tokens=rule.when.min_tokens, max_tokens=rule.when.max_tokens,
                languages=_set(rule.when.languages), not_languages=_set(rule.when.not_languages),
                scripts=_set(rule.when.scripts), mixed=rule.when.mixed, code=rule.when.code, input_type=rule.when.input_type,
            )
            for rule in routing.rules
        ),
        kind=routing.policy,
        quality_weight=routing.quality_weight,
    )


def _curve(name: str, config: ModelConfig, base_dir: str | None) -> Curve:
    if config.profile is not None:
        return load_profile(json.loads(resolve_path(config.profile, base_dir).read_text()), name)
    prior = config.curve or CurveConfig()
    return Curve(
        fixed_s=prior.fixed_s, base_s=prior.base_s, s_per_token=prior.s_per_token, s_per_token_sq=prior.s_per_token_sq,
        batch_tokens=prior.batch_tokens, overhead_s=prior.overhead_s,
    )


def _set(values: tuple[str, ...] | None) -> frozenset[str] | None:
    return None if values is None else frozenset(values)
