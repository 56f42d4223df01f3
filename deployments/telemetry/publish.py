"""Pass a tally to Ray's metrics, which Prometheus scrapes from the metrics agent of each node."""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from itertools import accumulate

from ray.serve import metrics as ray_metrics

from deployments.serve_internals import record_zero
from deployments.telemetry.metrics import Labels, Metric, ProcessMetrics

EVERY_S = 1.0

log = logging.getLogger("ray.serve")


class _TotalCounter:
    """A counter of Ray that is updated with totals."""

    def __init__(self, name: str, meaning: str, labels: Labels) -> None:
        self._labels = labels
        self._counter = ray_metrics.Counter(name, meaning, labels)  # type: ignore[arg-type]  # Ray declares tuple[str]
        self._published: dict[Labels, float] = {}

    def set_total(self, values: Labels, total: float) -> None:
        published = self._published.get(values)
        if published == total:
            return
        tags = dict(zip(self._labels, values, strict=True))
        if total > (published or 0):
            self._counter.inc(total - (published or 0), tags)
        elif published is None:  # 0 must be shown too, but `inc` refuses it
            record_zero(self._counter, tags)
        self._published[values] = total


class Publisher:
    """Reports changes to Ray every `EVERY_S` and once more at the end.

    It must be created inside a Serve replica.
    """

    def __init__(self, tallies: Sequence[ProcessMetrics], sample: Callable[[], None]) -> None:
        """Publish `tallies`; `sample` first fills in the numbers that other objects keep."""
        self._tallies, self._sample = tallies, sample
        self._counters: dict[Metric, _TotalCounter] = {}
        self._gauges: dict[Metric, ray_metrics.Gauge] = {}
        self._buckets: dict[Metric, tuple[_TotalCounter, _TotalCounter]] = {}
        for item in (metric for tally in tallies for metric in tally.metrics):
            name = item.family + item.name
            if item.kind == "counter":
                self._counters[item] = _TotalCounter(name, item.meaning, item.labels)
            elif item.kind == "gauge":
                self._gauges[item] = ray_metrics.Gauge(name, item.meaning, item.labels)  # type: ignore[arg-type]
            else:
                self._buckets[item] = (
                    _TotalCounter(f"{name}_bucket", item.meaning, (*item.labels, "le")),
                    _TotalCounter(f"{name}_sum", item.meaning, item.labels),
                )
        self._task: asyncio.Task[None] | None = None
        self._publishing = threading.Lock()  # a thread can publish while `stop` is called

    def start(self) -> None:
        """Publish from now on, on the running loop."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    def stop(self) -> None:
        """Publish a last time."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
            self.publish()

    async def _run(self) -> None:
        while True:
            try:
                self._sample()
                # Ray's calls give up the interpreter, and the loop would wait for it at each
                await asyncio.to_thread(self._publish_all)
            except Exception:
                log.exception("publishing metrics failed; they are tried again in %g s", EVERY_S)
            await asyncio.sleep(EVERY_S)

    def publish(self) -> None:
        """Report the changes since the last time."""
        self._sample()
        self._publish_all()

    def _publish_all(self) -> None:
        with self._publishing:
            for tally in self._tallies:
                self._publish(tally)

    def _publish(self, tally: ProcessMetrics) -> None:
        for metric, values in tally.values.items():
            if (gauge := self._gauges.get(metric)) is not None:
                for labels, value in list(values.items()):
                    gauge.set(value, dict(zip(metric.labels, labels, strict=True)))
            else:
                counter = self._counters[metric]
                for labels, value in list(values.items()):
                    counter.set_total(labels, value)
        for metric, series in tally.buckets.items():
            in_bucket, total = self._buckets[metric]
            bounds = [*(f"{bound:g}" for bound in metric.bounds), "+Inf"]
            for labels, buckets in list(series.items()):
                for bound, count in zip(bounds, accumulate(buckets.counts), strict=True):
                    in_bucket.set_total((*labels, bound), count)
                total.set_total(labels, buckets.sum)
