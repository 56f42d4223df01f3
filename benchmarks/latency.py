"""Measure prediction errors live: under steady load, in a burst, and while a model runs at half
speed.

    make bench-latency            (or: python -m benchmarks.latency --config configs/local.yaml)

A decision log gives predicted and actual times: the prediction error, and the share of requests
above the tail (prediction x margin), which the config declares as `routing.miss_share`. First a mix
of texts over all models, then each model alone, as models on the cores of one machine slow each
other down. To slow a model, its replica's process is stopped every other 10 ms. It has recovered at
the first completion after which 100 have a median ratio of actual to predicted within 10 % of 1,
and exceed their tail at most twice as often as declared.

With --slept the models are engines that sleep as long as the curves of configs/qwen3.yaml say. The
remaining error is that of the router and of waiting. None of them is slowed.
"""

import asyncio
import math
import random
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import click
import psutil
import yaml

from benchmarks.live import (
    CHARACTERS_A_TOKEN,
    ROOT,
    Ask,
    Client,
    Router,
    Texts,
    router,
    with_config,
)
from benchmarks.marks import Row, at_most, flat, show, to_file, write
from benchmarks.public_data import sample
from deployments.launch.serve_config import application
from router.curve_fit import Point, fit
from router.decision_log import ANSWERED, LogEntry, read

STOP_EVERY_S = 0.01
WINDOW = 1000  # requests in which the declared share is to hold
RECOVERY = 100
MAX_FITTED = 2000
MAX_ERROR, MAX_POINTS, MAX_COMPLETIONS = 0.10, 0.5, 300  # the marks


class Phase(NamedTuple):
    """A part of the run, by the wall clock of the log."""

    name: str
    start_s: float
    end_s: float


@click.command()
@with_config
@click.option(
    "--base-url",
    help="URL of a running router; requires its --log, and slows no model.",
)
@click.option(
    "--log",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Decision log to write; with --base-url, the log of that router.",
)
@click.option(
    "--load",
    type=click.FloatRange(0.05, 0.9),
    default=0.4,
    show_default=True,
    help="Steady load as a share of capacity.",
)
@click.option(
    "--seconds",
    type=click.IntRange(5),
    default=60,
    show_default=True,
    help="Seconds of steady load; the other phases follow.",
)
@click.option("--slow", default="all-minilm-l6-v2", show_default=True, help="Model to slow down.")
@click.option(
    "--slept",
    is_flag=True,
    help="Use engines that sleep as long as Qwen3 takes on an H200, instead of --config.",
)
@sample
@to_file
@click.option("--seed", type=int, default=0)
def main(
    config: Path,
    base_url: str | None,
    log: Path | None,
    load: float,
    seconds: int,
    slow: str,
    slept: bool,
    folder: Path,
    file: Path | None,
    seed: int,
) -> None:
    """Measure prediction errors and print them with their marks."""
    if slept and base_url is not None:
        raise click.UsageError("--slept starts a router of its own: leave out --base-url")
    if base_url is not None and (log is None or not log.exists()):
        raise click.UsageError("--base-url needs --log with the decision log that it writes")
    if base_url is None and log is not None and log.exists():
        raise click.UsageError(f"{log} exists already; a run needs a log of its own")
    with tempfile.TemporaryDirectory() as scratch:
        path = (log or Path(scratch) / "decisions.jsonl").absolute()
        if slept:
            config, slow = Path(scratch) / "slept.yaml", ""
            config.write_text(yaml.safe_dump(slept_config(), sort_keys=False))
        with router(config, base_url, decision_log={"path": str(path)}) as running:
            share = running.args.routing.miss_share
            phases, capacity = asyncio.run(
                _drive(running, load, seconds, slow, folder, random.Random(seed))
            )
            time.sleep(1.0)  # the log is written five times a second
        with path.open("rb") as lines:
            entries = [logged.entry for logged in read(lines)]
    found = summarise(entries, phases, share, slow)
    click.echo("\n".join(_table(found, capacity, load, share, slow)))
    marked = list(judged(found, share))
    show(marked)
    write(
        [Row("capacity, requests/s", capacity), *flat(found["rows"], "phase", "model"), *marked],
        file,
    )


