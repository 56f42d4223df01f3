"""Read and check everything that a simulation needs from files."""

import csv
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from deployments.launch.deployment_check import POLICIES as BY_TOKENS
from deployments.launch.serve_config import application
from deployments.tools.policy_file import read_policy, with_tiers
from router.config import Autoscaling, RouterArgs
from router.decision_log import LogError, Logged
from router.decision_log import read as read_log
from router.domain import Model
from router.models import build_models
from router.profile import ProfileError, load_profile, read_profile
from router.resources import AUTO_REPLICAS
from router.sim.baselines import CHOOSERS
from router.sim.build import (
    Fleet,
    PolicyVariant,
    World,
    check_log,
    length_s,
    mean_rate,
    rate_of,
    slowed,
)
from router.sim.scaling import Bounds
from router.sim.scenario import POLICIES, Scenario, check_models, parse_scenario
from router.strict import ConfigError, suggestion
from router.strict_yaml import read

TRACE_COLUMNS = ("TIMESTAMP", "ContextTokens")
COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}
MAX_REQUESTS = 20_000_000  # more than an hour of simulating
MAX_S = 366 * 86_400.0


def load_world(
    path: Path,
    config: Path | None = None,
    trace: Path | None = None,
    log: Path | None = None,
    scale: float | None = None,
    replicas: Mapping[str, int] = MappingProxyType({}),
    gpu_hour: float | None = None,
) -> World:
    """Load a scenario and all that it names. Raises ConfigError.

    `log` and `scale` replace those of its traffic, `replicas` those of some models (the traffic is
    the same), and `gpu_hour` its cost of a device.
    """
    try:
        scenario = parse_scenario(read(path.read_bytes()))
    except ConfigError as error:
        raise ConfigError([f"{path}: {problem}" for problem in error.problems]) from None
    scenario = _with_traffic(scenario, log, scale)
    if gpu_hour is not None:
        scenario = scenario.model_copy(update={"gpu_hour": gpu_hour})
    if config is None:
        if scenario.config is None:
            raise ConfigError(
                [f"{path}: it names no config; write `config:` or give --config configs/qwen3.yaml"]
            )
        config = _file(path, scenario.config, "config")
    args, app = application(config)
    # only models that a request without a space goes to; requests for scores are not simulated
    models = {name: model for name, model in build_models(args).items() if name in args.native}
    if problems := check_models(scenario, models, replicas):
        raise ConfigError([f"{path}: {problem}" for problem in problems])
    models, profile = _profiled(path, config, scenario, args, models)
    if scenario.slower != 1.0:
        models = {
            name: replace(model, curve=slowed(model.curve, scenario.slower))
            for name, model in models.items()
        }
        profile += f", on cards {scenario.slower:g} times slower"
    native = args.model_copy(update={"models": args.native})
    world = World(scenario, native, models, profile, _fleet(app)).with_replicas(replicas)
    if scenario.traffic.trace is not None:
        world = replace(
            world, trace=read_trace(trace or _file(path, scenario.traffic.trace, "traffic.trace"))
        )
    elif trace is not None:
        raise ConfigError([f"{path}: it replays no trace; write `traffic.trace:`"])
    if scenario.traffic.log is not None:
        found = _file(path, scenario.traffic.log, "traffic.log")
        world = replace(world, log=_log(found, args))
        at_s = [entry.entry.began_s for entry in world.log]
        span_s = (max(at_s) - min(at_s)) / scenario.traffic.scale
        world = world.updated(seconds=max(1.0, span_s + 1e-6))
        _check_warm_up(scenario, span_s, found)
    rate = mean_rate(world)
    seconds = length_s(world, rate) if rate else world.scenario.seconds
    _check_size(world, rate, seconds, path)
    if world.trace:
        _check_warm_up(scenario, seconds, path)
    _check_faults(world, seconds, path)
    return world


def _check_size(world: World, rate: float, seconds: float, path: Path) -> None:
    """Raise ConfigError if nobody would wait for the end of the simulation."""
    declared = not world.log and not world.trace
    requests = rate_of(world, rate).total(seconds) if declared else len(world.log) or rate * seconds
    if not requests <= MAX_REQUESTS:
        raise ConfigError(
            [
                f"{path}: {requests:.3g} requests would arrive, and {MAX_REQUESTS:,} take more "
                "than an hour to simulate; write fewer seconds, a lower rate or a smaller scale"
            ]
        )
    if not seconds <= MAX_S:
        raise ConfigError(
            [
                f"{path}: it would simulate {seconds:.3g} s, and {MAX_S:.0f} (a year) are the "
                "most; write fewer seconds or a larger scale"
            ]
        )


