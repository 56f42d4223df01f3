"""`embedding-router index`: embed a collection in each of its spaces, and compare these."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click

from deployments.tools import progress
from deployments.tools.align import AlignError, Material
from deployments.tools.client import ServiceClient
from deployments.tools.corpus import read_judgements, read_texts
from deployments.tools.index import Compared, chosen, compare, own_vectors
from deployments.tools.migrate import MigrationError, Parts, check_weights
from deployments.tools.options import (
    FILE,
    FOLDER,
    check_judgements,
    check_parquet,
    errors_shown,
    router_options,
)
from deployments.tools.proof_report import ndcg_kept, recall_kept
from deployments.tools.writing import (
    Collection,
    Corpus,
    SendOptions,
    collection_of,
    corpus_options,
    pace_options,
    write_space,
)
from router import measured
from router.arrays import Indices, Vectors
from router.measured import Measured
from router.proof import Proof
from router.retrieval import TOP

PROOF = "proof.json"


class IndexOptions(NamedTuple):
    """The command's options."""

    collection: str
    corpus: Corpus
    pace: SendOptions
    output: Path
    queries: Path | None
    qrels: Path | None
    best: str | None
    encoders: tuple[str, ...]
    sample: int


@click.command()
@router_options("A running router that has the collection.")
@click.option("--collection", required=True, help="A collection of one or several spaces.")
@corpus_options
@click.option("-o", "--output", required=True, type=FOLDER, metavar="DIR")
@click.option("--queries", type=FILE, help="Your own queries, to measure the spaces with.")
@click.option("--qrels", type=FILE, help="Lines `query document score`.")
@click.option(
    "--best",
    metavar="MODEL/DIMENSIONS",
    help="The space that the others are compared with.  [default: that of the highest nDCG@10 "
    "with --qrels, otherwise that of the router's largest model]",
)
@click.option(
    "--encoder",
    "encoders",
    multiple=True,
    metavar="MODEL",
    help="Measure queries by this model of the router too, in the best space: the same weights in "
    "another precision.",
)
@click.option(
    "--sample",
    type=click.IntRange(TOP),
    default=100_000,
    show_default=True,
    help="Documents that are searched to measure; those that are relevant are always among them.",
)
@pace_options
@click.option("--json", "as_json", is_flag=True, help="What was written and measured, as JSON.")
def main(
    base_url: str,
    api_key: str | None,
    collection: str,
    texts: Path,
    text_field: str,
    id_field: str | None,
    output: Path,
    queries: Path | None,
    qrels: Path | None,
    best: str | None,
    encoders: tuple[str, ...],
    sample: int,
    truncate: str,
    batch: int,
    in_flight: int,
    part_rows: int,
    as_json: bool,
) -> None:
    """Embed a collection's documents in each of its spaces: Parquet with `id` and `vector`, ready
    for your database.

    Each space gets a folder, DIR/MODEL/DIMENSIONS. Everything is sent as bulk requests, which yield
    to all other requests. Kill it at any moment and start it again with the same options: every
    text ends there exactly once. With --queries it measures what a search in each other space keeps
    of a search in the best one, and writes DIR/proof.json, which the config names as the
    collection's `proof`. With --qrels it also measures recall@10 and nDCG@10 of the best one, which
    may be the only one. --encoder does the same for a model that is to make queries of the best
    space; the config names the file as that model's `proof`.
    """
    check_parquet()
    check_judgements(queries, qrels)
    if encoders and queries is None:
        raise click.UsageError("--encoder is measured with queries: give --queries too")
    job = IndexOptions(
        collection,
        Corpus(texts, text_field, id_field),
        SendOptions(truncate, batch, in_flight, part_rows),
        output,
        queries,
        qrels,
        best,
        encoders,
        sample,
    )
    with errors_shown():
        asyncio.run(_index(ServiceClient(base_url, api_key), job, as_json))


