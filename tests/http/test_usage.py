"""What keys used: as each key sees it, as an admin key does, and as the decision log has it."""

import asyncio
import io
import json
import time
from collections import Counter
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

from deployments.service.decision_log import open_log
from deployments.service.gauges import sample
from deployments.telemetry import metrics
from router.config import DecisionLogConfig
from router.decision_log import read
from router.keys import hash_of, new_key
from tests.support.local_service import LocalRouter, served
from tests.support.waiting import wait_for

NAMES = ("one", "other", "admin")
KEYS = {name: new_key(bytes([index + 60]) * 32) for index, name in enumerate(NAMES)}
MODEL: dict[str, Any] = {"engine": {"kind": "fake"}, "dimensions": 8, "max_tokens": 64}
ARGS: dict[str, Any] = {
    "models": {"small": {**MODEL, "device_hour_cost": 2.5}, "large": {**MODEL, "devices": 2}},
    "tiers": {"fast": "small", "best": "large"},
    "collections": {"docs": "large/8"},
    "rerankers": {
        "scores": {"engine": {"kind": "fake"}, "template": "{query} {document}", "max_tokens": 60},
        "compares": {"engine": {"kind": "similarity", "model": "small"}},
    },
    "rerank_tiers": {"fast": "scores", "best": "compares"},
    "keys": {name: {"hash": hash_of(key), "admin": name == "admin"} for name, key in KEYS.items()},
}
Row = dict[str, Any]


def ask(url: str, key: str, **body: Any) -> int:
    answer = httpx.post(
        f"{url}/v1/embeddings",
        json={"input": "hello", "model": "fast", **body},
        headers={"authorization": f"Bearer {KEYS[key]}"},
        timeout=60,
    )
    return answer.status_code


