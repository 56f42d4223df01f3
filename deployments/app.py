"""`deployments.app:build` makes the Serve application of a config: one deployment per model, and
the router in front.
"""
# No `from __future__ import annotations` here: Serve looks at the builder's annotation itself, and
# a string turns it off.

import json
from pathlib import Path
from typing import Any

from ray import serve

from deployments.ingress.deployment import Router
from deployments.replica.deployment import Embedder
from router.config import SEALED, RouterArgs
from router.encoder_check import load_encoders
from router.model_config import ModelConfig
from router.resources import default_cpus
from router.strict import parse_args

ROUTER = "router"
# admission is by tokens, in the router's lanes and here, never by a count of calls
MAX_ONGOING = 1_000_000


def build(args: dict[str, Any]) -> serve.Application:
    """The application for the `args:` of a Serve config file; raises ConfigError naming every key
    that is wrong.

    Each model's deployment has the model's id as its name, so that the standard `deployments:`
    section of the same file sets its resources and autoscaling. Serve restarts every replica of
    every model when anything under `args:` changes; what stands in the router's `user_config`
    instead (what is RELOADABLE) replaces the same section of `args:` and restarts nothing.
    """
    return assembled(opened(args), Router, Embedder)


def opened(args: dict[str, Any]) -> dict[str, Any]:
    """`args`, read from a file where `embedding-router run` put them: Serve logs what it is given,
    and these may hold hashes of keys and a password.
    """
    if (path := args.get(SEALED)) is None:
        return args
    found: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    return found


def assembled(args: dict[str, Any], router: type, embedder: type[Embedder]) -> serve.Application:
    """The same with other classes for the router and the replicas."""
    config = parse_args(args)
    load_encoders(config)
    models = {
        name: _model(name, model, config, embedder) for name, model in config.deployed.items()
    }
    deployment = serve.deployment(
        name=ROUTER, max_ongoing_requests=MAX_ONGOING, user_config={}, health_check_period_s=2
    )
    return deployment(router).bind(config.model_dump(mode="json"), models)


def _model(
    name: str, model: ModelConfig, config: RouterArgs, embedder: type[Embedder]
) -> serve.Application:
    deployment = serve.deployment(
        name=name,
        max_ongoing_requests=MAX_ONGOING,
        health_check_period_s=5,
        health_check_timeout_s=30,
        graceful_shutdown_timeout_s=20,
        request_router_config={
            "request_router_class": "deployments.dispatch.request_router:ByTokens"
        },
        ray_actor_options={"num_cpus": default_cpus(model)},
    )
    return deployment(embedder).bind(
        name, model.model_dump(mode="json"), config.base_dir, config.metrics
    )
