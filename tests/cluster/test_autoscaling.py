"""Nodes come for the model under load, answer, and go: Ray's own autoscaler, real Serve, our
policy, fake engines.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

import aiohttp
import httpx
import pytest

from tests.support.clusters import Service, autoscaled
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.long]

NODE_TYPES = {
    "small-gpu": {
        "resources": {"CPU": 4, "GPU": 1, "accelerator_type:L4": 1},
        "min_workers": 0,
        "max_workers": 4,
    },
    "large-gpu": {
        "resources": {"CPU": 4, "GPU": 1, "accelerator_type:H100": 1},
        "min_workers": 0,
        "max_workers": 4,
    },
}
FAST = {
    "metrics_interval_s": 0.5,
    "look_back_period_s": 2,
    "upscale_delay_s": 0.5,
    "downscale_delay_s": 1,
}
COLD_S = 20


def model(s_per_token: float) -> dict[str, Any]:
    return {
        "engine": {"kind": "fake", "s_per_token": s_per_token},
        "dimensions": 32,
        "max_tokens": 512,
        "required": False,
        "curve": {
            "fixed_s": 0,
            "base_s": 0,
            "s_per_token": s_per_token,
            "batch_tokens": 100,
            "overhead_s": 0.02,
        },
        "cold_start_s": COLD_S,
    }


def deployment(name: str, accelerator: str) -> dict[str, Any]:
    return {
        "name": name,
        "ray_actor_options": {"num_cpus": 0.5, "num_gpus": 1, "accelerator_type": accelerator},
        "autoscaling_config": {"min_replicas": 0, "max_replicas": 3, **FAST},
        "graceful_shutdown_wait_loop_s": 0.2,
        "graceful_shutdown_timeout_s": 5,
    }


CONFIG: dict[str, Any] = {
    "applications": [
        {
            "name": "embedding-router",
            "route_prefix": "/",
            "import_path": "deployments.app:build",
            "autoscaling_policy": {
                "policy_function": "deployments.autoscale:ByTokens",
                "policy_kwargs": {"hold_s": 4, "start_s": 2, "drain_s": 5},
            },
            "args": {
                # 2,000 tokens a second for a replica of the small model, 500 for one of the large
                "models": {"small": model(0.0005), "large": model(0.002)},
                "tiers": {"fast": "small", "best": "large"},
                # What comes while the first node starts waits for it, however long that takes: by
                # default 30 s of work may.
                "limits": {
                    "max_queue_s": 3600.0,
                    "max_queued_tokens": 100_000_000,
                    "request_timeout_s": 600.0,
                    "max_requests": 100_000,
                    "max_requests_per_client": 100_000,
                },
            },
            "deployments": [
                {
                    "name": "router",
                    "ray_actor_options": {"num_cpus": 0.5},
                    "autoscaling_config": {"min_replicas": 1, "max_replicas": 1, **FAST},
                },
                deployment("small", "L4"),
                deployment("large", "H100"),
            ],
        }
    ]
}


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with autoscaled(NODE_TYPES, idle_s=3.0) as running:
        running.deploy(CONFIG)
        yield running


def test_a_cluster_at_rest_has_no_gpus_and_a_refused_request_starts_the_first_node(
    service: Service,
) -> None:
    assert service.nodes("GPU") == 0
    body = {
        "input": "hello",
        "model": "best",
        "latency_budget_ms": 2000,
        "on_budget_miss": "reject",
    }

    refused = httpx.post(f"{service.url}/v1/embeddings", json=body, timeout=30)

    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "budget_unreachable")
    assert COLD_S - 5 <= int(refused.headers["retry-after"]) <= COLD_S + 5
    wait_for(
        lambda: service.replicas("large") == 1,
        "the first replica of the model that was asked for",
        told=service.status,
    )
    assert (service.nodes("accelerator_type:H100"), service.nodes("accelerator_type:L4")) == (1, 0)
    wait_for(
        lambda: ready(service.url, "large") == 1,
        "the router to know that replica, which Serve tells it after it runs",
    )
    assert (
        httpx.post(f"{service.url}/v1/embeddings", json=body, timeout=30).status_code
        == httpx.codes.OK
    )


def ready(url: str, model: str) -> int:
    """Replicas that the router may use."""
    rows = httpx.get(f"{url}/v1/tiers", timeout=60).json()["data"]
    return int(next(row["replicas_ready"] for row in rows if row["model"] == model))


async def load(url: str, rate: float, done: asyncio.Event, answers: Counter[int]) -> None:
    """Requests of 50 tokens for the small model, `rate` a second, until `done`; counts how they
    ended.
    """
    everything, patient = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout()
    async with (
        aiohttp.ClientSession(connector=everything, timeout=patient) as session,
        asyncio.TaskGroup() as group,
    ):

        async def one(number: int) -> None:
            body = {"input": f"{number:08d} " + "word " * 38 + "end", "model": "small"}
            async with session.post(f"{url}/v1/embeddings", json=body) as answer:
                await answer.read()
                answers[answer.status] += 1

        loop, number = asyncio.get_running_loop(), 0
        start_s = loop.time()
        while not done.is_set():
            while number < (loop.time() - start_s) * rate:
                group.create_task(one(number))
                number += 1
            await asyncio.sleep(0.01)


async def test_nodes_come_for_the_model_under_load_and_go_after_it_and_every_request_is_answered(
    service: Service,
) -> None:
    answers, done = Counter[int](), asyncio.Event()
    # 4,000 tokens a second
    running = asyncio.create_task(load(service.url, rate=80, done=done, answers=answers))
    try:
        await asyncio.to_thread(
            wait_for,
            lambda: service.replicas("small") == 3,
            "three replicas of the model under load",
            told=service.status,
        )
        assert service.nodes("accelerator_type:L4") == 3
    finally:
        done.set()
        await running
    assert set(answers) == {200}, answers
    await asyncio.to_thread(
        wait_for,
        lambda: service.nodes("GPU") == 0,
        "all GPU nodes to be removed",
        told=service.status,
    )
    assert service.replicas("small") == service.replicas("large") == 0
