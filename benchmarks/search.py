"""Measure search quality with a choice of encoders, by load.

SciFact-mini, Chinese XQuAD and questions of bank customers (banking77), each with an index for
every model of the config in LanceDB. The best model is the one with the highest nDCG@10 on an idle
service; a set where the fastest is within a point of it is not counted. Queries arrive as a Poisson
process, each with a latency budget; a late answer counts as no results (nDCG and recall 0).
Policies alternate in turns of a few seconds, in random order, on one router without a cache. A turn
starts with seconds without load and a few of its load that are not counted, so that the queues of
the policy before are gone, and most of what the router learned from it. In the same turn at the
same load, every policy receives the same queries at the same times:

    always best            its own index, whatever the budget
    always best, reject    the same; a query that would be late is refused
    always fast            the fastest model and its own index
    several spaces         any model, each with its own index
    native + adapter       one index, the best model's; the fastest model over a linear map
    native + student       the same with a student of the best model, in the router's process
    both                   any model and index, adapter and student

nDCG and recall are those of the documents that LanceDB finds in the index of the answer's space.
`idle` is the result of the best model for the same queries when nothing is late. Latency counts
from the time that a query is due. CPU seconds are of all processes of the service, including Ray's.

The marks compare sums over the same queries. Their 95 % intervals (`from`, `to`) are bootstrapped
over the queries: they show what other queries could change, not what another run could.

The first run embeds and trains (`--keep` stores the result; `--prepare` stops there). With
`--seconds 15 --turns 1` the load takes 9 minutes for each set, and it needs a quiet machine.
"""

import asyncio
import json
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import httpx
import numpy as np
import orjson
import psutil
import pybase64

from benchmarks.live import (
    Ask,
    Client,
    RequestResult,
    Router,
    Text,
    router,
    with_config,
    worst_lag,
)
from benchmarks.marks import Row, show, to_file, write
from benchmarks.public_data import SETS, Judged, whole
from benchmarks.search_report import (
    LOADS,
    AtLoad,
    PolicyAnswers,
    Scored,
    marks,
    plot,
    row_of,
    table,
)
from benchmarks.search_stage import Stage, prepare
from deployments.launch.serve_config import application
from router.retrieval import TOP, ndcg, recall
from router.space import Space

CLIENTS, CAPACITY_S = 16, 6.0
QUIET = 1 / 3  # of the time before a turn; the rest has load that is not counted
BUDGET_OF_IDLE = 4.0  # the budget is so many times what the best model takes when idle
WITHIN_A_POINT = 0.01


def named(set_name: str, policy: str) -> str:
    """The collection of a policy."""
    return "-".join(re.findall(r"\w+", f"{set_name} {policy}"))


class Finder:
    """Search results of LanceDB for an answer, and their scores."""

    def __init__(self, stage: Stage, judged: Judged) -> None:
        self._stage = stage
        self._places = {text.id: place for place, text in enumerate(judged.documents)}
        self._relevant = {
            query.text: {self._places[id] for id in judged.relevant[query.id]}
            for query in judged.queries
        }

    def scores(self, told: RequestResult) -> tuple[float, float]:
        """nDCG@10 and recall@10 of an answer."""
        said = orjson.loads(told.body)
        vector = np.frombuffer(pybase64.b64decode(said["data"][0]["embedding"]), "<f4")
        table = self._stage.tables[said["routing"]["space"]]
        rows = table.search(vector).distance_type("cosine").limit(TOP).to_arrow()
        found = np.array([[self._places[id] for id in rows["id"].to_pylist()]], np.int64)
        relevant = [self._relevant[told.ask.text.text]]
        return float(ndcg(found, relevant)[0]), float(recall(found, relevant)[0])


class Queries:
    """A set's queries in random order, each as often as any other."""

    def __init__(self, texts: Sequence[Text], rng: random.Random) -> None:
        self._all, self._rng, self._left = texts, rng, list[Text]()

    def __next__(self) -> Text:
        if not self._left:
            self._left = self._rng.sample(self._all, len(self._all))
        return self._left.pop()


