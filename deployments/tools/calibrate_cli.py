"""`embedding-router calibrate`: measure models of a config; write their profiles and plots."""

import asyncio
import datetime
import os
import platform
import random
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import click
import orjson
from tqdm import tqdm

from deployments.engines.base import EngineError
from deployments.launch.serve_config import application
from deployments.replica.device import device_name
from deployments.service.prepare import Preparer
from deployments.tools import calibrate
from deployments.tools.calibrate import (
    CalibrationError,
    InProcessSource,
    Running,
    TextSource,
    TimedCall,
    Writer,
)
from deployments.tools.client import BaseUrl
from router.calibration import MAX_TEXTS, REPEATS, Cell, calls, cells
from router.calls import max_rows
from router.config import RouterArgs
from router.curve_fit import CurveFit, Point
from router.engine_config import EngineConfig
from router.models import build_models

ALL = "all"


class Measurement(NamedTuple):
    """The result of the process that measured."""

    samples: list[TimedCall]
    batch_tokens: int
    memory_bytes: int | None
    device: str
    engine: str


class CalibrationTask(NamedTuple):
    """The task of a measuring process; it is sent to the process by pickle."""

    args: RouterArgs
    model: str
    base_url: str | None
    api_key: str | None
    batch_tokens: int | None  # None: the engine's own
    max_tokens: int
    repeats: int
    seed: int


@click.command()
@click.option(
    "--config", "path", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option("--model", required=True, help="A model id of the config, or `all`.")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The profile to write; a folder with --model all: then NAME-MODEL.json, NAME being the "
    "config's.",
)
@click.option(
    "--base-url",
    type=BaseUrl(),
    help="Measure through this running router; send no other requests to it meanwhile.",
)
@click.option(
    "--api-key",
    envvar="EMBEDDING_ROUTER_API_KEY",
    help="API key for --base-url; default: EMBEDDING_ROUTER_API_KEY.",
)
@click.option(
    "--repeats",
    type=click.IntRange(1),
    default=REPEATS,
    show_default=True,
    help="Measurements of each size.",
)
@click.option(
    "--batch-tokens",
    type=click.IntRange(1),
    help="Most tokens of one call; if not given, the config's or the engine's.",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(1),
    help="Longest text; the model's context where not given.",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Seed of the texts and their order."
)
@click.option("--json", "as_json", is_flag=True, help="The profiles that were written, as JSON.")
def main(
    path: Path,
    model: str,
    output: Path,
    base_url: str | None,
    api_key: str | None,
    repeats: int,
    batch_tokens: int | None,
    max_tokens: int | None,
    seed: int,
    as_json: bool,
) -> None:
    """Measure how long a model takes for texts and batches of every size, and write its profile and
    a plot beside it.

    Starts the model's engine in a process of its own, with the threads and settings of its replica.
    With --base-url it sends requests through a running router instead, and so measures the router's
    overhead too: the better profile of the two.
    """
    args, serve = application(path)
    # a student has no replica, and nothing to predict
    able = [name for name, config in args.models.items() if not config.engine.in_router]
    if model != ALL and model not in able:
        raise click.UsageError(
            f"{path} has no deployment of {model!r}; there are {', '.join(able)} and {ALL}"
        )
    if model == ALL and output.suffix == ".json":
        raise click.UsageError(
            f"--model all writes one file for each model: give a folder, not {output}"
        )
    written: dict[str, Any] = {}
    for name in able if model == ALL else [model]:
        settings = args.models[name]
        known = settings.curve is not None or settings.profile is not None
        curve = build_models(args)[name].curve
        longest = min(max_tokens or settings.max_tokens, settings.max_tokens)
        wanted = batch_tokens or (curve.batch_tokens if known or base_url else None)
        job = CalibrationTask(args, name, base_url, api_key, wanted, longest, repeats, seed)
        try:
            measured = (
                asyncio.run(_measure(job))
                if base_url
                else _in_child(job, replica_environment(serve, name))
            )
            made, medians = calibrate.fitted(
                measured.samples, measured.batch_tokens, curve.overhead_s
            )
        except (CalibrationError, EngineError, FileNotFoundError) as error:
            raise click.ClickException(f"{name}: {error}") from None
        file = output / f"{path.stem}-{name}.json" if model == ALL else output
        file.parent.mkdir(parents=True, exist_ok=True)
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        file.write_bytes(
            calibrate.profile(
                name, measured.device, measured.engine, today, made, medians, measured.memory_bytes
            )
        )
        written[name] = {"file": str(file), "profile": orjson.loads(file.read_bytes())}
        if not as_json:
            click.echo("\n".join(_report(name, file, made, measured, base_url is not None)))
        _plot(
            file.with_suffix(".png"),
            name,
            made,
            medians,
            made.curve.overhead_s if base_url else 0.0,
            quiet=as_json,
        )
    if as_json:
        click.echo(orjson.dumps(written, option=orjson.OPT_INDENT_2))


def replica_environment(serve: Mapping[str, Any], model: str) -> dict[str, str]:
    """Environment variables of a replica's process.

    Ray gives OpenMP as many threads as it gives the actor CPUs.
    """
    own: dict[str, Any] = next(
        (
            deployment
            for deployment in serve.get("deployments") or ()
            if deployment["name"] == model
        ),
        {},
    )
    options = own.get("ray_actor_options") or {}
    given: dict[str, str] = (options.get("runtime_env") or {}).get("env_vars") or {}
    threads = max(1, int(options.get("num_cpus", 1)))
    return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)), **given}


