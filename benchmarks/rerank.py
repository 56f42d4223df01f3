"""Measure the gain and the cost of rescoring in a search.

SciFact-mini in FOLDER: 300 claims, 1,000 abstracts. A first model finds candidates; a second one
sorts the first N of them by the cosine of its own vectors, as a `similarity` reranker does. The
table has the nDCG@10 of each depth, and of the first and the second model alone. CPU time is that
of this process for the second model: one query and N documents, none of them in the cache. As a
slow model takes minutes, `--keep` stores vectors and times for later runs.
"""

import asyncio
import time
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np

from benchmarks.live import with_config
from benchmarks.marks import flat, to_file, write
from benchmarks.public_data import Judged, scifact, whole
from deployments.engines.base import Batch
from deployments.launch.serve_config import application
from deployments.replica.offline import Offline
from router.arrays import Vectors
from router.config import RouterArgs
from router.retrieval import TOP, Found, ndcg, nearest

DEPTHS = (10, 20, 50, 100)


class Embedded(NamedTuple):
    """Vectors of the queries and the documents, and CPU seconds for one of each."""

    queries: Vectors
    documents: Vectors
    query_s: float
    document_s: float


class Search(NamedTuple):
    """One search, and CPU milliseconds of the second model for a query."""

    name: str
    ndcg: float
    new_ms: float | None  # no document of it is in the cache
    cached_ms: float | None  # all are


@click.command()
@whole
@with_config
@click.option(
    "--first", default="wordllama-256", show_default=True, help="Model that finds candidates."
)
@click.option(
    "--second",
    "seconds",
    multiple=True,
    default=("all-minilm-l6-v2", "multilingual-e5-small"),
    show_default=True,
    help="Model that rescores the candidates.",
)
@click.option(
    "--keep",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for vectors and times, which later runs reuse.",
)
@to_file
def main(
    folder: Path,
    config: Path,
    first: str,
    seconds: tuple[str, ...],
    keep: Path | None,
    file: Path | None,
) -> None:
    """Measure nDCG@10 by depth, and print the table."""
    data = scifact(folder, between="\n")  # as the table in docs/reranking.md was made
    args, _ = application(config)
    places = {document.id: place for place, document in enumerate(data.documents)}
    relevant = [{places[id] for id in data.relevant[query.id]} for query in data.queries]
    found = nearest(*_kept(args, first, data, keep)[:2], k=max(DEPTHS))
    rows = [Search(f"{first} alone", points_of(found, relevant), None, None)]
    for second in seconds:
        own = _kept(args, second, data, keep)
        query_ms = 1000 * own.query_s
        for depth in DEPTHS:
            again = rescored(found[:, :depth], own.queries, own.documents)
            new_ms = query_ms + depth * 1000 * own.document_s
            name = f"first {depth} rescored by {second}"
            rows.append(Search(name, points_of(again, relevant), new_ms, query_ms))
        alone = nearest(own.queries, own.documents)
        rows.append(Search(f"{second} alone", points_of(alone, relevant), None, query_ms))
    click.echo(f"nDCG@10 x 100 of {len(relevant)} claims over {len(places)} abstracts\n")
    click.echo("| search | nDCG@10 | CPU ms a query, documents new | documents in the cache |")
    click.echo("|---|---|---|---|")
    for row in rows:
        times = " | ".join("" if ms is None else f"{ms:.0f}" for ms in row[2:])
        click.echo(f"| {row.name} | {row.ndcg:.1f} | {times} |")
    write(flat((row._asdict() for row in rows), "name"), file)


def points_of(found: Found, relevant: list[set[int]]) -> float:
    """nDCG@10 x 100."""
    return float(100 * ndcg(found[:, :TOP], relevant).mean())


def rescored(found: Found, queries: Vectors, documents: Vectors) -> Found:
    """The same documents, sorted by descending cosine with their query."""
    scores = np.einsum("qd,qkd->qk", queries, documents[found])
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1)


def _kept(args: RouterArgs, model: str, data: Judged, folder: Path | None) -> Embedded:
    """Vectors of a model, from `folder` if an earlier run stored them."""
    if folder is None:
        return _of(args, model, data)
    path = folder / f"{model}.npz"
    if not path.exists():
        made = _of(args, model, data)
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(
            path,
            queries=made.queries,
            documents=made.documents,
            query_s=made.query_s,
            document_s=made.document_s,
        )
    with np.load(path) as kept:
        own = {name: kept[name] for name in Embedded._fields}
    return Embedded(
        own["queries"], own["documents"], float(own["query_s"]), float(own["document_s"])
    )


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
