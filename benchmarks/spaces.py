"""Measure the cost of mixing two spaces, and the search quality that adapters keep.

Real models on SciFact-mini (300 claims, 1,000 abstracts, relevance judged by people): recall@10 and
nDCG@10.

The trap: all-minilm-l6-v2 and multilingual-e5-small both produce 384 dimensions. A router that
takes whichever is free mixes them in one index, and no error shows it; here every text goes to one
of the two alternately.

Adapters are fitted on the abstracts alone, on these and their sentences, or on text of another
domain (sentence pairs, questions of bank customers), and searched with the claims, which are in no
fit. Each is judged twice, with the relevant abstracts in the fit and with these left out of it.
`--mpnet FOLDER` adds all-mpnet-base-v2 from its folder. `--keep FOLDER` stores vectors, so that an
interrupted run continues. The last column is the message of a router that starts with a collection
with this adapter; it accepts none between models without a fingerprint.
"""

import asyncio
import csv
import re
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np

from benchmarks.live import with_config
from benchmarks.marks import Row, numbers, to_file, write
from benchmarks.public_data import scifact, whole
from deployments.launch.serve_config import application
from deployments.replica.offline import Offline
from deployments.tools.align import Material, Remembering, align
from deployments.tools.corpus import Text
from deployments.tools.proof_report import ndcg_kept, recall_kept
from deployments.tools.vector_store import VectorStore
from router.adapters import METHODS, Adapter, Method, save
from router.arrays import Vectors
from router.collection_config import CollectionConfig
from router.config import RouterArgs
from router.encoder_check import load_encoders
from router.fingerprint import digest_of
from router.model_config import ModelConfig
from router.retrieval import ndcg, nearest, recall
from router.schema import Side
from router.space import Space
from router.strict import ConfigError

TABLE, MINILM, E5, MPNET = (
    "wordllama-256",
    "all-minilm-l6-v2",
    "multilingual-e5-small",
    "all-mpnet-base-v2",
)
CHUNK = 25  # texts embedded and kept at a time
FOREIGN = 6000


class Data(NamedTuple):
    """Search data and fit data."""

    documents: list[Text]
    queries: list[Text]
    judgements: dict[str, set[str]]
    sentences: list[Text]
    foreign: list[Text]


def read_data(folder: Path) -> Data:
    """SciFact-mini and, as text of another domain, STS benchmark and banking77."""
    documents, queries, judgements = scifact(folder)
    sentences = {
        part: Text(document.id, part)  # a part of a document is left out with it
        for document in documents
        for part in re.split(r"(?<=[.!?])\s+", document.text)
        if len(part) > 25
    }
    foreign: dict[str, None] = {}
    for name in ("stsb-en.csv", "banking77-train.csv", "banking77-test.csv"):
        with (folder / name).open(newline="") as file:
            for row in csv.reader(file):
                foreign |= dict.fromkeys(row[: 2 if name.startswith("stsb") else 1])
    places = np.linspace(0, len(foreign) - 1, FOREIGN, dtype=np.int64)
    others = sorted(foreign)
    return Data(
        documents,
        queries,
        judgements,
        list(sentences.values()),
        [Text(f"foreign {place}", others[place]) for place in places],
    )


class Engines:
    """An Embed over engines of this process, started on demand."""

    def __init__(self, args: RouterArgs, stack: AsyncExitStack) -> None:
        self._args, self._stack = args, stack
        self._running: dict[str, Offline] = {}

    async def __call__(self, model: str, texts: Sequence[str], side: Side) -> Vectors:
        if model not in self._running:
            self._running[model] = await self._stack.enter_async_context(Offline(self._args, model))
        return await self._running[model].embed(texts, side)


async def trap(embed: Remembering, data: Data, figures: list[Row]) -> list[str]:
    """Recall of one model's index, the other's, and a mixed one."""
    texts, asked = (
        [document.text for document in data.documents],
        [query.text for query in data.queries],
    )
    places = {document.id: place for place, document in enumerate(data.documents)}
    relevant = [
        {places[id] for id in data.judgements[query.id] if id in places} for query in data.queries
    ]
    documents = {model: await embed(model, texts, "document") for model in (MINILM, E5)}
    queries = {model: await embed(model, asked, "query") for model in (MINILM, E5)}

    def turns(vectors: dict[str, Vectors]) -> Vectors:
        mixed = vectors[MINILM].copy()
        mixed[1::2] = vectors[E5][1::2]
        return mixed

    lines = [f"{'index':44} {'recall@10':>9} {'nDCG@10':>8}"]
    for name, index, search in (
        (f"pinned to {MINILM}/384", documents[MINILM], queries[MINILM]),
        (f"pinned to {E5}/384", documents[E5], queries[E5]),
        ("both alternately, documents and queries", turns(documents), turns(queries)),
        ("documents of the first, queries of the second", documents[MINILM], queries[E5]),
    ):
        places_found = nearest(search, index)
        found = {
            "recall@10": float(recall(places_found, relevant).mean()),
            "nDCG@10": float(ndcg(places_found, relevant).mean()),
        }
        lines.append(f"{name:44} {found['recall@10']:9.3f} {found['nDCG@10']:8.3f}")
        figures += numbers(name, found)
    return lines


