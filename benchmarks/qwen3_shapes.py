"""Measure calls of every size of the three Qwen3-Embedding shapes on a GPU, and fit their curves.

    python -m benchmarks qwen3_shapes -o configs/profiles/h200.json     (3 minutes on an H200; needs
                                                                        torch and transformers only)

Weights are random: the cost of a forward pass does not depend on their values, and nothing is
downloaded. The engine is the reference of deployments/engines/transformers.py in bf16, so the flat
part of a curve is that of a model whose kernels are launched one by one from Python. vLLM, which
configs/qwen3.yaml uses, computes the same but launches a step as one CUDA graph; the time of a
short text in this form is measured too. Texts are random token ids. Memory is torch's maximum
allocation during calls of that size, including weights.
"""

import asyncio
import datetime
import platform
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import click
import numpy as np
from tqdm import tqdm

from deployments.engines.base import Batch
from deployments.engines.transformers import TransformersEngine
from deployments.replica.device import accelerator_bytes
from deployments.tools import calibrate
from deployments.tools.calibrate import TimedCall
from router import engine_config
from router.calibration import MAX_TEXTS, Cell, calls, cells
from router.curve_fit import CurveFit, Point

DEVICE = "cuda"
SHORT_TOKENS, GRAPH_REPLAYS = 16, 50
TIMED = (Cell(16, 1), Cell(256, 1), Cell(2048, 1), Cell(8192, 1), Cell(256, 32))
HELD = (Cell(256, 1), Cell(256, 32), Cell(256, 64), Cell(8192, 1))


class Shape(NamedTuple):
    """The parts of config.json that determine the cost."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    vocabulary: int
    key_value_heads: int = 8
    head: int = 128


SHAPES: Mapping[str, Shape] = {
    "qwen3-embedding-0.6b": Shape(28, 1024, 3072, 16, 151669),
    "qwen3-embedding-4b": Shape(36, 2560, 9728, 32, 151665),
    "qwen3-embedding-8b": Shape(36, 4096, 12288, 32, 151665),
}


class RandomWeights(TransformersEngine):
    """The reference engine on a model with random weights."""

    def __init__(self, shape: Shape, max_tokens: int, batch_tokens: int, device: str) -> None:
        settings = engine_config.TransformersEngineConfig(
            kind="transformers",
            source="random",
            dtype="bfloat16",
            device=device,
            pooling="last",
            batch_tokens=batch_tokens,
        )
        super().__init__(settings, shape.hidden, max_tokens, None)
        self._shape = shape

    def _load(self) -> Any:
        import torch
        from transformers import AutoModel, Qwen3Config

        shape = self._shape
        made = Qwen3Config(
            vocab_size=shape.vocabulary,
            hidden_size=shape.hidden,
            intermediate_size=shape.intermediate,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.key_value_heads,
            head_dim=shape.head,
            max_position_embeddings=40960,
            use_cache=False,
            dtype="bfloat16",
        )
        with torch.device(self._settings.device):
            model = AutoModel.from_config(made, dtype=torch.bfloat16).eval()
        self._vocabulary = shape.vocabulary
        return model

    def graph_s(self) -> float | None:
        """Seconds of one text of SHORT_TOKENS as one CUDA graph; None without a GPU."""
        import torch

        if not self._settings.device.startswith("cuda"):
            return None
        ids = torch.zeros((1, SHORT_TOKENS), dtype=torch.long, device=self._settings.device)
        graph, beside = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        with torch.inference_mode():
            with torch.cuda.stream(beside):  # what is made at a first call must not be captured
                for _ in range(3):
                    self._model(input_ids=ids)
            torch.cuda.synchronize()
            with torch.cuda.graph(graph):
                self._model(input_ids=ids)
        graph.replay()
        torch.cuda.synchronize()
        start_s = time.perf_counter()
        for _ in range(GRAPH_REPLAYS):
            graph.replay()
        torch.cuda.synchronize()
        return (time.perf_counter() - start_s) / GRAPH_REPLAYS


class Measuring:
    """A source of deployments.tools.calibrate: an engine with random ids, and the memory of every
    size.
    """

    def __init__(self, engine: RandomWeights, vocabulary: int, seed: int) -> None:
        self._engine, self._vocabulary, self._rng = engine, vocabulary, np.random.default_rng(seed)
        self.held: dict[Cell, int] = {}
        self._reserved_bytes = 0

    async def start(self) -> None:
        await self._engine.start()

    async def measure(
        self, texts: Sequence[str], counts: Sequence[int]
    ) -> tuple[float, float | None]:
        ids = [self._rng.integers(self._vocabulary, size=count, dtype=np.int32) for count in counts]
        _forget_peak()
        start_s = asyncio.get_running_loop().time()
        embedded = await self._engine.embed(Batch(ids=ids))
        seconds = asyncio.get_running_loop().time() - start_s
        if embedded.failed:
            raise calibrate.CalibrationError(
                f"a text failed: {next(iter(embedded.failed.values()))}"
            )
        cell = Cell(counts[0], len(counts))
        self.held[cell] = max(self.held.get(cell, 0), _peak_bytes())
        self._reserved_bytes = max(self._reserved_bytes, accelerator_bytes())
        return seconds, None

    def memory_bytes(self) -> int | None:
        return self._reserved_bytes or None

    async def stop(self) -> None:
        await self._engine.stop()


class ModelMeasurement(NamedTuple):
    """One model's figures."""

    fit: CurveFit
    medians: list[Point]
    samples: list[TimedCall]
    held: dict[Cell, int]
    weights_bytes: int
    graph_s: float | None
    memory_bytes: int | None


