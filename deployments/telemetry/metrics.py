"""The metrics by name, and their numbers in this process.

This module does not use Ray; deployments/telemetry/publish.py passes the numbers on.

Counting happens for every request, so it is an addition in a dictionary. Ray's own counters cost 5
to 8 us a call and are updated once a second. A histogram is one counter per bucket, as in
Prometheus: Ray would replay every observation twice, the second time as the middle of its bucket
(docs/decisions/0005).

No label contains what a caller wrote: labels come from enums, the error tree or the config. A
metric can still reach `MAX_SERIES` (many reloads, each with new rules); further series are counted
under `other`.
"""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

PREFIX = "embedding_router_"
MAX_SERIES = 2000  # of one metric
OTHER = "other"

Labels = tuple[str, ...]

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
RATIOS = (0.25, 0.5, 0.67, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0)


@dataclass(
    frozen=True, slots=True, eq=False
)  # a key of every count: compared by identity, not by its fields
class Metric:
    """The declaration of one metric; `scraped` are its names in Prometheus."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: Labels
    meaning: str
    bounds: tuple[float, ...] = ()
    family: str = PREFIX

    @property
    def scraped(self) -> tuple[str, ...]:
        """The names in a scrape: Ray adds the prefix `ray_` to all and `_total` to counters."""
        name = f"ray_{self.family}{self.name}"
        if self.kind == "histogram":
            return f"{name}_bucket_total", f"{name}_sum_total"
        return (f"{name}_total",) if self.kind == "counter" else (name,)


REQUEST = ("model", "tier", "reason", "language", "outcome")
MODEL = ("model",)


def _counter(name: str, labels: Labels, meaning: str) -> Metric:
    return Metric(name, "counter", labels, meaning)


def _gauge(name: str, labels: Labels, meaning: str) -> Metric:
    return Metric(name, "gauge", labels, meaning)


REQUESTS = _counter("requests", REQUEST, "Embedding requests that ended.")
TEXTS = _counter("texts", REQUEST, "Texts of these requests.")
TOKENS = _counter(
    "tokens", REQUEST, "Tokens of these requests as the model counts them, prompt included."
)
BUDGETS = _counter(
    "budgets", ("model", "result"), "Decided requests with a latency budget, by result."
)
PREDICTIONS = _counter(
    "predictions",
    ("model", "within"),
    "Predicted requests, by whether prediction times margin held.",
)
PINNED = _counter(
    "pinned_requests",
    ("model", "by"),
    "Decided requests that pinned a model, a space or a collection.",
)
ADAPTED = _counter(
    "adapted_requests", MODEL, "Requests answered over an adapter, by the model that read the text."
)
ENCODED = _counter(
    "encoded_requests",
    ("model", "encoder"),
    "Requests answered in a space by a model that is not its own, by how: same, adapter, student.",
)
COLLECTION_RECALL = _gauge(
    "collection_recall",
    ("collection",),
    "Share of the best search's recall that the collection's last queries keep, as measured; "
    "no sample if a part of it was not.",
)
ENCODER_RECALL = _gauge(
    "encoder_recall",
    ("collection", "model", "space", "encoder", "sides"),
    "The same share, for each encoder of a collection that has several, over all languages.",
)
TRUNCATED = _counter("truncated_texts", MODEL, "Texts that were cut, as the request allowed.")
RATE_LIMITED = _counter(
    "rate_limited", ("limit",), "Requests refused because their key had used up a limit."
)

USE = ("key", "model", "collection")  # names from the config
KEY_REQUESTS = _counter("key_requests", USE, "Answered requests, by key.")
KEY_TOKENS = _counter("key_tokens", USE, "Tokens that models read for them, and cached ones.")
KEY_DEVICE_SECONDS = _counter(
    "key_device_seconds", USE, "Device time of these requests, as shares of full batches."
)

LATENCY = Metric(
    "latency_seconds",
    "histogram",
    MODEL,
    "Time from arrival at the router until the vectors are ready, for answered requests.",
    SECONDS,
)
PREDICTED = Metric(
    "predicted_seconds",
    "histogram",
    MODEL,
    "Predicted latency of requests that were not answered entirely from the cache.",
    SECONDS,
)
RATIO = Metric(
    "prediction_ratio",
    "histogram",
    MODEL,
    "Actual over predicted; 1 is a perfect prediction.",
    RATIOS,
)
QUEUE = Metric(
    "queue_seconds",
    "histogram",
    MODEL,
    "Waiting in the router and at the replica before the engine.",
    SECONDS,
)
INFERENCE = Metric("inference_seconds", "histogram", MODEL, "In the engine.", SECONDS)

CALLS = _counter("calls", MODEL, "Calls sent to replicas; each carries texts of many requests.")
RETRIES = _counter("retries", MODEL, "Pieces of requests sent again because a call failed.")
DROPPED = _counter(
    "dropped", MODEL, "Pieces dropped from the queue: their caller had left or their time was over."
)
CANCELLED = _counter("cancelled_calls", MODEL, "Calls taken back because every caller had left.")
DECISION_LOG_FAILURES = _counter(
    "decision_log_failures", (), "Writes to the decision log that failed; they are tried again."
)
DECISION_LOG_LOST = _counter(
    "decision_log_lost", (), "Requests that are missing in the decision log."
)
COLD_STARTS = _counter(
    "cold_starts", MODEL, "Requests for a first replica of a model that had none."
)
COALESCED = _counter(
    "coalesced_texts", MODEL, "Texts that waited for the same text of another request."
)
CACHE_HITS = _counter("cache_hits", (), "Texts whose vector was known.")
CACHE_MISSES = _counter("cache_misses", (), "Texts whose vector was not known.")
CACHE_EVICTIONS = _counter("cache_evictions", (), "Vectors thrown out to make room.")

SHARED_CACHE = _counter(
    "shared_cache", ("result",), "Reads from Redis and writes to it, by result."
)
CACHE_BYTES = _gauge("cache_bytes", (), "Memory that the cache takes.")
CACHE_ENTRIES = _gauge("cache_entries", (), "Vectors in the cache.")
PROCESSOR_SHARE = _gauge(
    "router_processor_share",
    (),
    "Processor seconds of the router for each second, averaged over about ten.",
)
OUTSTANDING = _gauge(
    "outstanding_tokens",
    MODEL,
    "Tokens that this router sent to replicas and that are not answered yet.",
)
QUEUED = _gauge("queued_tokens", MODEL, "Tokens that wait in this router.")
READY = _gauge("replicas_ready", MODEL, "Replicas that this router can send to.")
REQUIRED = _gauge(
    "required", MODEL, "1 where /health waits for the model, 0 where it can be without a replica."
)
REPLICAS_OUT = _gauge(
    "replicas_out", MODEL, "Replicas that failed a moment ago and get nothing for now."
)
MARGIN = _gauge(
    "margin", MODEL, "Factor on the prediction that only the declared share of requests exceeds."
)
BIAS = _gauge("bias", MODEL, "Factor on the latency curve that makes the median prediction right.")
CAPACITY = _gauge(
    "replica_capacity_tokens_per_second", MODEL, "What one replica serves with full batches."
)
OFFERED = _gauge(
    "offered_tokens_per_second", MODEL, "Demand: tokens of requests sent to the model."
)
SHADOW = _gauge(
    "shadow_tokens_per_second",
    MODEL,
    "Demand that would have come here and was sent to a smaller model.",
)

ENGINE_TOKENS = _counter("replica_tokens", MODEL, "Tokens that a replica has embedded.")
ENGINE_BUSY = _counter("replica_busy_seconds", MODEL, "Time with at least one call in hand.")
ENGINE_HELD = _gauge(
    "replica_outstanding_tokens",
    MODEL,
    "Tokens a replica has taken from all routers and not answered.",
)
ENGINE_START = _gauge(
    "engine_start_seconds",
    ("model", "phase"),
    "What each part of the replica's start took: import, download, load, compile, warm_up, proof.",
)
FAILED_TEXTS = _counter("failed_texts", ("model", "code"), "Texts that a replica could not embed.")
IDENTITY = _counter(
    "identity_checks",
    ("model", "result"),
    "Proofs that the replica's weights are those of the fingerprint.",
)

OF_ROUTER: tuple[Metric, ...] = (
    REQUESTS, TEXTS, TOKENS, BUDGETS, PREDICTIONS, PINNED, ADAPTED, ENCODED, TRUNCATED,
    RATE_LIMITED, COLLECTION_RECALL, ENCODER_RECALL,
    KEY_REQUESTS, KEY_TOKENS, KEY_DEVICE_SECONDS,
    LATENCY, PREDICTED, RATIO, QUEUE,
    INFERENCE, CALLS, RETRIES, DROPPED, CANCELLED, COLD_STARTS, COALESCED,
    DECISION_LOG_FAILURES, DECISION_LOG_LOST, CACHE_HITS,
    CACHE_MISSES, CACHE_EVICTIONS,
    SHARED_CACHE, CACHE_BYTES, CACHE_ENTRIES, OUTSTANDING, QUEUED, READY, REQUIRED,
    REPLICAS_OUT, MARGIN,
    BIAS, CAPACITY, OFFERED,
    SHADOW, PROCESSOR_SHARE,
)  # fmt: skip
OF_REPLICA: tuple[Metric, ...] = (
    ENGINE_TOKENS, ENGINE_BUSY, ENGINE_HELD, ENGINE_START, FAILED_TEXTS, IDENTITY,
)  # fmt: skip

# vLLM's own counts that are meaningful where no text is generated
# (deployments/engines/vllm_stats.py).
VLLM = "vllm_"
STEP_TOKENS = (16.0, 64.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0)
OF_VLLM: tuple[Metric, ...] = (
    Metric("num_requests_running", "gauge", MODEL, "Texts in vLLM's running batch.", family=VLLM),
    Metric("num_requests_waiting", "gauge", MODEL, "Texts that wait for one.", family=VLLM),
    Metric(
        "kv_cache_usage_perc",
        "gauge",
        MODEL,
        "Share of the key-value memory in use, 0 to 1.",
        family=VLLM,
    ),
    Metric(
        "prefix_cache_queries",
        "counter",
        MODEL,
        "Tokens looked for in the prefix cache.",
        family=VLLM,
    ),
    Metric("prefix_cache_hits", "counter", MODEL, "Tokens found there.", family=VLLM),
    Metric(
        "num_preemptions",
        "counter",
        MODEL,
        "Texts thrown out of a batch for want of memory.",
        family=VLLM,
    ),
    Metric("prompt_tokens", "counter", MODEL, "Tokens read.", family=VLLM),
    Metric(
        "request_success", "counter", ("model", "finished_reason"), "Texts that ended.", family=VLLM
    ),
    Metric(
        "e2e_request_latency_seconds", "histogram", MODEL, "A text's time in vLLM.", SECONDS, VLLM
    ),
    Metric(
        "request_queue_time_seconds",
        "histogram",
        MODEL,
        "Of that, waiting for a batch.",
        SECONDS,
        VLLM,
    ),
    Metric(
        "request_inference_time_seconds", "histogram", MODEL, "Of that, in a batch.", SECONDS, VLLM
    ),
    Metric(
        "iteration_tokens",
        "histogram",
        MODEL,
        "Tokens of one step (vLLM's iteration_tokens_total).",
        STEP_TOKENS,
        VLLM,
    ),
)


class Buckets:
    """One series of a histogram."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        # per bucket, not cumulative; the last is above every bound
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class ProcessMetrics:
    """The numbers of one process.

    One thread counts; another can read, because counts only grow.
    """

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self.metrics = tuple(metrics)
        self.values: dict[Metric, dict[Labels, float]] = {
            metric: {} for metric in self.metrics if metric.kind != "histogram"
        }
        self.buckets: dict[Metric, dict[Labels, Buckets]] = {
            metric: {} for metric in self.metrics if metric.kind == "histogram"
        }

    def add(self, metric: Metric, labels: Labels, amount: float = 1) -> None:
        """Add `amount`; 0 creates the series."""
        values = self.values[metric]
        try:
            values[labels] += amount
        except KeyError:
            if len(values) >= MAX_SERIES:
                labels = (OTHER,) * len(labels)
            values[labels] = values.get(labels, 0) + amount

    def set(self, metric: Metric, labels: Labels, value: float) -> None:
        """Set the value of a gauge, or of a counter that is kept elsewhere."""
        values = self.values[metric]
        if labels not in values and len(values) >= MAX_SERIES:
            labels = (OTHER,) * len(labels)
        values[labels] = value

    def replace(self, metric: Metric, values: dict[Labels, float]) -> None:
        """Set all values of a gauge; other series end."""
        self.values[metric] = {}
        for labels, value in values.items():
            self.set(metric, labels, value)

    def series(self, metric: Metric, labels: Labels) -> Buckets:
        """Return one series of a histogram, to observe values."""
        every = self.buckets[metric]
        found = every.get(labels)
        if found is None:
            if len(every) >= MAX_SERIES:
                labels = (OTHER,) * len(labels)
            found = every.setdefault(labels, Buckets(metric.bounds))
        return found


class EngineStats(NamedTuple):
    """The tally and the model id for an engine that counts by itself."""

    tally: ProcessMetrics
    model: str