class Driver:
    """One set on one running router."""

    def __init__(
        self,
        stage: Stage,
        judged: Judged,
        language: str,
        running: Router,
        seed: int,
        settle_s: float,
    ) -> None:
        self.stage, self._running = stage, running
        self._quiet_s, self._start_s = QUIET * settle_s, (1 - QUIET) * settle_s
        self._seed = f"{seed} {stage.name}"
        self._finder = Finder(stage, judged)
        self._texts = [Text(query.text, language, "query") for query in judged.queries]
        self.results = list[RequestResult]()  # those that count
        self.idle: dict[str, float] = {}  # nDCG@10 of the best model, by query
        self.fast_idle = self.idle_s = self.capacity = 0.0

    def _asks(self, policy: str, budget_s: float | None, rng: random.Random) -> Callable[[], Ask]:
        """The generator of a policy's requests, with queries in the order that `rng` gives."""
        options: dict[str, Any] = {"space": named(self.stage.name, policy), "input_type": "query"}
        if budget_s is not None:
            options["latency_budget_ms"] = budget_s * 1000
        if policy == "always best, reject":
            options["on_budget_miss"] = "reject"
        queries = Queries(self._texts, rng)
        return lambda: Ask(next(queries), options, budget_s)

    async def rest(self, client: Client) -> None:
        """Results and times of each model on an idle service, and the best model's capacity."""
        best = await self._alone(client, "always best")
        self.idle = {told.ask.text.text: self._finder.scores(told)[0] for told in best if told.body}
        self.idle_s = float(np.median([told.total_s for told in best]))
        fast = await self._alone(client, "always fast")
        self.fast_idle = float(np.mean([self._finder.scores(told)[0] for told in fast]))
        self.capacity = await client.capacity(
            self._asks("always best", None, random.Random(self._seed)), CLIENTS, CAPACITY_S
        )

    async def _alone(self, client: Client, policy: str) -> list[RequestResult]:
        options = {"space": named(self.stage.name, policy), "input_type": "query"}
        answers = [await client.send(Ask(text, options)) for text in self._texts]
        if wrong := [told for told in answers if told.status != httpx.codes.OK]:
            raise click.ClickException(f"{policy}: the router answered {wrong[0].status}")
        return answers

    async def turns(
        self, client: Client, load: float, seconds: float, turns: int, budget_s: float
    ) -> dict[str, PolicyAnswers]:
        """Answers of each policy at a load."""
        scored = {policy: list[Scored]() for policy in self.stage.collections}
        cpu_s, sent = dict.fromkeys(scored, 0.0), dict.fromkeys(scored, 0)
        for turn in range(turns):
            seed = f"{self._seed} {load} {turn}"
            for policy in random.Random(f"{seed} order").sample(list(scored), len(scored)):
                await asyncio.sleep(self._quiet_s)
                before = self._cpu_s()
                answers = await client.at_rate(
                    self._asks(policy, budget_s, random.Random(f"{seed} queries")),
                    load * self.capacity,
                    self._start_s + seconds,
                    random.Random(f"{seed} gaps"),
                )
                cpu_s[policy] += self._cpu_s() - before
                sent[policy] += len(answers)
                counted = [told for told in answers if told.at_s >= self._start_s]
                scored[policy] += map(self._scored, counted)
                self.results += [told._replace(body=b"") for told in counted]
        return {
            policy: PolicyAnswers(some, cpu_s[policy] / max(1, sent[policy]))
            for policy, some in scored.items()
        }

    def _scored(self, told: RequestResult) -> Scored:
        budget_s = told.ask.budget_s
        in_time = told.status == httpx.codes.OK and (budget_s is None or told.total_s <= budget_s)
        scores = self._finder.scores(told) if in_time else (0.0, 0.0)
        query = told.ask.text.text
        return Scored(query, in_time, *scores, self.idle[query])

    def _cpu_s(self) -> float:
        """CPU seconds of the service."""
        process = self._running.process
        assert process is not None
        spent = 0.0
        for one in [process, *process.children(recursive=True)]:
            try:
                times = one.cpu_times()
            except psutil.NoSuchProcess:
                continue
            spent += times.user + times.system
        return spent


async def drive(
    driver: Driver, seconds: float, turns: int, budget_ms: float | None
) -> tuple[list[AtLoad], dict[tuple[float, str], list[Scored]]]:
    """Run all loads of one set: the rows, and the queries of each load and policy."""
    async with Client(driver._running.url, keeps_bodies=True) as client:
        await driver.rest(client)
        name = driver.stage.name
        budget_s = BUDGET_OF_IDLE * driver.idle_s if budget_ms is None else budget_ms / 1000
        idle = float(np.mean(list(driver.idle.values())))
        click.echo(
            f"{name}: best {driver.stage.best} (idle nDCG@10 {idle:.3f}, "
            f"{1000 * driver.idle_s:.1f} ms, {driver.capacity:.1f} queries/s), "
            f"fast {driver.stage.fast} ({driver.fast_idle:.3f}); budget {1000 * budget_s:.0f} ms",
            err=True,
        )
        rows, scored = list[AtLoad](), dict[tuple[float, str], list[Scored]]()
        for load in LOADS:
            found = await driver.turns(client, load, seconds, turns, budget_s)
            rows += [row_of(name, load, policy, one) for policy, one in found.items()]
            scored |= {(load, policy): one.scored for policy, one in found.items()}
            click.echo("\n".join(table(rows[-len(found) :])), err=True)
    return rows, scored


