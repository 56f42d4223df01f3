"""What metrics, traces and keys cost: `python -m benchmarks observability`.

Instances of one config that differ in these settings only are started side by side and take turns, round by round, so that a
noisy machine is noisy for all. Two instances of the very same config differ by a tenth for as long as they live, so all are
started anew several times. A ratio is the median over starts of the median over rounds of this round's requests per second to
this round's of the first instance, with the 95 % interval of both (bootstrap over starts, and over rounds within each). Short
texts, 32 connections, new texts in every request. The engine is a table (wordllama), the fastest there is: what stands around it
weighs most. `--vllm` takes a block of Qwen3 on vLLM instead, with vLLM's own metrics. Every instance takes time while it idles,
so name two with `--with` where a machine has two cores. What is to be told from noise: `--with nothing --with "nothing again"`.
"""

import json
import random
import secrets
import statistics
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np

from benchmarks import load, servers
from benchmarks.load import Shape
from benchmarks.servers import ONE, Server
from router.keys import hash_of, new_key

NOTHING, AGAIN = "nothing", "nothing again"
CONNECTIONS = 32
WARM_S = 1.0
RESAMPLES = 2000
KEY = new_key(secrets.token_bytes(32))
WORDLLAMA = {
    "engine": {"kind": "static", "weights": "package:wordllama/weights/l2_supercat_256.safetensors"},
    "tokenizer": "package:wordllama/tokenizers/l2_supercat_tokenizer_config.json", "special_tokens": False,
    "dimensions": 256, "max_tokens": 32768, "curve": {"fixed_s": 0.0001, "s_per_token": 0.000002, "batch_tokens": 65536},
}
WITH: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # what the whole file and what `args` get more
    NOTHING: ({}, {"metrics": False}),
    AGAIN: ({}, {"metrics": False}),
    "metrics": ({}, {}),
    "metrics, traces": ({"tracing_config": {"enabled": True, "sampling_ratio": 0.01}}, {}),
    "metrics, traces, keys": (
        {"tracing_config": {"enabled": True, "sampling_ratio": 0.01}},
        {"keys": {"bench": {"hash": hash_of(KEY), "requests_per_minute": 10**9, "tokens_per_minute": 10**12}}},
    ),
}


def config(name: str, model: str, model_config: dict[str, Any]) -> dict[str, Any]:
    """The Serve config of one instance."""
    file, args = WITH[name]
    return {
        "logging_config": {"enable_access_log": False},
        "applications": [{
            "name": "bench", "route_prefix": "/", "import_path": "deployments.app:build",
            "args": {"models": {model: model_config}, "tiers": {"fast": model}, "cache": {"max_bytes": 0}, **args},
            "deployments": [{"name": one, "ray_actor_options": {"num_cpus": 0.1}} for one in ("router", model)],
        }],
        **file,
    }


def tiny_qwen3(folder: Path) -> dict[str, Any]:
    """The model of the data plane's benchmark."""
    source = str(servers.checkpoints(folder)[ONE])
    return {
        "engine": {"kind": "vllm", "source": source, "args": {"dtype": "bfloat16", "kv_cache_memory_bytes": servers.KV_BYTES}},
        "tokenizer": source, "dimensions": servers.WIDTHS[ONE], "max_tokens": servers.MAX_TOKENS, "environment": "cpu-vllm",
    }


def words() -> list[str]:
    """Random words of two to four letters."""
    rng = random.Random(0)
    return sorted({"".join(rng.choices("aeiourstlnmpcdbhgfwyk", k=rng.choice((2, 3, 4)))) for _ in range(4000)})


@click.command()
@click.option("--seconds", default=1.0, type=click.FloatRange(1), show_default=True, help="Of each measurement.")
@click.option("--rounds", default=15, type=click.IntRange(1), show_default=True, help="Of each start.")
@click.option("--starts", default=5, type=click.IntRange(1), show_default=True, help="Times that all instances are started.")
@click.option("--with", "chosen", multiple=True, type=click.Choice(list(WITH)),
              default=[name for name in WITH if name != AGAIN], show_default=True,
              help="An instance; more than once. Ratios are to the first.")
