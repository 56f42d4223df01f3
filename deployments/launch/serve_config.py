"""Check a whole Serve config file before Ray reads it.

The check covers syntax, Serve's own keys and values, and our `args:`. Ray Serve drops unknown keys
and accepts any value in nested sections until the deployment fails. PyYAML keeps the last of two
equal keys. Each of these turns a typo into a setting that silently does nothing.
"""

import copy
import math
import warnings
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from pydantic import BaseModel, ValidationError
from ray.serve.config import (
    AutoscalingConfig,
    AutoscalingPolicy,
    DeploymentActorConfig,
    GangSchedulingConfig,
    RequestRouterConfig,
)
from ray.serve.schema import HTTPOptionsSchema, ServeApplicationSchema, ServeDeploySchema

from deployments.launch.cluster_check import cluster_problems
from deployments.launch.constructor_check import constructor_problems, reload_problems
from deployments.launch.model_check import model_problems, own_folder_first
from router.config import Autoscaling, RouterArgs
from router.exposure import require_local
from router.resources import bookings
from router.strict import (
    ConfigError,
    changed,
    join,
    parse_args,
    sentences,
    suggestion,
    unknown_keys,
)
from router.strict_yaml import read

LOOPBACK = "127.0.0.1"
IMPORT_PATH = "deployments.app:build"
IMPORT_PATHS = (IMPORT_PATH, IMPORT_PATH.replace(":", "."))
ACCESS_LOG = (
    "Serve logs every request, which sends each through its own, slower handling; write "
    "`logging_config: {enable_access_log: false}` unless you need that log"
)
POLICIES = ("deployments.autoscale:ByTokens", "deployments.autoscale.ByTokens")

# Sections that Serve's schema leaves as plain dicts: their values are checked only here.
OF_DEPLOYMENT: Mapping[str, type[BaseModel]] = {
    "autoscaling_config": AutoscalingConfig,
    "request_router_config": RequestRouterConfig,
    "gang_scheduling_config": GangSchedulingConfig,
}


_OF_ARGS = set(RouterArgs.model_fields) - set(ServeApplicationSchema.model_fields)


class _Application(ServeApplicationSchema):
    """An application, with hints for our own keys where they have no effect."""

    HINTS: ClassVar[Mapping[str, str]] = dict.fromkeys(
        _OF_ARGS, "it belongs under the `args:` of the application"
    )


class _File(ServeDeploySchema):
    """A whole file, with hints for keys that belong to an application."""

    HINTS: ClassVar[Mapping[str, str]] = {
        name: f"it belongs to an application: write it as applications[0].{name}"
        for name in ServeApplicationSchema.model_fields
    } | {
        name: f"it belongs under the `args:` of an application: write it as applications[0].args."
        f"{name}"
        for name in _OF_ARGS
    }

    applications: list[_Application]  # type: ignore[assignment]


class ConfigCheck(NamedTuple):
    """The result of checking a file, which can be deployed if `problems` is empty.

    `models` are the ids of models and rerankers with a deployment, `rerankers` of all rerankers,
    `students` of the models that run in the router.
    """

    problems: list[str]
    models: list[str]
    rerankers: tuple[str, ...] = ()
    students: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """The models, rerankers and students with their counts."""
        models = [name for name in self.models if name not in self.rerankers]
        counted = [
            f"{len(names)} {kind}{'' if len(names) == 1 else 's'}: {', '.join(names)}"
            for kind, names in (
                ("model", models),
                ("reranker", self.rerankers),
                ("student", self.students),
            )
            if names
        ]
        return "; ".join(counted) or "no model in it"


def check(path: str | Path, host: str | None = None) -> list[str]:
    """Return one sentence for each problem of a Serve config file; none if it can be deployed.

    `host` is the address that the service will listen on, if it is not the file's.
    """
    return examine(path, host).problems


