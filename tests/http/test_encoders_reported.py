"""What metrics and replays say about the encoders of a collection of several spaces."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from deployments.service.decision_log import open_log
from deployments.service.gauges import sample
from deployments.telemetry import metrics
from deployments.telemetry.metrics import ProcessMetrics
from deployments.tools.replay_cli import main as replay
from router import config
from router.encoder_check import load_encoders
from router.spaces import Catalogue
from router.strict import changed
from tests.support.encoders import ARGS, QUERY, SEVERAL, SPACE, away, bridge, embed, served


async def test_metrics_say_what_each_encoder_and_the_last_queries_keep(tmp_path: Path) -> None:
    async with served(tmp_path, **SEVERAL) as (client, router):
        await embed(client, **QUERY)
        away(router)
        await embed(client, **QUERY)
        tally = ProcessMetrics(metrics.OF_ROUTER)
        sample(tally, router.service)
        assert tally.values[metrics.ENCODER_RECALL] == {
            ("docs", "small", "small/32", "native", "both"): 0.98,
            ("docs", "large", SPACE, "native", "both"): 1.0,
            ("docs", "tiny", SPACE, "student", "queries"): 0.97,
        }
        (average,) = tally.values[metrics.COLLECTION_RECALL].values()
        assert average == router.service.planner.running["docs"].average
        assert 0.97 < average < 1.0


async def test_what_was_not_measured_is_reported_nowhere_as_measured(tmp_path: Path) -> None:
    lesser: dict[str, Any] = {
        "space": None,
        "spaces": [SPACE, "huge/64"],
        "adapters": bridge,
        "min_recall": 0.2,
    }
    async with served(tmp_path, huge=True, **lesser) as (client, router):
        own = {"small": 0.97, "tiny": 0.97}
        shown = (await client.get("/v1/tiers")).json()["collections"]["docs"]
        kept = {one["model"]: one["expected_recall"] for one in shown["encoders"]}
        assert kept == {"large": None, "huge": 1.0, "small": None, "tiny": None}
        assert {one["model"]: one["recall_kept_unseen"] for one in shown["encoders"]} == {
            "large": None,
            "huge": None,
            **own,
        }
        tally = ProcessMetrics(metrics.OF_ROUTER)
        sample(tally, router.service)
        assert tally.values[metrics.ENCODER_RECALL] == {
            ("docs", "huge", "huge/64", "native", "both"): 1.0
        }
        for model in ("large", "small", "tiny"):
            body = {**QUERY, "model": model}
            routing = (await embed(client, **body))["routing"]
            assert (routing["model"], routing["expected_recall"]) == (model, None)
            assert "recall_measured_for" not in routing
            if model == "small":
                assert routing["adapter"]["expected_recall"] == 0.97  # of a search in large/64
            route = (await client.post("/v1/route", json={**body, "input": "text"})).json()
            assert route["decision"]["expected_recall"] is None
            rows = {one["model"]: one for one in route["models"]}
            assert rows[model].get("expected_recall") is None
            assert "recall_measured_for" not in {**route["decision"], **rows[model]}
        route = (await client.post("/v1/route", json={**QUERY, "input": "text"})).json()
        rows = {one["model"]: one["expected_recall"] for one in route["models"]}
        assert rows == {"large": None, "huge": 1.0, "small": None, "tiny": None}
        decisions = (await client.get("/v1/decisions")).json()["data"]
        assert {one["expected_recall"] for one in decisions} == {None}
        away(router, "huge", "large", "small")
        await embed(client, **QUERY)
        assert router.service.planner.running["docs"].average is not None
        shown = (await client.get("/v1/tiers")).json()["collections"]["docs"]
        assert shown["recall"] is None
        sample(tally, router.service)
        assert tally.values[metrics.COLLECTION_RECALL] == {}
        assert router.service.planner.running["docs"].average == pytest.approx(0.97 * 0.2)


async def test_what_a_reload_removes_has_no_series_any_more(tmp_path: Path) -> None:
    async with served(tmp_path, **SEVERAL) as (client, router):
        await embed(client, **QUERY)
        tally, service = ProcessMetrics(metrics.OF_ROUTER), router.service
        sample(tally, service)
        assert tally.values[metrics.ENCODER_RECALL]
        assert tally.values[metrics.COLLECTION_RECALL]
        args = changed(service.args.model_dump(mode="json"), {"collections": {"other": SPACE}})
        service.reload(args, Catalogue(args, load_encoders(args)))
        sample(tally, service)
        assert tally.values[metrics.ENCODER_RECALL] == {}
        assert tally.values[metrics.COLLECTION_RECALL] == {}


async def test_a_replay_of_queries_decides_between_the_same_encoders(tmp_path: Path) -> None:
    async with served(tmp_path, **SEVERAL) as (client, router):
        log = router.service.log = open_log(
            config.DecisionLogConfig(path="log.jsonl"), str(tmp_path)
        )
        kept = list[float]()
        for number, gone in enumerate(((), ("large",), ("small", "large"))):
            for model in gone:
                router.service.replicas_changed(model, [])
            routing = (await embed(client, **QUERY, input=f"text {number}"))["routing"]
            kept.append(0.98 if routing["space"] == "small/32" else routing["expected_recall"] or 1)
        log.close()
    assert kept == [1, 0.98, 0.97]
    told = CliRunner().invoke(replay, [str(tmp_path / "log.jsonl"), "--json"])
    assert told.exit_code == 0, told.output
    said = json.loads(told.output)
    assert said["changed"] == 0
    assert said["before"]["expected_recall"] == pytest.approx(sum(kept) / 3)
    without = {"tiers": ARGS["tiers"], "routing": {"default_budget_ms": 100}}
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(without))
    told = CliRunner().invoke(
        replay, [str(tmp_path / "log.jsonl"), "--policy", str(tmp_path / "policy.yaml"), "--json"]
    )
    said = json.loads(told.output)
    assert "large" in {one["from"] for one in said["moved"]}
    assert said["after"]["expected_recall"] < said["before"]["expected_recall"]


async def test_a_replay_leaves_assumed_recall_out_of_the_mean(tmp_path: Path) -> None:
    lesser: dict[str, Any] = {"space": None, "spaces": [SPACE, "huge/64"], "min_recall": 0.2}
    async with served(tmp_path, huge=True, **lesser) as (client, router):
        log = router.service.log = open_log(
            config.DecisionLogConfig(path="log.jsonl"), str(tmp_path)
        )
        assert (await embed(client, **QUERY))["routing"]["model"] == "huge"
        for _ in range(2):
            await embed(client, **QUERY, model="tiny")
        log.close()
    shown = CliRunner().invoke(replay, [str(tmp_path / "log.jsonl"), "--json"])
    assert shown.exit_code == 0, shown.output
    before = json.loads(shown.output)["before"]
    assert (before["assumed_recall"], before["expected_recall"]) == (2, 1.0)
    table = CliRunner().invoke(replay, [str(tmp_path / "log.jsonl")])
    assert re.search(r"recall assumed +2 +2\n", table.output)
