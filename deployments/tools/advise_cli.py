"""`embedding-router advise`: measure on the user's own texts which models are worth their price."""

import asyncio
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import click

from deployments.tools.advise import latency, run, survey
from deployments.tools.advise.inputs import InputReader, Inputs, sampled
from deployments.tools.advise.rows import InputError
from deployments.tools.advise.run import RemainingWork
from deployments.tools.advise.survey import AdvisePlan
from deployments.tools.client import ServiceClient
from deployments.tools.options import (
    FILE,
    FOLDER,
    errors_shown,
    require_packages,
    router_options,
)
from deployments.tools.policy_file import read_policy, text_of, with_tiers
from router.strict import ConfigError

LOCAL = ("localhost", "127.0.0.1", "::1")
NEEDED = ("ir_measures", "jinja2", "matplotlib", "pyarrow", "scipy", "sklearn")


class AdviseOptions(NamedTuple):
    """The command's options."""

    base_url: str
    output: Path
    models: tuple[str, ...]
    policy: Path | None
    budget_ms: float | None
    gpu_hour: float | None
    min_gain: float
    requests: int
    batch: int
    in_flight: int
    yes: bool
    as_json: bool


class OnceEach(click.Command):
    """A command that rejects a repeated file option, which would silently replace the first."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as click does. Raises UsageError for a repeated file option."""
        for name in ("--texts", "--queries", "--qrels"):
            if sum(arg == name or arg.startswith(f"{name}=") for arg in args) > 1:
                raise click.UsageError(
                    f"{name} is given twice; for several searches write --search TEXTS QUERIES "
                    "QRELS once for each",
                    ctx,
                )
        return super().parse_args(ctx, args)


@click.command(cls=OnceEach)
@router_options("A running router with the models.")
@click.option("--texts", type=FILE, help="Documents with `id` and `text`.")
@click.option("--queries", type=FILE, help="Queries with `id` and `text`.")
@click.option(
    "--qrels", type=FILE, help="Which documents answer which query: lines `query document grade`."
)
@click.option(
    "--search",
    "searches",
    type=FILE,
    nargs=3,
    multiple=True,
    metavar="TEXTS QUERIES QRELS",
    help="Another search, with files as of --texts, --queries and --qrels. Can be repeated.",
)
@click.option("--pairs", type=FILE, multiple=True, help="text_a, text_b, score. Can be repeated.")
@click.option(
    "--labels",
    type=FILE,
    multiple=True,
    help="text, label, and maybe split (train, test). Can be repeated.",
)
@click.option("--text-field", default="text", show_default=True)
@click.option("--id-field", help="Default: `id`, `_id` or the row's number.")
@click.option(
    "--skip-bad", is_flag=True, help="Leave broken lines out instead of stopping at them."
)
@click.option(
    "--most",
    type=click.IntRange(30),
    default=20_000,
    show_default=True,
    help="Rows of each file that are measured.",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    help="Only these models or tiers; every model of the service where not given.",
)
@click.option(
    "--policy",
    type=FILE,
    help="A Serve config, or a file with `routing:` and `tiers:`: the rules in force, where the "
    "key may not read those of the service.",
)
@click.option(
    "--budget-ms",
    type=click.FloatRange(min=0, min_open=True),
    help="Longest time that your callers wait.",
)
@click.option(
    "--gpu-hour",
    type=click.FloatRange(min=0),
    help="Price of one device for an hour, in any currency.",
)
@click.option(
    "--min-gain",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="Points of 100 that a larger model must bring to be worth it.",
)
@click.option(
    "--requests",
    type=click.IntRange(5),
    default=100,
    show_default=True,
    help="Timed requests of each kind.",
)
@click.option(
    "--batch",
    type=click.IntRange(1),
    default=32,
    show_default=True,
    help="Texts of one bulk request.",
)
@click.option(
    "--in-flight",
    type=click.IntRange(1),
    default=4,
    show_default=True,
    help="Bulk requests at a time.",
)
@click.option(
    "-y",
    "--yes",
    is_flag=True,
    help="Do not ask before starting; a script without a terminal is not asked.",
)
@click.option("-o", "--output", required=True, type=FOLDER, metavar="DIR")
@click.option("--json", "as_json", is_flag=True, help="Print report.json instead of the verdict.")
def main(
    base_url: str,
    api_key: str | None,
    texts: Path | None,
    queries: Path | None,
    qrels: Path | None,
    searches: tuple[tuple[Path, Path, Path], ...],
    pairs: tuple[Path, ...],
    labels: tuple[Path, ...],
    text_field: str,
    id_field: str | None,
    skip_bad: bool,
    most: int,
    models: tuple[str, ...],
    policy: Path | None,
    budget_ms: float | None,
    gpu_hour: float | None,
    min_gain: float,
    requests: int,
    batch: int,
    in_flight: int,
    yes: bool,
    output: Path,
    as_json: bool,
) -> None:
    """Measure on your own texts when a larger model is worth it.

    Files are JSON lines, CSV or Parquet. Every text goes through the running service, pinned to
    each model in turn, as bulk requests. Kill it at any moment and start it again with the same
    options: nothing is embedded twice. The folder then holds index.html to read, report.json, and
    routing.yaml with the rules that the data supports.
    """
    require_packages("advise", NEEDED)
    if texts is None and (queries or qrels):
        raise click.UsageError(
            "--queries and --qrels need --texts, the documents that are searched"
        )
    if qrels and not queries:
        raise click.UsageError("--qrels needs --queries")
    if texts is None and not (searches or pairs or labels):
        raise click.UsageError("give texts to measure with: --texts, --search, --pairs or --labels")
    with errors_shown(ConfigError):
        reader = InputReader(skip_bad, text_field, id_field)
        own = [] if texts is None else [(texts, queries, qrels)]
        inputs = _read(reader, [*own, *searches], pairs, labels)
        job = AdviseOptions(
            base_url,
            output,
            models,
            policy,
            budget_ms,
            gpu_hour,
            min_gain,
            requests,
            batch,
            in_flight,
            yes,
            as_json,
        )
        asyncio.run(
            _advise(ServiceClient(base_url, api_key, fresh=True), sampled(inputs, most), job)
        )