def examine(path: str | Path, host: str | None = None) -> ConfigCheck:
    """Check a Serve config file and name the models in it.

    The file can also be a KubeRay RayService manifest around the config, or a file for `ray up`.
    """
    try:
        data = read(Path(path).read_bytes())
    except OSError as error:
        return ConfigCheck([f"cannot be read: {error.strerror or error}"], [])
    except ConfigError as error:
        return ConfigCheck(error.problems, [])
    if isinstance(data, Mapping) and "available_node_types" in data:
        return ConfigCheck(list(cluster_problems(data)), [])
    if isinstance(data, Mapping) and data.get("kind") == "RayService":
        spec = data.get("spec")
        inner = spec.get("serveConfigV2") if isinstance(spec, Mapping) else None
        if not isinstance(inner, str):
            return ConfigCheck(["spec.serveConfigV2: must be text that holds the Serve config"], [])
        try:
            report = _examine(_sorted(read(inner)), host)
        except ConfigError as error:
            report = ConfigCheck(error.problems, [])
        return report._replace(problems=[f"spec.serveConfigV2: {one}" for one in report.problems])
    return _examine(data, host)


def slow_way(path: str | Path) -> str | None:
    """Return a warning if a config sends every request through Serve's own, slower handling.

    None if it does not, or if the config is none of ours.
    """
    try:
        data = read(Path(path).read_bytes())
        if isinstance(data, Mapping) and data.get("kind") == "RayService":
            data = read(data["spec"]["serveConfigV2"])
        applications = data["applications"]
        ours = [one for one in applications if one.get("import_path") in IMPORT_PATHS]
        if any(_logs_requests(data, one) for one in ours):
            return ACCESS_LOG
    except (OSError, ConfigError, AttributeError, KeyError, TypeError):
        pass  # `check` reports what is wrong
    return None


def _logs_requests(data: Mapping[str, Any], application: Mapping[str, Any]) -> bool:
    """Return whether Serve logs each request of a router; the innermost `logging_config` counts."""
    router = [one for one in application.get("deployments") or () if one.get("name") == "router"]
    for one in (*router, application, data):
        given = one.get("logging_config")
        if given is not None:
            return bool(given.get("enable_access_log", True))
    return True


def application(path: str | Path) -> tuple[RouterArgs, dict[str, Any]]:
    """Return our application in a Serve config file: its `args`, and all of it as a mapping.

    The `args` have the changes of `user_config`. Raises ConfigError if the file cannot be deployed
    or has no application of this project.
    """
    if problems := check(path, LOOPBACK):  # it is read here, not served
        raise ConfigError([f"{path}: {problem}" for problem in problems])
    data = read(Path(path).read_bytes())
    if data.get("kind") == "RayService":
        data = read(data["spec"]["serveConfigV2"])
    for one in data["applications"]:
        if one["import_path"] in IMPORT_PATHS:
            args = parse_args(one.get("args") or {})
            for _, changes in _reloadable(one):
                args = changed(args.model_dump(mode="json"), changes)
            return args, one
    raise ConfigError([f"{path}: it has no application with import_path: {IMPORT_PATH}"])


def _sorted(data: Any) -> Any:
    """Return the data with sorted keys.

    KubeRay converts the config to JSON through a Go map, which sorts all keys, those of models too.
    """
    if isinstance(data, Mapping):
        return {key: _sorted(data[key]) for key in sorted(data, key=str)}
    return [_sorted(item) for item in data] if isinstance(data, list) else data


