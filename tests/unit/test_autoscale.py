"""The autoscaling policy as Serve's controller runs it: on reports of routers, from a pickle, with
nothing of ours installed.
"""

import base64
import inspect
import random
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pytest
from ray.serve.config import AutoscalingContext, AutoscalingPolicy

from deployments.autoscale import ByTokens, ScalingContext, flat, reports
from router.capacity import DemandReport
from router.config import Autoscaling


class Id(NamedTuple):
    name: str


class Point(NamedTuple):
    timestamp: float
    value: float


@dataclass
class State:
    """What Serve says of one deployment."""

    raw_metrics: Any = None
    current_num_replicas: int = 1
    target_num_replicas: int = 1
    capacity_adjusted_min_replicas: int = 1
    capacity_adjusted_max_replicas: int = 10
    current_time: float | None = 1000.0


def routers(at: float, *each: dict[str, DemandReport]) -> State:
    """The routers' state with one report of each, old points before it."""
    metrics: dict[str, dict[str, list[Point]]] = {"running_requests": {"r0": [Point(at, 3.0)]}}
    for number, asks in enumerate(each):
        for name, value in flat(asks).items():
            metrics.setdefault(name, {})[f"r{number}"] = [Point(at - 10.0, 1e9), Point(at, value)]
    return State(metrics)


IDLE = DemandReport(0.0, 0.0, 0.0, 1000.0)


def decide(policy: ByTokens, at: float, ask: DemandReport, **state: Any) -> float:
    contexts: dict[Any, ScalingContext] = {
        Id("router"): routers(at, {"m": ask}),
        Id("m"): State(current_time=at, **state),
    }
    return policy(contexts)[0][Id("m")]


def test_reports_of_all_routers_add_up() -> None:
    each = {"a": DemandReport(100.0, 10.0, 5.0, 1000.0, 0.5, 20.0), "org/b": IDLE}
    asks = reports({Id("router"): routers(1000.0, each, each)}, 1000.0)
    assert asks["a"] == DemandReport(200.0, 20.0, 10.0, 1000.0, 0.5, 20.0)
    assert asks["org/b"].offered == 0.0


def test_a_router_that_fell_silent_asks_for_nothing() -> None:
    assert reports({Id("router"): routers(1000.0, {"a": IDLE})}, 1031.0) == {}


def test_a_model_that_nobody_reported_keeps_what_it_has() -> None:
    decisions, _ = ByTokens()(
        {Id("router"): routers(1000.0, {}), Id("m"): State(target_num_replicas=7)}
    )
    assert Id("m") not in decisions


def busy(*shares: float, cores: float = 1.0) -> State:
    """Routers that use these shares of a core."""
    return routers(1000.0, *({"router": DemandReport(s, 0.0, 0.0, cores)} for s in shares))


def routers_wanted(policy: ByTokens, state: State) -> float:
    return policy({Id("router"): state, Id("m"): State()})[0][Id("router")]


def test_routers_scale_by_the_share_of_a_core_that_they_use() -> None:
    assert routers_wanted(ByTokens(), busy(0.2)) == 1
    assert routers_wanted(ByTokens(), busy(0.9)) == 2
    assert routers_wanted(ByTokens(utilisation=0.5), busy(0.9)) == 2
    assert routers_wanted(ByTokens(utilisation=0.5), busy(0.9, 0.9)) == 4
    assert routers_wanted(ByTokens(), busy(*[1.0] * 20)) == 10  # max_replicas
    # a container with half a core is full at half a core
    assert routers_wanted(ByTokens(), busy(0.5, cores=0.5)) == 2


def test_routers_are_kept_for_a_while_and_without_a_report() -> None:
    policy = ByTokens(hold_s=60.0)
    three = replace(busy(0.9, 0.9), current_num_replicas=3, target_num_replicas=3)
    assert routers_wanted(policy, three) == 3
    idle = replace(three, raw_metrics=busy(0.1, 0.1).raw_metrics, current_time=1020.0)
    assert routers_wanted(policy, idle) == 3
    decisions, _ = ByTokens()({Id("router"): routers(1000.0, {"m": IDLE}), Id("m"): State()})
    assert Id("router") not in decisions


def test_routers_take_nothing_of_the_budget_of_devices() -> None:
    asks = {"a": IDLE._replace(offered=8000.0), "router": DemandReport(4.0, 0.0, 0.0, 1.0)}
    contexts: dict[Any, ScalingContext] = {Id("router"): routers(1000.0, asks), Id("a"): State()}
    decisions, _ = ByTokens(devices=3)(contexts)
    assert (decisions[Id("router")], decisions[Id("a")]) == (5, 3)


def test_replicas_follow_tokens_within_the_bounds() -> None:
    assert decide(ByTokens(), 1000.0, IDLE._replace(offered=2500.0)) == 4
    assert decide(ByTokens(), 1000.0, IDLE._replace(shadow=2500.0)) == 4
    assert decide(ByTokens(), 1000.0, IDLE._replace(offered=1e6)) == 10
    assert decide(ByTokens(), 1000.0, IDLE) == 1


def test_a_model_at_zero_wakes_for_what_waits_in_a_router_and_sleeps_when_nobody_asks() -> None:
    asleep = {
        "current_num_replicas": 0,
        "target_num_replicas": 0,
        "capacity_adjusted_min_replicas": 0,
    }
    assert decide(ByTokens(), 1000.0, IDLE._replace(backlog_tokens=5.0), **asleep) == 1
    assert decide(ByTokens(), 1000.0, IDLE, **asleep) == 0
    policy = ByTokens(hold_s=60.0)
    assert (
        decide(policy, 1000.0, IDLE, capacity_adjusted_min_replicas=0) == 1
    )  # a new policy knows no peak, so it waits
    assert decide(policy, 1059.0, IDLE, capacity_adjusted_min_replicas=0) == 1
    assert decide(policy, 1061.0, IDLE, capacity_adjusted_min_replicas=0) == 0