def _check_faults(world: World, seconds: float, path: Path) -> None:
    """Raise ConfigError for faults and bursts that cannot happen."""
    scenario, replicas = world.scenario, world.replicas
    timed = [(f"faults[{place}]", one.at_s) for place, one in enumerate(scenario.faults)]
    timed += [
        (f"traffic.bursts[{place}]", one.at_s) for place, one in enumerate(scenario.traffic.bursts)
    ]
    problems = [
        f"{path}: {where}.at_s is {at_s:g}, and the last request arrives before {seconds:.6g} s"
        for where, at_s in timed
        if at_s >= seconds
    ]
    for place, fault in enumerate(scenario.faults):
        model = world.args.models[fault.model]
        most = replicas[fault.model] or int(model.cold_start_s is not None)
        if scenario.autoscaling is None and fault.replicas > most:
            problems.append(
                f"{path}: faults[{place}].replicas is {fault.replicas}, and {fault.model} has "
                f"{most}; write at most so many"
            )
    if problems:
        raise ConfigError(problems)


def _with_traffic(scenario: Scenario, log: Path | None, scale: float | None) -> Scenario:
    """Replace the log and the scale of a scenario by the given ones."""
    changes: dict[str, Any] = {} if scale is None else {"scale": scale}
    if log is not None:
        changes |= {
            "log": str(log.resolve()),
            "load": None,
            "requests_per_s": None,
            "trace": None,
        }
    return scenario.model_copy(update={"traffic": scenario.traffic.model_copy(update=changes)})


def _check_warm_up(scenario: Scenario, seconds: float, file: Path) -> None:
    """Raise ConfigError if the last request arrives before requests are counted."""
    if scenario.warm_up_s and scenario.warm_up_s >= seconds:
        raise ConfigError(
            [
                f"{file}: its requests arrive within {seconds:.3g} s and warm_up_s is "
                f"{scenario.warm_up_s:g}, so nothing is counted; write a smaller warm_up_s"
            ]
        )


def load_variant(given: str | None, scenario: Path, args: RouterArgs) -> PolicyVariant:
    """Resolve how models are chosen: by a file, a name of POLICIES, or the config.

    Raises ConfigError.
    """
    if given is None:
        return PolicyVariant("as configured")
    if given in CHOOSERS:
        return PolicyVariant(given, chooser=given)
    if given == "rules":
        return PolicyVariant(given)
    path = Path(given)
    if not path.is_file():
        path = scenario.parent / given
    if not path.is_file():
        raise ConfigError(
            [
                f"policy: there is no file {given!r}, and no policy of that name; "
                f"{suggestion(given, POLICIES, 'names are')}"
            ]
        )
    policy = with_tiers(read_policy(path), args.tiers, path)
    tiers: Mapping[Any, str] = policy.tiers or {}
    for tier, model in tiers.items():
        if model not in args.native:
            raise ConfigError(
                [f"{path}: tiers.{tier} names {model!r}; models are {', '.join(args.native)}"]
            )
    return PolicyVariant(
        path.name, args.model_copy(update={"routing": policy.routing, "tiers": tiers})
    )


def read_trace(path: Path) -> list[tuple[float, int]]:
    """Read seconds and tokens from a trace of Azure's LLM inference, in order of time.

    Raises ConfigError.
    """
    _check_text(path)
    try:
        rows = _rows(path)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError([f"{path}: a trace is a CSV file in UTF-8: {error}"]) from None
    rows.sort(key=lambda row: row[0])
    if len(rows) < 2 or rows[-1][0] <= rows[0][0]:
        raise ConfigError([f"{path}: a trace has at least two arrivals, one after the other"])
    return rows


def _rows(path: Path) -> list[tuple[float, int]]:
    rows = list[tuple[float, int]]()
    with path.open(newline="", encoding="utf-8") as lines:
        table = csv.DictReader(line for line in lines if not line.startswith("#"))
        if missing := [name for name in TRACE_COLUMNS if name not in (table.fieldnames or ())]:
            raise ConfigError(
                [f"{path}: a trace has the columns {', '.join(TRACE_COLUMNS)}; {missing[0]} is not "
                 "there"]
            )  # fmt: skip
        for row in table:
            try:
                at_s = datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp()
                rows.append((at_s, int(row["ContextTokens"])))
            except (ValueError, TypeError):
                shown = ",".join(map(str, row.values()))
                raise ConfigError(
                    [f"{path}: line {table.line_num} is no arrival: {shown}"]
                ) from None
    return rows


