"""Ratios of figures that were measured alternately or for the same queries."""

import math
import random
import statistics
from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

RESAMPLES = 2000


def interval(ratios: Sequence[float], percent: float = 95) -> tuple[float, float]:
    """Bootstrap interval of their median."""
    rng = random.Random(0)
    drawn = [statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES)]
    low, high = np.percentile(drawn, (50 - percent / 2, 50 + percent / 2))
    return float(low), float(high)


def mean_interval(
    values: npt.ArrayLike,
    groups: Sequence[Hashable],
    of: npt.ArrayLike = 1.0,
    percent: float = 95,
) -> tuple[float, float]:
    """Bootstrap interval of the sum of `values` as a share of the sum of `of`, or of their mean.

    The values of a group are drawn together.
    """
    if not groups:
        return math.nan, math.nan
    place = {group: index for index, group in enumerate(dict.fromkeys(groups))}
    index = [place[group] for group in groups]
    tops = np.bincount(index, np.asarray(values, np.float64))
    bottoms = np.bincount(index, np.broadcast_to(np.asarray(of, np.float64), len(index)))
    drawn = np.random.default_rng(0).integers(len(place), size=(RESAMPLES, len(place)))
    means = tops[drawn].sum(axis=1) / bottoms[drawn].sum(axis=1)
    low, high = np.percentile(means, (50 - percent / 2, 50 + percent / 2))
    return float(low), float(high)
