"""Compare autoscaling policies: reaction time, replicas, cost and late answers.

    python -m benchmarks autoscale                    (about 2 minutes for each of three policies)

Real Serve, one router, and two models of kind `fake`. Requests name the large model within a
budget, and the small one can answer instead. The load steps from 0.4 of a large replica up to 2.4
and back. Serve's policies count calls at replicas, and not the queue in the router.

`by tokens` is deployments.autoscale:ByTokens, `serve, tuned` and `serve, default` are Serve's
policy (POLICIES below). With `--pinned` the small model never answers: the load waits for replicas,
or is refused with 429 if it would wait for more than 10 s.

Time to ready is from the step up to the third ready replica. Replica-seconds count all processes.
Late: later than 500 ms on the client's clock, refusals included.
"""

import asyncio
import itertools
import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import httpx
import psutil
import yaml

from benchmarks.live import Ask, Client, RequestResult, Router, Text, router
from benchmarks.marks import flat, to_file, write
from deployments.tools.calibrate import replicas

RATE = 1000.0  # tokens/s of a large replica
TOKENS = 50
CHARACTERS = 4 * TOKENS  # the fake engine counts a token for four characters
NEEDED = 3  # replicas for the high step
BUDGET_S = 0.5
STEPS = ((0.4, 0.15), (2.4, 0.45), (0.4, 0.4))  # load in large replicas, share of the trace
SLOW = {"min_replicas": 1, "max_replicas": 6}
POLICIES: Mapping[str, tuple[dict[str, Any] | None, dict[str, Any]]] = {
    "by tokens": (
        {
            "policy_function": "deployments.autoscale:ByTokens",
            "policy_kwargs": {"hold_s": 20.0, "start_s": 10.0},
        },
        {
            **SLOW,
            "metrics_interval_s": 2,
            "look_back_period_s": 10,
            "upscale_delay_s": 3,
            "downscale_delay_s": 1,
        },
    ),
    "serve, tuned": (
        None,
        {
            **SLOW,
            "target_ongoing_requests": 1,
            "metrics_interval_s": 2,
            "look_back_period_s": 12,
            "upscale_delay_s": 5,
            "downscale_delay_s": 20,
        },
    ),
    "serve, default": (None, SLOW),
}


class ReplicaCount(NamedTuple):
    """Replicas of the large model at one moment of the trace."""

    at_s: float
    exist: int
    ready: int


def config(policy: str) -> dict[str, Any]:
    """The Serve config of one run."""
    scale_all, scaling = POLICIES[policy]

    def model(s_per_token: float) -> dict[str, Any]:
        curve = {
            "fixed_s": 0,
            "base_s": 0,
            "s_per_token": s_per_token,
            "batch_tokens": 200,
            "overhead_s": 0.02,
        }
        return {
            "engine": {"kind": "fake", "s_per_token": s_per_token},
            "dimensions": 64,
            "max_tokens": 512,
            "curve": curve,
            "quality": {"default": 60 if s_per_token < 0.001 else 70},
        }

    def deployment(name: str, autoscaling: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "name": name,
            "autoscaling_config": dict(autoscaling),
            "ray_actor_options": {"num_cpus": 0.01},
            "graceful_shutdown_wait_loop_s": 0.5,
            "graceful_shutdown_timeout_s": 5,
        }

    fixed = {
        "min_replicas": 1,
        "max_replicas": 1,
        "metrics_interval_s": 2,
        "look_back_period_s": 10,
    }
    application = {
        "name": "embedding-router",
        "route_prefix": "/",
        "import_path": "deployments.app:build",
        "args": {
            "models": {"small": model(1 / (20 * RATE)), "large": model(1 / RATE)},
            "tiers": {"fast": "small", "best": "large"},
            "cache": {"max_bytes": 0},
            "limits": {"max_queue_s": 10.0},
        },
        "deployments": [
            deployment("router", fixed),
            deployment("small", fixed),
            deployment("large", scaling),
        ],
    }
    return {
        "applications": [application | ({"autoscaling_policy": scale_all} if scale_all else {})]
    }


