"""Time to parse, look up and write a request.

    python -m benchmarks.encoding

Prints the quietest and the median of interleaved rounds, so that a noisy machine affects every line
alike. Two rows are for comparison: the json module over Python floats, and orjson for the bare
array.
"""

import base64
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import orjson

from benchmarks.marks import Row, to_file, write
from router.answers import Routing
from router.cache import VectorCache
from router.config import Limits, RouterArgs
from router.encoding import encode
from router.resolving import resolve
from router.schema import parse
from router.space import fit
from router.spaces import Catalogue

ROUNDS = 15
ROUND_S = 0.02
ROUTING = Routing(
    model="model",
    tier="best",
    reason="rule:long",
    space="model/4096",
    language="en",
    tokens=480,
    predicted_ms=6.2,
    degraded=False,
    cached=0,
    truncated=[],
    adapter=None,
    encoder="native",
    expected_recall=None,
    canary=False,
)


def _request(texts: Any, **more: Any) -> bytes:
    return json.dumps({"input": texts, **more}).encode()


def _naive_float(vectors: np.ndarray[Any, Any]) -> bytes:
    rows = [
        {"object": "embedding", "index": i, "embedding": row}
        for i, row in enumerate(vectors.tolist())
    ]
    return json.dumps({"object": "list", "data": rows}).encode()


def _naive_base64(vectors: np.ndarray[Any, Any]) -> bytes:
    texts = [base64.b64encode(row.tobytes()).decode() for row in vectors]
    rows = [{"object": "embedding", "index": i, "embedding": text} for i, text in enumerate(texts)]
    return json.dumps({"object": "list", "data": rows}).encode()


def cases() -> dict[str, Callable[[], object]]:
    """Cases to time, by name."""
    limits, headers = Limits(), {"host": "localhost", "content-type": "application/json"}
    short = _request("What is the capital of France?", model="auto", encoding_format="base64")
    many = _request(
        [f"text number {i}, about as long as a passage's first sentence" for i in range(2048)]
    )
    ids = _request([list(range(1000))] * 300, model="model", token_ids="model")
    model = {
        "engine": {"kind": "fake"},
        "dimensions": 4096,
        "max_tokens": 512,
        "matryoshka": {"min": 32},
    }
    catalogue = Catalogue(
        RouterArgs.model_validate({"models": {"model": model}, "tiers": {"fast": "model"}})
    )
    free, pinned = (
        parse(short, headers, limits),
        parse(_request("a", space="Org/Model/1024"), headers, limits),
    )
    rows = np.random.default_rng(0).standard_normal((32, 4096), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    one, large = rows[:1, :1024].copy(), np.tile(rows, (8, 1))
    cache, digests = VectorCache(10**8), [i.to_bytes(16, "big") for i in range(32)]
    cache.put_many("model", digests, rows, [12] * 32)
    return {
        "parse 1 short text": lambda: parse(short, headers, limits),
        "parse 2048 texts": lambda: parse(many, headers, limits),
        "parse 300 x 1000 token ids": lambda: parse(ids, headers, limits),
        "resolve auto": lambda: resolve(catalogue, free),
        "resolve space": lambda: resolve(catalogue, pinned),
        "fit 32 x 4096 to 1024": lambda: fit(rows, 1024),
        "cache: look up 1": lambda: cache.get_many("model", digests[:1]),
        "cache: look up 32": lambda: cache.get_many("model", digests),
        "encode 1 x 1024 base64": lambda: encode(one, "base64", ROUTING, 12),
        "encode 1 x 1024 float": lambda: encode(one, "float", ROUTING, 12),
        "encode 32 x 4096 base64": lambda: encode(rows, "base64", ROUTING, 480),
        "encode 32 x 4096 float": lambda: encode(rows, "float", ROUTING, 480),
        "encode 256 x 4096 base64": lambda: encode(large, "base64", ROUTING, 3840),
        "encode 256 x 4096 float": lambda: encode(large, "float", ROUTING, 3840),
        "encode 32 x 4096 int8": lambda: encode(rows, "int8", ROUTING, 480),
        "encode 32 x 4096 binary": lambda: encode(rows, "binary", ROUTING, 480),
        "orjson alone 32 x 4096 float": lambda: orjson.dumps(
            rows, option=orjson.OPT_SERIALIZE_NUMPY
        ),
        "json module 32 x 4096 base64": lambda: _naive_base64(rows),
        "json module 32 x 4096 float": lambda: _naive_float(rows),
    }


@click.command()
@to_file
def main(file: Path | None) -> None:
    """Time every case in microseconds per call."""
    timed = cases()
    took: dict[str, list[float]] = {name: [] for name in timed}
    calls = {name: max(1, int(ROUND_S / _seconds(call, 1))) for name, call in timed.items()}
    for _ in range(ROUNDS):
        for name, call in timed.items():
            took[name].append(_seconds(call, calls[name]) / calls[name] * 1e6)
    print(f"{'us a call':<32}{'quietest':>12}{'median':>12}")
    for name, us in took.items():
        print(f"{name:<32}{min(us):>12.2f}{statistics.median(us):>12.2f}")
    write((Row(f"{name}, quietest, us", min(us)) for name, us in took.items()), file)


def _seconds(call: Callable[[], object], times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