async def measure(
    name: str, shape: Shape, max_tokens: int, batch_tokens: int, repeats: int, device: str
) -> ModelMeasurement:
    """Measure all sizes of one shape; its weights are freed afterwards."""
    engine = RandomWeights(shape, max_tokens, batch_tokens, device)
    source = Measuring(engine, shape.vocabulary, seed=0)
    await source.start()
    try:
        weights_bytes = _allocated_bytes()
        sizes = cells(max_tokens, batch_tokens, MAX_TEXTS)
        with tqdm(total=calls(sizes, batch_tokens, repeats), desc=name, unit="call") as bar:
            samples = await calibrate.sample(
                source,
                lambda tokens: ("", tokens),
                sizes,
                batch_tokens,
                None,
                repeats,
                random.Random(0),
                lambda _: bar.update(),
            )
        fit, medians = calibrate.fitted(samples, batch_tokens, 0.0)
        return ModelMeasurement(
            fit,
            medians,
            samples,
            source.held,
            weights_bytes,
            engine.graph_s(),
            source.memory_bytes(),
        )
    finally:
        await source.stop()
        _empty_cache()


def table(found: Mapping[str, ModelMeasurement]) -> Iterator[str]:
    """Milliseconds and gigabytes by size, as Markdown."""
    heads = [_size(cell) for cell in TIMED]
    graph = f"{_size(Cell(SHORT_TOKENS, 1))} as a graph"
    yield (
        "| | "
        + " | ".join(
            [*heads, graph, "saturated", "weights", *(f"peak {_size(cell)}" for cell in HELD)]
        )
        + " |"
    )
    yield "|---" * (len(TIMED) + len(HELD) + 4) + "|"
    for name, one in found.items():
        times = {
            cell: median(s.inference_s for s in one.samples if s.cell == cell)
            for cell in {s.cell for s in one.samples}
        }
        most = max(cell.tokens * cell.texts / seconds for cell, seconds in times.items())
        timed = [f"{1000 * times[cell]:.1f} ms" if cell in times else "" for cell in TIMED]
        held = [f"{one.held[cell] / 1e9:.1f} GB" if cell in one.held else "" for cell in HELD]
        graph_ms = "" if one.graph_s is None else f"{1000 * one.graph_s:.1f} ms"
        rest = [
            graph_ms,
            f"{most / 1000:.0f}k tokens/s",
            f"{one.weights_bytes / 1e9:.2f} GB",
            *held,
        ]
        yield f"| {' | '.join([name, *timed, *rest])} |"


def _size(cell: Cell) -> str:
    return f"{cell.texts} × {cell.tokens}"


@click.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File for all profiles.",
)
@click.option(
    "--model",
    "chosen",
    multiple=True,
    type=click.Choice(list(SHAPES)),
    help="Model to measure; repeatable. [default: all]",
)
@click.option("--max-tokens", type=click.IntRange(16), default=8192, show_default=True)
@click.option(
    "--batch-tokens",
    type=click.IntRange(16),
    default=16384,
    show_default=True,
    help="Tokens of the largest call.",
)
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True)
@click.option(
    "--layers",
    type=click.IntRange(1),
    help="Use fewer layers than the real model, to try the command; not for a profile.",
)
@click.option("--device", default=DEVICE, show_default=True)
def main(
    output: Path | None,
    chosen: Sequence[str],
    max_tokens: int,
    batch_tokens: int,
    repeats: int,
    layers: int | None,
    device: str,
) -> None:
    """Measure the shapes one after another."""
    if layers is not None and output is not None:
        raise click.UsageError("--layers measures no real model: leave out -o")
    found, written = dict[str, ModelMeasurement](), list[bytes]()
    for name in chosen or SHAPES:
        shape = SHAPES[name] if layers is None else SHAPES[name]._replace(layers=layers)
        one = found[name] = asyncio.run(
            measure(name, shape, max_tokens, batch_tokens, repeats, device)
        )
        curve = one.fit.curve
        click.echo(
            f"{name}: {curve.fixed_s * 1000:.3g} ms up to {one.fit.knee_tokens:.0f} tokens, then "
            f"{curve.base_s * 1000:.3g} ms + "
            f"{curve.s_per_token * 1e6:.3g} us a token + {curve.s_per_token_sq * 1e9:.3g} ns a "
            "token squared + "
            f"{curve.s_per_text * 1e6:.3g} us a text; "
            f"off by {one.fit.median_error:.1%} in the median, {one.fit.p95_error:.1%} at p95"
        )
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        software = ", ".join(
            f"{package} {metadata.version(package)}" for package in ("transformers", "torch")
        )
        software = (
            f"engine transformers, random weights, bf16, {software}, Python "
            f"{platform.python_version()}"
        )
        written.append(
            calibrate.profile(
                name, _device(device), software, today, one.fit, one.medians, one.memory_bytes
            )
        )
        if output is not None:
            output.write_bytes(
                b'{"profiles": [\n' + b",\n".join(text.rstrip() for text in written) + b"\n]}\n"
            )
    click.echo("\n".join(["", *table(found)]))


def _cuda() -> Any:
    """torch.cuda if there is a GPU, else None."""
    import torch

    return torch.cuda if torch.cuda.is_available() else None


def _forget_peak() -> None:
    if cuda := _cuda():
        cuda.reset_peak_memory_stats()


def _peak_bytes() -> int:
    return int(cuda.max_memory_allocated()) if (cuda := _cuda()) else 0


def _allocated_bytes() -> int:
    return int(cuda.memory_allocated()) if (cuda := _cuda()) else 0


def _empty_cache() -> None:
    if cuda := _cuda():
        cuda.empty_cache()


def _device(device: str) -> str:
    cuda = _cuda()
    return str(cuda.get_device_name()) if cuda and device.startswith("cuda") else device


if __name__ == "__main__":
    main()