async def _index(client: ServiceClient, job: IndexOptions, as_json: bool) -> None:
    async with client:
        found = await collection_of(client, job.collection)
        _check(job, found)
        job = job._replace(corpus=job.corpus.taken())
        job.corpus.warn_of_repeated_ids()
        several = len(found.spaces) > 1 or bool(job.encoders)
        given = None
        if job.queries is not None and (several or job.qrels is not None):
            given = _chosen(job)
        written: dict[str, Parts] = {}
        summaries: list[dict[str, Any]] = []
        for space in found.spaces:
            folder = job.output / space
            parts = await write_space(
                client, space, found.fingerprint(space), job.corpus, job.pace, folder
            )
            written[space] = parts
            rows, files = parts.manifest.rows, len(parts.ranges())
            summaries.append(
                {"space": space, "folder": str(folder), "vectors": rows, "files": files}
            )
            if not as_json:
                click.echo(f"{folder}: {rows} vectors of {space} in {files} files")
        compared = None
        if given is not None:
            compared = await _measure(client, job, found, written, *given)
            if compared.kept:
                measured.save(_as_measured(found, compared), job.output / PROOF)
    if as_json:
        body = {
            "collection": job.collection,
            "spaces": summaries,
            "proof": None if compared is None else _as_plain(job, compared),
        }
        click.echo(json.dumps(body, indent=2))
    else:
        click.echo("\n".join(_report(job, found, compared)))


def _check(job: IndexOptions, found: Collection) -> None:
    """Raise MigrationError for what can be refused before a long corpus is embedded."""
    if job.best is not None and job.best not in found.spaces:
        raise MigrationError(
            f"--best {job.best} is no space of collection {found.name!r}, which has "
            f"{', '.join(found.spaces)}"
        )
    for model in job.encoders:
        if model not in found.fingerprints:
            raise MigrationError(
                f"--encoder {model} is no model of the router, which has "
                f"{', '.join(found.fingerprints)}"
            )
    models = [*(space.rpartition("/")[0] for space in found.spaces), *job.encoders]
    for model in models:
        if model not in found.fingerprints:
            raise MigrationError(
                f"your key may not use {model}, the model of a space of collection "
                f"{found.name!r}: all spaces are written, so use a key that may use their models"
            )
    if job.queries is None or len(models) < 2:
        return
    for model in models:
        if found.fingerprints[model] is None:
            raise MigrationError(
                f"{model} has no `fingerprint`, so nothing could show later that it is the model "
                "that was measured; make one with `embedding-router fingerprint`, or omit --queries"
            )


def _chosen(job: IndexOptions) -> tuple[Material, Indices]:
    """Return what is measured with, and the documents' rows in the corpus.

    Raises AlignError and CorpusError, before a long corpus is embedded.
    """
    assert job.queries is not None
    queries = list(read_texts(job.queries, job.corpus.text_field))
    judgements = None if job.qrels is None else read_judgements(job.qrels)
    try:
        return chosen(job.corpus, queries, judgements, job.sample)
    except AlignError as error:
        raise AlignError(f"{error}; omit --queries to measure nothing") from None


async def _measure(
    client: ServiceClient,
    job: IndexOptions,
    found: Collection,
    written: dict[str, Parts],
    given: Material,
    rows: Indices,
) -> Compared:
    more = {} if found.instruction is None else {"instruction": found.instruction}
    total = (len(found.spaces) + len(job.encoders)) * len(given.queries)
    with progress.bar(total=total, unit="query", desc="proof") as bar:

        async def asked(model: str, space: str) -> Vectors:
            options = {"space": space, "model": model, "truncate": "end", "input_type": "query"}
            made = []
            for start in range(0, len(given.queries), job.pace.batch):
                some = [query.text for query in given.queries[start : start + job.pace.batch]]
                made.append(await client.embed(some, **options, **more))
                bar.update(len(some))
            return own_vectors(made)

        own = {space: await asked(space.rpartition("/")[0], space) for space in found.spaces}
        others = {model: await asked(model, found.space_of[model]) for model in job.encoders}
    models = {*(space.rpartition("/")[0] for space in found.spaces), *job.encoders}
    await check_weights(client, {model: found.fingerprints[model] for model in models})
    best = job.best or (None if given.judgements is not None else _largest(found))
    return compare(given, rows, written, own, best, others)


