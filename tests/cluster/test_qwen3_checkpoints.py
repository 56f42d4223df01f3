"""configs/qwen3.yaml on tiny checkpoints that prove themselves by cards of their own: it comes up
on the resources of one machine with eight H100s. On a mixed cluster a model whose type of card is
missing waits, with one sentence, and the others serve.

GPUs are numbers that Ray books; the engines are vLLM's, on the CPU. The rerankers are fake.
"""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

from deployments.replica.offline import Offline
from router.strict import parse_args
from tests.support.clusters import Service, nodes
from tests.support.launched import ROOT
from tests.support.qwen3_configs import PATIENCE_S, tiny_config
from tests.support.tiny_qwen3 import write_checkpoints
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.models, pytest.mark.long]

WIDTHS = {"qwen3-embedding-0.6b": 64, "qwen3-embedding-4b": 96, "qwen3-embedding-8b": 128}
H100_MACHINE = {"num_cpus": 16, "num_gpus": 8, "resources": {"accelerator_type:H100": 1}}
MIXED = (
    {"num_cpus": 8, "num_gpus": 1, "resources": {"accelerator_type:L4": 1}},
    {"num_cpus": 8, "num_gpus": 4, "resources": {"accelerator_type:A100": 1}},
)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_checkpoints(tmp_path_factory.mktemp("qwen3"), WIDTHS, max_tokens=32768)


@pytest.fixture(scope="module")
def cards(checkpoints: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """The card that each checkpoint would have: the example of the real one, and the similarities
    that transformers makes of it.
    """
    models = published("qwen3.yaml")["args"]["models"]
    made = {}
    for name, width in WIDTHS.items():
        card = models[name]["fingerprint"]["card"]
        source = str(checkpoints[name])
        engine = {"kind": "transformers", "source": source, "pooling": "last", "dtype": "float32"}
        sizes = {"dimensions": width, "max_tokens": 512}
        model = {"engine": engine, "tokenizer": source, "prompts": models[name]["prompts"], **sizes}
        made[name] = card | {"similarities": asyncio.run(similarities(name, model, card))}
    return made


async def similarities(name: str, model: dict[str, Any], card: dict[str, Any]) -> list[list[float]]:
    """What transformers makes of a card's example."""
    args = parse_args({"models": {name: model}, "tiers": {"fast": name}})
    async with Offline(args, name) as one:
        queries = await one.embed(card["queries"], "query")
        documents = await one.embed(card["documents"], "document")
    found: list[list[float]] = np.round((queries @ documents.T).astype(float), 4).tolist()
    return found


def published(name: str) -> dict[str, Any]:
    """The application of configs/NAME."""
    data: dict[str, Any] = yaml.safe_load((ROOT / "configs" / name).read_text())
    application: dict[str, Any] = data["applications"][0]
    return application


def config(
    name: str, checkpoints: dict[str, Path], cards: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """configs/NAME on these checkpoints and cards, with the resources and scaling of the file."""
    data = tiny_config(checkpoints, name)
    data["http_options"]["host"] = "127.0.0.1"
    application = data["applications"][0]
    application["deployments"] = [
        one | {"health_check_timeout_s": PATIENCE_S + 10} for one in published(name)["deployments"]
    ]
    for model, width in WIDTHS.items():
        sizes = {"dimensions": width, "matryoshka": {"min": 32}}
        application["args"]["models"][model] |= sizes | {"fingerprint": {"card": cards[model]}}
    return data


def width(service: Service, model: str) -> int:
    """Of a vector of this model."""
    body = {"input": "What is the capital of China?", "model": model, "input_type": "query"}
    answer = httpx.post(f"{service.url}/v1/embeddings", json=body, timeout=PATIENCE_S)
    assert answer.status_code == httpx.codes.OK, answer.text
    return len(answer.json()["data"][0]["embedding"])


def test_the_config_comes_up_on_one_machine_with_eight_cards(
    checkpoints: dict[str, Path], cards: dict[str, dict[str, Any]]
) -> None:
    with nodes([H100_MACHINE]) as (service, _):
        service.deploy(config("qwen3.yaml", checkpoints, cards), PATIENCE_S * 2)
        assert {name: width(service, name) for name in WIDTHS} == WIDTHS
        assert [service.replicas(name) for name in ("router", *WIDTHS)] == [2, 1, 1, 1]
        rows = httpx.get(f"{service.url}/v1/tiers", timeout=60).json()["data"]
        starts = {row["model"]: set(row["start"]) for row in rows}
        assert all({"load", "proof"} <= starts[name] for name in WIDTHS), starts


def test_a_type_of_card_that_is_missing_is_named_and_the_others_serve(
    checkpoints: dict[str, Path], cards: dict[str, dict[str, Any]]
) -> None:
    with nodes(MIXED) as (service, cluster):
        service.submit(config("qwen3-cluster.yaml", checkpoints, cards))
        assert cluster.head_node is not None
        logs = Path(cluster.head_node.get_session_dir_path()) / "logs" / "serve"

        def logged() -> str:
            found = logs.glob("replica_*router*.log")
            return "".join(log.read_text(errors="replace") for log in found)

        for model, kind in (("qwen3-embedding-4b", "L40S"), ("qwen3-embedding-8b", "H100")):
            sentence = (
                f"{model} waits for 1 GPU of type {kind} and 1 CPU: no card is of type {kind}, "
                "yours are A100 and L4"
            )
            wait_for(lambda: sentence in logged(), sentence, told=logged)  # noqa: B023
        small = "qwen3-embedding-0.6b"
        wait_for(lambda: service.replicas(small) == 1, f"{small} to run", PATIENCE_S)
        assert width(service, small) == WIDTHS[small]
        assert httpx.get(f"{service.url}/health", timeout=60).status_code == 503
