"""Write a corpus in one space with a router's vectors; shared by `migrate` and `index`."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np

from deployments.tools import progress
from deployments.tools.client import ServiceClient
from deployments.tools.corpus import CorpusError, Text, count_rows, read_texts
from deployments.tools.migrate import Manifest, MigrationError, Parts, digest_of, fill, opened
from deployments.tools.options import FILE, together


class Corpus(NamedTuple):
    """Documents in a file, as it is when `taken` is called."""

    file: Path
    text_field: str
    id_field: str | None
    digest: str = ""
    rows: int | None = None  # that are read; None: all

    def taken(self) -> "Corpus":
        """The corpus of now: rows that are added later are not read.

        Raises CorpusError if it has no texts.
        """
        made = self._replace(digest=digest_of(self.file), rows=count_rows(self.file))
        if not made.rows:
            raise CorpusError(f"{self.file} has no texts")
        return made

    def texts(self) -> Iterator[Text]:
        """Read the texts in the order of the file."""
        return islice(read_texts(self.file, self.text_field, self.id_field), self.rows)

    def warn_of_repeated_ids(self) -> None:
        """Say how many rows have an id that an earlier row has; hashes of the ids are held.

        Parts of one document can share its id, so this is no error.
        """
        hashes = np.fromiter((hash(text.id) for text in self.texts()), np.int64)
        if repeated := len(hashes) - len(np.unique(hashes)):
            click.echo(
                f"{repeated} rows have an id that an earlier row has; all rows are written, and "
                "many databases keep one row of an id",
                err=True,
            )


class SendOptions(NamedTuple):
    """Options for sending and storing texts."""

    truncate: str
    batch: int
    in_flight: int
    part_rows: int


pace_options = together(
    click.option(
        "--truncate",
        type=click.Choice(["none", "end", "start"]),
        default="none",
        show_default=True,
    ),
    click.option(
        "--batch",
        type=click.IntRange(1),
        default=64,
        show_default=True,
        help="Texts of one request.",
    ),
    click.option(
        "--in-flight",
        type=click.IntRange(1),
        default=4,
        show_default=True,
        help="Requests at the router at a time.",
    ),
    click.option(
        "--part-rows",
        type=click.IntRange(1),
        default=2048,
        show_default=True,
        help="Rows of one Parquet file.",
    ),
)
corpus_options = together(
    click.option(
        "--texts",
        required=True,
        type=FILE,
        help="Its documents: JSON lines or Parquet with `text` and `id`.",
    ),
    click.option("--text-field", default="text", show_default=True),
    click.option("--id-field", help="Default: `id`, `_id` or the row's number."),
)


class Collection(NamedTuple):
    """A collection's current settings in the router."""

    name: str
    spaces: list[str]
    instruction: str | None
    fingerprints: dict[str, str | None]  # by model, in the router's order
    space_of: dict[str, str]  # by model: the space of its vectors

    def fingerprint(self, space: str) -> str | None:
        """Return the fingerprint of the space's model; None if it has none."""
        return self.fingerprints.get(space.rpartition("/")[0])


async def collection_of(client: ServiceClient, name: str) -> Collection:
    """Return the router's collection of this name. Raises MigrationError if there is none."""
    tiers = await client.tiers()
    collections = tiers["collections"]
    if (known := collections.get(name)) is None:
        has = ", ".join(collections) or "none"
        raise MigrationError(f"the router has no collection {name!r}; it has {has}")
    proofs = {row["model"]: row["fingerprint"] for row in tiers["data"]}
    spaces = known.get("spaces") or [known["space"]]
    own = {row["model"]: row["space"] for row in tiers["data"]}
    return Collection(name, spaces, known["instruction"], proofs, own)


async def write_space(
    client: ServiceClient,
    space: str,
    fingerprint: str | None,
    corpus: Corpus,
    pace: SendOptions,
    folder: Path,
) -> Parts:
    """Embed the rows of the corpus, which was taken, that `folder` lacks, in one space.

    Raises MigrationError, CorpusError, RequestRefused and RouterAway; finished parts stay.
    """
    assert corpus.rows is not None, "the corpus is taken before anything is written"
    options = {"space": space, "input_type": "document", "truncate": pace.truncate}
    manifest = Manifest(
        space,
        fingerprint,
        corpus.digest,
        corpus.text_field,
        corpus.id_field,
        corpus.rows,
        pace.part_rows,
        pace.truncate,
    )
    with opened(folder, manifest) as parts:
        rows, missing = manifest.rows, sum(map(len, parts.missing()))
        with progress.bar(total=rows, initial=rows - missing, unit="text", desc=space) as bar:
            await fill(
                parts, corpus.texts(), client, options, pace.batch, pace.in_flight, bar.update
            )
    return parts
