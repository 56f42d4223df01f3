"""Measure the search quality that students keep on documents outside their training.

SciFact-mini: 300 claims searched over 1,000 abstracts, relevance judged by people. `general` is
trained on no abstract; `general + own` is then trained on the abstracts' sentences; `own` on these
alone. Each is judged with the relevant abstracts in its fit and, by folds, with these left out.
Smaller fits use some of the abstracts and search all of them. `cosine` is the mean cosine of the
student's and the teacher's vectors of the claims. The last columns are CPU seconds of the training
of one student, milliseconds of a query (one at a time, one thread, tokeniser included), and
megabytes of the file. `--set xquad-zh --model multilingual-e5-small` uses another teacher, in
Chinese.

`python -m benchmarks general_texts` writes general texts. `--most N` uses the first N of them; the
figures of each student include their number. `--keep FOLDER` keeps vectors between runs. `--save
FILE` writes the general student with its proof: all documents are outside its training, so both
figures are the same.
"""

import asyncio
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np

from benchmarks.live import with_config
from benchmarks.marks import Row, numbers, to_file, write
from benchmarks.public_data import SETS, Judged, whole
from benchmarks.spaces import MINILM, Engines
from deployments.launch.serve_config import application
from deployments.tools.align import Material, Remembering
from deployments.tools.corpus import read_rows
from deployments.tools.distill import (
    MAX_WORDS,
    Distilled,
    Start,
    Teacher,
    Words,
    distil_general,
    distil_own,
    general_start,
)
from deployments.tools.distill_cli import WORDPIECES
from deployments.tools.proof_report import ndcg_kept, recall_kept
from deployments.tools.vector_store import Embed, VectorStore
from deployments.tools.vocabulary import wordpieces
from router.arrays import Vectors
from router.fingerprint import digest_of
from router.model_config import resolve_path
from router.space import Space
from router.student import Student, save

TEXTS_A_FILE = 512
SIZES = (125, 250, 500)  # of documents in a fit, and then all of them


def query_ms(student: Student, queries: list[str]) -> tuple[float, float]:
    """The median and the 99th percentile of single queries."""
    student.encode(queries[:50])
    took = []
    for query in queries:
        began = time.perf_counter()
        student.encode([query])
        took.append(1000 * (time.perf_counter() - began))
    return float(np.median(took)), float(np.percentile(took, 99))


def megabytes(student: Student) -> float:
    """The size of the student's file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "student.npz"
        save(student, file)
        return file.stat().st_size / 1e6


class QueryVectors(NamedTuple):
    """The queries, and the teacher's vectors of them."""

    texts: list[str]
    vectors: Vectors


def line(name: str, documents: int, made: Distilled, queries: QueryVectors) -> Iterator[Row]:
    """Print one line of the table; return its figures."""
    student = made.student
    proof = student.about.proof
    assert proof is not None
    middle, late = query_ms(student, queries.texts)
    near = float((student.encode(queries.texts) * queries.vectors).sum(axis=1).mean())
    overlap, size = student.about.overlap or 0.0, megabytes(student)
    click.echo(
        f"{name:16} {documents:9d} {recall_kept(proof.fitted):>24} "
        f"{recall_kept(proof.unseen):>24} {ndcg_kept(proof.fitted):>24} "
        f"{ndcg_kept(proof.unseen):>24} {overlap:7.1%} {near:6.3f} {made.training_s:8.1f} "
        f"{middle:6.3f} ({late:.3f}) {size:5.1f}"
    )
    kept = {"in the fit": proof.fitted._asdict(), "left out": proof.unseen._asdict()}
    costs = {"overlap": overlap, "cosine": near, "training, s": made.training_s, "MB": size}
    times = {"p50, ms": middle, "p99, ms": late}
    texts = {"general texts": student.about.general_texts}
    return numbers(f"{name}, {documents}", {**kept, **costs, **times, **texts})


def likeness(vectors: Vectors) -> float:
    """The mean cosine of two sets of unit vectors."""
    count = len(vectors)
    total = vectors.sum(axis=0, dtype=np.float64)
    return float((total @ total - count) / (count * (count - 1)))


