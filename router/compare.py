"""Compare two models, or two policies, on the same traffic.

    shadow   a share of the answered requests is also embedded by another model; those vectors are
             not returned
    canary   a share of the free requests is decided by other rules; the rest is the control

The sample depends on the text alone: the same text is always on the same side, on every router and
after a restart. So caches stay effective, and a repeated request returns the same vector.

Vectors of two models must never be compared with each other, but their neighbours can be. The
overlap is the share of a new text's ten nearest earlier texts under one model that are also among
its ten nearest under the other. Only labelled data shows which model is right where they differ.

Pure: no clock, no randomness.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from router.arrays import Vectors
from router.domain import Features

NEIGHBOURS = 10
RING_TEXTS = 512  # earlier texts that a new one is compared with, for each pair of models
FEWEST_TEXTS = 100  # with fewer, ten neighbours are too large a share of all texts
LENGTHS = (16, 64, 256, 1024)  # tokens, upper ends of the bands


def falls_in(texts: Iterable[str], salt: str, share: float) -> bool:
    """Whether a request with these texts is in a sample of `share` (0 to 1).

    Samples with different `salt` are independent.
    """
    if share >= 1.0:
        return True
    digest = hashlib.blake2b(salt.encode(), digest_size=8)
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return int.from_bytes(digest.digest(), "big") < share * 2.0**64


def slices_of(features: Features, longest: int, side: str | None) -> tuple[str, ...]:
    """The slices that a request belongs to; `longest` is its longest text in tokens."""
    below = 0
    for upper in LENGTHS:
        if longest <= upper:
            band = f"{below + 1}-{upper} tokens"
            break
        below = upper
    else:
        band = f"over {LENGTHS[-1]} tokens"
    language = (
        "code" if features.code else "mixed" if features.mixed else features.language or "unknown"
    )
    return ("all", f"language: {language}", f"length: {band}", f"side: {side or 'not given'}")


class DurationHistogram:
    """A histogram of durations with buckets 5 % apart: percentiles are within 2.5 %."""

    RATIO = 1.05

    def __init__(self) -> None:
        self._buckets = Counter[int]()

    def add(self, seconds: float) -> None:
        """Count one duration; all below a microsecond share a bucket."""
        self._buckets[round(math.log(max(seconds, 1e-6)) / math.log(self.RATIO))] += 1

    def percentile(self, percent: float) -> float | None:
        """Seconds that `percent` of the durations do not exceed; None without durations."""
        left = math.ceil(self._buckets.total() * percent / 100.0)
        for bucket in sorted(self._buckets):
            left -= self._buckets[bucket]
            if left <= 0:
                return float(self.RATIO**bucket)
        return None

    def as_dict(self) -> dict[str, float | None]:
        """p50 and p95 in milliseconds."""
        found = {f"p{percent}": self.percentile(percent) for percent in (50, 95)}
        return {
            name: None if seconds is None else round(seconds * 1000, 2)
            for name, seconds in found.items()
        }


@dataclass(slots=True)
class Mean:
    """A mean and its confidence interval."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> None:
        self.count, self.total, self.squares = (
            self.count + 1,
            self.total + value,
            self.squares + value * value,
        )

    def as_dict(self) -> dict[str, float | int | None]:
        """The mean with its 95 % interval (normal approximation; none below 30 values)."""
        if not self.count:
            return {"mean": None, "low": None, "high": None, "texts": 0}
        mean = self.total / self.count
        if self.count < 30:
            return {"mean": round(mean, 4), "low": None, "high": None, "texts": self.count}
        spread = math.sqrt(max(0.0, self.squares / self.count - mean * mean) / (self.count - 1))
        low, high = max(0.0, mean - 1.96 * spread), min(1.0, mean + 1.96 * spread)
        return {
            "mean": round(mean, 4),
            "low": round(low, 4),
            "high": round(high, 4),
            "texts": self.count,
        }


class Ring:
    """The vectors of the last texts that two models have embedded; the texts are not kept."""

    def __init__(self, size: int = RING_TEXTS) -> None:
        self._size, self._next = size, 0
        self._digests: dict[bytes, int] = {}
        self._at: list[bytes | None] = [None] * size
        self._pair: tuple[Vectors, Vectors] | None = None

    def add(self, digests: Sequence[bytes], first: Vectors, second: Vectors) -> list[float]:
        """Add texts as (n, d1) and (n, d2) vectors of length 1; returns the overlap of each new one
        with the texts before it.

        A text that is in the ring already is skipped: it would be its own neighbour. Before
        FEWEST_TEXTS the result is empty.
        """
        new = [row for row, digest in enumerate(digests) if digest not in self._digests]
        new = [
            row
            for place, row in enumerate(new)
            if digests[row] not in {digests[earlier] for earlier in new[:place]}
        ]
        if not new:
            return []
        if self._pair is None:
            widths = first.shape[1], second.shape[1]
            self._pair = (
                np.zeros((self._size, widths[0]), np.float32),
                np.zeros((self._size, widths[1]), np.float32),
            )
        overlaps = []
        if (known := len(self._digests)) >= min(FEWEST_TEXTS, self._size):
            nearest = [
                _nearest(kept[:known], rows[new])
                for kept, rows in zip(self._pair, (first, second), strict=True)
            ]
            overlaps = [len(set(a) & set(b)) / NEIGHBOURS for a, b in zip(*nearest, strict=True)]
        for row in new[-self._size :]:
            place, self._next = self._next, (self._next + 1) % self._size
            if (gone := self._at[place]) is not None:
                del self._digests[gone]
            self._at[place], self._digests[digests[row]] = digests[row], place
            self._pair[0][place], self._pair[1][place] = first[row], second[row]
        return overlaps


