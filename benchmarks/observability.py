"""Measure the cost of metrics, traces and keys.

One instance has all three and a switch for each (benchmarks/switched.py). Under one continuous load
they alternate in turns of a second, the publishing interval: two instances of the same config
differ by a tenth throughout, and so does one instance from minute to minute on a shared machine. A
ratio is the median over rounds of the requests per second with them to those without in the same
round, with its 95 % bootstrap interval; CPU time is that of router and replica. Texts are short and
new in every request, over 32 connections. One trace in a hundred is recorded, and its spans are
sent by OTLP, as in docs/observability.md, to a collector that discards them. The engine is a table
(wordllama), the fastest one, so that everything else weighs most. `--vllm` uses a block of Qwen3 on
vLLM instead, with vLLM's own metrics. The row `nothing again` shows the noise.
"""

import random
import secrets
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import click
import httpx

from benchmarks import load, servers
from benchmarks.load import Shape
from benchmarks.marks import numbers, to_file, write
from benchmarks.ratios import interval
from benchmarks.servers import ONE, Server, kept
from benchmarks.switched import PATH, Totals
from router.keys import hash_of, new_key
from tests.support.tiny_qwen3 import quick_dtype

NOTHING = "nothing"
PARTS = {
    NOTHING: "",
    "nothing again": "",
    "metrics": "metrics",
    "metrics, traces": "metrics+traces",
    "metrics, traces, keys": "metrics+traces+keys",
}
CONNECTIONS = 32
WARM_S = 2.0
SWITCH_S = 0.3  # what a switch takes at most, on average
KEY = new_key(secrets.token_bytes(32))
WORDLLAMA = {
    "engine": {
        "kind": "static",
        "weights": "package:wordllama/weights/l2_supercat_256.safetensors",
    },
    "tokenizer": "package:wordllama/tokenizers/l2_supercat_tokenizer_config.json",
    "special_tokens": False,
    "dimensions": 256,
    "max_tokens": 32768,
    "curve": {"fixed_s": 0.0001, "s_per_token": 0.000002, "batch_tokens": 65536},
}


class Measured(NamedTuple):
    """One round of one choice of parts."""

    per_s: float
    router_ms: float  # of the processor, a request
    replicas_ms: float

    @property
    def cpu_ms(self) -> float:
        """CPU of router and replica."""
        return self.router_ms + self.replicas_ms


def config(model: str, model_config: dict[str, Any]) -> dict[str, Any]:
    """The Serve config, with everything on."""
    keys = {
        "bench": {"hash": hash_of(KEY), "requests_per_minute": 10**9, "tokens_per_minute": 10**12}
    }
    return {
        "logging_config": {"enable_access_log": False},
        "tracing_config": {
            "enabled": True,
            "sampling_ratio": 0.01,
            "exporter_import_path": "deployments.export_spans:otlp",
        },
        "applications": [
            {
                "name": "bench",
                "route_prefix": "/",
                "import_path": "benchmarks.switched:build",
                "args": {
                    "models": {model: model_config},
                    "tiers": {"fast": model},
                    "cache": {"max_bytes": 0},
                    "keys": keys,
                },
                "deployments": [
                    {"name": one, "ray_actor_options": {"num_cpus": 0.1}}
                    for one in ("router", model)
                ],
            }
        ],
    }


def tiny_qwen3(folder: Path) -> dict[str, Any]:
    """The model of the data plane's benchmark."""
    source = str(servers.checkpoints(folder)[ONE])
    args = {"dtype": quick_dtype(), "kv_cache_memory_bytes": servers.KV_BYTES}
    return {
        "engine": {"kind": "vllm", "source": source, "args": args},
        "tokenizer": source,
        "dimensions": servers.WIDTHS[ONE],
        "max_tokens": servers.MAX_TOKENS,
        "environment": "cpu-vllm",
    }


class _Sink(BaseHTTPRequestHandler):
    """A server that accepts everything and stores nothing."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def collector() -> Iterator[str]:
    """The URL of a span collector, open during the block."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Sink) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def words() -> list[str]:
    """Random words of two to four letters."""
    rng = random.Random(0)
    return sorted(
        {
            "".join(rng.choices("aeiourstlnmpcdbhgfwyk", k=rng.choice((2, 3, 4))))
            for _ in range(4000)
        }
    )


