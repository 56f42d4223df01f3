"""`deployments.app:build`: the Serve application of a config.

It has one deployment per model, and the router in front.
"""
# No `from __future__ import annotations` here: Serve reads the builder's annotation, and a string
# turns that off.

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from ray import serve

from deployments.ingress.deployment import Router
from deployments.replica.deployment import Embedder
from router.config import SEALED, RouterArgs
from router.encoder_check import load_encoders
from router.fingerprint import load_of
from router.model_config import ModelConfig
from router.resources import ROUTER, default_cpus
from router.strict import parse_args

# admission is by tokens, in the router's dispatchers, and not by Serve's count of calls
MAX_ONGOING = 1_000_000


def build(args: dict[str, Any]) -> serve.Application:
    """Return the application for the `args:` of a Serve config file.

    Raises ConfigError naming every key that is wrong.

    The name of each model's deployment is the model's id, so that the standard `deployments:`
    section of the same file sets its resources and autoscaling. Serve restarts every replica of
    every model when anything under `args:` changes. Sections in the router's `user_config` (those
    in RELOADABLE) replace the same sections of `args:` and restart nothing.
    """
    return assembled(opened(args), Router, Embedder)


def opened(args: dict[str, Any]) -> dict[str, Any]:
    """Return `args`, read from a file if `embedding-router run` put them there.

    Serve logs the arguments that it gets, and these can contain hashes of keys and a password.
    """
    if (path := args.get(SEALED)) is None:
        return args
    found: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    return found


def assembled(args: dict[str, Any], router: type, embedder: type[Embedder]) -> serve.Application:
    """Return the application of `build` with the given classes for the router and the replicas."""
    config = with_digests(parse_args(args))
    load_encoders(config)
    models = {
        name: _model(name, model, config, embedder) for name, model in config.deployed.items()
    }
    deployment = serve.deployment(
        name=ROUTER, max_ongoing_requests=MAX_ONGOING, user_config={}, health_check_period_s=2
    )
    return deployment(router).bind(config.model_dump(mode="json"), models)


def with_digests(config: RouterArgs) -> RouterArgs:
    """Return the config with the digest of each model's fingerprint that can be read here.

    Replicas and routers that start later refuse another file: the ones that run have this one.
    """
    models = {}
    for name, model in config.models.items():
        proof = model.fingerprint
        if proof is not None and proof.file is not None and proof.digest is None:
            with suppress(OSError, ValueError):  # where it is needed, its error is reported
                proof = proof.model_copy(update={"digest": load_of(proof, config.base_dir).digest})
                model = model.model_copy(update={"fingerprint": proof})
        models[name] = model
    return config.model_copy(update={"models": models})


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
            "request_router_class": "deployments.dispatch.request_router:ByOutstandingTokens"
        },
        ray_actor_options={"num_cpus": default_cpus(model)},
    )
    return deployment(embedder).bind(
        name, model.model_dump(mode="json"), config.base_dir, config.metrics
    )