def _read(
    reader: InputReader,
    searches: Sequence[tuple[Path, Path | None, Path | None]],
    pairs: tuple[Path, ...],
    labels: tuple[Path, ...],
) -> Inputs:
    sets = [_search(reader, *files) for files in searches]
    inputs = Inputs() if not sets else sets[0]
    inputs.more = sets[1:]
    inputs.pairs = {path.stem: reader.pairs(path) for path in pairs}
    inputs.labelled = {path.stem: reader.labelled(path) for path in labels}
    judged = [queries for _, queries, qrels in searches if queries and qrels]
    names = [path.stem for path in (*pairs, *labels, *judged)]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise InputError(
            f"two files of queries, pairs or labels have the name {twice[0]!r}; the report tells "
            "them apart by it, so rename one"
        )
    inputs.notes = reader.settle()
    for task, (_, _, qrels) in zip(sets, searches, strict=True):
        if qrels is not None and not task.judgements:
            raise InputError(f"{qrels}: no query of it has a relevant document")
    inputs.check()
    return inputs


def _search(reader: InputReader, texts: Path, queries: Path | None, qrels: Path | None) -> Inputs:
    """Read documents and, if given, queries and judgements."""
    one = Inputs()
    one.documents, one.names["texts"] = reader.texts(texts), texts.name
    if queries is not None:
        one.queries, one.names["queries"] = reader.texts(queries), queries.name
    if qrels is not None:
        one.judgements = reader.judgements(qrels, one.queries, one.documents)
    return one


async def _advise(client: ServiceClient, inputs: Inputs, job: AdviseOptions) -> None:
    for note in inputs.notes:
        click.echo(note, err=True)
    async with client:
        job.output.mkdir(parents=True, exist_ok=True)
        plan = await survey.plan(client, inputs, job.output, job.models)
        if job.policy is not None:
            policy = with_tiers(read_policy(job.policy), plan.all_tiers, job.policy)
            plan = replace(plan, policy=text_of(policy))
        todo = run.estimate(plan, job.output)
        if any(each.texts for each in todo):
            click.echo("\n".join(_plan_lines(plan, todo, job.gpu_hour)), err=True)
            if not job.yes and sys.stdin.isatty():
                click.confirm("Go on?", default=True, abort=True, err=True)
        await run.embed_all(client, plan, job.output, job.batch, job.in_flight)
        rounds = await latency.measure(
            client, plan, job.output, job.requests, urlsplit(job.base_url).hostname in LOCAL
        )
    from deployments.tools.advise.report import (
        make,
        written,
    )  # scikit-learn and scipy take a second to load

    timing = latency.summary(plan, rounds, job.budget_ms, job.gpu_hour)
    click.echo("comparing", err=True)
    made = make(plan, inputs, job.output, timing, job.budget_ms, job.gpu_hour, job.min_gain)
    text = written(made, job.output)
    click.echo((job.output / "report.json").read_text(encoding="utf-8") if job.as_json else text)


def _plan_lines(plan: AdvisePlan, todo: list[RemainingWork], gpu_hour: float | None) -> list[str]:
    """Describe what will be done, before it begins."""
    lines, total_s, price = ["to embed, as the service predicts:"], 0.0, 0.0
    for candidate, each in zip(plan.candidates, todo, strict=True):
        total_s += each.seconds
        price += each.seconds * candidate.devices / 3600 * (gpu_hour or 0.0)
        lines.append(f"  {each.model:32} {each.texts:8} texts {_time(each.seconds):>10}")
    costs = "" if gpu_hour is None else f", {price:.2f} at {gpu_hour:g} a device hour"
    return [*lines, f"  together {_time(total_s)} when the service has nothing else to do{costs}"]


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
