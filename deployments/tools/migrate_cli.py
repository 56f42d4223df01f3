"""`embedding-router migrate`: embed a collection in another space, with spare capacity."""

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
from tqdm import tqdm

from deployments.tools.align import FEWEST_DOCUMENTS, AlignError, check_documents
from deployments.tools.client import ServiceClient
from deployments.tools.corpus import Text, read_some
from deployments.tools.migrate import MigrationError, Parts, check_weights, read_vectors
from deployments.tools.options import FILE, FOLDER, check_parquet, errors_shown, router_options
from deployments.tools.writing import (
    Corpus,
    SendOptions,
    collection_of,
    corpus_options,
    pace_options,
    write_space,
)
from router.arrays import Vectors
from router.retrieval import TOP, nearest, overlap
from router.schema import Side


class Moving(NamedTuple):
    """Current settings of a collection with one space."""

    name: str
    space: str
    instruction: str | None


class MigrateOptions(NamedTuple):
    """The command's options."""

    collection: str
    target: str
    corpus: Corpus
    pace: SendOptions
    output: Path
    queries: Path | None
    old: Path | None
    sample: int


ALIKE, UNLIKE = 0.8, 0.5  # shares of common results


@click.command()
@router_options("A running router that has both models.")
@click.option(
    "--collection",
    required=True,
    help="The collection that moves; its old space serves until the config changes.",
)
@click.option(
    "--to", "target", required=True, metavar="MODEL/DIMENSIONS", help="The space it moves to."
)
@corpus_options
@click.option("-o", "--output", required=True, type=FOLDER, metavar="DIR")
@click.option("--queries", type=FILE, help="Your own queries, for the report.")
@click.option(
    "--old",
    type=click.Path(exists=True, path_type=Path),
    help="The old index, Parquet with `id` and `vector`.",
)
@click.option(
    "--sample",
    type=click.IntRange(TOP),
    default=2000,
    show_default=True,
    help="Documents that the report compares.",
)
@pace_options
@click.option("--json", "as_json", is_flag=True, help="What was written and compared, as JSON.")
def main(
    base_url: str,
    api_key: str | None,
    collection: str,
    target: str,
    texts: Path,
    text_field: str,
    id_field: str | None,
    output: Path,
    queries: Path | None,
    old: Path | None,
    sample: int,
    truncate: str,
    batch: int,
    in_flight: int,
    part_rows: int,
    as_json: bool,
) -> None:
    """Embed a collection's documents in another space, while it goes on being served in its old
    one.

    Everything is sent as bulk requests, which yield to all others. Kill it at any moment and
    start it again with the same options: nothing is lost and nothing is done twice. At the end it
    compares what the old and the new index find for your queries, and says what to change in the
    config.
    """
    check_parquet()
    with errors_shown():
        job = MigrateOptions(
            collection,
            target,
            Corpus(texts, text_field, id_field),
            SendOptions(truncate, batch, in_flight, part_rows),
            output,
            queries,
            old,
            sample,
        )
        asyncio.run(_migrate(ServiceClient(base_url, api_key), job, as_json))


async def _migrate(client: ServiceClient, job: MigrateOptions, as_json: bool) -> None:
    async with client:
        # This refuses an unknown space before a long corpus is read, and replaces another name of a
        # model by its id.
        job = job._replace(
            target=(await client.embed(["ready?"], space=job.target, input_type="document")).space
        )
        queries = [] if job.queries is None else read_some(job.queries, job.corpus.text_field)
        moving, proof = await _moving(client, job.collection, job.target)
        job = job._replace(corpus=job.corpus.taken())
        job.corpus.warn_of_repeated_ids()
        documents = _sampled(job) if queries else []
        parts = await write_space(client, job.target, proof, job.corpus, job.pace, job.output)
        rows = parts.manifest.rows
        summary: dict[str, Any] = {
            "folder": str(job.output),
            "collection": job.collection,
            "old": moving.space,
            "new": job.target,
            "vectors": rows,
            "files": len(parts.ranges()),
            "report": None,
        }
        if not as_json:
            click.echo(
                f"{job.output}: {rows} vectors of {job.target} in {len(parts.ranges())} files"
            )
        if queries:
            found = await _compare(client, moving, parts, queries, documents, job.old)
            await check_weights(client, {job.target.rpartition("/")[0]: proof})
            (job.output / "report.json").write_text(json.dumps(found, indent=1) + "\n")
            summary["report"] = found
            if not as_json:
                click.echo(_summary(found))
    if as_json:
        click.echo(json.dumps(summary, indent=2))
        return
    click.echo(
        f"load {job.output} into your index, and cut over with one change in the config "
        "(docs/vector-spaces.md):"
    )
    click.echo(f"  collections.{job.collection}.space: {job.target}    # was {moving.space}")


