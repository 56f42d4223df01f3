"""Bounds that no policy can beat, computed from all arrivals and service times.

The quality bound is the dual of a fluid problem in windows of 100 ms. Each request is served in
full steps by one model, in any window between its arrival and its deadline, or not at all; one
without a budget is never late, so it is served after all others. Steps take what the curves say:
with noise, a request that could be late by a little can be in time, and beat the bound.

Each model has a price for one second of a replica in each window. For any prices, this sum is at
least what any policy reaches: over all requests the best points less price, plus the price of all
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
GRAIN = 1.02  # ratio of work within which requests form one group


@dataclass(frozen=True, slots=True)
class Bound:
    """Upper bounds over all requests that arrive from `from_s` on."""

    offered: int
    quality: float  # mean points over the offered requests
    on_time: float  # share of the offered requests that is answered in time


@dataclass(frozen=True, slots=True)
class _Groups:
    """Groups of similar requests with a budget, one row each, and sums over those without."""

    count: Floats
    first: Ints  # window of arrival
    last: Ints  # window of the deadline
    work: Floats  # replica seconds, the least of the group, (groups, models)
    points: Floats  # (groups, models); 0 where the model cannot be in time
    can: npt.NDArray[np.bool_]
    free: int  # requests without a budget
    free_points: float
    free_answered: int  # that a model can read


def fluid_bound(
    arrivals: Iterable[Arrival],
    models: Mapping[str, Model],
    replicas: Mapping[str, float],
    from_s: float = 0.0,
) -> Bound:
    """Bound the results of a fixed set of replicas; `models` have the true curves."""
    groups = _grouped(arrivals, models, replicas, from_s)
    offered = int(groups.count.sum()) + groups.free
    if not offered:
        return Bound(0, 0.0, 0.0)
    quality, answered = groups.free_points, float(groups.free_answered)
    if len(groups.count):
        room = np.array([replicas.get(name, 0.0) for name in models]) * WINDOW_S
        windows = int(groups.last.max()) + 1
        quality += _dual(groups, groups.points, room, windows)
        answered += _dual(groups, groups.can.astype(np.float64), room, windows)
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
    arrivals: Iterable[Arrival],
    models: Mapping[str, Model],
    replicas: Mapping[str, float],
    from_s: float,
) -> _Groups:
    known: dict[Shape, tuple[object, Floats, Floats, npt.NDArray[np.bool_]]] = {}
    rows: dict[tuple[int, object], list[Floats]] = {}
    counts: dict[tuple[int, object], int] = {}
    last: dict[tuple[int, object], int] = {}
    free, free_points, free_answered = 0, 0.0, 0
    for at_s, shape in arrivals:
        if at_s < from_s:
            continue
        found = known.get(shape)
        if found is None:
            found = known[shape] = _of(shape, models, replicas)
        kind, work, points, can = found
        if shape.budget_s is None:
            free += 1
            free_points += float(points.max(initial=0.0))
            free_answered += bool(can.any())
            continue
        first = int((at_s - from_s) / WINDOW_S)
        key = (first, kind)
        if key in rows:
            counts[key] += 1
            rows[key][0] = np.minimum(rows[key][0], work)
        else:
            rows[key], counts[key] = [work, points, can.astype(np.float64)], 1
            last[key] = first + int(shape.budget_s / WINDOW_S) + 1
    work_of, points_of, can_of = (
        np.array([row[place] for row in rows.values()], np.float64).reshape(-1, len(models))
        for place in range(3)
    )
    return _Groups(
        np.array(list(counts.values()), np.float64),
        np.array([window for window, _ in rows], np.int64),
        np.array(list(last.values()), np.int64),
        work_of,
        points_of,
        can_of > 0.0,
        free,
        free_points,
        free_answered,
    )


def _of(
    shape: Shape, models: Mapping[str, Model], replicas: Mapping[str, float]
) -> tuple[object, Floats, Floats, npt.NDArray[np.bool_]]:
    """Return a request's group key, its work, its points and which models can be in time."""
    work, points, can = np.zeros(len(models)), np.zeros(len(models)), np.zeros(len(models), bool)
    for place, (name, model) in enumerate(models.items()):
        own, many = shape.work.get(name), replicas.get(name, 0.0)
        if own is None or own.longest > model.max_tokens or not many:
            continue
        work[place] = device_seconds(shape, model)
        alone_s = _alone_s(shape, model, work[place] / max(1.0, many))
        can[place] = shape.budget_s is None or alone_s <= shape.budget_s
        points[place] = (shape.points[name] or 0.0) if can[place] else 0.0
    size = round(np.log(max(work.max(), 1e-9)) / np.log(GRAIN))
    return (size, shape.budget_s, points.tobytes(), can.tobytes()), work, points, can


def _alone_s(shape: Shape, model: Model, shared_s: float) -> float:
    """The least seconds from a request to its answer at idle replicas, which share its pieces: its
    largest piece, or `shared_s`, its work divided by the replicas. Bulk is cut smaller, down to
    single texts.
    """
    curve = model.curve
    if not shape.pieces[model.id]:  # every text is in the cache
        return curve.overhead_s
    if shape.bulk:
        largest_s = curve.step(shape.work[model.id].longest, 0.0, 1)
    else:
        largest_s = max(
            curve.step(one.tokens, one.tokens_sq, len(one.lengths))
            for one in shape.pieces[model.id]
        )
    return curve.overhead_s + max(largest_s, shared_s)


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
    """The lowest price of each window and model in the next `span` windows, and its place."""
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
