"""vLLM's own metrics, in our tally instead of Ray's objects.

vLLM decides what is measured and when, as for its RayPrometheusStatLogger. That logger keeps about
sixty metrics and reports every value of every text to Ray, in about fifteen calls of 5-8 us a text.
Ours adds the twelve that matter for embeddings to dictionaries, which are published with the
replica's other metrics. With worker processes the values come from the records that all of vLLM's
loggers get. In one process those of texts are not made: `Texts` reads the output of vLLM's core.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vllm.v1.engine import EngineCoreEventType, FinishReason
from vllm.v1.metrics.ray_wrappers import RayPrometheusStatLogger

from deployments.telemetry.metrics import OF_VLLM, EngineStats

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.engine import EngineCoreOutput
    from vllm.v1.metrics.stats import IterationStats, SchedulerStats

_BY_NAME = {metric.name: metric for metric in OF_VLLM}
_RUNNING, _WAITING, _KV_CACHE = (
    _BY_NAME[name]
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
)
_LOOKED_FOR, _FOUND = _BY_NAME["prefix_cache_queries"], _BY_NAME["prefix_cache_hits"]
_PREEMPTED, _TOKENS, _OF_A_STEP = (
    _BY_NAME["num_preemptions"],
    _BY_NAME["prompt_tokens"],
    _BY_NAME["iteration_tokens"],
)
_ENDED = _BY_NAME["request_success"]
_WHOLE, _QUEUED, _COMPUTED = (
    _BY_NAME[name]
    for name in (
        "e2e_request_latency_seconds",
        "request_queue_time_seconds",
        "request_inference_time_seconds",
    )
)


class Texts:
    """Counts texts as they leave vLLM's core in this process, from the core's own output.

    vLLM's LLMEngine makes three objects for every text to report the same, which takes several
    times as long.
    """

    def __init__(self, stats: EngineStats) -> None:
        self._tally, self._labels = stats.tally, (stats.model,)
        self._by_reason = {reason: (stats.model, str(reason)) for reason in FinishReason}
        self._of_a_step, self._whole, self._queued, self._computed = (
            stats.tally.series(item, self._labels)
            for item in (_OF_A_STEP, _WHOLE, _QUEUED, _COMPUTED)
        )

    def count(self, outputs: Sequence["EngineCoreOutput"], now: float) -> None:
        """Add the texts of one step."""
        read = computed = preempted = 0
        for output in outputs:
            if (prefill := output.prefill_stats) is not None:
                read += prefill.num_prompt_tokens
                computed += prefill.num_computed_tokens
            queued_s = scheduled_s = 0.0
            for event in output.events or ():
                if event.type == EngineCoreEventType.QUEUED:
                    queued_s = event.timestamp
                elif event.type == EngineCoreEventType.SCHEDULED:
                    scheduled_s = scheduled_s or event.timestamp  # the first time
                else:
                    preempted += 1
            if output.finish_reason is None:
                continue
            self._tally.add(_ENDED, self._by_reason[output.finish_reason])
            if queued_s and scheduled_s:
                self._whole.observe(now - queued_s)
                self._queued.observe(scheduled_s - queued_s)
                self._computed.observe(now - scheduled_s)
        self._tally.add(_TOKENS, self._labels, read)
        self._tally.add(_PREEMPTED, self._labels, preempted)
        self._of_a_step.observe(computed)


def stat_logger(stats: EngineStats) -> type[RayPrometheusStatLogger]:
    """Return a class, because vLLM creates the logger itself. Without this base class, vLLM would
    also start its own Prometheus logger.
    """
    tally, labels = stats.tally, (stats.model,)
    of_a_step, whole, queued, computed = (
        tally.series(item, labels) for item in (_OF_A_STEP, _WHOLE, _QUEUED, _COMPUTED)
    )
    by_reason = {reason: (stats.model, str(reason)) for reason in FinishReason}

    class Stats(RayPrometheusStatLogger):  # type: ignore[misc,unused-ignore]
        def __init__(
            self, vllm_config: "VllmConfig", engine_indexes: list[int] | None = None
        ) -> None:
            """Start at zero, so that every series exists before the first text."""
            for metric in OF_VLLM:
                if metric.kind != "histogram" and metric is not _ENDED:
                    tally.add(metric, labels, 0)
            for named in by_reason.values():
                tally.add(_ENDED, named, 0)

        def record(
            self,
            scheduler_stats: "SchedulerStats | None",
            iteration_stats: "IterationStats | None",
            mm_cache_stats: object = None,
            engine_idx: int = 0,
        ) -> None:
            """Count one step."""
            if scheduler_stats is not None:
                tally.set(_RUNNING, labels, scheduler_stats.num_running_reqs)
                tally.set(
                    _WAITING,
                    labels,
                    scheduler_stats.num_waiting_reqs + scheduler_stats.num_skipped_waiting_reqs,
                )
                tally.set(_KV_CACHE, labels, scheduler_stats.kv_cache_usage)
                tally.add(_LOOKED_FOR, labels, scheduler_stats.prefix_cache_stats.queries)
                tally.add(_FOUND, labels, scheduler_stats.prefix_cache_stats.hits)
            if iteration_stats is None:
                return
            read = iteration_stats.prompt_token_stats
            tally.add(_PREEMPTED, labels, iteration_stats.num_preempted_reqs)
            tally.add(_TOKENS, labels, read.total)
            of_a_step.observe(read.computed + iteration_stats.num_generation_tokens)
            for text in iteration_stats.finished_requests:
                tally.add(_ENDED, by_reason[text.finish_reason])
                whole.observe(text.e2e_latency)
                queued.observe(text.queued_time)
                computed.observe(text.inference_time)

        def _nothing(self, *args: Any, **named: Any) -> None:
            """Ignore records without a metric here: sleep, admission by vLLM's own server, the
            cache's configuration.
            """

        log_engine_initialized = record_sleep_state = record_admission_rejection = _nothing

    return Stats