def slept_config() -> dict[str, Any]:
    """configs/qwen3.yaml on this machine, with engines that sleep."""
    args, _ = application(ROOT / "configs" / "qwen3.yaml")
    models = {}
    for name, model in args.models.items():
        assert model.curve is not None
        # all that it can sleep
        curve = model.curve.model_dump() | {
            "fixed_s": 0.0,
            "s_per_token_sq": 0.0,
            "s_per_text": 0.0,
        }
        models[name] = {
            "engine": {
                "kind": "fake",
                "base_s": curve["base_s"],
                "s_per_token": curve["s_per_token"],
            },
            "dimensions": 64,
            "max_tokens": 8192,
            "curve": curve,
            "quality": dict(model.quality),
        }
    routing = args.routing.model_dump(
        mode="json", include={"default_tier", "rules"}, exclude_unset=True
    )
    own = [{"name": name, "ray_actor_options": {"num_cpus": 0.1}} for name in ("router", *models)]
    return {
        "http_options": {"host": "127.0.0.1"},
        "applications": [
            {
                "name": "slept",
                "route_prefix": "/",
                "import_path": "deployments.app:build",
                "deployments": own,
                "args": {
                    "models": models,
                    "tiers": {str(tier): name for tier, name in args.tiers.items()},
                    "routing": routing,
                },
            }
        ],
    }


async def _drive(
    running: Router, load: float, seconds: int, slow: str, folder: Path, rng: random.Random
) -> tuple[list[Phase], float]:
    """Run a mix, steady and in a burst of five seconds; each model alone; and one of them at half
    speed, then at full speed.
    """
    texts, phases = Texts(rng, folder), list[Phase]()

    def mix() -> Ask:
        return Ask(next(texts), {"model": "fast"} if rng.random() < 0.3 else {})

    def alone(model: str) -> Callable[[], Ask]:
        most = CHARACTERS_A_TOKEN * running.args.models[model].max_tokens
        return lambda: Ask(next(text for text in texts if len(text.text) <= most), {"model": model})

    async with Client(running.url) as client:

        async def phase(name: str, make: Callable[[], Ask], rate: float, seconds: float) -> None:
            start_s = time.time()
            await client.at_rate(make, rate, seconds, rng)
            phases.append(Phase(name, start_s, time.time()))

        capacity = await client.capacity(mix, clients=8, seconds=10.0)
        await client.at_rate(mix, load * capacity, 5.0, rng)
        await phase("steady", mix, load * capacity, seconds)
        await phase("burst x3", mix, 3 * load * capacity, 5.0)
        await phase("after it", mix, load * capacity, seconds / 4)
        for model in sorted(
            running.args.native, key=lambda model: model == slow
        ):  # the one that is slowed last
            own = load * await client.capacity(alone(model), clients=4, seconds=4.0)
            await client.at_rate(alone(model), own, 2.0, rng)
            await phase("alone", alone(model), own, seconds / 4)
        if (replica := running.replica(slow)) is not None:
            with slowed(replica):
                await phase("half speed", alone(slow), own, seconds / 2)
            await phase("full speed", alone(slow), own, seconds / 2)
    return phases, capacity