def used(url: str, caller: str, /, **query: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {KEYS[caller]}"}
    return httpx.get(f"{url}/v1/usage", params=query, headers=headers, timeout=60)


def rows(url: str, caller: str, /, **query: Any) -> list[Row]:
    found: list[Row] = used(url, caller, **query).json()["data"]
    return found


def ids(found: list[Row]) -> list[tuple[Any, ...]]:
    return [(row["key"], row["model"], row["collection"], row["requests"]) for row in found]


def send_some(url: str) -> None:
    """Five answers of one, two of other, and what is not answered."""
    for number in range(3):
        assert ask(url, "one", input=[f"a {number}", f"b {number}"]) == 200
    assert ask(url, "one", model="auto", space="docs", input="x") == 200
    assert ask(url, "one", input="a 0") == 200  # known
    assert ask(url, "one", input="") == 400
    assert ask(url, "one", input="word " * 900) == 400
    assert ask(url, "other", model="best") == 200
    assert ask(url, "other", model="best", input="again") == 200


def test_each_key_sees_its_own_and_an_admin_key_all(tmp_path: Path) -> None:
    with served({**ARGS, "batches": {"folder": str(tmp_path)}}) as (url, _):
        send_some(url)
        assert ids(rows(url, "one")) == [
            ("one", "large", "docs", 1),
            ("one", "small", None, 4),
        ]
        assert ids(rows(url, "one", by="key")) == [("one", None, None, 5)]
        assert ids(rows(url, "other", by="model")) == [(None, "large", None, 2)]
        assert ids(rows(url, "admin", by="key")) == [
            ("one", None, None, 5),
            ("other", None, None, 2),
        ]
        assert ids(rows(url, "admin", by="key,collection", key="one")) == [
            ("one", None, None, 4),
            ("one", None, "docs", 1),
        ]
        assert ids(rows(url, "one", key="one", by="key")) == [("one", None, None, 5)]
        for key in ("other", "nobody"):
            refused = used(url, "one", key=key)
            assert refused.status_code == 403
            assert refused.json()["error"]["code"] == "admin_key_required"
        assert used(url, "one", by="space").status_code == 400
        assert used(url, "one", spam="1").json()["error"]["code"] == "unknown_field"


def sampled(router: LocalRouter) -> dict[metrics.Metric, dict[metrics.Labels, float]]:
    """The metrics as they are published once a second."""
    request_metrics = router.service.request_metrics
    assert request_metrics is not None
    tally = request_metrics.tally

    async def run() -> None:
        sample(tally, router.service)

    asyncio.run_coroutine_threadsafe(run(), router.loop).result(60)
    return tally.values


def test_costs_are_those_of_the_device_time_that_is_not_cached(tmp_path: Path) -> None:
    with served({**ARGS, "batches": {"folder": str(tmp_path)}}) as (url, router):
        ask(url, "one", input="some text")
        (first,) = rows(url, "one")
        assert first["device_seconds"] > 0
        assert first["cost"] == pytest.approx(first["device_seconds"] / 3600 * 2.5, rel=1e-3)
        ask(url, "one", input="some text")
        (second,) = rows(url, "one")
        assert (second["requests"], second["tokens"]) == (2, 2 * first["tokens"])
        assert second["device_seconds"] == first["device_seconds"]
        ask(url, "other", model="best", input="some text")
        (large,) = rows(url, "other")
        assert large["cost"] is None
        assert large["device_seconds"] == pytest.approx(2 * first["device_seconds"], rel=1e-3)
        tallies = sampled(router)
        labels = ("one", "small", "none")
        assert tallies[metrics.KEY_REQUESTS][labels] == 2
        assert tallies[metrics.KEY_TOKENS][labels] == second["tokens"]
        assert tallies[metrics.KEY_DEVICE_SECONDS][labels] == pytest.approx(
            second["device_seconds"], rel=1e-3
        )


def test_the_sums_are_those_of_the_decision_log(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    with served({**ARGS, "batches": {"folder": str(tmp_path / "shared")}}) as (url, router):
        log = router.service.log = open_log(DecisionLogConfig(path=str(path)), None)
        send_some(url)
        for key, reranker in (("one", "scores"), ("one", "compares"), ("other", "compares")):
            body = {"query": "which", "documents": ["d", "e"], "model": reranker}
            headers = {"authorization": f"Bearer {KEYS[key]}"}
            answer = httpx.post(f"{url}/v1/rerank", json=body, headers=headers, timeout=60)
            assert answer.status_code == 200, answer.text
        line = {"method": "POST", "url": "/v1/embeddings", "body": {"input": "c", "model": "fast"}}
        content = "\n".join(json.dumps({"custom_id": str(n), **line}) for n in range(20))
        openai = OpenAI(base_url=f"{url}/v1", api_key=KEYS["other"])
        file = openai.files.create(file=io.BytesIO(content.encode()), purpose="batch")
        batch = openai.batches.create(
            input_file_id=file.id,
            endpoint="/v1/embeddings",
            completion_window="1h",  # type: ignore[arg-type]
        )
        wait_for(lambda: openai.batches.retrieve(batch.id).status == "completed", "the batch")
        found = rows(url, "admin")
        log.close()
    uses = [one.entry.use for one in read(path.read_bytes().splitlines(keepends=True))]
    kept = [use for use in uses if use is not None]
    assert sum(row["requests"] for row in found) == len(kept) == 7 + 3 + 20
    for field, name in (("texts", "texts"), ("tokens", "tokens"), ("device_s", "device_seconds")):
        by_key: Counter[str] = Counter()
        for use in kept:
            by_key[use.key] += getattr(use, field)
        for key, total in by_key.items():
            assert sum(row[name] for row in found if row["key"] == key) == pytest.approx(
                total, rel=1e-4
            ), (key, name)
    assert {use.collection for use in kept} == {"", "docs"}
    assert {use.model for use in kept} == {"small", "large", "scores", "compares"}


def test_a_ranking_at_an_address_is_usage_of_that_collection() -> None:
    keys = {**ARGS["keys"], "other": {**ARGS["keys"]["other"], "collections": []}}
    headers = {"authorization": f"Bearer {KEYS['one']}"}
    body = {"query": "which", "documents": ["d", "e"]}
    with served({**ARGS, "keys": keys}) as (url, router):
        for address in ("/in/docs", "/in/docs/query", ""):
            answer = httpx.post(f"{url}{address}/v1/rerank", json=body, headers=headers)
            assert answer.json()["model"] == "scores", answer.text
        assert ids(rows(url, "one")) == [
            ("one", "scores", None, 1),
            ("one", "scores", "docs", 2),
        ]
        assert sampled(router)[metrics.KEY_REQUESTS]["one", "scores", "docs"] == 2
        assert ask(url, "one", model="auto", space="docs", input="x") == 200
        counted = sampled(router)[metrics.KEY_REQUESTS]
        assert counted["one", "scores", "docs"] == 2
        assert counted["one", "large", "docs"] == 1
        for address, key, code in (
            ("/in/nothing", "one", "not_found"),
            ("/in/docs", "other", "collection_not_allowed"),
        ):
            bearer = {"authorization": f"Bearer {KEYS[key]}"}
            refused = httpx.post(f"{url}{address}/v1/rerank", json=body, headers=bearer)
            assert refused.json()["error"]["code"] == code


def test_a_time_range_is_kept_to_the_second(tmp_path: Path) -> None:
    with served({**ARGS, "batches": {"folder": str(tmp_path)}}) as (url, _):

        def now() -> str:
            return datetime.now(UTC).isoformat()

        before = now()
        ask(url, "one", input="first")
        between = int(time.time()) + 1
        wait_for(lambda: time.time() >= between, "the next second")
        ask(url, "one", input="second")
        assert ids(rows(url, "one", **{"from": before}))[0][3] == 2
        edge = datetime.fromtimestamp(between, UTC).isoformat().replace("+00:00", "Z")
        assert ids(rows(url, "one", to=edge))[0][3] == 1
        assert ids(rows(url, "one", **{"from": edge}))[0][3] == 1
        assert rows(url, "one", to=before.replace("2026", "2020")) == []


def test_routers_add_up_and_a_restart_forgets_nothing(tmp_path: Path) -> None:
    args = {**ARGS, "batches": {"folder": str(tmp_path)}}
    with ExitStack() as stack:
        urls = [stack.enter_context(served(args))[0] for _ in range(2)]
        for url in urls:
            ask(url, "one", input=url)
        for url in urls:
            wait_for(lambda url=url: ids(rows(url, "one"))[0][3] == 2, "both routers")  # type: ignore[misc]
            assert used(url, "one").json()["kept"] == "folder"
    with served(args) as (url, _):
        assert ids(rows(url, "one")) == [("one", "small", None, 2)]


def test_without_a_folder_sums_are_those_since_the_start() -> None:
    with served(ARGS) as (url, _):
        ask(url, "one")
        answer = used(url, "one").json()
        assert (answer["kept"], ids(answer["data"])) == ("memory", [("one", "small", None, 1)])
        assert datetime.fromisoformat(answer["since"]) < datetime.now(UTC)
    open_args = {name: value for name, value in ARGS.items() if name != "keys"}
    with served(open_args) as (url, _):
        httpx.post(f"{url}/v1/embeddings", json={"input": "a", "model": "fast"}, timeout=60)
        assert ids(httpx.get(f"{url}/v1/usage", timeout=60).json()["data"]) == [
            (None, "small", None, 1)
        ]


def test_files_of_days_that_are_over_are_folded_and_say_the_same(tmp_path: Path) -> None:
    args = {**ARGS, "batches": {"folder": str(tmp_path)}}
    with served(args) as (url, router):
        clock = router.use_log.clock
        router.use_log.clock = lambda: clock() - 5 * 86_400
        for number in range(3):
            ask(url, "one", input=f"text {number}")
        before = rows(url, "one")
        assert list(tmp_path.glob("usage/*.seconds.jsonl"))
    with served(args) as (url, _):
        wait_for(lambda: bool(list(tmp_path.glob("usage/*.hours.jsonl"))), "the file to be folded")
        assert not list(tmp_path.glob("usage/*.seconds.jsonl"))
        assert rows(url, "one") == before
