"""Simulate the marks of the routing policy (`make sim`).

Every figure is simulated, with the curves of configs/qwen3.yaml (measured on an H200) and the
scenarios in configs/scenarios. 100 % load is the rate at which the replicas of the largest model
would be fully busy if it answered everything. A mark's baseline and its bound have the same
arrivals. The bound is the fluid one, which knows everything and queues nothing. The informed run is
the same policy with one router, no noise and no stale reports: the difference between it and the
bound is the policy's loss, the rest is due to missing information.
"""

import gc
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from benchmarks.marks import to_file, verdict, write
from benchmarks.sim_day import added_hours
from benchmarks.sim_failures import failures
from benchmarks.sim_hold import hold
from benchmarks.sim_reports import reports
from benchmarks.sim_runs import (
    LARGE,
    LOADS,
    REQUESTS,
    SEEDS,
    Simulated,
    at_load,
    mean,
    percent,
    points,
    way_of,
    world_of,
)
from benchmarks.sim_speed import speed
from benchmarks.sim_static import t3
from benchmarks.sim_verdicts import VERDICTS
from benchmarks.sim_window import window
from router.sim.build import PolicyVariant, World, arrivals, bound_of, mean_rate, run
from router.sim.oracle import least_device_seconds
from router.sim.outcome import Outcome

PINNED = "always-large"
TRACE_SEEDS = range(12)  # the traces' parts are short: one run moves by half a point with its seed


def t1() -> Iterator[Simulated]:
    """Attainment at 80 % load."""
    for name, scenario, mark in (
        ("T1 conv", "azure-conv", 0.999),
        ("T1 code", "azure-code", 0.99),
        ("T1 poisson", "load-80", 0.999),
    ):
        world = world_of(scenario) if scenario != "load-80" else at_load(0.8, REQUESTS)
        seeds = TRACE_SEEDS if world.trace else SEEDS
        worlds = [world.updated(seed=seed) for seed in seeds]
        each = [run(one, way_of()).attainment for one in worlds]
        own, error = mean(each), statistics.stdev(each) / len(each) ** 0.5
        large = mean(run(one, way_of("always-large")).attainment for one in worlds)
        informed = mean(run(one, replace(way_of(), informed=True)).attainment for one in worlds)
        bound = bound_of(world).on_time
        yield Simulated(
            name,
            f"attainment at 80 % load, {scenario}, {len(seeds)} seeds, standard error "
            f"{percent(error)}",
            own,
            f">= {mark:g}",
            own >= mark,
            f"always-large {percent(large)}",
            f"informed {percent(informed)}, bound {percent(bound)}: policy "
            f"{percent(bound - informed)}, information {percent(informed - own)}",
        )


def t2() -> Iterator[Simulated]:
    """Overload."""
    admitted, goodput, details = list[float](), list[float](), list[str]()
    for load in (1.2, 3.0):
        world = at_load(load)
        outcome, total = (found := run(world, way_of())), found.total
        answered = total.on_time + total.late
        admitted.append(total.on_time / answered if answered else 0.0)
        goodput.append(outcome.attainment / bound_of(world).on_time)
        large = run(world, way_of("always-large"))
        details.append(f"always-large {percent(large.attainment)} at {load:.0%}")
    yield Simulated(
        "T2 admitted", "admitted requests on time, the worse of 120 and 300 % load",
        min(admitted), ">= 0.99", min(admitted) >= 0.99, "; ".join(details),
    )  # fmt: skip
    yield Simulated(
        "T2 goodput", "on time, against the bound, the worse of 120 and 300 % load",
        min(goodput), ">= 0.95", min(goodput) >= 0.95, "; ".join(details), "1",
    )  # fmt: skip
    world = world_of("burst")
    burst = world.scenario.traffic.bursts[0]
    end_s = burst.at_s + burst.seconds
    back_s = recovery_s(run(world, way_of()), end_s)
    large_s = recovery_s(run(world, way_of("always-large")), end_s)
    yield Simulated(
        "T2 recovery", "seconds after a threefold burst until attainment is that of before",
        back_s, "< 1", back_s < 1.0, f"always-large {large_s:.1f} s",
    )  # fmt: skip


def recovery_s(outcome: Outcome, end_s: float) -> float:
    """Seconds from the end of a burst until attainment is back."""
    before = [
        moment.tally
        for place, moment in outcome.moments.items()
        if outcome.from_s <= place * outcome.every_s < end_s - 6.0
    ]
    usual = sum(tally.on_time for tally in before) / sum(tally.offered for tally in before)
    for place, moment in sorted(outcome.moments.items()):
        at_s, tally = place * outcome.every_s, moment.tally
        if at_s >= end_s and tally.on_time >= (usual - 0.01) * tally.offered:
            return at_s - end_s
    return float("inf")


