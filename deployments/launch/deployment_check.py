"""Check what a Serve config says of the deployments of an application.

Serve's schema leaves some of these sections as plain dicts. It also lacks the names of our
deployments and what our engines and our autoscaling policy need.
"""

import copy
import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from ray.serve.config import (
    AutoscalingConfig,
    AutoscalingPolicy,
    DeploymentActorConfig,
    GangSchedulingConfig,
    RequestRouterConfig,
)

from deployments.launch.model_check import own_folder_first
from router.config import Autoscaling, RouterArgs
from router.resources import bookings
from router.strict import join, sentences, suggestion, unknown_keys

POLICIES = ("deployments.autoscale:ByTokens", "deployments.autoscale.ByTokens")

# Sections that Serve's schema leaves as plain dicts: their values are checked only here.
OF_DEPLOYMENT: Mapping[str, type[BaseModel]] = {
    "autoscaling_config": AutoscalingConfig,
    "request_router_config": RequestRouterConfig,
    "gang_scheduling_config": GangSchedulingConfig,
}


def validate(model: type[BaseModel], data: Any, where: str) -> list[str]:
    """Return the problems that `model` finds in the values of `data`."""
    try:
        with warnings.catch_warnings(action="ignore"), own_folder_first():
            model(**copy.deepcopy(dict(data)))
    except ValidationError as error:
        return sentences(error, data, where)
    except Exception as error:  # Serve's validators import what the file names and raise anything
        return [f"{where or 'the file'}: {error}"]
    return []


def section_problems(application: Mapping[str, Any], where: str) -> list[str]:
    """Return the problems of the sections that Serve's schema leaves as plain dicts."""
    found: list[tuple[str, type[BaseModel], Any]] = [
        (f"{where}.autoscaling_policy", AutoscalingPolicy, application.get("autoscaling_policy"))
    ]
    problems = unknown_keys(AutoscalingPolicy, found[0][2], found[0][0])
    deployments = application.get("deployments")
    for index, deployment in enumerate(deployments if isinstance(deployments, list) else ()):
        if isinstance(deployment, Mapping):
            path = f"{where}.deployments[{index}]"
            found += [
                (join(path, key), model, deployment.get(key))
                for key, model in OF_DEPLOYMENT.items()
            ]
            actors = deployment.get("deployment_actors")
            found += [
                (f"{path}.deployment_actors[{i}]", DeploymentActorConfig, actor)
                for i, actor in enumerate(actors if isinstance(actors, list) else ())
            ]
    for path, model, value in found:
        if isinstance(value, Mapping):
            problems += validate(model, value, path)
    return problems


def name_problems(args: RouterArgs, deployments: list[Any], where: str) -> Iterator[str]:
    """Yield a problem for each name that is no deployment of the application or is given twice."""
    first: dict[str, int] = {}
    for index, deployment in enumerate(deployments):
        if not isinstance(deployment, Mapping) or not isinstance(
            name := deployment.get("name"), str
        ):
            continue
        path = f"{where}[{index}]"
        if name != "router" and name not in args.deployed:
            yield (
                f"{path}.name: there is no deployment {name!r}; "
                f"{suggestion(name, ['router', *args.deployed], 'there are')}"
            )
        elif first.setdefault(name, index) != index:
            yield f"{path}.name: {name!r} is given twice, first in {where}[{first[name]}]"


def device_problems(args: RouterArgs, application: Mapping[str, Any], where: str) -> Iterator[str]:
    """Yield a problem for each model whose engine needs more cards than its deployment books.

    An engine on several cards must not run in the replica's process.
    """
    try:
        booked = {booking.deployment: booking for booking in bookings(args, application)}
    except (AttributeError, TypeError, ValueError):  # Serve's schema reports what is wrong
        return
    for name, model in args.served.items():
        engine = model.engine
        if (own := engine.vllm_args) is None or name not in booked:
            continue
        sizes = [own.get(key, 1) for key in ("tensor_parallel_size", "pipeline_parallel_size")]
        if not all(isinstance(size, int) for size in sizes):
            continue
        cards, gpus = math.prod(sizes), booked[name].gpus
        place = f"{where}.{args.place_of(name)}.engine"
        if cards > 1 and engine.in_one_process:
            yield (
                f"{place}.in_process: must be false where tensor_parallel_size or "
                f"pipeline_parallel_size ask for {cards} cards: each has a process of its own"
            )
        if cards > max(1, math.ceil(gpus)):
            yield (
                f"{place}.args: it works on {cards} cards and its deployment books "
                f"{gpus:g}: write ray_actor_options: {{num_gpus: {cards}}} there"
            )


def policy_problems(application: Mapping[str, Any], where: str) -> Iterator[str]:
    """Yield what would make our autoscaling policy fail in Serve's controller, or lack data."""
    listed = application.get("deployments")
    deployments = [
        entry if isinstance(entry, Mapping) else {}
        for entry in (listed if isinstance(listed, list) else ())
    ]
    for index, deployment in enumerate(deployments):
        scaling = deployment.get("autoscaling_config")
        policy = scaling.get("policy") if isinstance(scaling, Mapping) else None
        if isinstance(policy, Mapping) and policy.get("policy_function") in POLICIES:
            at = f"{where}.deployments[{index}].autoscaling_config.policy"
            yield f"{at}: this one scales all models at once; name it in {where}.autoscaling_policy"
    named = application.get("autoscaling_policy")
    if not isinstance(named, Mapping) or named.get("policy_function") not in POLICIES:
        return
    kwargs, path = named.get("policy_kwargs") or {}, f"{where}.autoscaling_policy.policy_kwargs"
    if isinstance(kwargs, Mapping):  # otherwise Serve's own schema reports it
        yield from unknown_keys(Autoscaling, kwargs, path)
        yield from validate(Autoscaling, kwargs, path)
    if not any(
        item.get("name") == "router" and item.get("autoscaling_config") for item in deployments
    ):
        yield (
            f"{where}.deployments: the autoscaling policy needs what routers report, and Serve "
            "takes reports only from "
            "deployments with an autoscaling_config: give router one (min_replicas equal to "
            "max_replicas is a fixed number)"
        )
