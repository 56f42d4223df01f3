"""Time of a student's query against a cached one.

One router with the student's teacher and the student. The teacher embeds some claims of SciFact,
which the cache keeps, and then scales to zero replicas. From then on requests alternate on one
connection: a cached claim, and the same claim with a number appended, which only the student can
answer. These requests name the student: otherwise they would wake its teacher, and its start would
be measured too. Times are of the whole request, at the client.
"""

import http.client
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import click
import numpy as np
import yaml

from benchmarks.live import Router, router, with_config
from benchmarks.marks import Row, at_most, numbers, show, to_file, write
from benchmarks.public_data import sample, scifact
from router.space import Space
from router.student import load

TAUGHT, COLLECTION = "student", "claims"
MAX_RATIO = 1.2  # the mark
CLAIMS = 50
WARM = 200
BUDGET_MS = 1000  # the teacher's start takes longer
AWAY_S = 120.0


class Timings(NamedTuple):
    """Seconds of both kinds of requests, in the order in which they alternated."""

    cached: list[float]
    taught: list[float]


def config_of(config: Path, file: Path, space: Space) -> dict[str, Any]:
    """The config with the student and its teacher, which can scale to zero replicas."""
    data: dict[str, Any] = yaml.safe_load(config.read_text())
    (one,) = data["applications"]
    args = one["args"]
    if space.model not in args["models"]:
        raise click.ClickException(f"{config} has no model {space.model}, the student's teacher")
    teacher = {**args["models"][space.model], "required": False, "cold_start_s": 60}
    taught = {"engine": {"kind": "student", "weights": str(file)}, "space_of": str(space)}
    one["args"] = {
        "models": {space.model: teacher, TAUGHT: taught},
        "tiers": {"fast": space.model},
        "collections": {
            COLLECTION: {
                "space": str(space),
                "encoders": [TAUGHT],
                "min_recall": 0.0,
                "min_recall_each": 0.0,
            }
        },
        **{key: args[key] for key in ("base_dir",) if key in args},
    }
    one["deployments"] = [
        own for own in one["deployments"] if own["name"] in ("router", space.model)
    ]
    for own in one["deployments"]:
        if own["name"] == space.model:
            own["autoscaling_config"] = {
                "min_replicas": 0,
                "initial_replicas": 1,
                "max_replicas": 1,
                "downscale_delay_s": 3,
            }
    return data


class Asker:
    """One connection to the router."""

    def __init__(self, running: Router) -> None:
        at = urlsplit(running.url)
        self._connection = http.client.HTTPConnection(at.hostname or "", at.port, timeout=120)

    def __call__(self, text: str, **options: Any) -> tuple[float, dict[str, Any]]:
        """The seconds of a query, and the answer's `routing`."""
        body = {"input": text, "space": COLLECTION, "input_type": "query", **options}
        sent = json.dumps({**body, "encoding_format": "base64"}).encode()
        began = time.perf_counter()
        self._connection.request(
            "POST", "/v1/embeddings", sent, {"content-type": "application/json"}
        )
        answer = self._connection.getresponse()
        read = answer.read()
        took = time.perf_counter() - began
        if answer.status != http.client.OK:
            raise click.ClickException(f"the router answered {answer.status}: {read.decode()}")
        routing: dict[str, Any] = json.loads(read)["routing"]
        return took, routing


def alternate(running: Router, model: str, claims: list[str], requests: int) -> Timings:
    """Fill the cache, wait until the teacher is gone, and time both kinds alternately."""
    ask, found = Asker(running), Timings([], [])
    for claim in claims:
        ask(claim, model=model)
    until_s = time.monotonic() + AWAY_S
    while running.replica(model) is not None:
        if time.monotonic() > until_s:
            raise click.ClickException(f"{model} still had a replica after {AWAY_S:.0f} s")
        time.sleep(0.5)
    for number in range(WARM + requests):
        claim = claims[number % len(claims)]
        kinds = (
            (claim, model, "native", found.cached),
            (f"{claim} {number}", TAUGHT, TAUGHT, found.taught),
        )
        for text, named, encoder, kept in kinds if number % 2 else reversed(kinds):
            took, routing = ask(text, model=named, latency_budget_ms=BUDGET_MS)
            if routing["encoder"] != encoder:
                raise click.ClickException(f"{text!r} was answered by {routing}, not {encoder}")
            if number >= WARM:
                kept.append(took)
    if running.replica(model) is not None:
        raise click.ClickException(f"{model} was started while it was to be away")
    return found


def ratio_of(found: Timings) -> tuple[float, float, float]:
    """The ratio of the medians, and its 95 % bootstrap interval over the pairs."""
    pairs = np.array([found.taught, found.cached])
    rng = np.random.default_rng(0)
    draws = [
        np.median(pairs[:, rng.integers(0, pairs.shape[1], pairs.shape[1])], axis=1)
        for _ in range(1000)
    ]
    ratios = [float(taught / cached) for taught, cached in draws]
    low, high = np.percentile(ratios, [2.5, 97.5])
    whole = statistics.median(found.taught) / statistics.median(found.cached)
    return whole, float(low), float(high)


@click.command()
@with_config
@sample
@click.option(
    "--student",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Student file of one of the config's models.",
)
@click.option("--requests", type=click.IntRange(10), default=3000, show_default=True)
@to_file
def main(config: Path, folder: Path, student: Path, requests: int, file: Path | None) -> None:
    """Compare queries that a student answers with queries from the cache."""
    space = load(student).about.space
    claims = [query.text for query in scifact(folder).queries][:CLAIMS]
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "student.yaml"
        path.write_text(
            yaml.safe_dump(config_of(config, student.resolve(), space), sort_keys=False)
        )
        with router(path, None) as running:
            found = alternate(running, space.model, claims, requests)
    whole, low, high = ratio_of(found)
    rows = list[Row]()
    for name, seconds in (("from the cache", found.cached), ("by the student", found.taught)):
        p50_ms, p99_ms = map(float, 1000 * np.percentile(seconds, [50, 99]))
        click.echo(f"{name:16} p50 {p50_ms:6.3f} ms   p99 {p99_ms:6.3f} ms")
        rows += numbers(name, {"p50, ms": p50_ms, "p99, ms": p99_ms})
    click.echo(f"the ratio is in [{low:.2f}, {high:.2f}], {requests} requests of each")
    ratio = at_most("p50 by the student, to that from the cache", whole, MAX_RATIO)
    show([ratio])
    rows += [ratio, Row("the ratio at least", low), Row("the ratio at most", high)]
    write(rows, file)


if __name__ == "__main__":
    main()