@click.command()
@click.option(
    "--seconds",
    default=1.0,
    type=click.FloatRange(0.1),
    show_default=True,
    help="Seconds per turn.",
)
@click.option("--rounds", default=60, type=click.IntRange(1), show_default=True)
@click.option(
    "--with",
    "chosen",
    multiple=True,
    type=click.Choice([name for name in PARTS if name != NOTHING]),
    default=[name for name in PARTS if name != NOTHING],
    show_default=True,
    help="Parts to measure; repeatable.",
)
@click.option("--vllm", is_flag=True, help="Use vLLM with a small random Qwen3 instead of a table.")
@kept
@to_file
def main(
    seconds: float,
    rounds: int,
    chosen: tuple[str, ...],
    vllm: bool,
    folder: Path,
    file: Path | None,
) -> None:
    """Measure the cost of metrics, traces and keys."""
    names = [NOTHING, *dict.fromkeys(chosen)]
    model, model_config = (ONE, tiny_qwen3(folder)) if vllm else ("wordllama-256", WORDLLAMA)
    with tempfile.TemporaryDirectory(prefix="bench-") as made:
        scratch = Path(made)
        word_file = scratch / "words"
        word_file.write_text("\n".join(words()))
        with (
            collector() as url,
            servers.configured(
                "switched",
                config(model, model_config),
                [model],
                scratch,
                KEY,
                {"OTEL_EXPORTER_OTLP_ENDPOINT": url},
            ) as server,
        ):
            found = measured(server, names, Shape((model,), 1, 12), seconds, rounds, word_file)
    rows = {name: row(found[name], found[NOTHING]) for name in names}
    for name, one in rows.items():
        click.echo(
            f"{name:<24} {one['requests_per_s']:8.1f}/s  ratio {_with_interval(one, 'ratio')}"
            f"  {one['cpu_ms']:.3f} ms CPU each ({one['router_ms']:.3f} of it the router), "
            f"ratio {_with_interval(one, 'cpu_ratio')}"
        )
    write((figure for name, one in rows.items() for figure in numbers(name, one)), file)


def measured(
    server: Server, names: Sequence[str], shape: Shape, seconds: float, rounds: int, word_file: Path
) -> dict[str, list[Measured]]:
    """Requests with each choice of parts in each round; the order differs in every round."""
    found: dict[str, list[Measured]] = {name: [] for name in names}
    base, rng = server.url.removesuffix("/v1/embeddings"), random.Random(0)
    whole_s = rounds * len(names) * (seconds + SWITCH_S) + 2 * WARM_S
    load.run(server.url, shape, CONNECTIONS, WARM_S, 1, word_file, KEY)
    with (
        httpx.Client(headers={"authorization": f"Bearer {KEY}"}, timeout=60) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        loading = pool.submit(load.run, server.url, shape, CONNECTIONS, whole_s, 2, word_file, KEY)
        time.sleep(WARM_S)
        running, began = "", Totals(0, 0.0, 0.0, 0.0)
        for name in [*(one for _ in range(rounds) for one in rng.sample(names, len(names))), ""]:
            totals = client.post(f"{base}{PATH}{PARTS.get(name, '')}").raise_for_status().json()
            if running:
                ended = Totals(**totals["before"])
                requests = max(1, ended.answered - began.answered)
                router_ms, replicas_ms = (
                    1000 * (after_s - before_s) / requests
                    for after_s, before_s in (
                        (ended.router_s, began.router_s),
                        (ended.replicas_s, began.replicas_s),
                    )
                )
                per_s = requests / (ended.at_s - began.at_s)
                found[running].append(Measured(per_s, router_ms, replicas_ms))
            running, began = name, Totals(**totals["after"])
            time.sleep(seconds)
        if loading.done():
            raise click.ClickException(
                "the load ended before all were measured: this machine is slower than was "
                "planned for"
            )
        got = loading.result()
    if got.failures:
        raise click.ClickException(f"{got.failures} of {got.requests} requests failed")
    return found


def row(rounds: Sequence[Measured], without: Sequence[Measured]) -> dict[str, float]:
    """A row: with these parts, against none."""
    answer = {
        "requests_per_s": statistics.median(one.per_s for one in rounds),
        "cpu_ms": statistics.median(one.cpu_ms for one in rounds),
        "router_ms": statistics.median(one.router_ms for one in rounds),
    }
    quantities: dict[str, Callable[[Measured], float]] = {
        "ratio": lambda one: one.per_s,
        "cpu_ratio": lambda one: one.cpu_ms,
    }
    for name, of in quantities.items():
        ratios = [of(one) / of(other) for one, other in zip(rounds, without, strict=True)]
        low, high = interval(ratios)
        answer |= {name: statistics.median(ratios), f"{name}_low": low, f"{name}_high": high}
    return answer


def _with_interval(row: Mapping[str, float], name: str) -> str:
    return f"{row[name]:.3f} [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]"


if __name__ == "__main__":
    main()
