"""configs/qwen3.yaml starts on one machine whose cards are alike; where a model's type of card is
missing, or models share one, the router says so in one sentence. Engines are fake: the cards are
only booked.
"""

from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from ray.cluster_utils import Cluster

from tests.support.clusters import nodes
from tests.support.launched import ROOT
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.long]

H100S = {"num_cpus": 8, "num_gpus": 3, "resources": {"accelerator_type:H100": 1}}


def config(name: str, port_host: str = "127.0.0.1") -> dict[str, Any]:
    """A config of ours with engines that need no card; resources and scaling stay."""
    data: dict[str, Any] = yaml.safe_load((ROOT / "configs" / name).read_text())
    data["http_options"]["host"] = port_host
    args = data["applications"][0]["args"]
    for model in (*args["models"].values(), *args["rerankers"].values()):
        model["engine"], model["tokenizer"] = {"kind": "fake"}, None
        model.pop("fingerprint", None)
    return data


def of_routers(cluster: Cluster) -> str:
    """What routers on the head have logged."""
    assert cluster.head_node is not None
    logs = Path(cluster.head_node.get_session_dir_path()) / "logs" / "serve"
    return "".join(log.read_text(errors="replace") for log in logs.glob("replica_*router*.log"))


def test_models_on_one_card_are_named_and_warned_of_once() -> None:
    with nodes([{"num_cpus": 8, "num_gpus": 1}]) as (service, cluster):
        one_card = config("qwen3-one-gpu.yaml")
        service.deploy(one_card)
        args = one_card["applications"][0]["args"]
        models, every = list(args["models"]), sorted({**args["models"], **args["rerankers"]})

        def shared() -> dict[str, list[str]]:
            rows = httpx.get(f"{service.url}/v1/tiers", timeout=10).json()["data"]
            return {row["model"]: row["shares_device_with"] for row in rows}

        expected = {model: [one for one in every if one != model] for model in models}
        wait_for(lambda: shared() == expected, "each model to name the others", told=shared)
        warning = f"{' and '.join(every)} share device 0 of node "
        wait_for(lambda: warning in of_routers(cluster), "the warning")
        assert of_routers(cluster).count(warning) == 1


def test_equal_cards_are_enough_and_a_missing_type_is_named() -> None:
    with nodes([H100S]) as (service, cluster):
        service.deploy(config("qwen3.yaml"))
        models = list(config("qwen3.yaml")["applications"][0]["args"]["models"])
        assert [service.replicas(model) for model in (*models, "qwen3-reranker-0.6b")] == [1] * 4

        service.submit(config("qwen3-cluster.yaml"))

        def said() -> bool:
            lines = of_routers(cluster)
            return all(
                f"{model} waits for {gpus} of type {kind} and 1 CPU: no card is of type {kind}, "
                "yours are H100" in lines
                for model, gpus, kind in (
                    ("qwen3-embedding-0.6b", "0.5 GPUs", "L4"),
                    ("qwen3-embedding-4b", "1 GPU", "L40S"),
                )
            )

        wait_for(said, "the router to name the types of cards that are missing")