def t4() -> Iterator[Simulated]:
    """Loss against the fluid bound."""
    losses, informed, shares = list[float](), list[float](), list[float]()
    for load in LOADS:
        world = at_load(load)
        bound, own = bound_of(world), run(world, way_of())
        known = run(world, replace(way_of(), informed=True))
        small = run(world, way_of("always-small"))
        losses.append(bound.quality - own.effective_quality)
        informed.append(bound.quality - known.effective_quality)
        shares.append(
            (own.effective_quality - small.effective_quality)
            / (bound.quality - small.effective_quality)
        )
    lost, policy = mean(losses), mean(informed)
    split = f"policy {points(policy)}, information {points(lost - policy)}"
    yield Simulated(
        "T4 mean", f"points lost against the bound, mean of loads {LOADS}",
        lost, "<= 0.5", lost <= 0.5, "", split,
    )  # fmt: skip
    gap = mean(shares)
    yield Simulated(
        "T4 gap", "share of what lies between always-small and the bound",
        gap, ">= 0.9", gap >= 0.9, "", split,
    )  # fmt: skip
    world = world_of("burst")
    bound, own = bound_of(world), run(world, way_of())
    known = run(world, replace(way_of(), informed=True))
    loss = bound.quality - own.effective_quality
    yield Simulated(
        "T4 burst", "points lost against the bound with a threefold burst",
        loss, "<= 1.0", loss <= 1.0, "",
        f"policy {points(bound.quality - known.effective_quality)}, information "
        f"{points(known.effective_quality - own.effective_quality)}; of the policy late answers "
        f"{points((known.total.quality - known.total.effective) / known.total.offered)}, the rest "
        "smaller models",
    )  # fmt: skip


def capacity(way: PolicyVariant, quality: float, least: float = 0.99) -> float:
    """The highest load at which this share is on time, and the mean loses at most one point."""

    def holds(load: float) -> bool:
        outcome = run(at_load(load, 8000), way)
        total = outcome.total
        answered = max(1, total.on_time + total.late)
        return outcome.attainment >= least and total.quality / answered >= quality - 1.0

    low, high = 0.02, 0.1
    while high < 12.0 and holds(high):
        low, high = high, high * 1.6
    for _ in range(4):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def t5_free() -> Iterator[Simulated]:
    """Capacity against always-large, on the same replicas."""
    full = run(at_load(0.05, 6000), way_of("always-large")).total
    quality = full.quality / (full.on_time + full.late)
    own, large = capacity(way_of(), quality), capacity(way_of("always-large"), quality)
    yield Simulated(
        "T5 free", "capacity at 99 % on time and <= 1.0 point lost, against always-large",
        own / large, ">= 2.5", own / large >= 2.5,
        f"always-large at most {large:.2f} of its full load", f"own {own:.2f}",
    )  # fmt: skip


def t5_pinned() -> Iterator[Simulated]:
    """The same for pinned models, where only replica, order and timing can be chosen."""
    way = way_of(PINNED)
    own, plain = capacity(way, 0.0), capacity(replace(way, plain=True), 0.0)
    two = capacity(replace(way, two_choices=True), 0.0)
    yield Simulated(
        "T5 pinned", "capacity at 99 % on time, against dispatch at once to any replica",
        own / plain, ">= 1.2", own / plain >= 1.2,
        f"at once {plain:.2f}; the less loaded of two replicas, with the same queues, {two:.2f}: "
        f"{own / two:.2f} times",
        f"own {own:.2f}",
    )  # fmt: skip


def t8() -> Iterator[Simulated]:
    """64 routers."""
    # the loss of one run moves by a tenth of a point with its seed
    worlds = [world_of("stale-reports").updated(seed=seed) for seed in SEEDS]
    replying = [world.updated(reports=replies_only(world)) for world in worlds]
    many = mean(run(world, way_of()).attainment for world in worlds)
    replies = mean(run(world, way_of()).attainment for world in replying)
    own = mean(run(world.updated(routers=1), way_of()).attainment for world in replying)
    informed = replace(way_of(), informed=True)
    one = mean(run(world, informed).attainment for world in worlds)
    bound = bound_of(worlds[0]).on_time
    loss = 100.0 * (own - many)
    yield Simulated(
        "T8", "points of attainment that 64 routers with reports of 100 ms lose against one",
        loss, "<= 0.5", loss <= 0.5,
        f"with reports in replies they lose {100 * (own - replies):.2f}",
        f"one router {percent(own)}, informed {percent(one)}, bound {percent(bound)}: policy "
        f"{percent(bound - one)}, information {percent(one - many)}",
    )  # fmt: skip