@click.option("--vllm", is_flag=True, help="vLLM with a small random Qwen3 instead of a table.")
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), help="Where checkpoints of 2.3 GB are kept.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the results here.")
def main(
    seconds: float, rounds: int, starts: int, chosen: tuple[str, ...], vllm: bool, folder: Path | None, json_path: Path | None
) -> None:
    """Measure what metrics, traces and keys cost."""
    names = list(dict.fromkeys(chosen))
    folder = folder or Path(tempfile.gettempdir()) / "embedding-router-bench"
    model, model_config = (ONE, tiny_qwen3(folder)) if vllm else ("wordllama-256", WORDLLAMA)
    shape, seen = Shape((model,), 1, 12), list[dict[str, list[Measured]]]()
    for start in range(starts):
        turn = names[start % len(names) :] + names[: start % len(names)]
        seen.append(measured(turn, model, model_config, shape, seconds, rounds, start))
        click.echo(f"start {start + 1}  " + "  ".join(
            f"{name} {statistics.median(one.per_s for one in seen[-1][name]):.0f}/s" for name in names
        ), err=True)
    rows = {name: _row([(each[name], each[names[0]]) for each in seen]) for name in names}
    for name, row in rows.items():
        click.echo(f"{name:<24} {row['requests_per_s']:8.1f}/s  ratio {_with_interval(row, 'ratio')}"
                   f"  {row['cpu_ms']:.3f} ms CPU each, ratio {_with_interval(row, 'cpu_ratio')}")
    if json_path is not None:
        json_path.write_text(json.dumps(rows, indent=1))


def measured(
    names: Sequence[str], model: str, model_config: dict[str, Any], shape: Shape, seconds: float, rounds: int, start: int
) -> dict[str, list["Measured"]]:
    """What each instance did in each round of one life."""
    found: dict[str, list[Measured]] = {name: [] for name in names}
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        word_file = scratch / "words"
        word_file.write_text("\n".join(words()))
        keys = {name: KEY if "keys" in name else None for name in names}

        def begin(name: str) -> Server:
            wanted = config(name, model, model_config)
            return stack.enter_context(servers.configured(name, wanted, [model], scratch, keys[name]))

        with ThreadPoolExecutor(len(names)) as pool:
            started = list(pool.map(begin, names))
        for number in range(rounds):
            seed = start * rounds + number
            for server in started[number % len(started) :] + started[: number % len(started)]:
                key = keys[server.name]
                load.run(server.url, shape, CONNECTIONS, WARM_S, seed + 1_000_000, word_file, key)
                before_s = server.cpu_s()
                got = load.run(server.url, shape, CONNECTIONS, seconds, seed, word_file, key)
                if got.failures:
                    raise click.ClickException(f"{server.name}: {got.failures} of {got.requests} requests failed")
                cpu_ms = (server.cpu_s() - before_s) * 1000 / got.requests
                found[server.name].append(Measured(got.requests / got.seconds, cpu_ms))
    return found


class Measured(NamedTuple):
    """One instance in one round."""

    per_s: float
    cpu_ms: float


def _row(lives: Sequence[tuple[list[Measured], list[Measured]]]) -> dict[str, Any]:
    """One instance beside the first one, in all of their lives."""
    ratios = [[one.per_s / other.per_s for one, other in zip(*life, strict=True)] for life in lives]
    cpu_ratios = [[one.cpu_ms / other.cpu_ms for one, other in zip(*life, strict=True)] for life in lives]
    return {
        "requests_per_s": statistics.median(one.per_s for own, _ in lives for one in own),
        "ratio": _middle(ratios), "ratio_interval": interval(ratios),
        "cpu_ms": statistics.median(one.cpu_ms for own, _ in lives for one in own),
        "cpu_ratio": _middle(cpu_ratios), "cpu_ratio_interval": interval(cpu_ratios),
        "ratio_of_each_start": [statistics.median(life) for life in ratios],
    }


def _middle(lives: Sequence[Sequence[float]]) -> float:
    return statistics.median(statistics.median(life) for life in lives)


def interval(lives: Sequence[Sequence[float]]) -> tuple[float, float]:
    """The 95 % interval of the median over lives of medians over rounds, by drawing both again."""
    rng = random.Random(0)
    drawn = [_middle([rng.choices(life, k=len(life)) for life in rng.choices(lives, k=len(lives))]) for _ in range(RESAMPLES)]
    low, high = np.percentile(drawn, (2.5, 97.5))
    return float(low), float(high)


def _with_interval(row: dict[str, Any], name: str) -> str:
    low, high = row[f"{name}_interval"]
    return f"{row[name]:.3f} [{low:.3f}, {high:.3f}]"