async def trace(
    running: Router, seconds: float, pinned: bool, rng: random.Random
) -> tuple[list[RequestResult], list[ReplicaCount]]:
    """Run the steps; return the answers and the replicas over time."""
    assert running.process is not None
    results, seen, number = list[RequestResult](), list[ReplicaCount](), 0
    start_s = time.perf_counter()
    done = asyncio.Event()

    def ask() -> Ask:
        nonlocal number
        number += 1
        text = f"{number} ".ljust(CHARACTERS, "x")
        options = (
            {"model": "large"}
            if pinned
            else {"model": "best", "latency_budget_ms": BUDGET_S * 1000}
        )
        return Ask(Text(text, "en", "query"), options, BUDGET_S)

    async def watch() -> None:
        async with httpx.AsyncClient(base_url=running.url, timeout=5) as client:
            while not done.is_set():
                exist = await asyncio.to_thread(_exist, running.process)
                ready = next(
                    m
                    for m in (await client.get("/v1/tiers")).json()["data"]
                    if m["model"] == "large"
                )["replicas_ready"]
                seen.append(ReplicaCount(time.perf_counter() - start_s, exist, ready))
                await asyncio.sleep(0.5)

    watching = asyncio.create_task(watch())
    async with Client(running.url) as client:
        for load, share in STEPS:
            results += await client.at_rate(ask, load * RATE / TOKENS, share * seconds, rng)
    done.set()
    await watching
    return results, seen


def _exist(process: psutil.Process | None) -> int:
    assert process is not None
    return sum(1 for _ in replicas("large", process.children(recursive=True)))


def summarise(
    policy: str, results: Sequence[RequestResult], seen: Sequence[ReplicaCount], seconds: float
) -> dict[str, Any]:
    """One row of the table."""
    up_s = STEPS[0][1] * seconds
    ready = [one.at_s - up_s for one in seen if one.at_s >= up_s and one.ready >= NEEDED]
    paid = sum(one.exist * (after.at_s - one.at_s) for one, after in itertools.pairwise(seen))
    late = sum(one.status != httpx.codes.OK or one.total_s > BUDGET_S for one in results)
    return {
        "policy": policy,
        "requests": len(results),
        "ready_s": ready[0] if ready else None,
        "most": max(one.exist for one in seen),
        "replica_s": paid,
        "asked_for": sum(one.model == "large" for one in results) / len(results),
        "late": late / len(results),
        "refused": sum(one.status == httpx.codes.TOO_MANY_REQUESTS for one in results),
        "errors": sum(
            one.status not in (httpx.codes.OK, httpx.codes.TOO_MANY_REQUESTS) for one in results
        ),
    }


@click.command()
@click.option(
    "--policy",
    "chosen",
    multiple=True,
    type=click.Choice(list(POLICIES)),
    help="Policy to run; repeatable. [default: all]",
)
@click.option(
    "--seconds",
    type=click.FloatRange(20.0),
    default=90.0,
    show_default=True,
    help="Seconds of the trace.",
)
@click.option("--pinned", is_flag=True, help="Let only the large model answer.")
@to_file
@click.option("--seed", type=int, default=0)
def main(chosen: Sequence[str], seconds: float, pinned: bool, file: Path | None, seed: int) -> None:
    """Run a load with a step up and a step down under each autoscaling policy."""
    rows = []
    for policy in chosen or POLICIES:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "autoscale.yaml"
            path.write_text(yaml.safe_dump(config(policy), sort_keys=False))
            with router(path, None) as running:
                results, seen = asyncio.run(trace(running, seconds, pinned, random.Random(seed)))
        rows.append(summarise(policy, results, seen, seconds))
    write(flat(rows, "policy"), file)
    ideal = sum(load * share * seconds for load, share in STEPS)
    click.echo(
        f"{seconds:.0f} s; {NEEDED} replicas needed at most, {ideal:.0f} replica-seconds of work"
    )
    heads = (
        ("requests", 8),
        ("ready s", 8),
        ("most", 5),
        ("replica-s", 9),
        ("asked for", 9),
        ("late", 6),
        ("refused", 7),
        ("errors", 6),
    )
    click.echo(f"{'policy':<15} " + " ".join(f"{head:>{width}}" for head, width in heads))
    for row in rows:
        ready = "never" if row["ready_s"] is None else f"{row['ready_s']:.1f}"
        click.echo(
            f"{row['policy']:<15} {row['requests']:>8} {ready:>8} {row['most']:>5} "
            f"{row['replica_s']:>9.0f} "
            f"{row['asked_for']:>9.1%} {row['late']:>6.1%} {row['refused']:>7} {row['errors']:>6}"
        )


if __name__ == "__main__":
    main()
