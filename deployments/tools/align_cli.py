"""`embedding-router align`: fit an adapter between two models and measure a search over it."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import click
import orjson
from tqdm import tqdm

from deployments.launch.serve_config import application
from deployments.tools import proof_report
from deployments.tools.align import Material, Remembering, align, read_material
from deployments.tools.client import ServiceClient
from deployments.tools.options import (
    FILE,
    check_judgements,
    check_origin,
    errors_shown,
    origin_options,
)
from deployments.tools.origins import Configured, Served, parse_space
from router import adapters
from router.adapters import METHODS, Adapter, Method
from router.collection_config import CollectionConfig
from router.space import Space

FLOOR: float = CollectionConfig.model_fields["min_recall"].default


@click.command()
@origin_options(
    "Start both engines here.",
    "Take the vectors of this running router instead, as bulk requests.",
)
@click.option(
    "--from",
    "source",
    required=True,
    metavar="MODEL",
    help="The model whose vectors are mapped.",
)
@click.option(
    "--to",
    "target",
    required=True,
    metavar="SPACE",
    help="MODEL or MODEL/DIMENSIONS whose index exists.",
)
@click.option("--texts", required=True, type=FILE, help="Your documents.")
@click.option("--queries", type=FILE, help="Your queries.")
@click.option("--qrels", type=FILE, help="Lines `query document score`.")
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
    what the target's own model finds for the same queries: for documents in the fit, and for
    documents left out of it, as those are that you add later.
    """
    check_origin(path, base_url)
    check_judgements(queries, qrels)
    with errors_shown():
        output.parent.mkdir(parents=True, exist_ok=True)  # it can fail, so before the long part
        given = read_material(texts, queries, qrels, text_field)
        with tqdm(
            disable=None, total=2 * (len(given.fitted) + len(given.queries)), unit="text"
        ) as bar:
            origin = (
                Configured(application(path)[0], bar)
                if path is not None
                else Served(ServiceClient(base_url or "", api_key), bar)
            )
            adapter = asyncio.run(_aligned(origin, source, target, given, method))
            bar.total = bar.n
        adapters.save(adapter, output)
        title = f"{adapter.source} -> {adapter.target}, {adapter.method}"
        plot = proof_report.plot(output.with_suffix(".png"), adapter.proof, FLOOR, title)
    if as_json:
        body = {
            "source": str(adapter.source),
            "target": str(adapter.target),
            "method": adapter.method,
            "texts": adapter.texts,
            "judged_by": adapter.proof.judged_by,
            "file": str(output),
            **proof_report.as_json(adapter.proof),
        }
        click.echo(orjson.dumps(body, option=orjson.OPT_INDENT_2))
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
        spaces = Space(source, origin.dimensions(source)), await parse_space(origin, target)
        fingerprints = {space.model: origin.fingerprint(space.model) for space in spaces}
        return await align(Remembering(origin.embed), *spaces, fingerprints, given, method)


def report(adapter: Adapter) -> Iterator[str]:
    """Format what was measured, overall and by language."""
    yield (
        f"{adapter.source} -> {adapter.target}: {adapter.method}, fitted on {adapter.texts} "
        f"texts, judged by {proof_report.measure(adapter.proof)}"
    )
    yield from proof_report.table(adapter.proof, FLOOR)
