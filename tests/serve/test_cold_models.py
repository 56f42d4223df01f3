"""A model at zero replicas: counted with its start, refused in time where the budget is too short,
started where it is not.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.launched import Launched, launched
from tests.support.local_service import E5, WORDLLAMA

pytestmark = [pytest.mark.serve, pytest.mark.models, pytest.mark.long]


@pytest.fixture(scope="module")
def cold(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    few = {"ray_actor_options": {"num_cpus": 0.1}}
    config = {
        "applications": [
            {
                "name": "embedding-router",
                "route_prefix": "/",
                "import_path": "deployments.app:build",
                "args": {
                    "models": {
                        "wordllama-256": WORDLLAMA,
                        "multilingual-e5-small": {**E5, "required": False, "cold_start_s": 20},
                    },
                    "tiers": {"fast": "wordllama-256", "best": "multilingual-e5-small"},
                },
                "deployments": [
                    {"name": "router", **few},
                    {"name": "wordllama-256", **few},
                    {
                        "name": "multilingual-e5-small",
                        **few,
                        "autoscaling_config": {
                            "min_replicas": 0,
                            "initial_replicas": 0,
                            "max_replicas": 1,
                        },
                    },
                ],
            }
        ]
    }
    path: Path = tmp_path_factory.mktemp("cold") / "config.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    with launched(path) as running:
        yield running


def post(cold: Launched, **body: Any) -> httpx.Response:
    return httpx.post(
        f"{cold.url}/v1/embeddings", json={"input": "hello there", **body}, timeout=120
    )


def test_a_cold_model_is_explained_refused_avoided_and_started(cold: Launched) -> None:
    route = httpx.post(
        f"{cold.url}/v1/route", json={"input": "hello", "model": "best"}, timeout=60
    ).json()
    assert route["decision"]["predicted_ms"] > 19_000

    refused = post(
        cold, model="multilingual-e5-small", latency_budget_ms=1000, on_budget_miss="reject"
    )
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "budget_unreachable")
    assert 15 <= int(refused.headers["retry-after"]) <= 25
    assert refused.headers["x-routing-reason"] == "over_budget"

    lowered = post(cold, model="best", latency_budget_ms=5000)
    assert lowered.json()["routing"]["model"] == "wordllama-256"
    assert lowered.json()["routing"]["degraded"] is True

    answered = post(cold, model="multilingual-e5-small")
    assert answered.status_code == 200, answered.text
    assert answered.json()["routing"]["space"] == "multilingual-e5-small/384"
    warm = httpx.post(
        f"{cold.url}/v1/route", json={"input": "hello", "model": "best"}, timeout=60
    ).json()
    assert warm["decision"]["predicted_ms"] < 19_000