def _largest(found: Collection) -> str:
    """Return the space of the router's largest model, in its largest size."""
    ranks = {model: rank for rank, model in enumerate(found.fingerprints)}

    def size(space: str) -> tuple[int, int]:
        model, _, dimensions = space.rpartition("/")
        return ranks[model], int(dimensions)

    return max(found.spaces, key=size)


def _as_measured(found: Collection, compared: Compared) -> Measured:
    models = {space.rpartition("/")[0] for space in found.spaces} | compared.kept.keys()
    models &= found.fingerprints.keys()
    digests = {model: found.fingerprints[model] or "" for model in sorted(models)}
    return Measured(compared.best, compared.kept, digests, found.instruction)


def _as_plain(job: IndexOptions, compared: Compared) -> dict[str, Any]:
    return {
        "file": str(job.output / PROOF) if compared.kept else None,
        "best": str(compared.best),
        "judged_by": compared.judged_by,
        "queries": compared.queries,
        "documents": compared.documents,
        "own_recall": compared.own_recall if job.qrels else None,
        "own_ndcg": compared.own_ndcg if job.qrels else None,
        "kept": {
            space: {
                "recall_kept": proof.unseen.recall,
                "recall_kept_interval": proof.unseen[2:4],
                "ndcg_kept": proof.unseen.ndcg,
                "ndcg_kept_interval": proof.unseen[5:7],
                "by_language": {
                    name: {"recall_kept": kept.recall, "recall_kept_interval": kept[2:4]}
                    for name, kept in proof.unseen_by_language.items()
                },
            }
            for space, proof in compared.kept.items()
        },
    }


def _report(job: IndexOptions, found: Collection, compared: Compared | None) -> Iterator[str]:
    """Format what was measured, and what to write into the config."""
    if compared is not None:
        measure = "your judgements" if job.qrels else f"what {compared.best} finds"
        own = (
            f", recall@10 {compared.own_recall:.3f}, nDCG@10 {compared.own_ndcg:.3f}"
            if job.qrels
            else ""
        )
        yield (
            f"{compared.queries} queries over {compared.documents} documents, judged by {measure}; "
            f"best: {compared.best}{own}"
        )
        for name, kept in compared.kept.items():
            yield from _lines(name, kept)
    elif len(found.spaces) > 1:
        yield "nothing was measured: give --queries, and --qrels if you have judgements"
    elif job.queries is not None:
        yield (
            f"nothing was measured: collection {found.name!r} has one space, so give --qrels to "
            "measure what its search finds, or --encoder to compare another model"
        )
    yield f"load each folder of {job.output} into an index of its own"
    if compared is None or not compared.kept:
        return
    proof, encoders = job.output / PROOF, ", ".join(job.encoders)
    for model in job.encoders:
        yield f"in the config: models: {{{model}: {{space_of: {compared.best}, proof: {proof}}}}}"
    own = (
        f"spaces: [{', '.join(found.spaces)}], proof: {proof}"
        if len(found.spaces) > 1
        else f"space: {compared.best}"
    )
    more = f", encoders: [{encoders}]" if encoders else ""
    yield f"in the config: collections: {{{found.name}: {{{own}{more}}}}}"


def _lines(name: str, proof: Proof) -> Iterator[str]:
    named = {"all": proof.unseen, **proof.unseen_by_language}
    for language, kept in named.items():
        yield (
            f"  {name}  {language:8} {kept.queries:6d} queries  recall@10 kept "
            f"{recall_kept(kept)}  nDCG@10 kept {ndcg_kept(kept)}"
        )
