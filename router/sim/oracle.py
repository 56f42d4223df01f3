"""Bounds that no policy can beat, computed from all arrivals and service times.

The quality bound is the dual of a fluid problem in windows of 100 ms. Each request is served in
full steps by one model, in any window between its arrival and its deadline, or not at all. Each
model has a price for one second of a replica in each window. For any prices, this sum is at least
what any policy reaches: over all requests the best points less price, plus the price of all
capacity. The prices are adjusted until the sum is small; the bound holds wherever that stops.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from router.arrays import Floats
from router.domain import Model
from router.sim.traffic import Arrival, Shape, device_seconds

Ints = npt.NDArray[np.int64]

WINDOW_S = 0.1
ROUNDS = 300
BLOCK = 10  # windows with the same initial prices
GRAIN = 1.5  # ratio of work within which requests form one group


@dataclass(frozen=True, slots=True)
class Bound:
    """Upper bounds over all requests that arrive from `from_s` on."""

    offered: int
    quality: float  # mean points over the offered requests
    on_time: float  # share of the offered requests that is answered in time


@dataclass(frozen=True, slots=True)
class _Groups:
    """Groups of similar requests, one row each."""

    count: Floats
    first: Ints  # window of arrival
    last: Ints  # window of the deadline
    work: Floats  # replica seconds, (groups, models)
    points: Floats  # (groups, models); 0 where the model cannot be in time
    can: npt.NDArray[np.bool_]


def fluid_bound(
    arrivals: Iterable[Arrival],
    models: Mapping[str, Model],
    replicas: Mapping[str, float],
    seconds: float,
    from_s: float = 0.0,
) -> Bound:
    """Bound the results of a fixed set of replicas; `models` have the true curves."""
    groups = _grouped(arrivals, models, seconds, from_s)
    offered = int(groups.count.sum())
    if not offered:
        return Bound(0, 0.0, 0.0)
    room = np.array([replicas.get(name, 0.0) for name in models]) * WINDOW_S
    windows = int(groups.last.max()) + 1
    quality = _dual(groups, groups.points, room, windows)
    answered = _dual(groups, groups.can.astype(np.float64), room, windows)
    return Bound(offered, quality / offered, min(1.0, answered / offered))


def least_device_seconds(
    arrivals: Iterable[Arrival],
    models: Mapping[str, Model],
    target: str,
    least: Mapping[str, int],
    seconds: float,
    window_s: float = 60.0,
) -> float:
    """The fewest device seconds that serve every request with `target`, in full steps. Each window
    has as many replicas of it as needed, fractions included, and at least `least` of each model.
    """
    windows = math.ceil(seconds / window_s)
    busy = np.zeros(windows)
    for at_s, shape in arrivals:
        busy[min(int(at_s / window_s), windows - 1)] += device_seconds(shape, models[target])
    replicas = np.maximum(busy / window_s, least.get(target, 0))
    others = sum(
        least.get(name, 0) * model.devices for name, model in models.items() if name != target
    )
    return float(replicas.sum() * window_s * models[target].devices + others * seconds)


def _grouped(
    arrivals: Iterable[Arrival], models: Mapping[str, Model], seconds: float, from_s: float
) -> _Groups:
    names = list(models)
    known: dict[Shape, tuple[object, Floats, Floats, npt.NDArray[np.bool_]]] = {}
    rows: dict[tuple[int, object], list[Floats | float]] = {}
    last: dict[tuple[int, object], int] = {}
    for at_s, shape in arrivals:
        if at_s < from_s:
            continue
        found = known.get(shape)
        if found is None:
            found = known[shape] = _of(shape, models, names)
        kind, work, points, can = found
        first = int((at_s - from_s) / WINDOW_S)
        key = (first, kind)
        row = rows.get(key)
        if row is None:
            rows[key] = [1.0, work.copy(), points, can.astype(np.float64)]
            left_s = seconds if shape.budget_s is None else shape.budget_s
            last[key] = first + int(left_s / WINDOW_S) + 1
        else:
            row[0] += 1.0
            row[1] += work
    if not rows:
        empty = np.zeros((0, len(names)))
        none = np.zeros(0, np.int64)
        return _Groups(np.zeros(0), none, none, empty, empty, empty.astype(bool))
    count = np.array([row[0] for row in rows.values()], np.float64)
    work_sum = np.stack([np.asarray(row[1]) for row in rows.values()])
    return _Groups(
        count,
        np.array([window for window, _ in rows], np.int64),
        np.array(list(last.values()), np.int64),
        work_sum / count[:, None],
        np.stack([np.asarray(row[2]) for row in rows.values()]),
        np.stack([np.asarray(row[3]) for row in rows.values()]) > 0.0,
    )


def _of(
    shape: Shape, models: Mapping[str, Model], names: list[str]
) -> tuple[object, Floats, Floats, npt.NDArray[np.bool_]]:
    """Return a request's group key, its work, its points and which models can be in time."""
    work, points, can = np.zeros(len(names)), np.zeros(len(names)), np.zeros(len(names), bool)
    for place, name in enumerate(names):
        own = shape.work.get(name)
        model = models[name]
        if own is None or own.longest > model.max_tokens:
            continue
        alone_s = model.curve.overhead_s + model.curve.step(own.tokens, own.tokens_sq, own.texts)
        work[place] = device_seconds(shape, model)
        can[place] = shape.budget_s is None or alone_s <= shape.budget_s
        points[place] = shape.points[name] if can[place] else 0.0
    size = round(np.log(max(work.max(), 1e-9)) / np.log(GRAIN))
    return (size, shape.budget_s, points.tobytes(), can.tobytes()), work, points, can


