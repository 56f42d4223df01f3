"""The needs of a measurement: the models of the service, and the cost of a run.

OUT/run.json    what is measured: a digest of the inputs, the models, how texts turn into tokens
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from deployments.tools.advise.inputs import Inputs
from deployments.tools.client import ServiceClient
from deployments.tools.errors import ToolError
from deployments.tools.migrate import write_whole
from deployments.tools.progress import bar
from router.language import script_of

TextSide = Literal["document", "query", "symmetric"]
SIDES: tuple[TextSide, ...] = ("query", "symmetric", "document")
INPUT_TYPES: dict[
    TextSide, dict[str, str]
] = {  # symmetric: both texts of a comparison get the model's default prompt
    "document": {"input_type": "document"},
    "query": {"input_type": "query"},
    "symmetric": {"input_type": "clustering"},
}
SAMPLED = 24  # texts of a script whose tokens are counted
SCRIPTS = 8
PREDICTED = 16  # texts of the request that the cost is predicted from
FORMAT = 1


class AdviseError(ToolError):
    """The measurement cannot go on; the message says what to do."""


class ServedModel(NamedTuple):
    """A model of the service, as in /v1/tiers; candidates are ordered from small to large."""

    name: str
    tiers: tuple[str, ...]
    dimensions: int
    cuts: tuple[int, ...]  # sizes that it was trained for, up to its own, ascending
    max_tokens: int
    devices: float  # of all its ready replicas
    memory_bytes: int | None
    engine: str
    fingerprint: str | None = None  # None: it has none
    configured: Mapping[str, float] = {}  # `quality` of the config

    @property
    def space(self) -> str:
        """The model's own vector space."""
        return f"{self.name}/{self.dimensions}"


class TokenEstimator(NamedTuple):
    """Estimates the tokens that a model makes of a text.

    Each script has a line, fitted to counted samples.
    """

    # by script, "" for any other: tokens = first + second * characters
    lines: dict[str, tuple[float, float]]

    def of(self, characters: int, script: str | None) -> int:
        """Estimate the tokens of a text."""
        first, each = self.lines.get(script or "", self.lines[""])
        return max(1, round(first + each * characters))


@dataclass(frozen=True, slots=True)
class AdvisePlan:
    """Everything a run measures."""

    texts: Mapping[TextSide, tuple[str, ...]]  # each once
    candidates: tuple[ServedModel, ...]
    tokens: Mapping[str, TokenEstimator]
    predicted_s: Mapping[str, Mapping[TextSide, float]]  # of one text, by model
    collections: Mapping[str, str]  # name: space
    policy: str | None = None  # YAML of `routing:` and `tiers:` in force; None where not readable
    tiers: Mapping[str, str] = field(default_factory=dict)  # of the service; older folders lack it

    @property
    def all_tiers(self) -> Mapping[str, str]:
        """The tiers of the service, otherwise those of the models that are measured."""
        own = {tier: candidate.name for candidate in self.candidates for tier in candidate.tiers}
        return self.tiers or own


def texts_of(inputs: Inputs) -> dict[TextSide, tuple[str, ...]]:
    """Collect every text to embed, once for each side that it is embedded on."""
    symmetric = [
        text for pairs in inputs.pairs.values() for pair in pairs for text in (pair.one, pair.other)
    ]
    symmetric += [item.text for labelled in inputs.labelled.values() for item in labelled]
    return {
        "document": tuple(
            dict.fromkeys(text.text for item in inputs.sets for text in item.documents)
        ),
        "query": tuple(dict.fromkeys(text.text for item in inputs.sets for text in item.queries)),
        "symmetric": tuple(dict.fromkeys(symmetric)),
    }


async def plan(
    client: ServiceClient, inputs: Inputs, output: Path, wanted: Sequence[str]
) -> AdvisePlan:
    """Return the plan of an earlier run in `output`, otherwise survey the service.

    Raises AdviseError if the earlier run had other inputs or models.
    """
    digest, file = inputs.digest(), output / "run.json"
    if file.exists():
        before = json.loads(file.read_text())
        if (
            before.get("format") != FORMAT
            or before.get("digest") != digest
            or before.get("wanted") != list(wanted)
        ):
            raise AdviseError(
                f"{output} holds the measurements of other texts or models; choose another "
                "folder, or remove it"
            )
    else:
        before = {
            "format": FORMAT,
            "digest": digest,
            "wanted": list(wanted),
            **await _survey(client, inputs, wanted),
        }
        write_whole(file, lambda path: path.write_text(json.dumps(before, indent=1) + "\n"))
    return AdvisePlan(
        texts_of(inputs),
        tuple(
            ServedModel(**row | {"tiers": tuple(row["tiers"]), "cuts": tuple(row["cuts"])})
            for row in before["candidates"]
        ),
        {
            name: TokenEstimator({script: (line[0], line[1]) for script, line in lines.items()})
            for name, lines in before["tokens"].items()
        },
        before["predicted_s"],
        before["collections"],
        before.get("policy"),
        before.get("tiers", {}),
    )