def test_a_peak_is_held() -> None:
    policy = ByTokens(hold_s=60.0)
    state = {"current_num_replicas": 4, "target_num_replicas": 4}
    assert decide(policy, 1000.0, IDLE._replace(offered=2500.0), **state) == 4
    assert decide(policy, 1050.0, IDLE._replace(offered=500.0), **state) == 4
    assert decide(policy, 1061.0, IDLE._replace(offered=500.0), **state) == 1


def test_a_new_policy_stops_nothing_that_it_finds_running() -> None:
    assert decide(ByTokens(), 1000.0, IDLE, current_num_replicas=9, target_num_replicas=9) == 9


def test_the_start_counts_as_the_config_says_and_else_as_the_policy_does() -> None:
    late = DemandReport(1000.0, 0.0, 120_000.0, 2000.0)  # one replica has it done in 120 s
    assert decide(ByTokens(start_s=200.0, drain_s=30.0), 1000.0, late) == 1
    assert decide(ByTokens(start_s=10.0, drain_s=30.0), 1000.0, late) == 3
    assert decide(ByTokens(start_s=10.0, drain_s=30.0), 1000.0, late._replace(start_s=200.0)) == 1
    # what a start really took corrects a setting that is too small, and none that is larger
    assert decide(ByTokens(start_s=10.0, drain_s=30.0), 1000.0, late._replace(started_s=200.0)) == 1
    assert decide(ByTokens(start_s=200.0, drain_s=30.0), 1000.0, late._replace(started_s=5.0)) == 1


def test_a_budget_holds_over_all_models() -> None:
    asks = {"a": IDLE._replace(offered=8000.0), "b": IDLE._replace(offered=8000.0, devices=2.0)}
    contexts: dict[Any, ScalingContext] = {
        Id("router"): routers(1000.0, asks),
        Id("a"): State(),
        Id("b"): State(),
    }
    decisions, _ = ByTokens(devices=9)(contexts)
    assert (decisions[Id("a")], decisions[Id("b")]) == (3, 3)


def test_models_that_need_much_the_same_of_a_budget_do_not_take_replicas_from_each_other_in_turns() -> (  # noqa: E501
    None
):
    policy, rng, replicas, level, stopped = (
        ByTokens(devices=7),
        random.Random(0),
        {"a": 3, "b": 3},
        {"a": 0.0, "b": 0.0},
        0,
    )
    for at in range(
        1000, 4600
    ):  # an hour in which each wants four replicas, 5 % more or less from one minute to the next
        level = {name: 0.98 * was + rng.gauss(0.0, 0.01) for name, was in level.items()}
        asks = {name: IDLE._replace(offered=3200.0 * (1.0 + level[name])) for name in replicas}
        contexts: dict[Any, ScalingContext] = {Id("router"): routers(at, asks)}
        contexts |= {
            Id(name): State(current_num_replicas=count, target_num_replicas=count, current_time=at)
            for name, count in replicas.items()
        }
        decisions = policy(contexts)[0]
        now = {name: int(decisions[Id(name)]) for name in replicas}
        stopped += sum(max(0, replicas[name] - now[name]) for name in replicas)
        replicas = now
    assert sum(replicas.values()) == 7
    assert stopped <= 24, (
        "the higher need of the last five minutes has the seventh device: two moves in each"
    )


def test_decisions_are_made_twice_a_second_and_repeated_in_between() -> None:
    policy = ByTokens()
    assert decide(policy, 1000.0, IDLE) == 1
    assert decide(policy, 1000.4, IDLE._replace(offered=5000.0)) == 1
    assert decide(policy, 1000.6, IDLE._replace(offered=5000.0)) == 7


def test_serves_context_has_what_the_policy_reads() -> None:
    assert set(ScalingContext.__annotations__) <= {
        *inspect.signature(AutoscalingContext.__init__).parameters
    }


def test_the_documented_arguments_are_those_of_the_policy() -> None:
    parameters = inspect.signature(ByTokens).parameters
    assert {name: each.default for name, each in parameters.items()} == {
        name: each.default for name, each in Autoscaling.model_fields.items()
    }


def test_the_pickle_needs_nothing_of_this_project() -> None:
    named = AutoscalingPolicy(policy_function="deployments.autoscale:ByTokens")  # type: ignore[no-untyped-call]
    pickled = named.get_serialized_policy_def()
    assert pickled is not None
    script = f"""
import base64, sys
from ray import cloudpickle
policy = cloudpickle.loads(base64.b64decode({base64.b64encode(pickled)!r}))(devices=2)
class Deployment: name = "m"
class Point: timestamp, value = 9.0, 4000.0
class State:
    total_num_requests, current_num_replicas, target_num_replicas, current_time = 0.0, 1, 1, 9.0
    capacity_adjusted_min_replicas, capacity_adjusted_max_replicas, config = 1, 8, None
    raw_metrics = {{f"m/{{field}}": {{"r": [Point]}} for field in ("offered", "shadow",
    "backlog_tokens", "tokens_per_s")}}
assert list(policy({{Deployment: State}})[0].values()) == [2]
assert not {{"router", "deployments", "pydantic"}} & set(sys.modules)
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(
        command, cwd="/", env={"PATH": "/bin"}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["utilisation", "drain_s"])
def test_nonsense_is_refused_before_it_scales_anything(name: str) -> None:
    with pytest.raises(ValueError, match="above 0"):
        decide(ByTokens(**{name: 0.0}), 1000.0, IDLE)
