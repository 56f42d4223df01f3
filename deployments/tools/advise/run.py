"""Embed every text with every model, and keep the vectors in a folder.

    OUT/vectors/MODEL/SIDE/part-*   the vectors, as `embedding-router migrate` keeps them: a part
                                    that exists is complete
    OUT/latency.jsonl               a line for each round of each model

A run that was killed continues where it stopped. A run that is complete makes its report again
without the service.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from deployments.tools.advise.survey import (
    INPUT_TYPES,
    SIDES,
    AdvisePlan,
    ServedModel,
    TextSide,
)
from deployments.tools.client import ServiceClient
from deployments.tools.corpus import Text
from deployments.tools.migrate import Manifest, check_weights, fill, opened, read_vectors
from deployments.tools.progress import PredictedWork
from router.arrays import Vectors

PART_ROWS = 256


class RemainingWork(NamedTuple):
    """The texts that a model has yet to embed."""

    model: str
    texts: int
    seconds: float  # of its replicas, as the service predicts


def estimate(plan: AdvisePlan, output: Path) -> list[RemainingWork]:
    """Estimate the remaining work, by model."""
    made = []
    for candidate in plan.candidates:
        left = {side: _missing(output, candidate, side, plan.texts[side]) for side in SIDES}
        seconds = sum(
            left[side] * plan.predicted_s[candidate.name].get(side, 0.0) for side in SIDES
        )
        made.append(RemainingWork(candidate.name, sum(left.values()), seconds))
    return made


async def embed_all(
    client: ServiceClient, plan: AdvisePlan, output: Path, batch: int, in_flight: int
) -> None:
    """Embed the missing texts with every model, from small to large, as bulk requests.

    Raises MigrationError if a model is not the one that the run was begun with.
    """
    todo = estimate(plan, output)
    if not any(each.texts for each in todo):
        return
    await check_weights(client, {each.name: each.fingerprint for each in plan.candidates})
    # Progress is counted in predicted seconds: models differ a hundredfold per text.
    with PredictedWork(sum(each.seconds for each in todo)) as work:
        for candidate in plan.candidates:
            for side in SIDES:
                texts = plan.texts[side]
                if not _missing(output, candidate, side, texts):
                    continue
                work.part(f"{candidate.name}, {side} texts")
                each_s = plan.predicted_s[candidate.name][side]
                options = {"space": candidate.space, "truncate": "end", **INPUT_TYPES[side]}
                with opened(_folder(output, candidate, side), _manifest(candidate, texts)) as parts:
                    rows = (Text(str(row), text) for row, text in enumerate(texts))
                    await fill(
                        parts,
                        rows,
                        client,
                        options,
                        batch,
                        in_flight,
                        lambda done, each_s=each_s: work.done(done * each_s),  # type: ignore[misc]
                    )


def vectors_of(
    plan: AdvisePlan, output: Path, candidate: ServedModel, side: TextSide
) -> dict[str, Vectors]:
    """Read the kept vectors of a model by text; they have length 1."""
    texts = plan.texts[side]
    if not texts:
        return {}
    by_row = read_vectors(_folder(output, candidate, side))
    return {text: by_row[str(row)] for row, text in enumerate(texts)}


def _folder(output: Path, candidate: ServedModel, side: TextSide) -> Path:
    return output / "vectors" / candidate.name / side


def _manifest(candidate: ServedModel, texts: Sequence[str]) -> Manifest:
    # run.json has a digest of the inputs, so their size is enough here.
    return Manifest(
        candidate.space,
        candidate.fingerprint,
        f"{sum(map(len, texts))} characters",
        "text",
        None,
        len(texts),
        PART_ROWS,
    )


def _missing(output: Path, candidate: ServedModel, side: TextSide, texts: Sequence[str]) -> int:
    """Count texts without a vector; does not create the folder."""
    folder, rows = _folder(output, candidate, side), len(texts)
    starts = range(0, rows, PART_ROWS)
    ends = [min(start + PART_ROWS, rows) for start in starts]
    names = [
        f"part-{start:09d}-{end - 1:09d}.parquet" for start, end in zip(starts, ends, strict=True)
    ]
    return sum(
        end - start
        for name, start, end in zip(names, starts, ends, strict=True)
        if not (folder / name).exists()
    )