def _sampled(job: MigrateOptions) -> list[Text]:
    """Return the documents that the report compares, which have ids of their own.

    Raises AlignError if they are too few, before a long corpus is embedded.
    """
    assert job.corpus.rows is not None, "the corpus was taken"
    rows, most = job.corpus.rows, min(job.sample, job.corpus.rows)
    sampled = set(np.linspace(0, rows - 1, most, dtype=np.int64).tolist())
    found = [text for row, text in enumerate(job.corpus.texts()) if row in sampled]
    wanted = {text.id for text in found}
    stand = Counter(text.id for text in job.corpus.texts() if text.id in wanted)
    found = [text for text in found if stand[text.id] == 1]  # results are compared by id
    try:
        check_documents([text.text for text in found])
    except AlignError as error:
        raise AlignError(
            f"{error} that share no id, or omit --queries to compare nothing"
        ) from None
    return found


async def _moving(client: ServiceClient, name: str, target: str) -> tuple[Moving, str | None]:
    """The collection that moves, and the fingerprint of the model it moves to."""
    known = await collection_of(client, name)
    if target in known.spaces:
        raise MigrationError(f"collection {name!r} is of {target} already")
    if len(known.spaces) > 1:
        raise MigrationError(
            f"collection {name!r} has several spaces, {', '.join(known.spaces)}; add {target} to "
            "them, and `embedding-router index` makes its index"
        )
    return Moving(name, known.spaces[0], known.instruction), known.fingerprint(target)


async def _compare(
    client: ServiceClient,
    moving: Moving,
    parts: Parts,
    queries: list[Text],
    documents: list[Text],
    old: Path | None,
) -> dict[str, Any]:
    """Compare what both indexes find among the same documents."""
    instruction = {} if moving.instruction is None else {"instruction": moving.instruction}
    new = read_vectors(parts.folder, {document.id for document in documents})
    with tqdm(
        disable=None,
        total=2 * len(queries) + (0 if old else len(documents)),
        unit="text",
        desc="report",
    ) as bar:

        async def embedded(texts: Sequence[Text], space: str, side: Side) -> Vectors:
            rows = []
            for start in range(0, len(texts), 64):
                some = [text.text for text in texts[start : start + 64]]
                more = instruction if side == "query" else {}
                rows.append(
                    (
                        await client.embed(
                            some, space=space, input_type=side, truncate="end", **more
                        )
                    ).vectors
                )
                bar.update(len(some))
            return np.concatenate(rows)

        if old is None:
            before = dict(
                zip(
                    (text.id for text in documents),
                    await embedded(documents, moving.space, "document"),
                    strict=True,
                )
            )
        else:
            before = read_vectors(old, set(new))
        both = [id for id in new if id in before]
        if len(both) < FEWEST_DOCUMENTS:
            raise MigrationError(
                f"{old} has {len(both)} of {len(new)} sampled documents, and the report takes "
                f"{FEWEST_DOCUMENTS}: its ids are not those of the corpus"
            )
        old_found = nearest(
            await embedded(queries, moving.space, "query"), np.stack([before[id] for id in both])
        )
        new_found = nearest(
            await embedded(queries, parts.manifest.space, "query"),
            np.stack([new[id] for id in both]),
        )
    shared = overlap(old_found, new_found)
    return {
        "collection": moving.name,
        "old": moving.space,
        "new": parts.manifest.space,
        "queries": len(queries),
        "documents": len(both),
        f"overlap@{TOP}": round(float(shared.mean()), 4),
        "overlap_of_the_worst_tenth": round(float(np.quantile(shared, 0.1)), 4),
        "same_first": round(float((old_found[:, 0] == new_found[:, 0]).mean()), 4),
    }


def _summary(found: dict[str, Any]) -> str:
    return (
        f"{found['queries']} queries over {found['documents']} documents: the old and the new "
        "index share "
        f"{found[f'overlap@{TOP}']:.1%} of their first {TOP} results "
        f"({found['overlap_of_the_worst_tenth']:.0%} or less for a "
        f"tenth of the queries), and {found['same_first']:.1%} of their first ones\n"
        f"{_meaning(found[f'overlap@{TOP}'])}"
    )


def _meaning(shared: float) -> str:
    """Explain what a share of common results means, and what to do."""
    if shared >= ALIKE:
        return "Searches keep most of their results: switch when the migration is complete."
    seen = "Many" if shared >= UNLIKE else "Most"
    return (
        f"{seen} results change. That says nothing about which index is better: judge some queries "
        "first (embedding-router advise --texts FILE --queries FILE --qrels FILE), and keep the "
        "old index until then."
    )
