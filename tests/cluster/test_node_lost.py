"""A node dies with a replica and its calls on it: nobody is left without an answer, and the replica
comes back elsewhere.
"""

import asyncio
import time
from typing import Any

import pytest

from benchmarks.chaos_load import Checked, Model
from tests.support.clusters import nodes
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.long]

MODELS = {"small": Model(64, 1), "large": Model(128, 2)}
TIMEOUT_S = 20.0
CONFIG: dict[str, Any] = {
    "applications": [
        {
            "name": "embedding-router",
            "route_prefix": "/",
            "import_path": "deployments.app:build",
            "args": {
                "models": {
                    name: {
                        "engine": {"kind": "fake", "seed": model.seed, "base_s": 0.05},
                        "dimensions": model.dimensions,
                        "max_tokens": 2000,
                        "curve": {
                            "fixed_s": 0.001,
                            "base_s": 0.05,
                            "s_per_token": 0,
                            "batch_tokens": 4096,
                            "overhead_s": 0.01,
                        },
                    }
                    for name, model in MODELS.items()
                },
                "tiers": {"fast": "small", "best": "large"},
                "limits": {"request_timeout_s": TIMEOUT_S},
            },
            "deployments": [
                {"name": "router", "num_replicas": 1, "ray_actor_options": {"num_cpus": 0.5}},
                {"name": "small", "num_replicas": 1, "ray_actor_options": {"num_cpus": 0.5}},
                {
                    "name": "large",
                    "num_replicas": 2,
                    "health_check_period_s": 1,
                    "ray_actor_options": {"num_cpus": 0.5, "num_gpus": 1},
                },
            ],
        }
    ]
}


async def test_a_lost_node_takes_no_request_with_it(capsys: pytest.CaptureFixture[str]) -> None:
    with nodes([{"num_cpus": 2, "num_gpus": 1}] * 3) as (service, cluster):
        await asyncio.to_thread(service.deploy, CONFIG)
        before = await asyncio.to_thread(service.nodes_of, "large")
        assert len(set(before)) == 2
        (lost,) = [node for node in cluster.worker_nodes if node.node_id == before[0]]

        def whole() -> bool:
            return (
                len(now := service.nodes_of("large")) == 2
                and lost.node_id not in now
                and service.healthy()
            )

        async with Checked(service.url, MODELS, TIMEOUT_S) as client:
            stop = asyncio.Event()
            load = asyncio.create_task(client.run(stop))
            try:
                await asyncio.to_thread(wait_for, lambda: client.tally.right > 0, "answers")
                start_s = time.monotonic()
                await asyncio.to_thread(cluster.remove_node, lost, allow_graceful=False)
                await asyncio.to_thread(
                    wait_for, whole, "two replicas on the nodes that are left", told=service.status
                )
                took_s, right = time.monotonic() - start_s, client.tally.right
                await asyncio.to_thread(
                    wait_for, lambda: client.tally.right > right, "answers after the loss"
                )
            finally:
                stop.set()
                await load
            tally = client.tally
        with capsys.disabled():
            print(
                f"\nnode lost: {tally.sent} sent, {tally.right} right, refused "
                f"{dict(tally.refused)}, {len(tally.lost)} lost, "
                f"{len(tally.wrong)} wrong, worst {tally.worst_s:.2f} s, whole again after "
                f"{took_s:.1f} s"
            )
        assert not tally.lost
        assert not tally.wrong
        assert tally.right > right
        assert tally.sent == tally.right + sum(tally.refused.values())
