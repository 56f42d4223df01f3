"""`embedding-router align`: an adapter between two models, with what a search over it keeps."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import click
import numpy as np
import orjson
from tqdm import tqdm

from deployments.engines.base import EngineError
from deployments.launch.serve_config import application
from deployments.replica.offline import Offline
from deployments.tools.align import AlignError, Material, Remembering, align, material
from deployments.tools.client import BaseUrl, Client, RequestRefused, RouterAway
from deployments.tools.corpus import CorpusError, read_judgements, read_texts
from router import adapters
from router.adapters import METHODS, Adapter, Kept, Method
from router.arrays import Vectors
from router.config import CollectionConfig, RouterArgs
from router.fingerprint import digest_of
from router.schema import Side
from router.space import Space
from router.spaces import Catalogue

TEXTS_A_REQUEST = 64
FLOOR: float = CollectionConfig.model_fields["min_recall"].default


@click.command()
@click.option(
    "--config",
    "path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Start both engines here.",
)
@click.option(
    "--base-url",
    type=BaseUrl(),
    help="Take the vectors of this running router instead, on its bulk lane.",
)
@click.option(
    "--api-key",
    envvar="EMBEDDING_ROUTER_API_KEY",
    help="For --base-url; or EMBEDDING_ROUTER_API_KEY.",
)
@click.option(
    "--from",
    "source",
    required=True,
    metavar="MODEL",
    help="The model whose vectors shall be mapped.",
)
@click.option(
    "--to",
    "target",
    required=True,
    metavar="SPACE",
    help="MODEL or MODEL/DIMENSIONS whose index exists.",
)
@click.option(
    "--texts",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Your documents.",
)
@click.option(
    "--queries", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Your queries."
)
@click.option(
    "--qrels",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Lines `query document score`.",
)
@click.option("--text-field", default="text", show_default=True)
@click.option("--method", type=click.Choice(METHODS), default=METHODS[0], show_default=True)
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.npz",
)
@click.option("--json", "as_json", is_flag=True, help="What the adapter keeps, as JSON.")
def main(
    path: Path | None,
    base_url: str | None,
    api_key: str | None,
    source: str,
    target: str,
    texts: Path,
    queries: Path | None,
    qrels: Path | None,
    text_field: str,
    method: Method,
    output: Path,
    as_json: bool,
) -> None:
    """Fit a map from one model's vectors into another model's space, and measure what a search over
    it keeps.

    Texts and queries are JSON lines or Parquet with `text` and, where judgements name them, `id`.
    Use your own: text of another domain makes a map that fails on yours. The figures are shares of
    what the target's own model finds for the same queries.
    """
    if (path is None) == (base_url is None):
        raise click.UsageError("give either --config or --base-url")
    if qrels is not None and queries is None:
        raise click.UsageError("--qrels judges queries: give --queries too")
    try:
        given = material(
            list(read_texts(texts, text_field)),
            None if queries is None else list(read_texts(queries, text_field)),
            None if qrels is None else read_judgements(qrels),
        )
        with tqdm(total=2 * (len(given.fitted) + len(given.queries)), unit="text") as bar:
            origin = (
                Configured(application(path)[0], bar)
                if path is not None
                else Served(Client(base_url or "", api_key), bar)
            )
            adapter = asyncio.run(_aligned(origin, source, target, given, method))
            bar.total = bar.n
    except (AlignError, CorpusError, EngineError, RequestRefused, RouterAway) as error:
        raise click.ClickException(str(error)) from None
    output.parent.mkdir(parents=True, exist_ok=True)
    adapters.save(adapter, output)
    plot = _plot(output.with_suffix(".png"), adapter)
    if as_json:
        rows = [{"queries": name, **kept._asdict()} for name, kept in _rows(adapter)]
        told = {
            "source": str(adapter.source),
            "target": str(adapter.target),
            "method": adapter.method,
            "texts": adapter.texts,
            "judged_by": adapter.judged_by,
            "file": str(output),
            "kept": rows,
        }
        click.echo(orjson.dumps(told, option=orjson.OPT_INDENT_2))
        return
    click.echo("\n".join(report(adapter)))
    click.echo(f"wrote {output}{f' and {plot}' if plot else '; install matplotlib for a plot'}")
    click.echo(
        f"in the config: collections: {{NAME: {{space: {adapter.target}, adapters: [{output}]}}}}"
    )


async def _aligned(
    origin: "Configured | Served", source: str, target: str, given: Material, method: Method
) -> Adapter:
    async with origin:
        spaces = Space(source, origin.dimensions(source)), await _space(origin, target)
        fingerprints = {space.model: origin.fingerprint(space.model) for space in spaces}
        return await align(Remembering(origin.embed), *spaces, fingerprints, given, method)


async def _space(origin: "Configured | Served", text: str) -> Space:
    try:
        space = Space.parse(text)
    except ValueError:
        return Space(text, origin.dimensions(text))
    if origin.dimensions(space.model) != space.dimensions:
        await origin.check(space)
    return space


class Configured:
    """The models of a config, their engines started here as they are needed."""

    def __init__(self, args: RouterArgs, bar: "tqdm[None]") -> None:
        self._args, self._bar, self._stack = args, bar, AsyncExitStack()
        self._running: dict[str, Offline] = {}

    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    def dimensions(self, model: str) -> int:
        """Of the model's own vectors; raises AlignError for an unknown one."""
        if model not in self._args.models:
            raise AlignError(
                f"there is no model {model!r}; there are {', '.join(self._args.models)}"
            )
        return self._args.models[model].dimensions

    async def check(self, space: Space) -> None:
        """Raise AlignError where the model has no vectors of this size."""
        if not self._args.models[space.model].serves(space.dimensions):
            sizes = Catalogue(self._args).sizes(space.model)
            raise AlignError(
                f"{space.model} has no vectors of {space.dimensions} dimensions; it has {sizes}"
            )

    def fingerprint(self, model: str) -> str:
        """Digest of what the model proves to be; raises AlignError where it has none."""
        if (config := self._args.models[model].fingerprint) is None:
            raise _unknown(model)
        return digest_of(config, model, self._args.base_dir)

    async def embed(self, model: str, texts: Sequence[str], side: Side) -> Vectors:
        """Vectors of the model's own size."""
        if model not in self._running:
            self._running[model] = await self._stack.enter_async_context(Offline(self._args, model))
        _expect(self._bar, model, len(texts))
        return await self._running[model].embed(texts, side, done=self._bar.update)


