"""Measure the points of quality that a latency budget costs.

Texts of 12 languages, code, and texts of two languages (tests/data/language, or the full files in
`--data FOLDER`) are read as a router reads them. The config's rules decide them at several budgets,
with every model as idle as in its profile. `best` is the largest number of points among models
within the budget that the target allows (none is larger than the target), by the enumeration in
tests/support/decision_oracle.py; points are the config's.

With `--search`, each question of Chinese XQuAD is embedded by the chosen model and the paragraphs
by every model. The result is the nDCG@10 of each question in the index of its own model.
"""

import asyncio
import inspect
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import click
import numpy as np

from benchmarks.languages import ACROSS_SCRIPTS, labelled, pairs
from benchmarks.live import with_config
from benchmarks.marks import Row, flat, to_file, write
from benchmarks.public_data import sample, xquad_zh
from benchmarks.spaces import Engines
from deployments.launch.serve_config import application
from deployments.service.prepare import Preparer
from router import domain, ledger, policy, retrieval, rules
from router.config import RouterArgs
from router.domain import Decision, Load, Model, Request, work_of
from router.features import extract
from router.models import build_models, build_policy
from router.policy import decide
from router.retrieval import ndcg, nearest
from router.rules import Policy
from router.schema import Side
from tests.support import decision_oracle

LANGUAGES = ("en", "de", "fr", "es", "tr", "ru", "ar", "hi", "th", "ko", "ja", "zh")
BUDGETS_MS = (None, 60.0, 30.0, 15.0, 6.0)
CODE: tuple[ModuleType, ...] = (domain, ledger, policy, retrieval, rules)


class Kind(NamedTuple):
    """The texts of one kind at one budget."""

    kind: str
    budget_ms: float | None
    texts: int
    late: int  # no model is in time: the soonest one answers, and counts below
    chosen: float  # mean points of the chosen models
    best: float  # of the best that are in time, or the chosen one where none is
    models: Mapping[str, int]


def texts_by_kind(folder: Path) -> dict[str, list[str]]:
    """Languages, `code` and `mixed`."""
    kinds: dict[str, list[str]] = {language: [] for language in LANGUAGES}
    for one in labelled(folder):
        if one.language in kinds:
            kinds[one.language].append(one.text)
    kinds["code"] = [
        inspect.getsource(function)
        for module in CODE
        for _, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__
    ]
    kinds["mixed"] = [one.text for one in pairs(folder, "mixed") if one.language in ACROSS_SCRIPTS]
    return kinds


class Decider:
    """Decides texts as an idle router of this config does."""

    def __init__(self, args: RouterArgs) -> None:
        self._args, self._preparer = args, Preparer(args)
        known = build_models(args)
        self.models: dict[str, Model] = {name: known[name] for name in args.native}
        self.policy: Policy = build_policy(args.routing, args.tiers)
        self.loads = dict.fromkeys(self.models, Load())

    def request(self, text: str, side: Side | None, budget_ms: float | None) -> Request:
        """A free request, as the router decides it."""
        read = self._preparer.prepare([text], side, None, self.models)
        return Request(
            work={
                name: work_of(
                    one.counts, self._args.models[name].attention_tokens, self.models[name].long
                )
                for name, one in read.items()
            },
            features=extract([text], None, self._args.routing.language_prior),
            deadline_s=None if budget_ms is None else budget_ms / 1000.0,
            input_type=side,
            unread={
                name: share
                for name, one in read.items()
                if (share := one.unread_by(self.policy.min_share))
            },
        )

    def decide(self, request: Request) -> Decision:
        """Decide at time 0."""
        return decide(self.policy, request, self.models, self.loads, 0.0)

    def points(self, request: Request, model: str) -> float:
        """The config's figure of a model for this text."""
        points = decision_oracle.points(self.models[model], request.features)
        assert points is not None, f"{model} has no figure"
        return points

    def feasible(self, request: Request, target: str) -> list[str]:
        """Models that are in time and can read the text, none larger than the target, by
        enumeration.
        """
        limit = self.models[target].rank
        least = min(request.unread.get(name, 0.0) for name in self.models)
        return [
            name
            for name, model in self.models.items()
            if model.rank <= limit
            and request.work[name].longest <= model.max_tokens
            and request.unread.get(name, 0.0) <= max(self.policy.max_unread, least)
            and (
                request.deadline_s is None
                or decision_oracle.total_s(model.curve, self.loads[name], request.work[name])
                <= request.deadline_s
            )
        ]


