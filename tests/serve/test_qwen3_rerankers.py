"""The rerankers of configs/qwen3.yaml on Qwen3's own architecture: only sources, resources and
scaling are replaced, and nothing is cached.

Tiny random checkpoints at the widths of the 0.6B, the 4B and the 8B, which has the section of the
4B, with the real tokenizer, against transformers. The 0.6B has two replicas, of which the last test
kills one.
"""

import copy
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import yaml

from tests.support.launched import Launched, launched
from tests.support.qwen3_configs import PATIENCE_S, tiny_config
from tests.support.qwen3_reranking import DOCUMENTS, QUERY, WITHIN, pairs_of, scores_of
from tests.support.tiny_qwen3 import write_checkpoints
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.serve, pytest.mark.models, pytest.mark.long]

SMALL, MIDDLE, LARGE = (f"qwen3-reranker-{size}" for size in ("0.6b", "4b", "8b"))
WIDTHS = {SMALL: 1024, MIDDLE: 2560, LARGE: 4096}
REPLICAS = {SMALL: 2, MIDDLE: 1, LARGE: 1}
MAX_TOKENS = 8192
LONG = "gravity " * 9000
WORK_S = 0.5  # of a processor, which an idle replica does not use meanwhile


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_checkpoints(
        tmp_path_factory.mktemp("qwen3-rerankers"), WIDTHS, max_tokens=MAX_TOKENS
    )


@pytest.fixture(scope="module")
def rerankers(
    checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Launched]:
    config = tiny_config(checkpoints, cache_mib=128)
    application = config["applications"][0]
    args, deployments = application["args"], application["deployments"]
    args["cache"] = {"max_bytes": 0}
    largest = args["rerankers"][LARGE] = copy.deepcopy(args["rerankers"][MIDDLE])
    largest["engine"]["source"] = largest["tokenizer"] = str(checkpoints[LARGE])
    (middle,) = (one for one in deployments if one["name"] == MIDDLE)
    deployments.append(middle | {"name": LARGE})
    for one in deployments:
        if count := REPLICAS.get(one["name"]):
            one["autoscaling_config"] = {"min_replicas": count, "max_replicas": count}
    path = tmp_path_factory.mktemp("config") / "qwen3-rerankers.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    with launched(path) as running:  # its health does not wait for rerankers
        wait_for(lambda: ready(running) == REPLICAS, "the rerankers to be ready", 2 * PATIENCE_S)
        yield running


def rows(running: Launched) -> dict[str, dict[str, Any]]:
    """The live row of each reranker."""
    found = httpx.get(f"{running.url}/v1/tiers", timeout=60).json()["rerankers"]
    return {row["model"]: row for row in found}


def ready(running: Launched) -> dict[str, int]:
    return {model: row["replicas_ready"] for model, row in rows(running).items()}


def rerank(running: Launched, **body: Any) -> dict[str, Any]:
    given = {"query": QUERY, "documents": DOCUMENTS} | body
    answer = httpx.post(f"{running.url}/v1/rerank", json=given, timeout=2 * PATIENCE_S)
    assert answer.status_code == 200, answer.text
    parsed: dict[str, Any] = answer.json()
    scores = [one["relevance_score"] for one in parsed["results"]]
    assert scores == sorted(scores, reverse=True)
    return parsed


def by_document(answer: dict[str, Any]) -> list[float]:
    """The scores in the order of the request."""
    results = sorted(answer["results"], key=lambda one: int(one["index"]))
    assert [one["index"] for one in results] == list(range(len(results)))
    return [float(one["relevance_score"]) for one in results]


@pytest.mark.parametrize("model", WIDTHS)
def test_every_width_equals_transformers_whatever_shares_a_step(
    rerankers: Launched, checkpoints: dict[str, Path], model: str
) -> None:
    read = pairs_of(checkpoints[model], DOCUMENTS, MAX_TOKENS)
    scores = scores_of(checkpoints[model], read)
    assert np.ptp(scores) > 2 * WITHIN, "the reference tells these documents apart"
    whole = rerank(rerankers, model=model)
    assert whole["usage"]["prompt_tokens"] == sum(map(len, read)), "as many as the template's"
    assert whole["routing"]["truncated"] == []
    assert whole["routing"]["score"] == "probability"
    np.testing.assert_allclose(by_document(whole), scores, atol=WITHIN)
    alone = [by_document(rerank(rerankers, documents=[one], model=model))[0] for one in DOCUMENTS]
    np.testing.assert_allclose(alone, scores, atol=WITHIN)
    others = ["something else entirely, of another length"] * 3
    among = by_document(rerank(rerankers, documents=[*others, *DOCUMENTS[::-1]], model=model))
    np.testing.assert_allclose(among[:2:-1], scores, atol=WITHIN)


