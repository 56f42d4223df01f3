"""Two router replicas behind HAProxy: each serves alone, with a cache and a line to the model of
its own.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from tests.support.launched import Launched, has_line, launched
from tests.support.local_service import WORDLLAMA
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.serve, pytest.mark.models, pytest.mark.long]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    model = {**WORDLLAMA, "max_tokens": 512}
    config = {
        "applications": [
            {
                "name": "router",
                "route_prefix": "/",
                "import_path": "deployments.app:build",
                # as in the shipped configs: with an access log Serve writes the head of an answer
                # and its body apart, and a router that is killed in between leaves half of it
                "logging_config": {"enable_access_log": False},
                "args": {
                    "models": {"wordllama-256": model},
                    "tiers": {"fast": "wordllama-256"},
                    "transport": "direct",
                },
                "deployments": [
                    {"name": "router", "num_replicas": 2, "ray_actor_options": {"num_cpus": 0.25}},
                    {
                        "name": "wordllama-256",
                        "num_replicas": 1,
                        "ray_actor_options": {"num_cpus": 0.25},
                    },
                ],
            }
        ]
    }
    path: Path = tmp_path_factory.mktemp("two") / "two.yaml"
    path.write_text(yaml.safe_dump(config))
    with launched(path) as running:
        yield running


def ask(two: Launched, text: str) -> httpx.Response:
    """Over a connection of its own, so that HAProxy chooses anew."""
    return httpx.post(f"{two.url}/v1/embeddings", json={"input": text}, timeout=60)


def test_both_answer_alike_and_share_neither_cache_nor_line(two: Launched) -> None:
    answers: list[dict[str, Any]] = []

    def cold() -> int:
        """Texts that had to be embedded: one more for each router that is asked for the
        first time.
        """
        answers.append(ask(two, "the same text for both").json())
        return [answer["routing"]["cached"] for answer in answers].count(0)

    # HAProxy may hear of one a moment later than of the other
    wait_for(lambda: cold() == 2, "both routers to be asked")
    for _ in range(8):
        assert cold() == 2
    assert {str(answer["data"]) for answer in answers} == {str(answers[0]["data"])}
    (replica,) = two.replicas("wordllama-256")
    wait_for(
        lambda: all(has_line(router, replica) for router in two.replicas("router")),
        "a line from each router to the model",
    )


def test_no_request_is_lost_with_a_router_that_is_killed(two: Launched) -> None:
    """From a client that sends headers and body apart, as httpx does: HAProxy must hold both before
    it can send them again.
    """
    statuses: list[int] = []
    stop = threading.Event()

    def load(client: int) -> None:
        with httpx.Client(base_url=two.url, timeout=60) as connection:
            while not stop.is_set():
                body = {"input": f"text {len(statuses)} of {client}", "model": "fast"}
                answer = connection.post("/v1/embeddings", json=body)
                assert answer.status_code == 200 or "retry-after" in answer.headers
                statuses.append(answer.status_code)

    with ThreadPoolExecutor(8) as pool:
        try:
            clients = [pool.submit(load, number) for number in range(8)]
            wait_for(lambda: len(statuses) > 100, "answers from both routers")
            victim, _ = two.replicas("router")
            victim.kill()
            psutil.wait_procs([victim])
            before = len(statuses)
            wait_for(
                lambda: len(statuses) > before + 200,
                "answers from the one that is left",
                told=lambda: statuses[-5:],
            )
        finally:
            stop.set()
    for client in clients:
        client.result()  # raises what its client met
    assert statuses[-1] == 200