def _check_text(path: Path) -> None:
    """Raise ConfigError if the file is compressed."""
    with path.open("rb") as file:
        start = file.read(4)
    for magic, name in COMPRESSED.items():
        if start.startswith(magic):
            raise ConfigError([f"{path}: it is compressed with {name}; decompress it first"])


def _file(scenario: Path, name: str, key: str, hint: str = "") -> Path:
    """Find a file that a scenario names: from its folder, otherwise as given.

    Raises ConfigError, which ends with the hint.
    """
    for path in (scenario.parent / name, Path(name)):
        if path.is_file():
            return Path(os.path.normpath(path))
    raise ConfigError(
        [f"{scenario}: {key}: there is no file {name}, neither in {scenario.parent} nor here{hint}"]
    )


def _profiled(
    path: Path, config: Path, scenario: Scenario, args: RouterArgs, models: Mapping[str, Model]
) -> tuple[dict[str, Model], str]:
    """Return models with the curves of the scenario's profiles, and where those come from."""
    if scenario.profiles is None:
        _check_measured(config, args, models)
        own = {args.models[name].profile for name in models}
        where = sorted(item for item in own if item is not None)
        return dict(models), ", ".join(where + [f"the curves of {config}"] * (None in own))
    hint = f"; measure it with `embedding-router calibrate --config {config} --model MODEL -o FILE`"
    file = _file(path, scenario.profiles, "profiles", hint)
    try:
        data = json.loads(file.read_bytes())
        curves = {name: load_profile(data, name) for name in models}
        devices = {read_profile(data, name).device for name in models}
    except (ProfileError, ValueError) as error:
        raise ConfigError([f"{file}: {error}{'' if 'calibrate' in str(error) else hint}"]) from None
    made = {
        name: replace(model, curve=replace(curves[name], overhead_s=model.curve.overhead_s))
        for name, model in models.items()
    }
    return made, f"{file} ({', '.join(sorted(devices))})"


def _check_measured(config: Path, args: RouterArgs, models: Mapping[str, Model]) -> None:
    """Raise ConfigError if the config does not say how long a model takes."""
    if problems := [
        f"{config}: {name} has neither `profile` nor `curve`, so its times are not known; measure "
        f"it with `embedding-router calibrate --config {config} --model {name} -o {name}.json`, "
        f"and write `profile: {name}.json` for it"
        for name in models
        if args.models[name].profile is None and args.models[name].curve is None
    ]:
        raise ConfigError(problems)


def _fleet(app: Mapping[str, Any]) -> Fleet:
    replicas, bounds = dict[str, int](), dict[str, Bounds]()
    for deployment in app.get("deployments") or ():
        scaling, fixed = deployment.get("autoscaling_config") or {}, deployment.get("num_replicas")
        if fixed == "auto":  # with Serve's defaults
            scaling, fixed = {"max_replicas": AUTO_REPLICAS, **scaling}, None
        minimum = int(scaling.get("min_replicas", fixed or 1) or 0)
        first = scaling.get("initial_replicas")  # as in Serve, 0 is a number too
        replicas[deployment["name"]] = minimum if first is None else int(first)
        if scaling:
            bounds[deployment["name"]] = Bounds(
                minimum,
                int(scaling.get("max_replicas", minimum)),
                float(scaling.get("upscale_delay_s", 30.0)),
                float(scaling.get("downscale_delay_s", 600.0)),
            )
    policy = app.get("autoscaling_policy") or {}
    scales = policy.get("policy_function") in BY_TOKENS
    kwargs = policy.get("policy_kwargs") or {}
    return Fleet(replicas, bounds, Autoscaling(**kwargs) if scales else Autoscaling(), scales)


def _log(path: Path, args: RouterArgs) -> Sequence[Logged]:
    _check_text(path)
    try:
        with path.open("rb") as lines:
            log = [
                entry
                for entry in read_log(lines)
                if args.rerankers.keys().isdisjoint(entry.entry.request.work)
            ]
    except LogError as error:
        raise ConfigError([f"{path}: {error}"]) from None
    check_log(log, args, str(path))
    return log