def some(data: Judged, count: int) -> Material:
    """A fit on `count` of the documents, and a search over all."""
    order = np.random.default_rng(0).permutation(len(data.documents))[:count]
    fitted = [data.documents[place] for place in sorted(order.tolist())]
    return Material(fitted, data.documents, data.queries, data.relevant)


async def measure(
    config: Path,
    name: str,
    data: Judged,
    general: list[Path],
    most: int | None,
    most_words: int,
    keep: Path | None,
    output: Path | None,
) -> list[Row]:
    """Print the table and write the general student; return the figures."""
    args, _ = application(config)
    model = args.models[name]
    assert model.fingerprint is not None
    digest = digest_of(model.fingerprint, name, args.base_dir)
    sizes = [size for size in SIZES if size < len(data.documents)] + [len(data.documents)]
    words = Words(wordpieces(resolve_path(WORDPIECES)), most_words)
    found = list[Row]()
    async with AsyncExitStack() as stack:
        engines: Embed = Engines(args, stack)
        store = engines if keep is None else VectorStore(engines, keep, TEXTS_A_FILE)
        teacher = Teacher(Remembering(store), Space(name, model.dimensions), digest)
        queries = [query.text for query in data.queries]
        asked = QueryVectors(queries, await teacher.queries(queries))
        documents = await teacher.documents([document.text for document in data.documents])
        alike = likeness(documents)
        click.echo(
            f"Two documents have a cosine of {alike:.3f} on average for the teacher", err=True
        )
        found.extend(numbers("teacher", {"cosine of two documents": alike}))
        click.echo(
            f"{'student':16} {'documents':>9} {'recall kept: in the fit':>24} {'left out':>24} "
            f"{'nDCG kept: in the fit':>24} {'left out':>24} overlap cosine training "
            "ms p50 (p99)    MB"
        )

        async def row(
            kind: str, start: Start | None, count: int, epochs: int | None = None
        ) -> Student:
            given = some(data, count)
            made = await distil_own(teacher, given, start, words, epochs)
            found.extend(line(kind, count if epochs != 0 else 0, made, asked))
            return made.student

        start: Start | None = None
        if general:
            rows = [one for file in general for one in read_rows(file)][:most]
            licences = [str(one.get("licence", "not said")) for one in rows]
            began = time.process_time()
            texts = [str(one["text"]) for one in rows]
            await teacher.queries(texts)
            start = await general_start(teacher, words, texts, licences)
            student = (await distil_general(teacher, start)).student
            click.echo(
                f"general: {len(texts)} texts, {student.about.tokens} tokens, "
                f"{time.process_time() - began:.0f} CPU seconds with the teacher's where not kept",
                err=True,
            )
            judged = await row("general", start, sizes[-1], 0)
            if output is not None:
                save(judged, output)
        for count in reversed(sizes):
            if general:
                await row("general + own", start, count)
            await row("own", None, count)
    return found


@click.command()
@with_config
@whole
@click.option("--set", "name", type=click.Choice(list(SETS)), default="scifact", show_default=True)
@click.option("--model", default=MINILM, show_default=True, help="Teacher model.")
@click.option(
    "--general",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File of general texts; without it, only `own` is measured.",
)
@click.option(
    "--most",
    type=click.IntRange(1),
    help="Use only the first N general texts, for slow teachers.",
)
@click.option(
    "--keep",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for vectors between runs.",
)
@click.option("--words", default=MAX_WORDS, show_default=True, help="Maximum number of word rows.")
@click.option(
    "--save",
    "output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File for the general student.",
)
@to_file
def main(
    config: Path,
    folder: Path,
    name: str,
    model: str,
    general: tuple[Path, ...],
    most: int | None,
    keep: Path | None,
    words: int,
    output: Path | None,
    file: Path | None,
) -> None:
    """Measure students."""
    if output is not None and not general:
        raise click.UsageError("--save writes the general student: give --general")
    if most is not None and not general:
        raise click.UsageError("--most counts general texts: give --general")
    data = SETS[name].read(folder)
    found = asyncio.run(measure(config, model, data, list(general), most, words, keep, output))
    write(found, file)


if __name__ == "__main__":
    main()
