"""What metrics, traces and keys cost: `python -m benchmarks observability`.

Instances of one config that differ in these settings only are started side by side and take turns, round by round, so that a
noisy machine is noisy for all. A ratio is the median over rounds of this round's requests per second to this round's of the first
instance, with the 95 % interval of that median (bootstrap over rounds): without it nobody knows what is noise. Short texts, 32
connections, new texts in every request. The engine is a table (wordllama), the fastest there is: what stands around it weighs
most. `--vllm` takes a block of Qwen3 on vLLM instead, with vLLM's own metrics. Every instance takes time while it idles, so name
two with `--with` where a machine has two cores.
"""

import json
import random
import secrets
import statistics
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks import load, servers
from benchmarks.load import Shape
from benchmarks.servers import ONE, Server
from router.keys import hash_of, new_key

NOTHING = "nothing"
CONNECTIONS = 32
WARM_S = 0.3
RESAMPLES = 2000
KEY = new_key(secrets.token_bytes(32))
WORDLLAMA = {
    "engine": {"kind": "static", "weights": "package:wordllama/weights/l2_supercat_256.safetensors"},
    "tokenizer": "package:wordllama/tokenizers/l2_supercat_tokenizer_config.json", "special_tokens": False,
    "dimensions": 256, "max_tokens": 32768, "curve": {"fixed_s": 0.0001, "s_per_token": 0.000002, "batch_tokens": 65536},
}
WITH: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # what the whole file and what `args` get more
    NOTHING: ({}, {"metrics": False}),
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
@click.option("--seconds", default=2.0, type=click.FloatRange(1), show_default=True, help="Of each measurement.")
@click.option("--rounds", default=20, type=click.IntRange(1), show_default=True)
@click.option("--with", "chosen", multiple=True, type=click.Choice(list(WITH)), default=list(WITH), show_default=True,
              help="An instance; more than once. Ratios are to the first.")
@click.option("--vllm", is_flag=True, help="vLLM with a small random Qwen3 instead of a table.")
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), help="Where checkpoints of 2.3 GB are kept.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the results here.")
def main(seconds: float, rounds: int, chosen: tuple[str, ...], vllm: bool, folder: Path | None, json_path: Path | None) -> None:
    """Measure what metrics, traces and keys cost."""
    names = list(dict.fromkeys(chosen))
    folder = folder or Path(tempfile.gettempdir()) / "embedding-router-bench"
    model, model_config = (ONE, tiny_qwen3(folder)) if vllm else ("wordllama-256", WORDLLAMA)
    shape, per_s, cpu_ms = Shape((model,), 1, 12), dict[str, list[float]](), dict[str, list[float]]()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        word_file = scratch / "words"
        word_file.write_text("\n".join(words()))
        keys = {name: KEY if "keys" in name else None for name in names}

        def start(name: str) -> Server:
            wanted = config(name, model, model_config)
            return stack.enter_context(servers.configured(name, wanted, [model], scratch, keys[name]))

        with ThreadPoolExecutor(len(names)) as pool:
            started = list(pool.map(start, names))
        for number in range(rounds):
            turn = started[number % len(started) :] + started[: number % len(started)]
            for server in turn:
                key = keys[server.name]
                load.run(server.url, shape, CONNECTIONS, WARM_S, number + 1_000_000, word_file, key)
                before_s = server.cpu_s()
                got = load.run(server.url, shape, CONNECTIONS, seconds, number, word_file, key)
                if got.failures:
                    raise click.ClickException(f"{server.name}: {got.failures} of {got.requests} requests failed")
                per_s.setdefault(server.name, []).append(got.requests / got.seconds)
                cpu_ms.setdefault(server.name, []).append((server.cpu_s() - before_s) * 1000 / got.requests)
                click.echo(f"round {number + 1}  {server.name:<24} {per_s[server.name][-1]:8.1f}/s", err=True)
    rows = {name: _row(per_s[name], cpu_ms[name], per_s[names[0]], cpu_ms[names[0]]) for name in names}
    for name, row in rows.items():
        click.echo(f"{name:<24} {row['requests_per_s']:8.1f}/s  ratio {_with_interval(row, 'ratio')}"
                   f"  {row['cpu_ms']:.3f} ms CPU each, ratio {_with_interval(row, 'cpu_ratio')}")
    if json_path is not None:
        json_path.write_text(json.dumps(rows, indent=1))


def _row(per_s: list[float], cpu_ms: list[float], base_per_s: list[float], base_cpu_ms: list[float]) -> dict[str, Any]:
    ratios = [one / other for one, other in zip(per_s, base_per_s, strict=True)]
    cpu_ratios = [one / other for one, other in zip(cpu_ms, base_cpu_ms, strict=True)]
    return {
        "requests_per_s": statistics.median(per_s), "ratio": statistics.median(ratios), "ratio_interval": interval(ratios),
        "cpu_ms": statistics.median(cpu_ms), "cpu_ratio": statistics.median(cpu_ratios),
        "cpu_ratio_interval": interval(cpu_ratios),
    }


def interval(values: list[float]) -> tuple[float, float]:
    """The 95 % interval of the median, by drawing rounds again."""
    drawn = np.random.default_rng(0).choice(values, (RESAMPLES, len(values)))
    low, high = np.percentile(np.median(drawn, axis=1), (2.5, 97.5))
    return float(low), float(high)


def _with_interval(row: dict[str, Any], name: str) -> str:
    low, high = row[f"{name}_interval"]
    return f"{row[name]:.3f} [{low:.3f}, {high:.3f}]"
