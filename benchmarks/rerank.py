"""What rescoring adds to a search, and what it costs: `python -m benchmarks rerank --data FOLDER`.

SciFact-mini in FOLDER: 300 claims, 1000 abstracts. A first model finds candidates, a second one
puts the first N of them in a new order by the cosine of its own vectors, as a `similarity` reranker
does. nDCG@10 of each depth stands beside the first and the second model alone. CPU time is that of
this process for the second model: one query, and N documents where none of them is in the cache.
"""

import asyncio
import time
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np

from benchmarks.public_data import Judged, scifact, whole
from deployments.engines.base import Batch
from deployments.launch.serve_config import application
from deployments.replica.offline import Offline
from router.arrays import Vectors
from router.config import RouterArgs
from router.retrieval import TOP, Found, ndcg, nearest

DEPTHS = (10, 20, 50, 100)
CONFIG = Path(__file__).resolve().parents[1] / "configs" / "local.yaml"


class Embedded(NamedTuple):
    """Vectors of the queries and the documents, and CPU seconds of one of each."""

    queries: Vectors
    documents: Vectors
    query_s: float
    document_s: float


@click.command()
@whole
@click.option(
    "--config",
    default=CONFIG,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Has the models.",
)
@click.option("--first", default="wordllama-256", show_default=True, help="Finds candidates.")
@click.option(
    "--second",
    "seconds",
    multiple=True,
    default=("all-minilm-l6-v2", "multilingual-e5-small"),
    show_default=True,
    help="Rescores them.",
)
def main(folder: Path, config: Path, first: str, seconds: tuple[str, ...]) -> None:
    """Measure nDCG@10 by depth, and print the table."""
    data = scifact(folder, between="\n")  # as the table in docs/reranking.md was made
    args, _ = application(config)
    places = {document.id: place for place, document in enumerate(data.documents)}
    relevant = [{places[id] for id in data.relevant[query.id]} for query in data.queries]
    found = nearest(*_of(args, first, data)[:2], k=max(DEPTHS))
    alone = 100 * ndcg(found[:, :TOP], relevant).mean()
    click.echo(f"nDCG@10 x 100 of {len(relevant)} claims over {len(places)} abstracts\n")
    click.echo("| search | nDCG@10 | CPU ms a query, documents new | documents in the cache |")
    click.echo("|---|---|---|---|")
    click.echo(f"| {first} alone | {alone:.1f} | | |")
    for second in seconds:
        own = _of(args, second, data)
        for depth in DEPTHS:
            again = rescored(found[:, :depth], own.queries, own.documents)
            points = 100 * ndcg(again[:, :TOP], relevant).mean()
            new_ms = 1000 * (own.query_s + depth * own.document_s)
            name = f"first {depth} rescored by {second}"
            click.echo(f"| {name} | {points:.1f} | {new_ms:.0f} | {1000 * own.query_s:.0f} |")
        points = 100 * ndcg(nearest(own.queries, own.documents), relevant).mean()
        click.echo(f"| {second} alone | {points:.1f} | | {1000 * own.query_s:.0f} |")


def rescored(found: Found, queries: Vectors, documents: Vectors) -> Found:
    """The same documents by falling cosine with their query."""
    scores = np.einsum("qd,qkd->qk", queries, documents[found])
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1)


def _of(args: RouterArgs, model: str, data: Judged) -> Embedded:
    queries, documents = ([one.text for one in some] for some in (data.queries, data.documents))
    return asyncio.run(_embedded(args, model, queries, documents))


async def _embedded(
    args: RouterArgs, model: str, queries: list[str], documents: list[str]
) -> Embedded:
    async with Offline(args, model, proves=False) as offline:
        await offline.embed(documents[:1], "document")  # the first one loads what is loaded late
        began = time.process_time()
        made = await offline.embed(documents, "document")
        document_s = (time.process_time() - began) / len(documents)
        rows = []
        began = time.process_time()
        for query in queries:  # one at a time, as they come
            prepared = offline.preparer.prepare([query], "query", None, [model])[model]
            batch = Batch(ids=prepared.ids, texts=prepared.texts, input_type="query")
            rows.append((await offline.engine.embed(batch)).vectors)
        query_s = (time.process_time() - began) / len(queries)
    return Embedded(np.concatenate(rows), made, query_s, document_s)