def _in_child(job: CalibrationTask, environment: Mapping[str, str]) -> Measurement:
    """Measure in a fresh process: libraries read most of `environment` when they are loaded."""
    with _environment(environment), ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            return pool.submit(_run, job).result()
        except BrokenProcessPool as error:
            raise CalibrationError(
                "its process ended: out of memory, or killed by the engine; see above"
            ) from error


def _run(job: CalibrationTask) -> Measurement:
    return asyncio.run(_measure(job))


async def _measure(job: CalibrationTask) -> Measurement:
    rng, model = random.Random(job.seed), job.model
    only = job.args.model_copy(update={"models": {model: job.args.models[model]}})
    preparer = Preparer(only)
    writer = Writer(
        lambda text: preparer.prepare([text], None, None, [model])[model].counts[0], rng
    )
    source: TextSource
    source = (
        Running(job.base_url, model, job.api_key) if job.base_url else InProcessSource(only, model)
    )
    try:
        await source.start()
        batch_tokens = job.batch_tokens or (
            source.batch_tokens if isinstance(source, InProcessSource) else 0
        )
        max_texts = min(
            MAX_TEXTS,
            max_rows(job.args.models[model].dimensions),
            job.args.limits.max_items,
        )
        sizes = cells(job.max_tokens, batch_tokens, max_texts)
        with tqdm(
            disable=None,
            total=calls(sizes, batch_tokens, job.repeats),
            desc=model,
            unit="call",
        ) as bar:

            def tick(cell: Cell) -> None:
                bar.set_postfix_str(f"{cell.texts} x {cell.tokens} tokens", refresh=False)
                bar.update()

            span = job.args.models[model].attention_tokens
            samples = await calibrate.sample(
                source, writer.write, sizes, batch_tokens, span, job.repeats, rng, tick
            )
        return Measurement(
            samples,
            batch_tokens,
            source.memory_bytes(),
            device_name(),
            _software(job.args.models[model].engine),
        )
    finally:
        await source.stop()


GOOD_FIT, POOR_FIT = 0.1, 0.25  # relative error of the median call
NOISY = 0.5  # relative error that one call in twenty exceeds


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def opinion(median: float, p95: float) -> str:
    """Judge whether a fit is good enough, and advise what to do if it is not."""
    again = "measure again while nothing else runs here, with a larger --repeats"
    if median > POOR_FIT:
        return f"poor: budgets would be missed or models passed over; {again}"
    if median > GOOD_FIT:
        return (
            f"usable, the router corrects it by what it measures; {GOOD_FIT:.0%} is good: {again}"
        )
    if p95 > NOISY:
        return (
            "good for most calls; some took much longer, as on a machine that does other work: the "
            "router's margin covers that"
        )
    return "good"


def _software(engine: EngineConfig) -> str:
    found = []
    for package in ("embedding-router", *engine.software):
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join([f"engine {engine.kind}", *found, f"Python {platform.python_version()}"])


def _report(
    name: str, file: Path, made: CurveFit, measured: Measurement, through_router: bool
) -> Iterator[str]:
    curve = made.curve
    held = (
        "not visible from here"
        if measured.memory_bytes is None
        else f"{measured.memory_bytes / 2**20:.0f} MiB"
    )
    yield f"{name} on {measured.device}"
    yield (
        f"  one step   {curve.fixed_s * 1000:.3g} ms up to {made.knee_tokens:.0f} tokens, then "
        f"{curve.base_s * 1000:.3g} ms"
    )
    yield (
        f"             + {curve.s_per_token * 1e6:.3g} us a token + "
        f"{curve.s_per_token_sq * 1e9:.3g} ns a token squared"
    )
    yield f"             + {curve.s_per_text * 1e6:.3g} us a text"
    yield (
        f"  full step  {curve.batch_tokens} tokens in "
        f"{curve.step(curve.batch_tokens) * 1000:.3g} ms"
    )
    source = "measured" if through_router else "as in the config: --base-url measures it"
    yield f"  overhead   {curve.overhead_s * 1000:.3g} ms ({source})"
    yield (
        f"  fit        error {made.median_error:.1%} in the median, {made.p95_error:.1%} at "
        f"p95, of {made.points} calls"
    )
    yield f"             {opinion(made.median_error, made.p95_error)}"
    yield f"  memory     {held}"
    yield f"  wrote      {file} and {file.with_suffix('.png').name}"


def _plot(
    file: Path, name: str, made: CurveFit, medians: list[Point], overhead_s: float, quiet: bool
) -> None:
    """Plot measured steps and the curve on logarithmic axes; without matplotlib print a note."""
    try:
        import matplotlib
    except ModuleNotFoundError:
        if not quiet:
            click.echo("  no plot: install matplotlib for one")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    # mean tokens of a call's texts, weighted by tokens
    lengths = [point.tokens_sq / point.tokens for point in medians]
    marks = axes.scatter(
        [point.tokens for point in medians],
        [point.seconds * 1000 for point in medians],
        c=lengths,
        norm="log",
        cmap="viridis",
    )
    axes.plot(
        [point.tokens for point in medians],
        [
            (made.curve.step(point.tokens, point.tokens_sq, point.texts) + overhead_s) * 1000
            for point in medians
        ],
        linestyle="none",
        marker="x",
        color="black",
        markersize=4,
        label=f"curve, off by {made.median_error:.1%} in the median",
    )
    figure.colorbar(marks, label="tokens of a text")
    axes.set(
        xscale="log", yscale="log", xlabel="tokens of a call", ylabel="milliseconds", title=name
    )
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    pyplot.close(figure)
