"""Fit a latency curve to measured points."""

import math
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from router.arrays import Floats
from router.domain import Curve


class Point(NamedTuple):
    """One measured engine step."""

    tokens: int
    tokens_sq: int  # sum over its texts of tokens squared
    seconds: float
    texts: int = 1


class CurveFit(NamedTuple):
    """A curve and its errors on the fitted points, as shares of the measured seconds."""

    curve: Curve
    median_error: float
    p95_error: float
    points: int

    @property
    def knee_tokens(self) -> float:
        """Tokens up to which a step of short texts takes `fixed_s`; 0 without a flat part."""
        slope = self.curve.s_per_token
        return max(0.0, (self.curve.fixed_s - self.curve.base_s) / slope) if slope else 0.0


def fit(points: Sequence[Point], batch_tokens: int, overhead_s: float = 0.0) -> CurveFit:
    """Fit max(fixed, base + s_per_token * T + s_per_token_sq * sum(L^2) + s_per_text * N) with
    non-negative coefficients.

    Minimises the absolute relative error, so that stalls do not bend the curve, and tries each
    position of the knee. If all points have the same number of texts, the cost of a text cannot be
    separated from the base and remains in it. Raises ValueError if there are fewer than three
    different sizes or a point is not a finite positive number.
    """
    data = np.array(points, dtype=np.float64).reshape(-1, 4)
    if not (np.isfinite(data).all() and (data > 0.0).all()):
        raise ValueError(
            "every point needs tokens, tokens_sq and seconds that are finite and above 0"
        )
    tokens, seconds = data[:, 0], data[:, 2]
    sizes = np.unique(tokens)
    if len(sizes) < 3:
        raise ValueError(
            f"a curve needs steps of at least three different sizes, these have {len(sizes)}; "
            "measure more sizes"
        )
    columns = np.column_stack([np.ones(len(data)), data[:, :2], data[:, 3]])
    if len(np.unique(data[:, 3])) == 1:
        columns = columns[:, :3]
    knees = np.concatenate([[0.0], np.unique(np.quantile(sizes[:-2], np.linspace(0.0, 1.0, 24)))])
    best, best_error = np.zeros(5), math.inf
    for knee in knees:
        flat = tokens <= knee
        fixed = float(np.median(seconds[flat])) if flat.any() else 0.0
        line = _non_negative(columns[~flat], seconds[~flat])
        error = float(np.mean(np.abs(np.maximum(fixed, columns @ line) - seconds) / seconds))
        if error < best_error:
            best, best_error = np.array([fixed, *line, 0.0][:5]), error
    errors = (
        np.abs(np.maximum(best[0], columns @ best[1 : 1 + columns.shape[1]]) - seconds) / seconds
    )
    fixed_s, base_s, s_per_token, s_per_token_sq, s_per_text = (float(value) for value in best)
    curve = Curve(
        fixed_s, base_s, s_per_token, s_per_token_sq, batch_tokens, overhead_s, s_per_text
    )
    return CurveFit(curve, float(np.median(errors)), float(np.quantile(errors, 0.95)), len(data))


def _non_negative(columns: Floats, seconds: Floats) -> Floats:
    """Non-negative coefficients of least absolute relative error.

    Iteratively reweighted least squares; every set of columns is tried.
    """
    scale = columns.max(axis=0)
    relative = columns / scale / seconds[:, None]
    every = range(columns.shape[1])
    weights, best = np.ones(len(seconds)), np.zeros(len(every))
    for _ in range(30):
        best_error = math.inf
        for kept in (list(few) for count in every for few in combinations(every, count + 1)):
            part = relative[:, kept] * weights[:, None]
            found = np.linalg.lstsq(part, weights, rcond=None)[0]
            error = float(np.sum((part @ found - weights) ** 2))
            if (found >= 0.0).all() and error < best_error:
                best, best_error = np.zeros(len(every)), error
                best[kept] = found
        weights = 1.0 / np.sqrt(np.maximum(np.abs(relative @ best - 1.0), 1e-4))
    solution: Floats = best / scale
    return solution
