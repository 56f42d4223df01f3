"""What a config books, and the sentence about what would wait for it."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from deployments.launch.serve_config import application, check
from router.cli import main
from router.resources import (
    DeploymentResources,
    Node,
    bookings,
    first_ones,
    node,
    total,
    waiting,
    waiting_later,
)

ROOT = Path(__file__).resolve().parents[3]
QWEN3, TYPED, ONE = (
    ROOT / "configs" / f"{name}.yaml" for name in ("qwen3", "qwen3-cluster", "qwen3-one-gpu")
)


def booked(path: Path) -> list[DeploymentResources]:
    return bookings(*application(path))


def sentences(path: Path, *nodes: dict[str, float]) -> list[str]:
    return [wait.sentence for wait in waiting(booked(path), [node(one) for one in nodes])]


def test_qwen3_starts_on_one_machine_with_equal_cards() -> None:
    assert total(booked(QWEN3)) == "6 CPUs and 3 GPUs"
    assert sentences(QWEN3, {"CPU": 16, "GPU": 3, "accelerator_type:H100": 1}) == []
    assert sentences(QWEN3, {"CPU": 16, "GPU": 3, "accelerator_type:A10G": 1}) == []


def test_qwen3_on_one_card_says_what_is_short_and_the_config_for_it_fits() -> None:
    one_h100 = {"CPU": 16.0, "GPU": 1.0, "accelerator_type:H100": 1.0}
    (found, *_) = sentences(QWEN3, one_h100)
    assert "waits for 1 GPU and 1 CPU: the config books 3 GPUs, there are 1; share cards" in found
    assert sentences(ONE, one_h100) == []


def test_a_card_of_another_type_is_named_in_one_sentence() -> None:
    three = {"CPU": 16.0, "GPU": 3.0, "accelerator_type:H100": 1.0}
    found = sorted(sentences(TYPED, three))
    assert [said.partition(": ")[0] for said in found] == [
        "qwen3-embedding-0.6b waits for 0.5 GPUs of type L4 and 1 CPU",
        "qwen3-embedding-4b waits for 1 GPU of type L40S and 1 CPU",
        "qwen3-reranker-0.6b waits for 0.5 GPUs of type L4 and 1 CPU",
    ]
    for said in found:
        assert "yours are H100; write one of these as its accelerator_type, or remove" in said


def test_the_typed_config_fits_the_nodes_of_a_mixed_cluster() -> None:
    nodes = [
        {"CPU": 8.0},
        {"CPU": 8.0, "GPU": 1.0, "accelerator_type:L4": 1.0},
        {"CPU": 4.0, "GPU": 1.0, "accelerator_type:L40S": 1.0},
        {"CPU": 16.0, "GPU": 1.0, "accelerator_type:H100": 1.0},
    ]
    assert sentences(TYPED, *nodes) == []
    (short,) = sentences(TYPED, *nodes[:3])
    assert "qwen3-embedding-8b waits for 1 GPU of type H100" in short
    assert "yours are L4 and L40S" in short


def booking(name: str, gpus: float, cpus: float = 1.0, replicas: int = 1) -> DeploymentResources:
    return DeploymentResources(name, cpus, gpus, None, replicas, True)


def test_shares_of_a_card_come_from_one_card() -> None:
    two = [Node(8, 2, None)]
    assert waiting([booking("a", 0.6), booking("b", 0.6)], two) == []
    (short,) = waiting([booking("a", 0.6), booking("b", 0.6), booking("c", 0.6)], two)
    assert "no node has room for it beside the others" in short.found
    assert len(waiting([booking("a", 0.5), booking("b", 2)], two)) == 1
    assert two[0].cards == [1.0, 1.0]  # asking takes nothing


def test_what_starts_at_zero_has_room_for_its_first_replica_or_is_named() -> None:
    cold = [booking("a", 1), booking("b", 1, replicas=0), booking("c", 0.5, replicas=0)]
    assert waiting(cold, [Node(8, 1, None)]) == []
    late = waiting_later(cold, [Node(8, 1, None)])
    assert [one.deployment for one in late] == ["b", "c"]
    assert late[0].found == "b waits for 1 GPU and 1 CPU: the config books 2 GPUs, there are 1"
    assert waiting_later(cold, [Node(8, 2, None)]) == []
    never = [cold[0], cold[1]._replace(most=0)]
    assert waiting_later(never, [Node(8, 1, None)]) == []
    assert waiting_later(cold, [Node(8, 0, None)]) == []  # `waiting` names what is short


def test_first_replicas_go_before_second_ones() -> None:
    config = [booking("router", 0, replicas=2), booking("a", 0)]
    (short,) = waiting(config, [Node(2, 0, None)])
    assert short.deployment == "router"
    assert short.resource == "cpus"
    assert "the config books 3 CPUs, there are 2" in short.found
    assert waiting(first_ones(config), [Node(2, 0, None)]) == []


def two_models(kind: dict[str, Any], deployments: list[Any]) -> dict[str, Any]:
    model = {"engine": kind, "dimensions": 8, "max_tokens": 64}
    return {
        "http_options": {"host": "127.0.0.1"},
        "applications": [
            {
                "name": "embedding-router",
                "route_prefix": "/",
                "import_path": "deployments.app:build",
                "args": {"models": {"a": model, "b": model}, "tiers": {"fast": "a", "best": "b"}},
                "deployments": deployments,
            }
        ],
    }


REMOTE = {"kind": "remote", "base_url": "http://localhost:9", "model": "m"}


@pytest.mark.parametrize(
    ("kind", "cpus"), [(REMOTE, 1.2), ({"kind": "fake"}, 3.0)], ids=["remote", "fake"]
)
def test_proxies_book_little_unless_their_deployment_says_otherwise(
    tmp_path: Path, kind: dict[str, Any], cpus: float
) -> None:
    path = tmp_path / "two.yaml"
    path.write_text(yaml.safe_dump(two_models(kind, [])))
    assert sum(one.cpus for one in booked(path)) == pytest.approx(cpus)
    own = [{"name": "a", "ray_actor_options": {"num_cpus": 2}}]
    path.write_text(yaml.safe_dump(two_models(kind, own)))
    (a,) = [one for one in booked(path) if one.deployment == "a"]
    assert a.cpus == 2


def test_check_config_adds_up_and_says_what_this_machine_lacks(tmp_path: Path) -> None:
    path = tmp_path / "many.yaml"
    own = [{"name": "a", "ray_actor_options": {"num_cpus": 4000}}]
    path.write_text(yaml.safe_dump(two_models({"kind": "fake"}, own)))
    done = CliRunner().invoke(main, ["check-config", str(path)])
    assert done.exit_code == 0  # it may be for another machine
    assert "on this machine a waits for 4000 CPUs: the config books 4002 CPUs" in done.output


def test_a_model_that_its_first_request_starts_is_listed_and_occupies_nothing(
    tmp_path: Path,
) -> None:
    path = tmp_path / "zero.yaml"
    scaled = {"min_replicas": 0, "max_replicas": 2}
    own = [
        {"name": "a", "autoscaling_config": scaled, "ray_actor_options": {"num_gpus": 1}},
        {"name": "b"},
    ]
    config = two_models({"kind": "fake"}, own)
    for model in config["applications"][0]["args"]["models"].values():
        model["cold_start_s"] = 60
    path.write_text(yaml.safe_dump(config))
    done = CliRunner().invoke(main, ["check-config", "--json", str(path)])
    (listed,) = json.loads(done.output)
    found = {one["deployment"]: (one["replicas"], one["most"]) for one in listed["books"]}
    assert found == {"router": (1, 1), "a": (0, 2), "b": (1, 1)}
    assert total(booked(path)) == "2 CPUs"
    assert waiting(booked(path), [Node(2, 0, None)]) == []
    assert [one.deployment for one in first_ones(booked(path))] == ["router", "b"]


def vllm_on(cards: int, gpus: float, in_process: bool) -> dict[str, Any]:
    engine = {
        "kind": "vllm",
        "source": "organisation/model",
        "in_process": in_process,
        "args": {"tensor_parallel_size": cards},
    }
    config = two_models(engine, [])
    args = config["applications"][0]["args"]
    for model in args["models"].values():
        model["tokenizer"] = "organisation/model"
    config["applications"][0]["deployments"] = [
        {"name": name, "ray_actor_options": {"num_gpus": gpus}} for name in ("a", "b")
    ]
    return config


@pytest.mark.parametrize(
    ("cards", "gpus", "in_process", "sentence"),
    [
        (2, 2, False, None),
        (1, 0.5, True, None),
        (2, 1, False, "it works on 2 cards and its deployment books 1"),
        (2, 2, True, "in_process: must be false"),
    ],
)
def test_a_model_on_several_cards_books_them(
    tmp_path: Path, cards: int, gpus: float, in_process: bool, sentence: str | None
) -> None:
    path = tmp_path / "wide.yaml"
    path.write_text(yaml.safe_dump(vllm_on(cards, gpus, in_process)))
    problems = check(path)
    assert len(problems) == (0 if sentence is None else 2), problems
    assert all(sentence in problem for problem in problems if sentence is not None)


def test_the_cards_of_a_model_that_starts_at_zero_are_checked(tmp_path: Path) -> None:
    config = vllm_on(2, 1, False)
    for one in config["applications"][0]["deployments"]:
        one["autoscaling_config"] = {"min_replicas": 0, "max_replicas": 1}
    path = tmp_path / "zero.yaml"
    path.write_text(yaml.safe_dump(config))
    assert sum("its deployment books 1" in problem for problem in check(path)) == 2
