"""What `python -m benchmarks search` reports: marks, table and plot."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.marks import Row, at_least, at_most
from benchmarks.ratios import mean_interval

LOADS = (0.3, 0.8, 1.2)
FIXED = ("always best", "always best, reject", "always fast")
ROUTED = "both"  # with all encoders
KEPT_AT_120, LOST_AT_30 = 0.97, 0.005
Vector = npt.NDArray[np.float64]


class Scored(NamedTuple):
    """One query that was sent."""

    query: str
    in_time: bool
    ndcg: float  # 0 where it was late
    recall: float
    idle_ndcg: float  # of the best model on the same query


class PolicyAnswers(NamedTuple):
    """What a policy answered at a load."""

    scored: list[Scored]  # in the order of arrival, the same queries for each policy
    cpu_s: float  # of the service, for each query that was sent


class AtLoad(NamedTuple):
    """A policy at a load."""

    set: str
    load: float
    policy: str
    queries: int
    in_time: float
    ndcg: float
    ndcg_error: float  # half of a 95 % interval, over the queries
    recall: float
    idle_ndcg: float
    cpu_s_per_1000: float


def row_of(name: str, load: float, policy: str, answers: PolicyAnswers) -> AtLoad:
    """The figures of one policy at one load."""
    found = answers.scored
    values = np.array([one.ndcg for one in found])
    low, high = mean_interval(values, [one.query for one in found])
    return AtLoad(
        name,
        load,
        policy,
        len(found),
        float(np.mean([one.in_time for one in found])),
        float(values.mean()),
        (high - low) / 2,
        float(np.mean([one.recall for one in found])),
        float(np.mean([one.idle_ndcg for one in found])),
        1000 * answers.cpu_s,
    )


def marks(
    rows: Sequence[AtLoad], found: Mapping[tuple[float, str], Sequence[Scored]]
) -> Iterator[tuple[Row, str]]:
    """Each mark of one set, with an interval and an explanation of the loss of nDCG.

    `found` has the queries of each load and policy.
    """
    at = {(row.load, row.policy): row for row in rows}
    busy = [row for row in rows if row.load == LOADS[-1] and row.policy not in FIXED]
    if not busy:
        yield at_least(f"{rows[0].set}: routed policies that could start", 0, 1), ""
        return
    top = max(busy, key=lambda row: row.ndcg)
    for policy in FIXED[:2]:
        other = 100 * at[LOADS[-1], policy].ndcg
        name = f"{top.set}, 120 %: points of {top.policy} against {policy}"
        yield Row(name, 100 * top.ndcg, other, 100 * top.ndcg > other), _why(top)
    for row in busy:
        if row is top or row.policy == ROUTED:
            mine, name = found[row.load, row.policy], f"{row.set}, 120 %:"
            for policy in FIXED[:2]:
                gain = gains(mine, [one.ndcg for one in found[row.load, policy]])
                label = f"{name} points that {row.policy} gains over {policy}"
                yield from _with_interval(Row(label, 100 * gain.mean()), mine, 100 * gain)
            idle = np.array([one.idle_ndcg for one in mine])
            kept = 100 * row.ndcg / row.idle_ndcg
            label = f"{name} kept by {row.policy} of idle always best, %"
            kept_row = at_least(label, kept, 100 * KEPT_AT_120 if row is top else None)
            values = 100 * np.array([one.ndcg for one in mine])
            yield from _with_interval(kept_row, mine, values, idle, _why(row))
            gain = gains(mine, idle)
            label = f"{name} points that {row.policy} gains over idle always best"
            yield from _with_interval(Row(label, 100 * gain.mean()), mine, 100 * gain)
    for row in rows:
        if row.load == LOADS[0] and row.policy not in FIXED:
            mine = found[row.load, row.policy]
            loss = -100 * gains(mine, [one.idle_ndcg for one in mine])
            name = f"{row.set}, 30 %: points that {row.policy} loses"
            lost_row = at_most(name, loss.mean(), 100 * LOST_AT_30)
            yield from _with_interval(lost_row, mine, loss, why=_why(row))


def gains(mine: Sequence[Scored], other: npt.ArrayLike) -> Vector:
    """nDCG of each query less that of the same query elsewhere."""
    return np.array([one.ndcg for one in mine]) - np.asarray(other, np.float64)


def _with_interval(
    row: Row, mine: Sequence[Scored], values: Vector, of: npt.ArrayLike = 1.0, why: str = ""
) -> Iterator[tuple[Row, str]]:
    """A row and the ends of its interval over the queries."""
    low, high = mean_interval(values, [one.query for one in mine], of)
    yield row, why
    yield Row(f"{row.name}, from", low), ""
    yield Row(f"{row.name}, to", high), ""


def _why(row: AtLoad) -> str:
    """Explain the loss of nDCG."""
    late = 1 - row.in_time
    found = row.ndcg / row.in_time if row.in_time else 0.0
    return (
        f"{late:.1%} late or refused; those in time found {found:.3f} of {row.idle_ndcg:.3f}, "
        f"+- {row.ndcg_error:.3f}"
    )


def table(rows: Sequence[AtLoad]) -> Iterator[str]:
    """The rows as text."""
    yield (
        f"{'set':10}{'load':>6}  {'policy':20} {'queries':>8} {'in time':>8} "
        f"{'nDCG@10, late = 0':>18} {'recall@10, late = 0':>20} {'CPU s / 1,000':>14}"
    )
    for row in rows:
        yield (
            f"{row.set:10}{row.load:6.0%}  {row.policy:20} {row.queries:8d} {row.in_time:8.1%} "
            f"{row.ndcg:9.3f} +- {row.ndcg_error:.3f} {row.recall:20.3f} {row.cpu_s_per_1000:14.1f}"
        )


def plot(rows: Sequence[AtLoad], path: Path) -> None:
    """Plot quality against load: a line per policy, a panel per set."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    sets = list(dict.fromkeys(row.set for row in rows))
    policies = list(dict.fromkeys(row.policy for row in rows))
    colours = {policy: f"C{number}" for number, policy in enumerate(policies)}
    figure, panels = pyplot.subplots(1, len(sets), figsize=(5 * len(sets), 4), squeeze=False)
    for axes, name in zip(panels[0], sets, strict=True):
        of_set = [row for row in rows if row.set == name]
        for policy in dict.fromkeys(row.policy for row in of_set):
            line = [row for row in of_set if row.policy == policy]
            style = "--" if policy in FIXED else "-"
            axes.plot(
                [100 * row.load for row in line],
                [row.ndcg for row in line],
                style,
                color=colours[policy],
                marker="o",
                label=policy,
            )
        axes.axhline(of_set[0].idle_ndcg, color="black", linewidth=0.8, linestyle=":")
        axes.set(title=name, xlabel="load, % of what the best model can answer", ylim=(0, None))
    panels[0][0].set_ylabel("nDCG@10, late = 0 (dotted: best model, idle)")
    panels[0][0].legend(fontsize=8, loc="lower left")  # the first set has every policy
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
