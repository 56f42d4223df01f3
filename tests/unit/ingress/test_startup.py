"""A router says which model waits for what, once, and stops when all are ready."""

import logging
from typing import Any

import pytest

from deployments.ingress.startup import say_switches, watch
from router.config import RouterArgs
from router.resources import Node, node
from router.switches import ALWAYS, WITH_HAPROXY

MODEL = {"engine": {"kind": "fake"}, "dimensions": 8, "max_tokens": 64}
ARGS = RouterArgs.model_validate(
    {"models": {"small": MODEL, "large": MODEL}, "tiers": {"fast": "small", "best": "large"}}
)


class Cluster:
    """Nodes and deployments as Serve would tell of them; counts the questions."""

    def __init__(self, nodes: list[Node], large: dict[str, Any]) -> None:
        self.asked, self._nodes = 0, nodes
        self._deployments = [{"name": "large", "ray_actor_options": large}]

    def __call__(self) -> tuple[dict[str, Any], list[Node]]:
        self.asked += 1
        return {"deployments": self._deployments}, self._nodes

    def unready_for(self, questions: int) -> list[str]:
        return ["large"] if self.asked < questions else []


async def test_a_model_that_waits_for_a_card_is_named_once_with_what_it_waits_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    h100s = node({"CPU": 8.0, "GPU": 3.0, "accelerator_type:H100": 1.0})
    cluster = Cluster([h100s], {"num_cpus": 1, "num_gpus": 1, "accelerator_type": "L4"})
    with caplog.at_level(logging.WARNING, "ray.serve"):
        await watch(ARGS, lambda: cluster.unready_for(3), cluster, 0.0, 0.0)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("large waits for 1 GPU of type L4 and 1 CPU: no card is of type L4")
    assert "yours are H100" in line
    assert cluster.asked == 3


async def test_a_model_that_is_only_slow_is_not_accused(caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster([Node(8, 0, None)], {"num_cpus": 1})
    await watch(ARGS, lambda: cluster.unready_for(2), cluster, 0.0, 0.0)
    assert [one for one in caplog.records if one.levelno >= logging.WARNING] == []


async def test_a_cluster_that_cannot_be_asked_stops_nothing() -> None:
    times = iter((["large"], ["large"], []))

    def broken() -> tuple[dict[str, Any], list[Node]]:
        raise RuntimeError("the controller is gone")

    await watch(ARGS, lambda: next(times), broken, 0.0, 0.0)


def test_a_router_under_serve_run_says_so_in_one_line(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*ALWAYS, *WITH_HAPROXY):
        monkeypatch.delenv(name, raising=False)
    with caplog.at_level(logging.INFO, "ray.serve"):
        say_switches()
    (line,) = [record.getMessage() for record in caplog.records]
    assert "RAY_SERVE_ENABLE_HA_PROXY=1" in line
    for name, value in {**ALWAYS, **WITH_HAPROXY}.items():
        monkeypatch.setenv(name, value)
    caplog.clear()
    say_switches()
    assert caplog.records == []