@contextmanager
def slowed(process: psutil.Process) -> Iterator[None]:
    """Halve the speed of a process that this benchmark started: stop it half of the time."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(STOP_EVERY_S):
            process.send_signal(signal.SIGSTOP)
            time.sleep(STOP_EVERY_S)
            process.send_signal(signal.SIGCONT)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def summarise(
    entries: Sequence[LogEntry], phases: Sequence[Phase], share: float, slow: str
) -> dict[str, Any]:
    """Errors by phase and model, the worst thousand for the declared share, and completions until a
    speed was learned.

    `entries` are in the order of their completion.
    """
    rows = []
    for phase in phases:
        within = [
            entry
            for entry in entries
            if _counts(entry) and phase.start_s <= entry.at_s <= phase.end_s
        ]
        models = sorted({entry.decision.model or "" for entry in within})
        for model in ["all", *models] if len(models) > 1 else models:
            own = [entry for entry in within if model in ("all", entry.decision.model)]
            if own:
                ratios = [_ratio(entry) for entry in own]
                rows.append(
                    {
                        "phase": phase.name,
                        "model": model,
                        "requests": len(own),
                        "p50_ms": 1000 * statistics.median(entry.actual_s or 0.0 for entry in own),
                        "error": statistics.median(abs(1.0 / ratio - 1.0) for ratio in ratios),
                        "ratio": statistics.median(ratios),
                        "over_tail": sum(map(_over_tail, own)) / len(own),
                    }
                )
    steady = [entry for entry in entries if _counts(entry) and entry.at_s >= phases[0].start_s]
    over = [_over_tail(entry) for entry in steady]
    windows = [
        sum(over[start : start + WINDOW]) / WINDOW for start in range(len(over) - WINDOW + 1)
    ]
    worst = max(windows, key=lambda found: abs(found - share), default=None)
    return {
        "rows": rows,
        "worst_share_of_1000": worst,
        "undisturbed": undisturbed(steady),
        "recovered_after": {
            phase.name: completions_until_recovery(
                [
                    e
                    for e in steady
                    if e.decision.model == slow and phase.start_s <= e.at_s <= phase.end_s
                ],
                share,
            )
            for phase in phases
            if phase.name.endswith("speed")
        },
    }


def undisturbed(entries: Sequence[LogEntry]) -> list[dict[str, Any]]:
    """Each model's error over answers that found all models idle, and the error of a curve fitted
    to these very answers.

    The second is what no predictor of this form can go below: the rest is the machine's.
    """
    rows = []
    for model in sorted({entry.decision.model or "" for entry in entries}):
        own = [entry for entry in entries if entry.decision.model == model]
        quiet = [
            e
            for e in own
            if not any(load.ahead_tokens or load.running_rest_s for load in e.loads.values())
        ][-MAX_FITTED:]
        works = [entry.request.work[model] for entry in quiet]
        points = [
            Point(work.tokens, max(1, work.tokens_sq), entry.actual_s or 1e-9, work.texts)
            for work, entry in zip(works, quiet, strict=True)
        ]
        if len(quiet) >= RECOVERY and len({point.tokens for point in points}) >= 3:
            predicted_error = statistics.median(abs(1.0 / _ratio(entry) - 1.0) for entry in quiet)
            rows.append(
                {
                    "model": model,
                    "requests": len(quiet),
                    "error": predicted_error,
                    "hindsight": fit(points, 1).median_error,
                }
            )
    return rows


def completions_until_recovery(entries: Sequence[LogEntry], share: float) -> int | None:
    """Completions after which RECOVERY others are predicted right; None if there are none."""
    for start in range(len(entries) - RECOVERY + 1):
        own = entries[start : start + RECOVERY]
        right = abs(statistics.median(map(_ratio, own)) - 1.0) <= MAX_ERROR
        if right and sum(map(_over_tail, own)) / RECOVERY <= 2 * share:
            return start
    return None


def _counts(entry: LogEntry) -> bool:
    """Whether it was answered by a model (cached answers do not count)."""
    model = entry.decision.model
    return entry.outcome == ANSWERED and model is not None and entry.request.work[model].tokens > 0


def _ratio(entry: LogEntry) -> float:
    """Actual seconds over predicted."""
    return (entry.actual_s or 0.0) / (entry.decision.predicted_s or 1.0)


def _over_tail(entry: LogEntry) -> bool:
    return _ratio(entry) > entry.loads[entry.decision.model or ""].margin


def _table(
    found: dict[str, Any], capacity: float, load: float, share: float, slow: str
) -> Iterator[str]:
    yield (
        f"capacity of this mix {capacity:.0f} requests/s, steady load {load:.0%} of it; {slow} "
        f"is slowed; alpha {share:.1%}"
    )
    yield ""
    yield (
        f"{'phase':<11} {'model':<24} {'requests':>8} {'p50 ms':>8} {'median error':>13} "
        f"{'actual/said':>12} {'over tail':>10}"
    )
    for row in found["rows"]:
        yield (
            f"{row['phase']:<11} {row['model']:<24} {row['requests']:>8} {row['p50_ms']:>8.1f} "
            f"{row['error']:>13.1%} "
            f"{row['ratio']:>12.2f} {row['over_tail']:>10.1%}"
        )
    yield ""


def judged(found: dict[str, Any], share: float) -> Iterator[Row]:
    """The figures with marks, and the others."""
    for row in found["rows"]:
        if row["phase"] == "alone" or (row["phase"], row["model"]) == ("steady", "all"):
            name = f"{row['phase']}, {row['model']}: median error, %"
            yield at_most(name, 100 * row["error"], 100 * MAX_ERROR)
    for row in found["undisturbed"]:
        name = f"{row['model']}, all idle"
        yield Row(f"{name}: answers", row["requests"])
        yield Row(f"{name}: median error, %", 100 * row["error"])
        yield Row(f"{name}: that of a curve fitted to them, %", 100 * row["hindsight"])
    worst = found["worst_share_of_1000"]
    if worst is None:
        click.echo(f"fewer than {WINDOW} requests were answered: take more --seconds")
    else:
        yield Row(f"worst share of any {WINDOW} over their tail, %", 100 * worst)
        name = f"points from the declared {share:.1%}"
        yield at_most(name, 100 * abs(worst - share), MAX_POINTS)
    for phase, after in found["recovered_after"].items():
        completions = math.inf if after is None else after
        yield at_most(f"{phase}: completions until it is learned", completions, MAX_COMPLETIONS)


if __name__ == "__main__":
    main()
