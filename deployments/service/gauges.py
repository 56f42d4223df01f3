"""Metrics that are read from the service once a second instead of counted per request."""

from dataclasses import fields

from deployments.service.request_metrics import NONE
from deployments.service.service import Service
from deployments.service.shared_cache import SharedCacheCounters
from deployments.telemetry import metrics
from deployments.telemetry.metrics import ProcessMetrics


def sample(tally: ProcessMetrics, service: Service) -> None:
    """Copy the numbers of `service` into `tally`."""
    now, cache = service.clock(), service.cache
    loads = service.deployed_loads()
    for name, dispatcher in service.dispatchers.items():
        labels, feedback, load, done = (
            (name,),
            service.feedback[name],
            loads[name],
            dispatcher.counters,
        )
        tally.set(metrics.CALLS, labels, done.calls)
        tally.set(metrics.RETRIES, labels, done.retries)
        tally.set(metrics.DROPPED, labels, done.dropped)
        tally.set(metrics.CANCELLED, labels, done.cancelled_calls)
        tally.set(metrics.COLD_STARTS, labels, done.wakes)
        tally.set(metrics.COALESCED, labels, service.gatherers[name].coalesced)
        tally.set(
            metrics.OUTSTANDING,
            labels,
            sum(service.ledger.outstanding_tokens(name, now).values()),
        )
        tally.set(metrics.QUEUED, labels, service.ledger.waiting_tokens(name))
        tally.set(metrics.READY, labels, load.ready_replicas)
        tally.set(metrics.REQUIRED, labels, service.args.deployed[name].required)
        tally.set(metrics.REPLICAS_OUT, labels, dispatcher.replicas_out)
        tally.set(metrics.MARGIN, labels, load.margin / load.crowding)
        tally.set(metrics.BIAS, labels, load.bias)
        tally.set(metrics.CAPACITY, labels, feedback.tokens_per_s)
        tally.set(metrics.OFFERED, labels, feedback.offered.tokens_per_s(now))
        tally.set(metrics.SHADOW, labels, feedback.shadow.tokens_per_s(now))
    tally.replace(
        metrics.COLLECTION_RECALL,
        {
            (name,): running.average
            for name, running in service.planner.running.items()
            if running.average is not None and service.catalogue.collections[name].measured
        },
    )
    tally.replace(
        metrics.ENCODER_RECALL,
        {
            (name, one.model, str(one.space), one.kind, one.sides): one.expected_recall()
            for name, collection in service.catalogue.collections.items()
            if len(collection.encoders) > 1
            for one in collection.encoders
            if one.assumed is None
        },
    )
    tally.set(metrics.CACHE_HITS, (), cache.hits)
    tally.set(metrics.CACHE_MISSES, (), cache.misses)
    tally.set(metrics.CACHE_EVICTIONS, (), cache.evictions)
    shared = SharedCacheCounters() if service.shared is None else service.shared.counters
    for counter in fields(shared):
        tally.set(metrics.SHARED_CACHE, (counter.name,), getattr(shared, counter.name))
    if service.use_log is not None:
        for names, used in service.use_log.unpublished().items():
            by = tuple([name or NONE for name in names])
            tally.add(metrics.KEY_REQUESTS, by, used.requests)
            tally.add(metrics.KEY_TOKENS, by, used.tokens)
            tally.add(metrics.KEY_DEVICE_SECONDS, by, used.device_s)
    log = service.log
    tally.set(metrics.DECISION_LOG_FAILURES, (), 0 if log is None else log.failures)
    tally.set(metrics.DECISION_LOG_LOST, (), 0 if log is None else log.lost)
    tally.set(metrics.CACHE_BYTES, (), cache.used_bytes)
    tally.set(metrics.CACHE_ENTRIES, (), len(cache))
