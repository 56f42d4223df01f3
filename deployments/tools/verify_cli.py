"""`embedding-router verify`: check an index against the model that serves its space now."""

import asyncio
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import orjson

from deployments.tools import progress
from deployments.tools.align import AlignError
from deployments.tools.migrate import truncate_of
from deployments.tools.options import FILE, check_origin, errors_shown, origin_options
from deployments.tools.origins import Cut, Origin, origin_of, parse_space
from deployments.tools.verify import FEWEST_TEXTS, Sample, Verdict, Verified, read_sample, verify
from router.collection_config import CollectionConfig
from router.proof import RetainedQuality
from router.space import Space, fit

FLOOR: float = CollectionConfig.model_fields["min_recall"].default
EXIT_CODES: dict[Verdict, int] = {"keep": 0, "bridge": 3, "migrate": 4}


@click.command()
@origin_options("Start the engine here, whatever its fingerprint says.")
@click.option(
    "--index",
    required=True,
    type=click.Path(exists=True, path_type=Path),
    help="Parquet with `id`, `text` and `vector`: a file, or a folder of them.",
)
@click.option("--texts", type=FILE, help="The texts by `id`, where the index does not hold them.")
@click.option("--text-field", default="text", show_default=True)
@click.option(
    "--space", "target", required=True, metavar="MODEL/DIMENSIONS", help="The space of the index."
)
@click.option(
    "--sample",
    type=click.IntRange(FEWEST_TEXTS),
    default=2000,
    show_default=True,
    help="Texts that are embedded again, evenly spread over the index.",
)
@click.option(
    "--min-recall",
    type=click.FloatRange(0, 1, min_open=True),
    default=FLOOR,
    show_default=True,
    help="Minimum share of search quality to keep.",
)
@click.option("--json", "as_json", is_flag=True, help="What was measured, as JSON.")
@click.pass_context
def main(
    context: click.Context,
    path: Path | None,
    base_url: str | None,
    api_key: str | None,
    index: Path,
    texts: Path | None,
    text_field: str,
    target: str,
    sample: int,
    min_recall: float,
    as_json: bool,
) -> None:
    """Check whether the model that serves a space now makes the vectors of an index of it.

    A sample of the stored texts is embedded again and compared with the stored vectors: after an
    upgrade, with another precision, or when a hosted model could have changed. The exit status is 0
    for keep (the search finds what it found), 3 for bridge (it does over an adapter), 4 for migrate
    (embed the documents again), 1 where nothing could be judged.
    """
    check_origin(path, base_url)
    with errors_shown():
        given = read_sample(index, texts, text_field, sample)
        with progress.bar(total=len(given.texts), unit="text") as bar:
            truncate: Cut = "start" if truncate_of(_folder(index)) == "start" else "end"
            origin = origin_of(
                path, base_url, api_key, target, bar, proves=False, truncate=truncate, fresh=True
            )
            found, space, prompted = asyncio.run(_verified(origin, given, target, min_recall))
    if as_json:
        click.echo(orjson.dumps(as_plain(found, space, min_recall), option=orjson.OPT_INDENT_2))
    else:
        click.echo("\n".join(report(found, space, prompted)))
    context.exit(EXIT_CODES[found.verdict])


def _folder(index: Path) -> Path:
    return index if index.is_dir() else index.parent


async def _verified(
    found: Awaitable[Origin], given: Sample, target: str, min_recall: float
) -> tuple[Verified, Space, bool]:
    """Return the verdict, the space, and whether the model got its prompts."""
    origin = await found
    async with origin:
        space = await parse_space(origin, target)
        size = given.vectors.shape[1]
        if size != space.dimensions:
            raise AlignError(
                f"the index holds vectors of {size} dimensions, and {space} has "
                f"{space.dimensions}: it is an index of another space"
            )
        rows: dict[str, int] = {}  # a text that stands twice is embedded once
        places = [rows.setdefault(text.text, len(rows)) for text in given.texts]
        made = await origin.embed(space.model, list(rows), "document")
        now = fit(made, space.dimensions)[places]
        verdict = await verify(given, space, now, min_recall)
        return verdict, space, origin.sends_prompts


def as_plain(found: Verified, space: Space, min_recall: float) -> dict[str, Any]:
    """Return what was measured, for --json."""
    bridged = found.bridged
    return {
        "space": str(space),
        "texts": found.texts,
        "cosine": {
            "median": float(np.median(found.cosines)),
            "p1": float(np.quantile(found.cosines, 0.01)),
            "least": float(found.cosines.min()),
        },
        "min_recall": min_recall,
        **_lost(found.kept),
        "by_language": {name: _lost(kept) for name, kept in found.by_language.items()},
        "bridge": None
        if bridged is None
        else {
            **_lost(bridged),
            "by_language": {n: _lost(kept) for n, kept in found.bridged_by_language.items()},
        },
        "not_bridged": found.not_bridged,
        "verdict": found.verdict,
    }


def _lost(kept: RetainedQuality) -> dict[str, Any]:
    return {
        "queries": kept.queries,
        "recall_lost": 1 - kept.recall,
        "recall_lost_interval": (1 - kept.recall_high, 1 - kept.recall_low),
    }


def report(found: Verified, space: Space, prompted: bool = True) -> Iterator[str]:
    """Format what was measured, and what to do; `prompted`: the model got its prompts."""
    middle, low, minimum = np.median(found.cosines), *np.quantile(found.cosines, [0.01, 0])
    yield f"{found.texts} texts of {space}, embedded again by what serves it now"
    yield (
        f"cosine with the stored vectors: median {middle:.4f}, 1 % below {low:.4f}, "
        f"least {minimum:.4f}"
    )
    yield f"recall@10 lost: {_percent(found.kept)}"
    for name, kept in found.by_language.items():
        yield f"  {name:8} {kept.queries:6d} texts  {_percent(kept)}"
    if found.bridged is not None:
        yield f"recall@10 lost over an adapter, left out of its fit: {_percent(found.bridged)}"
        for name, kept in found.bridged_by_language.items():
            yield f"  {name:8} {kept.queries:6d} texts  {_percent(kept)}"
    if not prompted and found.verdict != "keep":
        yield "this server got no prompts: if the model has prompts, verify through a router"
    untried = f"; a bridge was not tried: {found.not_bridged}" if found.not_bridged else ""
    yield f"{found.verdict}: {_DO[found.verdict].format(space=space, model=space.model)}{untried}"


_DO: dict[Verdict, str] = {
    "keep": "the index and what serves {space} now belong together",
    "bridge": (
        "what serves {space} now is another model than that of the index; give it a name of its "
        "own, and while {model} as it was can still be embedded with, `embedding-router align` "
        "makes an adapter for queries"
    ),
    "migrate": (
        "what serves {space} now is another model than that of the index; go back to the weights, "
        "pooling and prompts that made it, or embed the documents again with `embedding-router "
        "migrate`"
    ),
}


def _percent(kept: RetainedQuality) -> str:
    return f"{1 - kept.recall:.1%} [{1 - kept.recall_high:.1%}, {1 - kept.recall_low:.1%}]"
