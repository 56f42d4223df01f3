"""A student on a real Ray Serve where no model has a replica: its queries are answered at once, in
the index of a model that nothing started.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

from router import student
from router.space import Space
from tests.support.bridges import with_fingerprints, write_student
from tests.support.launched import Launched, launched
from tests.support.local_service import WORDLLAMA

pytestmark = [pytest.mark.serve, pytest.mark.models, pytest.mark.long]

MODEL = "wordllama-256"
SPACE = Space(MODEL, 256)
COLD = {"required": False, "cold_start_s": 60}
ARGS: dict[str, Any] = {"models": {MODEL: {**WORDLLAMA, **COLD}}, "tiers": {"fast": MODEL}}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student of the model, in the folder of its fingerprint."""
    folder = tmp_path_factory.mktemp("student")
    args = asyncio.run(with_fingerprints(ARGS, folder))
    return Path(write_student(args, folder, str(SPACE)))


@pytest.fixture(scope="module")
def alone(weights: Path) -> Iterator[Launched]:
    few = {"ray_actor_options": {"num_cpus": 0.1}}
    none = {"min_replicas": 0, "initial_replicas": 0, "max_replicas": 1}
    fingerprint = {"fingerprint": str(weights.parent / f"{MODEL}.json")}
    taught = {
        "engine": {"kind": "student", "weights": str(weights)},
        "space_of": str(SPACE),
    }
    config = {
        "applications": [
            {
                "name": "embedding-router",
                "route_prefix": "/",
                "import_path": "deployments.app:build",
                "args": {
                    **ARGS,
                    "models": {MODEL: ARGS["models"][MODEL] | fingerprint, "student": taught},
                    "collections": {"docs": {"space": str(SPACE), "encoders": ["student"]}},
                },
                "deployments": [
                    {"name": "router", **few},
                    {"name": MODEL, **few, "autoscaling_config": none},
                ],
            }
        ]
    }
    path = weights.parent / "config.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    with launched(path) as running:
        yield running


def test_a_query_is_answered_while_no_model_has_a_replica(alone: Launched, weights: Path) -> None:
    made = student.load(weights)
    for text in ("some other text", "rather long texts", "今天"):
        body = {
            "input": text,
            "space": "docs",
            "input_type": "query",
            "latency_budget_ms": 1000,
        }
        answer = httpx.post(f"{alone.url}/v1/embeddings", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        said = answer.json()
        routing = said["routing"]
        assert (routing["model"], routing["encoder"]) == ("student", "student")
        assert routing["space"] == str(SPACE)
        (wanted,) = made.encode([text])
        np.testing.assert_allclose(said["data"][0]["embedding"], wanted, atol=1e-6)
    assert not alone.replicas(MODEL)
    health = httpx.get(f"{alone.url}/health", timeout=60)
    assert health.json() == {"status": "ok"}
