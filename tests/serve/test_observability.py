"""Metrics, traces and logs of a live run: the documented ones are there, the dashboard shows data,
no text is in any.
"""

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from deployments.telemetry import metrics
from tests.support.launched import ROOT, Launched, launched
from tests.support.local_service import WORDLLAMA
from tests.support.needs import needs
from tests.support.ports import free_port

pytestmark = [pytest.mark.serve, pytest.mark.models]

SECRET = "zq7marigold"
LEAKY = {
    "engine": {"kind": "callable", "target": "tests.support.leaky:load"},
    "tokenizer": "callable:tests.support.leaky:count",
    "dimensions": 4,
    "max_tokens": 1000,
}
DASHBOARD = json.loads((ROOT / "configs" / "grafana" / "embedding-router.json").read_text())
ALERTS = ROOT / "configs" / "prometheus" / "alerts.yml"
QUERIES = {
    f"{panel['title']}/{target['refId']}": target["expr"]
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", ())
}
WAIT_S = 180.0


def config() -> dict[str, Any]:
    local = yaml.safe_load((ROOT / "configs" / "local.yaml").read_text())["applications"][0][
        "args"
    ]["models"]
    few = {"ray_actor_options": {"num_cpus": 0.1}, "graceful_shutdown_timeout_s": 2}
    proved = {**WORDLLAMA, "fingerprint": local["wordllama-256"]["fingerprint"]}
    weights = str(ROOT / local["minilm-student"]["engine"]["weights"])
    student = {**local["minilm-student"], "engine": {"kind": "student", "weights": weights}}
    return {
        "logging_config": {"encoding": "JSON", "enable_access_log": False},
        "tracing_config": {"enabled": True, "sampling_ratio": 1.0},
        "applications": [
            {
                "name": "embedding-router",
                "route_prefix": "/",
                "import_path": "deployments.app:build",
                "args": {
                    "models": {
                        "leaky": LEAKY,
                        "wordllama-256": proved,
                        "all-minilm-l6-v2": local["all-minilm-l6-v2"],
                        "minilm-student": student,
                    },
                    "tiers": {"fast": "wordllama-256", "best": "all-minilm-l6-v2"},
                    "collections": {
                        "both": {"space": "all-minilm-l6-v2/384", "encoders": ["minilm-student"]}
                    },
                },
                "deployments": [
                    {"name": "router", **few},
                    {"name": "leaky", **few},
                    {"name": "all-minilm-l6-v2", **few},
                    {
                        "name": "wordllama-256",
                        **few,
                        "autoscaling_config": {"min_replicas": 1, "max_replicas": 1},
                    },
                ],
            }
        ],
    }


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    path = tmp_path_factory.mktemp("observed") / "config.yaml"
    path.write_text(yaml.safe_dump(config(), sort_keys=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_metrics_report_interval_ms", "1000")  # 10 s by default
        with launched(path) as running:
            yield running


def post(live: Launched, body: Any, number: int = 0) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = (
        {"x-request-id": f"request-{number}", "traceparent": f"00-{number:032x}-{number:016x}-01"}
        if number
        else {}
    )
    return httpx.post(f"{live.url}/v1/embeddings", content=content, headers=headers, timeout=120)


def traffic(live: Launched, number: int) -> None:
    """One request of every kind that the dashboard shows."""
    for model in ("fast", "best"):
        assert (
            post(
                live, {"input": f"{model} {number}", "model": model, "latency_budget_ms": 60_000}
            ).status_code
            == 200
        )
    assert (
        post(live, {"input": f"how are you {number % 3}", "space": "wordllama-256/256"}).status_code
        == 200
    )
    query = {"input": f"query {number}", "space": "both", "input_type": "query"}
    assert post(live, query).status_code == 200
    assert (
        post(live, {"input": "x", "space": "wordllama-256/256", "model": "leaky"}).status_code
        == 409
    )


# --- traces and logs
# --------------------------------------------------------------------------------------------------

ANSWERED, FAILED, CRASHED = 0xA1, 0xA2, 0xA3
SECRETS: dict[str, tuple[int, Any, int]] = {  # status, body, request number
    "answered": (200, {"input": [f"{SECRET} one", f"{SECRET} two"], "model": "best"}, ANSWERED),
    "answered-by-an-engine-that-reads-text": (200, {"input": SECRET, "model": "leaky"}, 0),
    "bad-json": (400, f'{{"input": "{SECRET}'.encode(), 0),
    "unknown-field": (400, {"input": SECRET, f"{SECRET}": 1}, 0),
    "too-long": (400, {"input": f"{SECRET} " * 1000, "model": "all-minilm-l6-v2"}, 0),
    "no-such-model": (404, {"input": SECRET, "model": SECRET}, 0),
    "space-conflict": (409, {"input": SECRET, "model": "leaky", "space": "wordllama-256/256"}, 0),
    "engine-failure": (503, {"input": f"{SECRET} explode", "model": "leaky"}, FAILED),
    "internal-error": (500, {"input": f"{SECRET} crash", "model": "leaky"}, CRASHED),
}


@pytest.fixture(scope="module")
def told(live: Launched) -> Path:
    """The folder of the logs after a secret was in every kind of request."""
    for status, body, number in SECRETS.values():
        answer = post(live, body, number)
        assert answer.status_code == status, answer.text
        if number:
            assert answer.headers["x-request-id"] == f"request-{number}"
    return live.logs.parent


def test_no_text_is_in_any_log_or_span(told: Path) -> None:
    files = [path for path in told.rglob("*") if path.is_file()]
    assert any("spans" in path.parts for path in files)
    assert any(path.name.startswith("replica_") and path.stat().st_size for path in files)
    assert not [str(path) for path in files if SECRET.encode() in path.read_bytes()]


def lines(told: Path, deployment: str) -> list[dict[str, Any]]:
    (path,) = (told / "serve").glob(f"replica_embedding-router_{deployment}_*.log")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_failed_request_is_found_in_the_logs_by_its_id_and_its_trace(told: Path) -> None:
    (line,) = [one for one in lines(told, "router") if one["levelname"] == "ERROR"]
    assert line["request_id"] == f"request-{CRASHED}"
    assert line["trace_id"] == f"{CRASHED:032x}"
    assert "leaky.py" in line["message"]
    assert "ValueError" in line["message"]
    ours = [
        one
        for one in lines(told, "leaky")
        if "the engine failed" in one["message"] and "request_ids" in one
    ]
    assert ours
    for one in ours:
        assert one["request_ids"] == [f"request-{FAILED}"]
        assert one["trace_id"] == f"{FAILED:032x}"


def spans(told: Path, trace: int) -> dict[str, dict[str, Any]]:
    """The spans of a trace by name, from every process."""
    found: dict[str, dict[str, Any]] = {}
    for path in (told / "serve" / "spans").iterdir():
        text, decoder, at = path.read_text(), json.JSONDecoder(), 0
        while (start := text.find("{", at)) >= 0:
            span, at = decoder.raw_decode(text, start)
            if int(span["context"]["trace_id"], 16) == trace:
                found[span["name"]] = span
    return found


def test_a_trace_goes_from_the_callers_traceparent_to_the_models_replica(told: Path) -> None:
    found = spans(told, ANSWERED)
    ours = {"features", "decide", "dispatch", "engine", "call", "embed"}
    assert ours < set(found)
    above = {name: span["parent_id"] for name, span in found.items()}
    ids = {name: span["context"]["span_id"] for name, span in found.items()}
    request = "POST /v1/embeddings"
    assert int(above[request], 16) == ANSWERED
    assert above["features"] == above["decide"] == above["dispatch"] == ids[request]
    assert above["engine"] == above["call"] == ids["dispatch"]
    assert above["embed"] == ids["call"]

    said = found["decide"]["attributes"]
    assert (said["embedding.model"], said["embedding.tier"], said["embedding.reason"]) == (
        "all-minilm-l6-v2",
        "best",
        "tier",
    )
    assert said["embedding.predicted_ms"] > 0
    assert said["embedding.tokens"] > 4
    assert any("wordllama-256: fits, but" in why for why in said["embedding.rejected"])
    assert found["dispatch"]["attributes"]["embedding.inference_ms"] > 0
    assert found[request]["attributes"]["http.response.status_code"] == 200
    failed = spans(told, FAILED)
    assert (
        failed["dispatch"]["status"]["status_code"]
        == failed[request]["status"]["status_code"]
        == "ERROR"
    )
    assert failed[request]["attributes"]["http.response.status_code"] == 503


# --- metrics
# --------------------------------------------------------------------------------------------------


def names_in(expression: str) -> set[str]:
    return {name.removesuffix("{") for name in re.findall(r"\bray_[a-z0-9_]+", expression)}


@pytest.fixture(scope="module")
def metrics_url(live: Launched) -> str:
    found = re.search(r"metrics on (\S+);", live.output)
    assert found is not None
    return found[1]


@pytest.fixture(scope="module")
def scrape(live: Launched, metrics_url: str) -> dict[str, str]:
    """Types of all metrics by name, once those that come last are there."""
    last = {*metrics.LATENCY.scraped, *metrics.ENGINE_TOKENS.scraped, *metrics.OF_VLLM[-1].scraped}
    last |= {"ray_serve_autoscaling_target_replicas", *metrics.COLLECTION_RECALL.scraped}
    deadline, number, found = time.monotonic() + WAIT_S, 0, dict[str, str]()
    while not last < set(found):
        assert time.monotonic() < deadline, f"not there: {sorted(last - set(found))}"
        traffic(live, number := number + 1)
        page = httpx.get(metrics_url, timeout=30).text
        families = list(text_string_to_metric_families(page))
        found = {sample.name: family.type for family in families for sample in family.samples}
    return found


def test_every_documented_metric_is_in_a_scrape_and_no_other_of_ours(
    scrape: dict[str, str],
) -> None:
    every = (*metrics.OF_ROUTER, *metrics.OF_REPLICA, *metrics.OF_VLLM)
    documented = {
        name: "gauge" if one.kind == "gauge" else "counter" for one in every for name in one.scraped
    }
    ours = {
        name: kind
        for name, kind in scrape.items()
        if name.startswith(("ray_embedding_router_", "ray_vllm_"))
    }
    assert ours == documented


def test_every_query_and_alert_asks_for_metrics_that_exist(scrape: dict[str, str]) -> None:
    rules = [
        rule["expr"]
        for group in yaml.safe_load(ALERTS.read_text())["groups"]
        for rule in group["rules"]
    ]
    assert rules
    asked = set[str]().union(*map(names_in, [*QUERIES.values(), *rules]))
    assert asked <= set(scrape), asked - set(scrape)


@needs("promtool")
def test_promtool_accepts_configuration_and_rules() -> None:
    for what in (["rules", str(ALERTS)], ["config", str(ALERTS.with_name("prometheus.yml"))]):
        done = subprocess.run(["promtool", "check", *what], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def prometheus(folder: Path, target: str, listed: Path, port: int) -> Iterator[str]:
    """The URL of a Prometheus with our configuration, for as long as the block: `target` is where
    its first job looks, and `listed` the folder where Ray lists all addresses.
    """
    shipped = ALERTS.with_name("prometheus.yml").read_text()
    settings = yaml.safe_load(
        shipped.replace("8088", target.rpartition(":")[2]).replace("/tmp/ray/", f"{listed}/")
    )
    settings |= {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(ALERTS)],
    }
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(settings))
    command = [
        "prometheus",
        f"--config.file={file}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=error",
    ]
    process = subprocess.Popen(command)
    try:
        yield f"http://127.0.0.1:{port}/api/v1"
    finally:
        process.terminate()
        process.wait(timeout=30)


@needs("prometheus")
def test_every_query_of_the_dashboard_returns_data(
    live: Launched, scrape: dict[str, str], metrics_url: str, tmp_path: Path
) -> None:
    target = re.sub(r"http://([^/]+)/.*", r"\1", metrics_url)
    left, deadline, number = dict(QUERIES), time.monotonic() + WAIT_S, 1000
    with prometheus(tmp_path, target, tmp_path, free_port()) as api:
        while left:
            assert time.monotonic() < deadline, f"no data: {left}"
            traffic(live, number := number + 1)
            for name, query in list(left.items()):
                query = re.sub(r"\$(application|model)", ".*", query).replace(
                    "$__rate_interval", "20s"
                )
                try:
                    answer = httpx.get(f"{api}/query", params={"query": query}, timeout=30).json()
                except httpx.ConnectError:
                    break  # it is starting
                assert answer["status"] == "success", (name, answer)
                if any(result["value"][1] != "NaN" for result in answer["data"]["result"]):
                    del left[name]
        groups = httpx.get(f"{api}/rules", timeout=30).json()["data"]["groups"]
    health = {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}
    assert set(health.values()) == {"ok"}, health
    firing = {
        rule["name"] for group in groups for rule in group["rules"] if rule["state"] == "firing"
    }
    assert not firing


REQUESTS = "ray_embedding_router_requests_total"


def counted_by_the_service(metrics_url: str) -> float:
    families = text_string_to_metric_families(httpx.get(metrics_url, timeout=30).text)
    samples = [each for family in families for each in family.samples]
    return sum(each.value for each in samples if each.name == REQUESTS)


@needs("prometheus")
def test_the_shipped_configuration_counts_every_request_once(
    live: Launched, scrape: dict[str, str], metrics_url: str, tmp_path: Path
) -> None:
    # Where its dashboard runs, or a cluster was started, Ray lists this very address too.
    port = metrics_url.removesuffix("/metrics").rpartition(":")[2]
    listed = [{"labels": {"job": "ray"}, "targets": [f"127.0.0.1:{port}", f"localhost:{port}"]}]
    (tmp_path / "prom_metrics_service_discovery.json").write_text(json.dumps(listed))
    deadline = time.monotonic() + WAIT_S
    before, last = counted_by_the_service(metrics_url), -1.0
    while last != before:  # what was sent earlier is counted
        last, before = before, counted_by_the_service(metrics_url)
        time.sleep(2.0)  # longer than from one report to the next
    for number in range(7):
        assert post(live, {"input": f"count {number}", "model": "leaky"}).status_code == 200
    counted = 0.0
    with prometheus(tmp_path, f"127.0.0.1:{port}", tmp_path, free_port()) as api:
        while counted != before + 7:
            assert time.monotonic() < deadline, (before, counted)
            assert counted <= before + 7
            time.sleep(0.5)
            try:
                query = {"query": f"sum({REQUESTS})"}
                answer = httpx.get(f"{api}/query", params=query, timeout=30).json()
            except httpx.ConnectError:
                continue  # it is starting
            result = answer["data"]["result"]
            counted = float(result[0]["value"][1]) if result else 0.0
        targets = httpx.get(f"{api}/targets", timeout=30).json()["data"]
    assert counted_by_the_service(metrics_url) == before + 7
    assert [one["scrapePool"] for one in targets["activeTargets"]] == ["embedding-router"]


def test_nobody_else_can_read_the_folder_of_rays_session(live: Launched) -> None:
    folder = live.logs.parents[3]
    assert folder.stat().st_mode & 0o777 == 0o700
    assert folder.stat().st_uid == os.getuid()


def test_the_dashboard_can_be_imported() -> None:
    assert {one["name"] for one in DASHBOARD["templating"]["list"]} == {
        "datasource",
        "application",
        "model",
    }
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert len(rows) == 8
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in DASHBOARD["panels"]]
    assert len(set(places)) == len(places)
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            assert target["datasource"]["uid"] == "${datasource}"
