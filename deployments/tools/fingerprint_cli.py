"""`embedding-router fingerprint`: record the fingerprint that replicas must reproduce."""

import asyncio
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import orjson

from deployments.engines.base import Batch, EngineError
from deployments.launch.serve_config import application
from deployments.replica.offline import Offline
from deployments.replica.score_identity import probes_of_pairs
from deployments.service.fingerprints import probes_of
from deployments.service.prepare import Preparer
from deployments.service.score_proofs import pair_probes
from deployments.tools.client import BaseUrl, RequestRefused, RouterAway, ServiceClient
from router import fingerprint, score_fingerprint
from router.arrays import Vectors
from router.config import RouterArgs
from router.fingerprint import Probe


@click.command()
@click.option(
    "--config", "path", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option("--model", required=True, help="The id of a model or reranker of the config.")
@click.option(
    "-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), metavar="FILE"
)
@click.option(
    "--base-url",
    type=BaseUrl(),
    help="Take the vectors of this running router's replicas, and start no engine here.",
)
@click.option(
    "--api-key",
    envvar="EMBEDDING_ROUTER_API_KEY",
    help="API key for --base-url; default: EMBEDDING_ROUTER_API_KEY.",
)
@click.option("--json", "as_json", is_flag=True, help="What was written, as JSON.")
def main(
    path: Path, model: str, output: Path, base_url: str | None, api_key: str | None, as_json: bool
) -> None:
    """Write down what a model makes of a few texts, so that replicas can prove to be that model.

    Do this once for every model whose vectors you keep, while you trust its weights; then name FILE
    as the model's `fingerprint` in the config.
    """
    args, _ = application(path)
    if model not in (*args.models, *args.rerankers):
        raise click.UsageError(
            f"there is no model {model!r} in {path}; there are "
            f"{', '.join((*args.models, *args.rerankers))}"
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        if model in args.rerankers:
            made = _of_reranker(args, model, base_url, output)
        else:
            made = _of_model(args, model, base_url, api_key, output)
    except (EngineError, RequestRefused, RouterAway, FileNotFoundError) as error:
        raise click.ClickException(f"{model}: {error}") from None
    if as_json:
        report = {"model": model, "file": str(output), **made._asdict()}
        click.echo(orjson.dumps(report, option=orjson.OPT_INDENT_2))
        return
    click.echo(f"{model}: {made.probes} probes, {made.dimensions} dimensions, {made.digest}")
    click.echo(
        f"  wrote {output} ({output.stat().st_size / 1000:.0f} kB); in the config: fingerprint: "
        f"{output}"
    )


class WrittenFingerprint(NamedTuple):
    """The written fingerprint."""

    probes: int
    dimensions: int
    digest: str


def _of_model(
    args: RouterArgs, model: str, base_url: str | None, api_key: str | None, output: Path
) -> WrittenFingerprint:
    config = args.models[model]
    probes = probes_of(
        Preparer(args.model_copy(update={"models": {model: config}})), model, config.max_tokens
    )
    if not probes:
        raise click.ClickException(
            f"{model} reads {config.max_tokens} tokens: too few for any text of a fingerprint"
        )
    vectors = asyncio.run(
        _embedded(args, model, probes)
        if base_url is None
        else _answered(base_url, api_key, model, probes)
    )
    made = fingerprint.make(model, probes, vectors)
    fingerprint.save(made, output)
    return WrittenFingerprint(len(probes), vectors.shape[1], made.digest)


def _of_reranker(
    args: RouterArgs, name: str, base_url: str | None, output: Path
) -> WrittenFingerprint:
    config = args.rerankers[name]
    if config.similarity is not None:
        raise click.ClickException(
            f"{name} takes its scores from {config.similarity}: make a fingerprint of that model"
        )
    if base_url is not None:
        raise click.UsageError(f"{name} is a reranker: leave --base-url out, its engine runs here")
    own = args.model_copy(update={"models": {name: config}, "rerankers": {}})
    pairs = pair_probes(Preparer(own), name, config)
    scores = asyncio.run(_embedded(own, name, probes_of_pairs(pairs)))
    if (wrong := score_fingerprint.too_even(name, scores)) is not None:
        raise click.ClickException(wrong)
    made = score_fingerprint.make(name, pairs, scores)
    score_fingerprint.save(made, output)
    return WrittenFingerprint(len(pairs), 1, made.digest)


async def _embedded(args: RouterArgs, model: str, probes: list[Probe]) -> Vectors:
    vectors = []
    async with Offline(args, model, proves=False) as offline:
        for probe in probes:
            ids, texts = (
                (None, [probe.prompted or ""]) if probe.ids is None else ([probe.ids], None)
            )
            made = await offline.engine.embed(Batch(ids=ids, texts=texts, input_type=probe.side))
            for error in made.failed.values():
                raise error
            vectors.append(made.vectors)
    return np.concatenate(vectors)


async def _answered(base_url: str, api_key: str | None, model: str, probes: list[Probe]) -> Vectors:
    async with ServiceClient(base_url, api_key, fresh=True) as client:
        answers = [
            await client.embed([probe.text], model=model, input_type=probe.side) for probe in probes
        ]
    return np.concatenate([answer.vectors for answer in answers])
