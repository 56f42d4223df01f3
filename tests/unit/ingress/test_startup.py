"""A router says which model waits for what, once, and stops when all are ready."""

import logging
from typing import Any

import pytest

from deployments.ingress.startup import StartupLog, log_missing_switches
from router.config import RouterArgs
from router.resources import Node, node
from router.switches import ALWAYS, WITH_HAPROXY

MODEL = {"engine": {"kind": "fake"}, "dimensions": 8, "max_tokens": 64}
ARGS = RouterArgs.model_validate(
    {"models": {"small": MODEL, "large": MODEL}, "tiers": {"fast": "small", "best": "large"}}
)


class Cluster:
    """Nodes and deployments as Serve would tell of them; `large` is ready or not."""

    def __init__(self, nodes: list[Node], large: dict[str, Any]) -> None:
        self.ready, self.broken, self._nodes = False, False, nodes
        self._deployments = [{"name": "large", "ray_actor_options": large}]

    def __call__(self) -> tuple[dict[str, Any], list[Node]]:
        if self.broken:
            raise RuntimeError("the controller is gone")
        return {"deployments": self._deployments}, self._nodes

    def unready(self) -> list[str]:
        return [] if self.ready else ["large"]


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]


async def test_a_model_that_waits_for_a_card_is_named_once_with_what_it_waits_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    h100s = node({"CPU": 8.0, "GPU": 3.0, "accelerator_type:H100": 1.0})
    cluster = Cluster([h100s], {"num_cpus": 1, "num_gpus": 1, "accelerator_type": "L4"})
    waits = StartupLog(ARGS, cluster.unready, cluster)
    await waits.look()
    await waits.look()
    (line,) = lines(caplog)
    assert line.startswith("large waits for 1 GPU of type L4 and 1 CPU: no card is of type L4")
    assert "yours are H100" in line
    cluster.ready = True
    await waits.look()
    assert len(lines(caplog)) == 1
    cluster.ready = False  # a redeploy, say
    await waits.look()
    assert len(lines(caplog)) == 2


async def test_a_model_that_is_only_slow_is_not_accused(caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster([Node(8, 0, None)], {"num_cpus": 1})
    await StartupLog(ARGS, cluster.unready, cluster).look()
    assert lines(caplog) == []


async def test_a_cluster_that_cannot_be_asked_stops_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cluster = Cluster([Node(8, 0, None)], {"num_cpus": 1, "num_gpus": 1})
    waits = StartupLog(ARGS, cluster.unready, cluster)
    cluster.broken = True
    await waits.look()
    cluster.broken = False
    await waits.look()
    assert len(lines(caplog)) == 1


def test_a_router_under_serve_run_says_so_in_one_line(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*ALWAYS, *WITH_HAPROXY):
        monkeypatch.delenv(name, raising=False)
    with caplog.at_level(logging.INFO, "ray.serve"):
        log_missing_switches()
    (line,) = [record.getMessage() for record in caplog.records]
    assert "RAY_SERVE_ENABLE_HA_PROXY=1" in line
    for name, value in {**ALWAYS, **WITH_HAPROXY}.items():
        monkeypatch.setenv(name, value)
    caplog.clear()
    log_missing_switches()
    assert caplog.records == []