@click.command()
@with_config
@whole
@click.option(
    "--keep",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for indexes, adapters and students between runs.",
)
@click.option("--set", "names", multiple=True, type=click.Choice(list(SETS)), default=list(SETS))
@click.option(
    "--model", "models", multiple=True, help="Search with these of the config.  [default: all]"
)
@click.option(
    "--general",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="General student of the English set's best model, used as a start for its student.",
)
@click.option("--min-recall", type=click.FloatRange(0, 1), default=0.9, show_default=True)
@click.option(
    "--budget-ms",
    type=click.FloatRange(1),
    help="Latency budget. [default: 4 times the best model's idle time]",
)
@click.option("--seconds", type=click.FloatRange(1), default=6.0, show_default=True)
@click.option("--turns", type=click.IntRange(1), default=2, show_default=True)
@click.option(
    "--settle",
    type=click.FloatRange(0),
    default=6.0,
    show_default=True,
    help="Seconds before each turn that are not counted.",
)
@click.option("--prepare", "only_prepare", is_flag=True, help="Embed and train only.")
@click.option("--plot", "picture", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--beside",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Another set's --json file, for --plot to draw too.",
)
@to_file
@click.option("--seed", type=int, default=0)
def main(
    config: Path,
    folder: Path,
    keep: Path,
    names: Sequence[str],
    models: Sequence[str],
    general: Path | None,
    min_recall: float,
    budget_ms: float | None,
    seconds: float,
    turns: int,
    settle: float,
    only_prepare: bool,
    picture: Path | None,
    beside: Sequence[Path],
    file: Path | None,
    seed: int,
) -> None:
    """Measure seven ways to answer the queries of an index."""
    args, _ = application(config)
    if unknown := set(models) - set(args.deployed):
        raise click.UsageError(f"{config} deploys no {', '.join(sorted(unknown))}")
    spaces = [
        Space(model, one.dimensions)
        for model, one in args.deployed.items()
        if not models or model in models
    ]
    rows, said = list[AtLoad](), list[str]()
    reached = list[tuple[Row, str]]()
    for name in names:
        language, read = SETS[name]
        judged = read(folder)
        start = general if language == "en" else None
        stage = prepare(name, judged, config, spaces, keep / name, start, min_recall)
        if only_prepare:
            continue
        collections = {named(name, policy): one for policy, one in stage.collections.items()}
        sections = {"collections": collections, "cache": {"max_bytes": 0}}
        with router(config, None, models=stage.models, **sections) as running:
            driver = Driver(stage, judged, language, running, seed, settle)
            found, scored = asyncio.run(drive(driver, seconds, turns, budget_ms))
        rows += found
        said += [f"{name}: left out: {policy}: {why}" for policy, why in stage.left_out.items()]
        if driver.fast_idle >= (idle := found[0].idle_ndcg) - WITHIN_A_POINT:
            close = f"within a point of the best ({driver.fast_idle:.3f} and {idle:.3f})"
            said.append(f"{name}: not counted: the fastest model is {close}")
        else:
            reached += marks(found, scored)
        lag = worst_lag(driver.results)
        reached.append((lag._replace(name=f"{name}: {lag.name}"), ""))
    if not rows:
        return
    if picture is not None:
        others = [one for file in beside for one in json.loads(file.read_text())["rows"]]
        plot([*(AtLoad(**one["line"]) for one in others if "line" in one), *rows], picture)
    click.echo("\n".join([*table(rows), "", *said]))
    for row, why in reached:
        show([row])
        if row.met is False:
            click.echo(f"    {why}")
    lines = [
        {
            **Row(f"{one.set}, {one.load:.0%} {one.policy}: nDCG", one.ndcg)._asdict(),
            "line": one._asdict(),
        }
        for one in rows
    ]
    write([*lines, *(row for row, _ in reached)], file)


if __name__ == "__main__":
    main()
