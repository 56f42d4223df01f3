"""vLLM's own metrics, in our tally instead of Ray's objects.

vLLM decides what is measured and when: this is its RayPrometheusStatLogger with other classes for gauge, counter and histogram.
Its own tell Ray every value of every text, about fifteen calls of 5-8 us for each; ours add to a dictionary, on vLLM's thread,
and are published with the rest of the replica's. What means nothing for embeddings (generated tokens, LoRA) is not kept.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from vllm.v1.metrics.ray_wrappers import RayPrometheusStatLogger

from deployments.metrics import OF_VLLM, EngineStats, Labels, Metric

_OURS = ("model_name", "engine")  # labels that `model` stands for
_RENAMED = {"iteration_tokens_total": "iteration_tokens"}  # Ray puts `_total` behind every counter
_WANTED = {metric.name: metric for metric in OF_VLLM}


class Series:
    """What vLLM takes for a Prometheus metric, of any of the three kinds."""

    def __init__(
        self, stats: EngineStats, name: str, documentation: str = "", labelnames: Sequence[str] | None = None, **unused: Any
    ) -> None:
        name = name.removeprefix("vllm:")
        self._tally, self._names = stats.tally, tuple(labelnames or ())
        self._metric: Metric | None = _WANTED.get(_RENAMED.get(name, name))
        self._labels: Labels = (stats.model,)

    def labels(self, *values: object, **named: object) -> "Series":
        """The series with these labels, known from now on."""
        given = dict(zip(self._names, values, strict=False)) | named
        made = object.__new__(Series)
        made._tally, made._names, made._metric = self._tally, self._names, self._metric
        made._labels = (*self._labels, *(str(given[name]) for name in self._names if name not in _OURS))
        if self._metric is not None and self._metric.kind != "histogram":
            self._tally.add(self._metric, made._labels, 0)
        return made

    def inc(self, amount: float = 1) -> None:
        """Count."""
        if self._metric is not None:
            self._tally.add(self._metric, self._labels, amount)

    def set(self, value: float) -> None:
        """Show."""
        if self._metric is not None:
            self._tally.set(self._metric, self._labels, value)

    def observe(self, value: float) -> None:
        """One more value."""
        if self._metric is not None:
            self._tally.observe(self._metric, self._labels, value)

    def set_to_current_time(self) -> None:
        """Only metrics that are not kept ask for this."""


def stat_logger(stats: EngineStats) -> type[RayPrometheusStatLogger]:
    """A class, as vLLM would start a second logger beside anything else."""

    class Stats(RayPrometheusStatLogger):  # type: ignore[misc,unused-ignore]
        _gauge_cls = _counter_cls = _histogram_cls = partial(Series, stats)

    return Stats