def _examine(data: Any, host: str | None) -> ConfigCheck:
    if not isinstance(data, Mapping):
        return ConfigCheck(["the file must be a mapping with the key applications"], [])
    problems = unknown_keys(_File, data)
    problems += [
        f"{section}.port: must be 1 to 65535, it is {port}"
        for section in ("http_options", "grpc_options")
        if isinstance(options := data.get(section), Mapping)
        and isinstance(port := options.get("port"), int)
        and not 1 <= port <= 65535
    ]
    whole = _validate(ServeDeploySchema, data, "")
    models, rerankers, students = list[str](), list[str](), list[str]()
    applications = data.get("applications")
    for index, application in enumerate(applications if isinstance(applications, list) else ()):
        if not isinstance(application, Mapping):
            continue
        where = f"applications[{index}]"
        problems += _loose_sections(application, where)
        import_path = application.get("import_path")
        if import_path in IMPORT_PATHS:
            try:
                args = parse_args(application.get("args") or {}, f"{where}.args")
            except ConfigError as error:
                problems += error.problems
            else:
                models += args.deployed
                rerankers += args.rerankers
                students += [id for id, one in args.models.items() if one.engine.in_router]
                before = len(problems)
                problems += _deployments(
                    args, application.get("deployments") or [], f"{where}.deployments"
                )
                problems += _devices(args, application, f"{where}.args")
                problems += _policy(application, where)
                for name, model in args.served.items():
                    place = f"{where}.args.{args.place_of(name)}"
                    problems += model_problems(model, args.base_dir, place)
                problems += (
                    reload_problems(args, f"{where}.args")
                    if len(problems) > before
                    else constructor_problems(args, f"{where}.args")
                )
                for at, changes in _reloadable(application, where):
                    try:
                        args = changed(args.model_dump(mode="json"), changes, at)
                        problems += reload_problems(args, at)
                    except ConfigError as error:
                        problems += error.problems
                problems += _exposed(args, data, host)
        elif isinstance(import_path, str) and get_close_matches(
            import_path, [IMPORT_PATH], cutoff=0.8
        ):
            problems.append(
                f"{where}.import_path: {import_path} does not exist; did you mean {IMPORT_PATH}?"
            )
    # Serve reports a problem of a nested section again for the whole file, without its place.
    reported = {problem.partition(": ")[2] for problem in problems}
    return ConfigCheck(
        [
            *problems,
            *(problem for problem in whole if problem.removeprefix("the file: ") not in reported),
        ],
        models,
        tuple(rerankers),
        tuple(students),
    )


def _reloadable(application: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the place of the router's `user_config` and its content."""
    deployments = application.get("deployments")
    for index, deployment in enumerate(deployments if isinstance(deployments, list) else ()):
        if (
            isinstance(deployment, Mapping)
            and deployment.get("name") == "router"
            and "user_config" in deployment
        ):
            yield f"{where}.deployments[{index}].user_config", deployment["user_config"] or {}


def _exposed(args: RouterArgs, data: Mapping[str, Any], host: str | None) -> list[str]:
    """Return a problem if other machines reach the address and no keys are needed.

    Serve's own default is such an address.
    """
    options = data.get("http_options")
    default = HTTPOptionsSchema().host
    given = options.get("host", default) if isinstance(options, Mapping) else default
    try:
        require_local(
            args, host or (given if isinstance(given, str) else None), "http_options.host"
        )
    except ConfigError as error:
        return error.problems
    return []


def _validate(model: type[BaseModel], data: Any, where: str) -> list[str]:
    """Return the problems that `model` finds in the values of `data`."""
    try:
        with warnings.catch_warnings(action="ignore"), own_folder_first():
            model(**copy.deepcopy(dict(data)))
    except ValidationError as error:
        return sentences(error, data, where)
    except Exception as error:  # Serve's validators import what the file names and raise anything
        return [f"{where or 'the file'}: {error}"]
    return []


def _loose_sections(application: Mapping[str, Any], where: str) -> list[str]:
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
            problems += _validate(model, value, path)
    return problems


def _deployments(args: RouterArgs, deployments: list[Any], where: str) -> Iterator[str]:
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


def _devices(args: RouterArgs, application: Mapping[str, Any], where: str) -> Iterator[str]:
    """Yield a problem for each model whose engine needs more cards than its deployment books.

    An engine on several cards must not run in the replica's process.
    """
    try:
        booked = {one.deployment: one for one in bookings(args, application)}
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


def _policy(application: Mapping[str, Any], where: str) -> Iterator[str]:
    """Yield what would make our autoscaling policy fail in Serve's controller, or lack data."""
    listed = application.get("deployments")
    deployments = [
        one if isinstance(one, Mapping) else {}
        for one in (listed if isinstance(listed, list) else ())
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
        yield from _validate(Autoscaling, kwargs, path)
    if not any(
        one.get("name") == "router" and one.get("autoscaling_config") for one in deployments
    ):
        yield (
            f"{where}.deployments: the autoscaling policy needs what routers report, and Serve "
            "takes reports only from "
            "deployments with an autoscaling_config: give router one (min_replicas equal to "
            "max_replicas is a fixed number)"
        )
