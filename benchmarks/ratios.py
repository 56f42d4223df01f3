"""Ratios of figures that were measured alternately."""

import random
import statistics
from collections.abc import Sequence

import numpy as np

RESAMPLES = 2000


def interval(ratios: Sequence[float], percent: float = 95) -> tuple[float, float]:
    """Bootstrap interval of their median."""
    rng = random.Random(0)
    drawn = [statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES)]
    low, high = np.percentile(drawn, (50 - percent / 2, 50 + percent / 2))
    return float(low), float(high)