async def _survey(client: ServiceClient, inputs: Inputs, wanted: Sequence[str]) -> dict[str, Any]:
    """Collect what the service reports before anything is embedded.

    These are its models, token counts of sampled texts, and the predicted times.
    """
    answer = await client.tiers()
    named = {answer["tiers"].get(name, name) for name in wanted}  # a tier stands for its model
    # models with `space_of`, such as students, make vectors of another model's space
    spaces = {row["model"]: row["space"].rpartition("/")[0] for row in answer["data"]}
    if other := next((name for name in named if spaces.get(name, name) != name), None):
        raise AdviseError(
            f"{other} makes vectors of the space of {spaces[other]}, and its own recall is in "
            f"/v1/tiers; measure {spaces[other]}"
        )
    own = [row for row in answer["data"] if spaces[row["model"]] == row["model"]]
    rows = [row for row in own if not wanted or row["model"] in named]
    names = [row["model"] for row in own]
    if unknown := [name for name in wanted if answer["tiers"].get(name, name) not in names]:
        tiers = ", ".join(answer["tiers"])
        raise AdviseError(
            f"the service has no model or tier {unknown[0]!r}; its models are {', '.join(names)}, "
            f"its tiers {tiers}"
        )
    if len(rows) < 2:
        only = ", ".join(row["model"] for row in rows)
        others = [name for name in names if wanted and name not in named]
        raise AdviseError(
            f"the service has one model ({only}), and a comparison takes two"
            if not others
            else f"--model leaves one model to measure ({only}), and a comparison takes two; name "
            f"another too: {', '.join(others)}"
        )
    measured, tiered = [row["model"] for row in rows], set(answer["tiers"].values())
    if len(tiered & set(measured)) < 2:
        raise AdviseError(
            f"of {', '.join(measured)} fewer than two have a tier, so no rule could choose "
            "between them: name them under `tiers:`"
        )
    for row in rows:
        if not row["replicas_ready"]:
            await client.embed(["ready?"], model=row["model"])  # starts a model at zero replicas
    texts = texts_of(inputs)
    tokens, predicted = {}, {}
    with bar(total=len(rows), desc="asking what it will take", unit="model", leave=False) as shown:
        for row in rows:
            tokens[row["model"]] = await _tokens(
                client, row["model"], [text for some in texts.values() for text in some]
            )
            predicted[row["model"]] = {
                side: await _predicted(client, row, side, texts[side])
                for side in SIDES
                if texts[side]
            }
            shown.update()
    return {
        "candidates": [_candidate(row, answer["tiers"])._asdict() for row in rows],
        "tokens": tokens,
        "predicted_s": predicted,
        "collections": {
            name: collection["space"] for name, collection in answer["collections"].items()
        },
        "policy": await client.policy(),
        "tiers": answer["tiers"],
    }


def _candidate(row: Mapping[str, Any], tiers: Mapping[str, str]) -> ServedModel:
    own, given = int(row["dimensions"]), row["matryoshka"]
    if isinstance(given, dict):
        powers = (2**power for power in range(4, 16))
        cuts = [size for size in powers if given["min"] <= size < own]
    else:
        cuts = [size for size in given or () if size < own]
    return ServedModel(
        row["model"],
        tuple(tier for tier, model in tiers.items() if model == row["model"]),
        own,
        (*sorted(cuts), own),
        row["max_tokens"],
        float(row["devices"]) * max(1, row["replicas_ready"]),
        row["memory_bytes"],
        row["engine"],
        row["fingerprint"],
        row["quality"],
    )


async def _tokens(
    client: ServiceClient, model: str, texts: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """Fit a line for each script to the service's token counts of samples of all lengths."""
    by_script: dict[str, list[str]] = {}
    for text in texts:
        by_script.setdefault(script_of(text) or "", []).append(text)
    limit = sorted(by_script, key=lambda script: -len(by_script[script]))[:SCRIPTS]
    counted: dict[str, tuple[list[int], list[int]]] = {}

    async def count(text: str) -> int:
        return int((await client.route([text], model=model, truncate="end"))["features"]["tokens"])

    for script in limit:
        some = sorted(by_script[script], key=len)
        places = np.linspace(0, len(some) - 1, min(SAMPLED, len(some)), dtype=np.int64)
        sample = [some[place] for place in places]
        counted[script] = (
            [len(text) for text in sample],
            list(await asyncio.gather(*map(count, sample))),
        )
    lengths = [length for item, _ in counted.values() for length in item]
    counts = [tokens for _, item in counted.values() for tokens in item]
    return {script: _line(*columns) for script, columns in counted.items()} | {
        "": _line(lengths, counts)
    }


def _line(characters: Sequence[int], tokens: Sequence[int]) -> tuple[float, float]:
    """Fit a line by least squares of relative errors.

    It goes through zero if there are fewer than three lengths, or if a coefficient would be
    negative.
    """
    lengths, counts = np.array(characters, np.float64), np.array(tokens, np.float64)
    if len(set(characters)) < 3:
        return 0.0, float(counts.sum() / lengths.sum())
    each, first = np.polyfit(lengths, counts, 1, w=1.0 / np.maximum(counts, 1.0))
    return (
        (float(first), float(each))
        if first >= 0 <= each
        else (0.0, float(counts.sum() / lengths.sum()))
    )


async def _predicted(
    client: ServiceClient, row: Mapping[str, Any], side: TextSide, texts: Sequence[str]
) -> float:
    """Return the seconds of a text among many, predicted by the service for an even sample."""
    places = np.linspace(0, len(texts) - 1, min(PREDICTED, len(texts)), dtype=np.int64)
    sample = [texts[place] for place in places]
    answer = await client.route(sample, model=row["model"], truncate="end", **INPUT_TYPES[side])
    mine = next(model for model in answer["models"] if model["model"] == row["model"])
    work_ms = mine["work_ms"]
    # nothing is predicted for a text beyond the model's context, which embedding would cut
    if work_ms is None:
        tokens = answer["features"]["tokens"]
        short = await client.route(
            [text[:400] for text in sample], model=row["model"], truncate="end", **INPUT_TYPES[side]
        )
        mine = next(model for model in short["models"] if model["model"] == row["model"])
        work_ms = (mine["work_ms"] or 1.0) * tokens / max(1, short["features"]["tokens"])
    return float(work_ms) / 1000.0 / len(sample)