def _nearest(kept: Vectors, rows: Vectors) -> list[list[int]]:
    found: list[list[int]] = np.argpartition(-(rows @ kept.T), NEIGHBOURS, axis=1)[
        :, :NEIGHBOURS
    ].tolist()
    return found


class Seen(NamedTuple):
    """One request for a report; times in seconds."""

    slices: tuple[str, ...]
    model: str  # the one that answered
    texts: int
    tokens: int
    actual_s: float  # from arrival to the vectors
    device_s: float  # time by the model's latency curve, times the devices that it occupies
    in_time: bool | None = None  # None: it had no budget
    degraded: bool = False
    quality: float = 0.0  # the model's points for this text in the config


class Shadowed(NamedTuple):
    """A shadow model's result for one request."""

    overlaps: Sequence[float]
    inference_s: float  # of the calls that carried it
    predicted_s: float | None  # predicted latency for the caller if this model had been chosen
    device_s: float


@dataclass(slots=True)
class SliceTotals:
    """Sums over the requests of one slice."""

    requests: int = 0
    texts: int = 0
    tokens: int = 0
    actual: DurationHistogram = field(default_factory=DurationHistogram)
    device_s: float = 0.0
    budgets: int = 0
    in_time: int = 0
    degraded: int = 0
    quality: Mean = field(default_factory=Mean)
    models: Counter[str] = field(default_factory=Counter)
    overlap: Mean = field(default_factory=Mean)
    shadow_inference: DurationHistogram = field(default_factory=DurationHistogram)
    shadow_predicted: DurationHistogram = field(default_factory=DurationHistogram)
    shadow_device_s: float = 0.0

    def add(self, seen: Seen, shadowed: Shadowed | None = None) -> None:
        """Count one request."""
        self.requests += 1
        self.texts += seen.texts
        self.tokens += seen.tokens
        self.actual.add(seen.actual_s)
        self.device_s += seen.device_s
        self.budgets += seen.in_time is not None
        self.in_time += seen.in_time is True
        self.degraded += seen.degraded
        self.quality.add(seen.quality)
        self.models[seen.model] += 1
        if shadowed is not None:
            for overlap in shadowed.overlaps:
                self.overlap.add(overlap)
            self.shadow_inference.add(shadowed.inference_s)
            if shadowed.predicted_s is not None:
                self.shadow_predicted.add(shadowed.predicted_s)
            self.shadow_device_s += shadowed.device_s

    def common(self) -> dict[str, Any]:
        """The values of a slice that both kinds of report contain."""
        return {
            "requests": self.requests,
            "texts": self.texts,
            "tokens": self.tokens,
            "latency_ms": self.actual.as_dict(),
            "device_s": round(self.device_s, 4),
        }


class ShadowReport:
    """Agreement, latency and cost of a shadow model against the models that answered, by model and
    slice.
    """

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, str], SliceTotals] = {}
        self.compared = 0
        self.left_out = Counter[str]()  # sampled requests that were not compared, by reason

    def add(self, seen: Seen, shadowed: Shadowed) -> None:
        """Count one request that both models have embedded."""
        self.compared += 1
        for name in seen.slices:
            self._tallies.setdefault((seen.model, name), SliceTotals()).add(seen, shadowed)

    def as_dict(self) -> dict[str, Any]:
        """The report for JSON, largest slices first."""
        ordered = sorted(
            self._tallies.items(),
            key=lambda each: (each[0][0], each[0][1] != "all", -each[1].requests),
        )
        return {
            "compared": self.compared,
            "left_out": dict(self.left_out.most_common()),
            "slices": [
                {
                    "answered_by": model,
                    "slice": name,
                    **tally.common(),
                    f"overlap_at_{NEIGHBOURS}": tally.overlap.as_dict(),
                    "shadow_predicted_ms": tally.shadow_predicted.as_dict(),
                    "shadow_inference_ms": tally.shadow_inference.as_dict(),
                    "shadow_device_s": round(tally.shadow_device_s, 4),
                }
                for (model, name), tally in ordered
            ],
        }


class CanaryReport:
    """Free requests under the canary's rules and under the usual ones."""

    ARMS = ("control", "canary")

    def __init__(self) -> None:
        self._tallies: dict[str, dict[str, SliceTotals]] = {}
        self.failed: dict[str, Counter[str]] = {arm: Counter() for arm in self.ARMS}

    def add(self, arm: str, seen: Seen) -> None:
        """Count one answered request of `arm`, "control" or "canary"."""
        for name in seen.slices:
            self._tallies.setdefault(name, {each: SliceTotals() for each in self.ARMS})[arm].add(
                seen
            )

    def as_dict(self) -> dict[str, Any]:
        """The report for JSON, both arms of a slice side by side."""
        ordered = sorted(
            self._tallies.items(), key=lambda each: (each[0] != "all", -each[1]["canary"].requests)
        )
        return {
            "failed": {arm: dict(codes.most_common()) for arm, codes in self.failed.items()},
            "slices": [
                {"slice": name, **{arm: _arm(tally) for arm, tally in arms.items()}}
                for name, arms in ordered
            ],
        }


def _arm(tally: SliceTotals) -> Mapping[str, Any]:
    quality = tally.quality
    return {
        **tally.common(),
        "models": dict(tally.models.most_common()),
        "budgets": tally.budgets,
        "in_time": tally.in_time,
        "degraded": tally.degraded,
        "quality": round(quality.total / quality.count, 3) if quality.count else None,
    }
