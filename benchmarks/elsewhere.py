"""Measure prediction errors on a machine without a shipped profile.

First make profiles of this machine:

    embedding-router calibrate --config configs/local.yaml --model all --repeats 2 -o FOLDER

Every model of `configs/local.yaml` then runs twice: with its shipped profile, which was measured on
another device, and with that of FOLDER. Both answer the same texts of the mix, one at a time and
alternately. The result is the median prediction error after the first 300 requests of each; with
the shipped profile it can be at most 1.25 times that with the new one.
"""

import asyncio
import json
import random
import statistics
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import click
import yaml

from benchmarks.live import (
    CHARACTERS_A_TOKEN,
    LOCAL,
    ROOT,
    Ask,
    Client,
    Router,
    Texts,
    router,
    written,
)
from benchmarks.marks import Row, at_most, conclude, show, to_file
from benchmarks.public_data import sample
from deployments.replica.device import processor
from router.decision_log import ANSWERED, LogEntry, read
from router.profile import read_profile

LEARNED = 300  # requests
MARK = 1.25
OWN = "{}-own-profile"


def device_of(profile: Path, model: str) -> str:
    """The device that a profile was measured on; raises click.ClickException."""
    if not profile.exists():
        raise click.ClickException(
            f"{profile} is missing: run `embedding-router calibrate --config configs/local.yaml "
            f"--model all --repeats 2 -o {profile.parent}` first"
        )
    return read_profile(json.loads(profile.read_text()), model).device


def side_by_side(folder: Path, here: str, scratch: Path) -> dict[str, Any]:
    """`configs/local.yaml` with the model of each tier twice, the second with its profile of
    `folder`, which goes to `scratch` under the name of the second. Raises click.ClickException
    where a profile is of the wrong device.
    """
    config: dict[str, Any] = yaml.safe_load(LOCAL.read_text())
    [application] = config["applications"]
    args, deployments = application["args"], application["deployments"]
    args["base_dir"] = str(ROOT)
    for name in args["tiers"].values():
        model = args["models"][name]
        own = folder / f"{LOCAL.stem}-{name}.json"
        if (device := device_of(own, name)) != here:
            raise click.ClickException(f"{own} is of {device}, and this is {here}")
        shipped = ROOT / model["profile"]
        if device_of(shipped, name) == here:
            raise click.ClickException(f"{shipped} is of this device, {here}: nothing to compare")
        named = json.loads(own.read_text()) | {"model": OWN.format(name)}
        profile = scratch / f"{OWN.format(name)}.json"
        profile.write_text(json.dumps(named))
        own_model = {**model, "profile": str(profile)}
        del own_model["fingerprint"]  # it names the model
        args["models"][OWN.format(name)] = own_model
        [deployment] = [one for one in deployments if one["name"] == name]
        deployments.append({**deployment, "name": OWN.format(name)})
    return config


async def drive(running: Router, models: Sequence[str], requests: int, folder: Path) -> None:
    """Send this many texts to each model alone, each to both of its deployments."""
    texts = Texts(random.Random(0), folder)
    async with Client(running.url) as client:
        for name in models:
            most = CHARACTERS_A_TOKEN * running.args.models[name].max_tokens
            for turn in range(requests):
                text = next(text for text in texts if len(text.text) <= most)
                both = [name, OWN.format(name)]
                for model in both if turn % 2 else reversed(both):
                    result = await client.send(Ask(text, {"model": model}))
                    if result.status != 200:
                        raise click.ClickException(f"{model} answered {result.status}")


def errors(entries: Iterable[LogEntry]) -> dict[str, tuple[float, float]]:
    """Median error by model, of its first LEARNED requests and of the others."""
    off = dict[str, list[float]]()
    for one in entries:
        if one.outcome == ANSWERED and one.actual_s and one.decision.model:
            error = abs((one.decision.predicted_s or 0.0) / one.actual_s - 1.0)
            off.setdefault(one.decision.model, []).append(error)
    return {
        name: (statistics.median(found[:LEARNED]), statistics.median(found[LEARNED:]))
        for name, found in off.items()
    }


def judged(found: Mapping[str, tuple[float, float]], models: Iterable[str]) -> list[Row]:
    """The errors of each model in percent, and the ratio with its mark."""
    return list(
        chain.from_iterable(
            (
                Row(f"{name}: shipped, first {LEARNED}, %", 100 * found[name][0]),
                Row(f"{name}: shipped, after, %", 100 * found[name][1]),
                Row(f"{name}: made here, first {LEARNED}, %", 100 * found[OWN.format(name)][0]),
                Row(f"{name}: made here, after, %", 100 * found[OWN.format(name)][1]),
                at_most(f"{name}: ratio", found[name][1] / found[OWN.format(name)][1], MARK),
            )
            for name in models
        )
    )


@click.command()
@click.option(
    "--own",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with profiles of this machine.",
)
@click.option(
    "--requests",
    type=click.IntRange(LEARNED + 50),
    default=500,
    show_default=True,
    help="Texts sent to each model.",
)
@sample
@to_file
def main(own: Path, requests: int, folder: Path, file: Path | None) -> None:
    """Compare predictions of the shipped profiles with those of profiles made here; exit 1 if they
    are worse than the mark.
    """
    here = processor()
    with tempfile.TemporaryDirectory() as scratch:
        path, log = Path(scratch) / LOCAL.name, Path(scratch) / "decisions.jsonl"
        config = side_by_side(own, here, Path(scratch))
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        models = list(config["applications"][0]["args"]["tiers"].values())
        with router(path, None, decision_log={"path": str(log)}) as running:
            asyncio.run(drive(running, models, requests, folder))
            lines = written(log, 2 * len(models) * requests).splitlines(keepends=True)
    click.echo(f"on {here}, texts of {folder}")
    rows = judged(errors(one.entry for one in read(lines)), models)
    show(rows)
    conclude(rows, file)