def rows(decider: Decider, kinds: Mapping[str, Sequence[str]]) -> list[Kind]:
    """A row for each kind of text and each budget."""
    return [
        _row(decider, kind, texts, budget_ms)
        for kind, texts in kinds.items()
        for budget_ms in BUDGETS_MS
    ]


def _row(decider: Decider, kind: str, texts: Sequence[str], budget_ms: float | None) -> Kind:
    chosen, best, late, models = list[float](), list[float](), 0, Counter[str]()
    for text in texts:
        request = decider.request(text, None, budget_ms)
        decision = decider.decide(request)
        assert decision.model is not None
        assert decision.target is not None
        feasible = decider.feasible(request, decision.target)
        late += not feasible
        models[decision.model] += 1
        chosen.append(decider.points(request, decision.model))
        best.append(max((decider.points(request, name) for name in feasible), default=chosen[-1]))
    return Kind(
        kind, budget_ms, len(texts), late, float(np.mean(chosen)), float(np.mean(best)), models
    )


class Searched(NamedTuple):
    """Chinese questions at one budget, or by one model alone."""

    name: str
    ndcg: float
    models: Mapping[str, int]


async def searched(args: RouterArgs, folder: Path) -> list[Searched]:
    """Results of questions answered within a budget, and of each model alone."""
    data, decider = xquad_zh(folder), Decider(args)
    places = {document.id: place for place, document in enumerate(data.documents)}
    relevant = [{places[id] for id in data.relevant[query.id]} for query in data.queries]
    scores = {}
    async with AsyncExitStack() as stack:
        embed = Engines(args, stack)
        for model in decider.models:
            documents = await embed(model, [one.text for one in data.documents], "document")
            queries = await embed(model, [one.text for one in data.queries], "query")
            scores[model] = ndcg(nearest(queries, documents), relevant)
    found = [
        Searched(f"{model} alone", float(each.mean()), {model: len(each)})
        for model, each in scores.items()
    ]
    for budget_ms in BUDGETS_MS:
        decisions = [
            decider.decide(decider.request(query.text, "query", budget_ms))
            for query in data.queries
        ]
        models = [decision.model for decision in decisions if decision.model is not None]
        each = [scores[model][place] for place, model in enumerate(models)]
        found.append(Searched(budget(budget_ms), float(np.mean(each)), Counter(models)))
    return found


def budget(milliseconds: float | None) -> str:
    """Budget formatted for a heading."""
    return "no budget" if milliseconds is None else f"{milliseconds:g} ms"


def shares(models: Mapping[str, int]) -> str:
    """Share of each model."""
    return ", ".join(f"{name} {count}" for name, count in sorted(models.items()))


@click.command()
@with_config
@sample
@click.option(
    "--search", is_flag=True, help="Also search Chinese XQuAD, which --data must contain."
)
@to_file
def main(config: Path, folder: Path, search: bool, file: Path | None) -> None:
    """Print the cost of each budget."""
    args = application(config)[0]
    found = rows(Decider(args), texts_by_kind(folder))
    click.echo("points of the chosen models, and of the best within the budget (late texts)")
    click.echo(f"{'texts':<11}" + "".join(f"{budget(each):>16}" for each in BUDGETS_MS))
    for kind in dict.fromkeys(row.kind for row in found):
        line = [row for row in found if row.kind == kind]
        cells = (
            f"{row.chosen:.1f} {row.best:.1f}" + (f" ({row.late})" if row.late else "")
            for row in line
        )
        click.echo(f"{kind:<6} {line[0].texts:4d}" + "".join(f"{cell:>16}" for cell in cells))
    figures = [*flat((one._asdict() for one in found), "kind", "budget_ms")]
    if search:
        click.echo(f"\n{'Chinese questions':<28} {'nDCG@10':>7}  answered by")
        for one in asyncio.run(searched(args, folder)):
            click.echo(f"{one.name:<28} {100 * one.ndcg:7.1f}  {shares(one.models)}")
            figures.append(Row(f"Chinese questions, {one.name}: nDCG", one.ndcg))
    write(figures, file)


if __name__ == "__main__":
    main()
