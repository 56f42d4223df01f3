"""Time `decide` and the other steps of each request except reading its text.

Three models and four rules; inputs are made just before each call and never repeat. The subjects
alternate, round by round, so that a noisy machine affects all of them. The table has the quietest
round and the median round. `--against FOLDER` runs the same command in another checkout alternately
and prints two ratios: of the median p50 of `decide`, and of the pairs.
"""

import gc
import os
import random
import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns

import click

from benchmarks.marks import Row, at_most, numbers, show, to_file, write
from router.domain import Curve, Features, Load, Model, Request, Work
from router.latency import Correction
from router.ledger import Ledger
from router.policy import decide, predict
from router.rules import Floor, Policy

ROOT = Path(__file__).resolve().parents[1]
ROUNDS, CALLS = 15, 1000
MAX_P50_US, MAX_P99_US = 5.0, 20.0  # the marks, of a quiet round
MODELS = {
    name: Model(
        name,
        rank,
        32_768,
        Curve(0.004 * 4**rank, 0.002, 1e-5 * 4**rank, 1e-9, 16_384, 0.002),
        {"default": 60.0 + rank},
    )
    for rank, name in enumerate(("small", "middle", "large"))
}
FLOORS = (
    Floor("not-english", "large", not_languages=frozenset({"en"})),
    Floor("mixed", "large", mixed=True),
    Floor("long", "middle", min_tokens=200),
    Floor("code", "middle", code=True),
)
REPLICAS = 16
Subject = Callable[[random.Random], Callable[[], object]]


def deciding(policy: Policy) -> Subject:
    """Decide a free request, three times in four with a budget, against random backlogs."""

    def make(rng: random.Random) -> Callable[[], object]:
        tokens = rng.randrange(8, 400)
        request = Request(
            work=dict.fromkeys(MODELS, Work(tokens, tokens, tokens * tokens)),
            features=Features(4 * tokens, rng.choice(("en", "de", None)), "Latn", False, False),
            deadline_s=None if rng.random() < 0.25 else rng.uniform(0.01, 0.3),
        )
        loads = {name: Load(2, rng.randrange(30_000), 0.0, 1.3) for name in MODELS}
        return lambda: decide(policy, request, MODELS, loads, 0.0)

    return make


def predicting(rng: random.Random) -> Callable[[], object]:
    """Predict one model."""
    load, work = Load(2, rng.randrange(30_000)), Work(40, 40, 1600)
    return lambda: predict(MODELS["middle"], load, work)


def ledger_subjects() -> dict[str, Subject]:
    """Events of one ledger, with a few calls in flight at sixteen replicas of each model."""
    book = Ledger(dict.fromkeys(MODELS, 1_000_000))
    for name in MODELS:
        for replica in range(REPLICAS):
            book.joined(name, str(replica))
    clock = iter(range(10**9))

    def now() -> float:
        return next(clock) * 1e-5

    def completing(rng: random.Random) -> Callable[[], object]:
        dispatch = book.dispatched("middle", str(rng.randrange(REPLICAS)), 100, now())
        return lambda: book.completed(dispatch)

    def dispatching(rng: random.Random) -> Callable[[], object]:
        replica, at = str(rng.randrange(REPLICAS)), now()
        return lambda: book.dispatched("middle", replica, 100, at)

    def reporting(rng: random.Random) -> Callable[[], object]:
        replica, tokens, at = str(rng.randrange(REPLICAS)), rng.randrange(9000), now()
        return lambda: book.reported("middle", replica, tokens, at)

    def picking(rng: random.Random) -> Callable[[], object]:
        at = now()
        return lambda: book.pick("middle", at, rng)

    def loading(rng: random.Random) -> Callable[[], object]:
        at = now()
        return lambda: book.load(MODELS["middle"], at, rng, 1.3)

    return {
        "ledger.dispatched": dispatching, "ledger.completed": completing,
        "ledger.reported": reporting,
        "ledger.pick": picking, "ledger.load": loading,
    }  # fmt: skip


def correcting(rng: random.Random) -> Callable[[], object]:
    """Update margin and bias after one completion."""
    correction, actual_s = Correction(0.05), rng.uniform(0.01, 0.2)
    return lambda: correction.observe(actual_s, 0.1, 1.0, 1.2)


def timed(subject: Subject, rng: random.Random) -> list[int]:
    """Nanoseconds per call of `CALLS` calls, sorted."""
    taken = []
    for _ in range(CALLS):
        call = subject(rng)
        start = perf_counter_ns()
        call()
        taken.append(perf_counter_ns() - start)
    return sorted(taken)


def p50_us(folder: Path) -> float:
    """`decide` of the quietest round, measured by the benchmark of a checkout."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "decide"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"^decide(?:, rules)? +([0-9.]+)", done.stdout, re.MULTILINE)
    assert found is not None, done.stdout
    return float(found[1])


def compare(folder: Path, pairs: int) -> list[Row]:
    """Print what `decide` takes here and in another checkout, alternately."""
    own, others = list[float](), list[float]()
    for _ in range(pairs):
        others.append(p50_us(folder.resolve()))
        own.append(p50_us(ROOT))
    ratios = sorted(mine / other for mine, other in zip(own, others, strict=True))
    there, here = statistics.median(others), statistics.median(own)
    print(f"decide, p50   there {there:.2f} us   here {here:.2f}")
    print(
        f"here / there  {statistics.median(ratios):.2f} (pairs {ratios[0]:.2f} to {ratios[-1]:.2f})"
    )
    names = ("decide, p50 there, us", "decide, p50 here, us", "here / there")
    return list(map(Row, names, (there, here, statistics.median(ratios))))


@click.command()
@click.option(
    "--against",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Checkout to compare `decide` with, alternately.",
)
@click.option("--pairs", type=click.IntRange(1), default=9, show_default=True)
@to_file
def main(against: Path | None, pairs: int, file: Path | None) -> None:
    """Print a table of p50 and p99, quietest and median round."""
    if against is None:
        write(measure(), file)
    else:
        write(compare(against, pairs), file)


def measure() -> list[Row]:
    """Print the table; return its figures."""
    subjects = {
        "nothing (the clock)": lambda rng: lambda: None,
        "decide": deciding(Policy("small", FLOORS)),
        "predict": predicting,
        "correction.observe": correcting,
        **ledger_subjects(),
    }
    rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in subjects}
    gc.disable()
    for number in range(ROUNDS):
        for name, subject in subjects.items():
            taken = timed(subject, random.Random(number))
            rounds[name].append((taken[CALLS // 2] / 1000, taken[CALLS * 99 // 100] / 1000))
        gc.collect()
    print(f"{'microseconds':<22}{'p50 quiet':>10}{'median':>8}{'p99 quiet':>11}{'median':>8}")
    figures = list[Row]()
    for name, seen in rounds.items():
        p50, p99 = zip(*seen, strict=True)
        quietest = {"p50 of the quietest round, us": min(p50), "p99, us": min(p99)}
        figures += numbers(name, quietest)
        print(
            f"{name:<22}{min(p50):>10.2f}{statistics.median(p50):>8.2f}{min(p99):>11.2f}{statistics.median(p99):>8.2f}"
        )
    print()
    quiet = map(min, zip(*rounds["decide"], strict=True))
    marked = [
        at_most(f"decide, {what}, us", reached, most)
        for what, reached, most in zip(("p50", "p99"), quiet, (MAX_P50_US, MAX_P99_US), strict=True)
    ]
    show(marked)
    return [*figures, *marked]


if __name__ == "__main__":
    main()