async def bridges(
    embed: Remembering,
    args: RouterArgs,
    data: Data,
    methods: Sequence[Method],
    more: bool,
    figures: list[Row],
) -> list[str]:
    """Recall kept by each map."""
    pairs = [(TABLE, MINILM), (MINILM, E5), (E5, MINILM), (TABLE, E5)]
    if MPNET in args.models:
        pairs += [(MINILM, MPNET), (MPNET, MINILM)]
    fitted = {"abstracts": data.documents}
    if more:
        fitted |= {
            "and sentences": [*data.documents, *data.sentences],
            "another domain": data.foreign,
        }
        fitted["all of these"] = [*data.documents, *data.sentences, *data.foreign]
    digests = {
        name: digest_of(model.fingerprint, name, args.base_dir, model.revision)
        if model.fingerprint
        else ""
        for name, model in args.models.items()
    }
    heads = (
        f"{'fitted on':16} {'texts':>6}  {'method':10} {'recall@10 kept: in the fit':>28} "
        f"{'left out':>22} {'nDCG@10 kept: in the fit':>28} {'left out':>22}  a router"
    )
    lines = [f"{'from':22} {'to':22} {heads}"]
    for source, target in pairs:
        for on, texts in fitted.items():
            for method in methods:
                given = Material(texts, data.documents, data.queries, data.judgements)
                own, into = (
                    Space(model, args.models[model].dimensions) for model in (source, target)
                )
                made = await align(embed, own, into, digests, given, method)
                fitted_on, unseen = made.proof.fitted, made.proof.unseen
                lines.append(
                    f"{source:22} {target:22} {on:16} {made.texts:6d}  {method:10} "
                    f"{recall_kept(fitted_on):>28} {recall_kept(unseen):>22} "
                    f"{ndcg_kept(fitted_on):>28} {ndcg_kept(unseen):>22}  {verdict(args, made)}"
                )
                click.echo(lines[-1], err=True)
                kept = {"in the fit": fitted_on._asdict(), "left out": unseen._asdict()}
                figures += numbers(f"{source} to {target}, {on}, {method}", kept)
    return lines


def verdict(args: RouterArgs, adapter: Adapter) -> str:
    """Whether a router with these models accepts a collection that names the adapter."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "adapter.npz"
        save(adapter, file)
        collection = CollectionConfig(space=str(adapter.target), adapters=(str(file),))
        try:
            load_encoders(args.model_copy(update={"collections": {"docs": collection}}))
        except ConfigError as error:
            return "no fingerprint" if "no `fingerprint`" in str(error) else "refuses it"
    return "takes it"


def with_mpnet(args: RouterArgs, folder: Path) -> RouterArgs:
    """The models and all-mpnet-base-v2, served by transformers, as vLLM does not support its
    architecture.
    """
    mpnet = ModelConfig.model_validate(
        {
            "engine": {"kind": "transformers", "source": str(folder), "pooling": "mean"},
            "tokenizer": str(folder),
            "dimensions": 768,
            "max_tokens": 384,
        }
    )
    return args.model_copy(update={"models": {**args.models, MPNET: mpnet}})


async def measure(
    args: RouterArgs, data: Data, keep: Path | None, methods: Sequence[Method], more: bool
) -> list[Row]:
    """Print both tables; return their figures."""
    figures = list[Row]()
    async with AsyncExitStack() as stack:
        engines = Engines(args, stack)
        embed = Remembering(engines if keep is None else VectorStore(engines, keep, CHUNK))
        click.echo("\n".join(await trap(embed, data, figures)) + "\n")
        click.echo("\n".join(await bridges(embed, args, data, methods, more, figures)))
    return figures


@click.command()
@with_config
@whole
@click.option(
    "--mpnet",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of all-mpnet-base-v2.",
)
@click.option(
    "--keep",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for vectors between runs.",
)
@click.option(
    "--method",
    "methods",
    type=click.Choice(METHODS),
    multiple=True,
    default=METHODS[:1],
    show_default=True,
)
@click.option(
    "--more",
    is_flag=True,
    help="Also fit on sentences and on another domain; takes several times as long.",
)
@to_file
def main(
    config: Path,
    folder: Path,
    mpnet: Path | None,
    keep: Path | None,
    methods: tuple[Method, ...],
    more: bool,
    file: Path | None,
) -> None:
    """Measure the trap and the adapters."""
    args, _ = application(config)
    if mpnet is not None:
        args = with_mpnet(args, mpnet)
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
    write(asyncio.run(measure(args, read_data(folder), keep, methods, more)), file)


if __name__ == "__main__":
    main()
