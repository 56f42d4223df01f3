"""Check a whole Serve config file before Ray reads it.

The check covers syntax, Serve's own keys and values, and our `args:`. Ray Serve drops unknown keys
and accepts any value in nested sections until the deployment fails. PyYAML keeps the last of two
equal keys. Each of these turns a typo into a setting that silently does nothing.
"""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from ray.serve.schema import HTTPOptionsSchema, ServeApplicationSchema, ServeDeploySchema

from deployments.launch.cluster_check import cluster_problems
from deployments.launch.constructor_check import constructor_problems, reload_problems
from deployments.launch.deployment_check import (
    device_problems,
    name_problems,
    policy_problems,
    section_problems,
    validate,
)
from deployments.launch.model_check import model_problems
from router.config import RouterArgs
from router.exposure import require_local
from router.strict import (
    ConfigError,
    changed,
    parse_args,
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
        return report._replace(
            problems=[f"spec.serveConfigV2: {problem}" for problem in report.problems]
        )
    return _examine(data, host)


def slow_path_warning(path: str | Path) -> str | None:
    """Return a warning if a config sends every request through Serve's own, slower handling.

    None if it does not, or if the config is none of ours.
    """
    try:
        data = read(Path(path).read_bytes())
        if isinstance(data, Mapping) and data.get("kind") == "RayService":
            data = read(data["spec"]["serveConfigV2"])
        applications = data["applications"]
        ours = [item for item in applications if item.get("import_path") in IMPORT_PATHS]
        if any(_logs_requests(data, item) for item in ours):
            return ACCESS_LOG
    except (OSError, ConfigError, AttributeError, KeyError, TypeError):
        pass  # `check` reports what is wrong
    return None


def _logs_requests(data: Mapping[str, Any], application: Mapping[str, Any]) -> bool:
    """Return whether Serve logs each request of a router; the innermost `logging_config` counts."""
    router = [
        deployment
        for deployment in application.get("deployments") or ()
        if deployment.get("name") == "router"
    ]
    for item in (*router, application, data):
        given = item.get("logging_config")
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
    for item in data["applications"]:
        if item["import_path"] in IMPORT_PATHS:
            args = parse_args(item.get("args") or {})
            for _, changes in _reloadable(item):
                args = changed(args.model_dump(mode="json"), changes)
            return args, item
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
    whole = validate(ServeDeploySchema, data, "")
    models, rerankers, students = list[str](), list[str](), list[str]()
    applications = data.get("applications")
    for index, application in enumerate(applications if isinstance(applications, list) else ()):
        if not isinstance(application, Mapping):
            continue
        where = f"applications[{index}]"
        problems += section_problems(application, where)
        import_path = application.get("import_path")
        if import_path in IMPORT_PATHS:
            try:
                args = parse_args(application.get("args") or {}, f"{where}.args")
            except ConfigError as error:
                problems += error.problems
            else:
                models += args.deployed
                rerankers += args.rerankers
                students += [id for id, model in args.models.items() if model.engine.in_router]
                before = len(problems)
                problems += name_problems(
                    args, application.get("deployments") or [], f"{where}.deployments"
                )
                problems += device_problems(args, application, f"{where}.args")
                problems += policy_problems(application, where)
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