def replies_only(world: World) -> Any:
    """Reports as the service has them."""
    return world.scenario.reports.model_copy(update={"in_replies": True, "every_ms": None})


def t9() -> Iterator[Simulated]:
    """A day."""
    world = world_of("day")
    outcome, rate = run(world, way_of()), mean_rate(world)
    least = least_device_seconds(
        arrivals(world, rate),
        world.models,
        LARGE,
        dict.fromkeys(world.models, 1),
        world.scenario.seconds,
    )
    bound = least / 3600.0
    hours = sum(outcome.device_s.values()) / 3600.0
    informed = run(world, replace(way_of(), informed=True), rate)
    known = sum(informed.device_s.values()) / 3600.0
    over = hours / bound - 1.0
    yield Simulated(
        "T9", "device hours of a day above the fluid bound",
        over, "<= 0.15", over <= 0.15 and outcome.attainment >= 0.999,
        f"attainment {percent(outcome.attainment)}, which T1 has at 99.9 %",
        f"bound {bound:.1f} h, informed {known:.1f} h, own {hours:.1f} h: policy "
        f"{percent(known / bound - 1.0)}, information {percent((hours - known) / bound)}; "
        f"rule by rule: {added_hours(world)}",
        world.profile,
    )  # fmt: skip


# the most requests first, so that all processes end together
PARTS: Mapping[str, Callable[[], Iterator[Simulated]]] = {
    "t9": t9,
    "t8": t8,
    "t1": t1,
    "t3": t3,
    "autoscaler": VERDICTS["autoscaler"],
    "miss-share": VERDICTS["miss-share"],
    "t4": t4,
    "ablations": VERDICTS["ablations"],
    "t5-pinned": t5_pinned,
    "t5-free": t5_free,
    "failures": failures,
    "t2": t2,
    "idle": VERDICTS["idle"],
    "fairness": VERDICTS["fairness"],
    "speed": speed,
}
APART = {"reports": reports, "hold": hold, "window": window}  # no marks; only by their names


def _rows(part: str) -> tuple[str, float, list[dict[str, Any]]]:
    """A part's name, its seconds of processor time and its rows."""
    began_s = time.process_time()
    rows = [row.as_dict() for row in {**PARTS, **APART}[part]()]
    return part, time.process_time() - began_s, rows


@click.command()
@click.option(
    "--part",
    "parts",
    multiple=True,
    type=click.Choice([*PARTS, *APART]),
    help="Part to run; repeatable. [default: the standard parts]",
)
@click.option("--processes", type=click.IntRange(1), default=2, show_default=True)
@to_file
def main(parts: Sequence[str], processes: int, file: Path | None) -> None:
    """Simulate every scenario, and compare with the marks."""
    started_s = time.monotonic()
    rows, seconds = list[dict[str, Any]](), dict[str, float]()
    usual = world_of("load-80").profile
    click.echo(f"simulated, by {usual}")
    # as in a router's process: permanent objects are not scanned again
    with multiprocessing.Pool(processes, initializer=gc.freeze) as pool:
        for part, part_s, found in pool.imap_unordered(_rows, parts or list(PARTS)):
            seconds[part] = part_s
            for row in found:
                rows.append(row)
                reached = f"{row['value']:>10.4g} {row['mark']:>9} {verdict(row['met']):<7}"
                click.echo(f"{row['name']:<22} {reached} {row['what']}")
                for key in ("baseline", "oracle", "profile"):
                    if row[key] and row[key] != usual:
                        click.echo(f"{'':<24}{key}: {row[key]}")
        pool.close()
        pool.join()  # the processor time of the processes counts from their ends
    own, theirs = (
        resource.getrusage(of) for of in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    cpu_s = own.ru_utime + own.ru_stime + theirs.ru_utime + theirs.ru_stime
    each = sorted(seconds.items(), key=lambda one: -one[1])
    of_parts = ", ".join(f"{part} {spent_s:.0f}" for part, spent_s in each)
    click.echo(f"{time.monotonic() - started_s:.0f} s, {cpu_s:.0f} s of processor time: {of_parts}")
    rows.sort(key=lambda row: str(row["name"]))
    write(rows, file)


if __name__ == "__main__":
    main()