def _dual(groups: _Groups, points: Floats, room: Floats, windows: int) -> float:
    """The smallest dual value found."""
    spans = groups.last - groups.first
    by_span = [(int(span), np.flatnonzero(spans == span)) for span in np.unique(spans)]
    prices = _blocks(groups, points, room, windows)
    usual = np.maximum(prices.mean(axis=0), 1e-9)
    sums, best = np.zeros_like(prices), np.inf
    for _ in range(ROUNDS):
        value = float((prices * room).sum())
        load = np.zeros_like(prices)
        for span, rows in by_span:
            cheapest, where = _lowest(prices, span)
            first = groups.first[rows]
            paid = groups.work[rows] * cheapest[first]
            worth = np.where(groups.can[rows], points[rows] - paid, -1.0)
            choice = worth.argmax(axis=1)
            most = worth[np.arange(len(rows)), choice]
            value += float((groups.count[rows] * np.maximum(most, 0.0)).sum())
            taken = most > 0.0
            rows, choice, first = rows[taken], choice[taken], first[taken]
            work = groups.count[rows] * groups.work[rows, choice]
            np.add.at(load, (where[first, choice], choice), work)
        best = min(best, value)
        if not prices.any() and not (load > room).any():
            break  # there is room for everything
        slope = (room - load) / np.maximum(room, 1e-9)
        sums += slope * slope
        step = 0.3 * (0.5 * prices + 0.5 * usual)
        prices = np.maximum(0.0, prices - step * slope / np.sqrt(np.maximum(sums, 1e-9)))
    return best


def _blocks(groups: _Groups, points: Floats, room: Floats, windows: int) -> Floats:
    """Initial prices: each block of windows is solved on its own, as if it were one window."""
    prices = np.zeros((windows, len(room)))
    for start in range(0, windows, BLOCK):
        rows = np.flatnonzero((groups.first >= start) & (groups.first < start + BLOCK))
        if len(rows):
            wide = min(BLOCK, windows - start)
            prices[start : start + wide] = _static(
                groups.count[rows],
                groups.work[rows],
                np.where(groups.can[rows], points[rows], -1.0),
                room * wide,
            )
    return prices


def _static(count: Floats, work: Floats, points: Floats, room: Floats) -> Floats:
    """Prices of one window: first one common factor for all models, then one model at a time."""
    dear = 1.0 / np.maximum(np.average(work, axis=0, weights=count), 1e-12)  # of a mean request
    highest = (points / np.maximum(work, 1e-12)).max(axis=0)

    def value(prices: Floats) -> float:
        most = (points - work * prices).max(axis=1)
        return float((count * np.maximum(most, 0.0)).sum() + (prices * room).sum())

    prices: Floats = dear * _least(lambda price: value(dear * price), float(points.max()))
    for _ in range(8):
        before = prices.copy()
        for place in range(len(room)):

            def alone(price: float, place: int = place) -> float:
                tried = prices.copy()
                tried[place] = price
                return value(tried)

            prices[place] = _least(alone, float(highest[place]))
        if np.allclose(prices, before, rtol=1e-3):
            break
    return prices


def _least(value: Callable[[float], float], high: float) -> float:
    """The point between 0 and `high` where a convex function is smallest."""
    low, most = 0.0, high
    if high <= 0.0 or value(0.0) <= value(high * 1e-6):
        return 0.0
    for _ in range(40):
        one, two = low + (most - low) / 3.0, most - (most - low) / 3.0
        if value(one) <= value(two):
            most = two
        else:
            low = one
    return (low + most) / 2.0


def _lowest(prices: Floats, span: int) -> tuple[Floats, Ints]:
    """For each window and model, the lowest price in it and the next `span` windows, and where."""
    windows, models = prices.shape
    lowest, where = prices.copy(), np.tile(np.arange(windows)[:, None], (1, models))
    reach = 1
    while reach <= span:  # each round doubles the windows covered
        step = min(reach, span + 1 - reach)
        other = np.minimum(np.arange(windows) + step, windows - 1)
        lower = lowest[other] < lowest
        where = np.where(lower, where[other], where)
        lowest = np.where(lower, lowest[other], lowest)
        reach += step
    return lowest, where