class Served:
    """The models of a running router."""

    def __init__(self, client: Client, bar: "tqdm[None]") -> None:
        self._client, self._bar = client, bar
        self._rows: dict[str, dict[str, Any]] = {}

    async def __aenter__(self) -> None:
        self._rows = {row["model"]: row for row in (await self._client.tiers())["data"]}

    async def __aexit__(self, *exc: object) -> None:
        await self._client.close()

    def dimensions(self, model: str) -> int:
        """Of the model's own vectors; raises AlignError for an unknown one."""
        if model not in self._rows:
            raise AlignError(f"there is no model {model!r}; there are {', '.join(self._rows)}")
        return int(self._rows[model]["dimensions"])

    async def check(self, space: Space) -> None:
        """Raise RequestRefused where the model has no vectors of this size."""
        await self._client.embed(["ready?"], space=str(space))

    def fingerprint(self, model: str) -> str:
        """Digest of what the model proves to be; raises AlignError where it has none."""
        if (digest := self._rows[model]["fingerprint"]) is None:
            raise _unknown(model)
        return str(digest)

    async def embed(self, model: str, texts: Sequence[str], side: Side) -> Vectors:
        """Vectors of the model's own size."""
        _expect(self._bar, model, len(texts))
        made = []
        for start in range(0, len(texts), TEXTS_A_REQUEST):
            some = texts[start : start + TEXTS_A_REQUEST]
            made.append(
                (
                    await self._client.embed(some, model=model, input_type=side, truncate="end")
                ).vectors
            )
            self._bar.update(len(some))
        return np.concatenate(made)


def _unknown(model: str) -> AlignError:
    return AlignError(
        f"{model} has no `fingerprint`, so nobody could tell later whether the adapter is for "
        "its weights; "
        "make one with `embedding-router fingerprint`"
    )


def _expect(bar: "tqdm[None]", model: str, texts: int) -> None:
    bar.set_description(model)
    bar.total = max(bar.total, bar.n + texts)


def report(adapter: Adapter) -> Iterator[str]:
    """What was measured, overall and by language."""
    measure = (
        "your judgements"
        if adapter.judged_by == "judgements"
        else "what the target's own model finds"
    )
    yield (
        f"{adapter.source} -> {adapter.target}: {adapter.method}, fitted on {adapter.texts} "
        f"texts, judged by {measure}"
    )
    yield (
        f"{'':10}{'queries':>8}  {'recall@10: own':>14} {'over it':>8} {'kept':>16}  "
        f"{'nDCG@10: own':>13} {'over it':>8}  kept"
    )
    for name, kept in _rows(adapter):
        yield (
            f"{name:10}{kept.queries:8d}  {kept.own_recall:14.3f} "
            f"{kept.own_recall * kept.recall:8.3f} "
            f"{kept.recall:8.1%} ±{2 * kept.error:6.1%}  {kept.own_ndcg:13.3f} "
            f"{kept.own_ndcg * kept.ndcg:8.3f} {kept.ndcg:7.1%}"
        )
    if adapter.kept.recall < FLOOR:
        yield (
            f"less than a collection's min_recall of {FLOOR:.0%}: the router will refuse it "
            "unless you lower that"
        )


def _rows(adapter: Adapter) -> list[tuple[str, Kept]]:
    return [("all", adapter.kept), *adapter.by_language.items()]


def _plot(file: Path, adapter: Adapter) -> str | None:
    """Recall and nDCG kept, overall and by language, beside the floor; None without matplotlib."""
    try:
        import matplotlib
    except ModuleNotFoundError:
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = _rows(adapter)
    figure, axes = pyplot.subplots(figsize=(6.5, 1.8 + 0.5 * len(rows)), layout="constrained")
    places = np.arange(len(rows))
    recalls, errors = (
        [100 * kept.recall for _, kept in rows],
        [200 * kept.error for _, kept in rows],
    )
    axes.barh(
        places - 0.2,
        recalls,
        0.38,
        xerr=errors,
        label="recall@10",
        color="tab:blue",
        ecolor="black",
        capsize=2,
    )
    axes.barh(
        places + 0.2,
        [100 * kept.ndcg for _, kept in rows],
        0.38,
        label="nDCG@10",
        color="tab:orange",
    )
    axes.axvline(
        100 * FLOOR, color="black", linestyle="--", linewidth=1, label=f"min_recall {FLOOR:.0%}"
    )
    axes.set_yticks(places, [f"{name} ({kept.queries})" for name, kept in rows])
    axes.invert_yaxis()
    axes.set(
        xlabel="% kept of what the own model finds",
        xlim=(0, 1.05 * max(*recalls, 100.0)),
        title=f"{adapter.source} -> {adapter.target}, {adapter.method}",
    )
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=3,
        fontsize=8,
        frameon=False,
    )
    figure.savefig(file, dpi=120)
    pyplot.close(figure)
    return file.name