def test_a_document_longer_than_the_model_reads_is_cut_alone_and_named(
    rerankers: Launched, checkpoints: dict[str, Path]
) -> None:
    documents = [*DOCUMENTS[:2], LONG, *DOCUMENTS[2:]]
    body = {"query": QUERY, "documents": documents, "model": SMALL}
    refused = httpx.post(f"{rerankers.url}/v1/rerank", json=body, timeout=60)
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (400, "context_length_exceeded")
    assert error["message"].startswith("documents[2] has 90")
    assert f"{SMALL} reads {MAX_TOKENS}" in error["message"]
    answer = rerank(rerankers, documents=documents, model=SMALL, truncate="end")
    read = pairs_of(checkpoints[SMALL], documents, MAX_TOKENS)
    assert answer["routing"]["truncated"] == [2]
    assert answer["usage"]["prompt_tokens"] == sum(map(len, read))
    scores = scores_of(checkpoints[SMALL], read)
    np.testing.assert_allclose(by_document(answer), scores, atol=WITHIN)


def test_tiers_and_hub_names_lead_to_the_rerankers(rerankers: Launched) -> None:
    assert rerank(rerankers, model="fast")["model"] == SMALL
    assert rerank(rerankers)["model"] == SMALL
    assert rerank(rerankers, model="balanced")["model"] == MIDDLE
    assert rerank(rerankers, model="Qwen/Qwen3-Reranker-4B")["model"] == MIDDLE


def test_a_replica_killed_mid_request_loses_no_request_and_no_order(
    rerankers: Launched, checkpoints: dict[str, Path]
) -> None:
    """Lists of two calls each are ranked until a replica that works on them is dead."""
    lists = [[f"{one} of list {many}" + " and more" * 75 for one in range(36)] for many in range(2)]
    read = [pairs_of(checkpoints[SMALL], one, MAX_TOKENS) for one in lists]
    assert all(sum(map(len, one)) > MAX_TOKENS for one in read)
    killed = Event()

    def load(documents: list[str]) -> list[dict[str, Any]]:
        answers = [rerank(rerankers, documents=documents, model=SMALL)]
        while not killed.is_set():
            answers.append(rerank(rerankers, documents=documents, model=SMALL))
        return answers

    idle_s = {one: cpu_s(one) for one in both_replicas(rerankers)}

    def busy() -> list[psutil.Process]:
        return [one for one, before_s in idle_s.items() if cpu_s(one) > before_s + WORK_S]

    with ThreadPoolExecutor(len(lists)) as pool:
        waiting = [pool.submit(load, one) for one in lists]
        try:
            wait_for(lambda: bool(busy()), "a replica to work")
            victim = busy()[0]
            victim.kill()
        finally:
            killed.set()
        answers = [one.result() for one in waiting]
    assert all(one.is_running() for one in idle_s if one != victim)
    (log,) = rerankers.logs.glob("replica_embedding-router_router_*.log")
    wait_for(
        lambda: f"of {SMALL} failed" in log.read_text(), "the router to say that a call failed"
    )
    for found, pairs in zip(answers, read, strict=True):
        scores = scores_of(checkpoints[SMALL], pairs)
        for answer in found:
            np.testing.assert_allclose(by_document(answer), scores, atol=WITHIN)


def both_replicas(running: Launched) -> list[psutil.Process]:
    """Those of the 0.6B; one that checks its health has another title just then."""
    found: list[psutil.Process] = []

    def both() -> bool:
        found[:] = running.replicas(SMALL)
        return len(found) == 2

    wait_for(both, "two replicas")
    return found


def cpu_s(process: psutil.Process) -> float:
    """Processor seconds that it has used."""
    times = process.cpu_times()
    return float(times.user + times.system)
