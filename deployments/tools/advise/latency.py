"""Measure latency and throughput of every model through the service.

Models alternate in rounds, so that a slow minute affects all of them. Each text gets a number in
front that no earlier run used, so that no cache has it. A round sends, for each model: single texts
one at a time, single texts a few at a time, and batches enough for every device. The result of a
round is written to a file as a line before the next begins.
"""

import asyncio
import json
import math
import os
import random
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

from deployments.tools.advise.survey import INPUT_TYPES, AdvisePlan, ServedModel, TextSide
from deployments.tools.calibrate import replicas
from deployments.tools.client import ServiceClient
from deployments.tools.progress import bar

ROUNDS = 5
AT_ONCE = 4
BATCH_TEXTS = 16
BATCHES = 4  # of one throughput round, for each device; all in flight


class Round(NamedTuple):
    """Measurements of one model in one round."""

    round: int
    model: str
    alone_ms: list[float]  # one at a time
    together_ms: list[float]  # AT_ONCE at a time
    texts: int  # of the batches
    tokens: int
    wall_s: float
    # resident, of the largest replica, if it runs on this machine
    memory_bytes: int | None = None


class Timing(NamedTuple):
    """One model over all rounds.

    Latencies are those that a client sees; device seconds are of all replicas while they are busy.
    """

    requests: int  # of each kind
    alone_p50_ms: float
    alone_p95_ms: float
    together_p50_ms: float
    together_p95_ms: float
    in_budget: float | None  # share of the requests at AT_ONCE that were answered in the budget
    texts_per_s: float
    device_s_per_token: float
    device_s_per_million: float  # texts like these
    price_per_million: float | None
    memory_bytes: int | None


async def measure(
    client: ServiceClient, plan: AdvisePlan, output: Path, requests: int, is_local: bool = False
) -> list[Round]:
    """Measure the rounds that `output` lacks, and return all rounds.

    `requests` of each kind are sent to each model. `is_local`: the service runs on this machine,
    where its memory can be read.
    """
    file = output / "latency.jsonl"
    done = read(file)
    have = {(item.round, item.model) for item in done}
    interactive, mix = samples(plan)
    each = max(1, requests // ROUNDS)
    left = [(number, candidate) for number in range(ROUNDS) for candidate in _order(plan, number)
            if (number, candidate.name) not in have]  # fmt: skip
    if not left:
        return done
    for candidate in plan.candidates:  # warm-up, not counted
        await _request_ms(client, candidate, interactive[0])
    with bar(
        total=len(left),
        desc="latency",
        bar_format="{desc}  {percentage:3.0f}%|{bar}| {remaining} left",
    ) as shown:
        for number, candidate in left:
            found = await _round(client, candidate, number, interactive, mix, each)
            if is_local:
                found = found._replace(memory_bytes=_memory(candidate.name))
            _append(file, found)
            done.append(found)
            shown.update()
    return done


def read(file: Path) -> list[Round]:
    """Read the rounds in a file; a last line that a kill cut short is skipped."""
    if not file.exists():
        return []
    lines = file.read_bytes().splitlines(keepends=True)
    return [Round(**json.loads(line)) for line in lines if line.endswith(b"\n")]


def summary(
    plan: AdvisePlan, rounds: Sequence[Round], budget_ms: float | None, gpu_hour: float | None
) -> dict[str, Timing]:
    """Return each model's timing."""
    made = {}
    for candidate in plan.candidates:
        own = [item for item in rounds if item.model == candidate.name]
        alone = [ms for item in own for ms in item.alone_ms]
        together = [ms for item in own for ms in item.together_ms]
        texts, tokens, wall_s = (
            sum(column)
            for column in zip(*((o.texts, o.tokens, o.wall_s) for o in own), strict=True)
        )
        device_s = wall_s * candidate.devices
        per_million = 1e6 * device_s / texts
        made[candidate.name] = Timing(
            len(alone),
            *_percentiles(alone),
            *_percentiles(together),
            None if budget_ms is None else sum(ms <= budget_ms for ms in together) / len(together),
            texts / wall_s,
            device_s / tokens,
            per_million,
            None if gpu_hour is None else per_million / 3600 * gpu_hour,
            candidate.memory_bytes
            or max((item.memory_bytes for item in own if item.memory_bytes), default=None),
        )
    return made


def samples(plan: AdvisePlan) -> tuple[list[tuple[TextSide, str]], list[tuple[TextSide, str]]]:
    """Return texts that people wait for, and texts of all sides.

    People wait for queries, pairs and labelled texts; documents are used if there is nothing else.
    """
    waited: list[tuple[TextSide, str]] = [
        (side, text) for side in ("query", "symmetric") for text in plan.texts[side]
    ]
    documents: list[tuple[TextSide, str]] = [("document", text) for text in plan.texts["document"]]
    return waited or documents, waited + documents


async def _round(
    client: ServiceClient,
    candidate: ServedModel,
    number: int,
    interactive: Sequence[tuple[TextSide, str]],
    mix: Sequence[tuple[TextSide, str]],
    each: int,
) -> Round:
    rng = random.Random(number)  # the same texts for every model
    plan = [rng.choice(interactive) for _ in range(2 * each)]
    alone_ms = [await _request_ms(client, candidate, item) for item in plan[:each]]
    gate, together_ms = asyncio.Semaphore(AT_ONCE), list[float]()

    async def timed(sent: tuple[TextSide, str]) -> None:
        async with gate:
            together_ms.append(await _request_ms(client, candidate, sent))

    await asyncio.gather(*map(timed, plan[each:]))
    batches = [
        [rng.choice(mix) for _ in range(BATCH_TEXTS)]
        for _ in range(BATCHES * max(1, math.ceil(candidate.devices)))
    ]
    started_s = time.perf_counter()
    answers = await asyncio.gather(
        *(
            client.embed([_new(text) for _, text in batch], model=candidate.name, truncate="end")
            for batch in batches
        )
    )
    wall_s = time.perf_counter() - started_s
    tokens = sum(answer.tokens for answer in answers)
    return Round(
        number, candidate.name, alone_ms, together_ms, len(batches) * BATCH_TEXTS, tokens, wall_s
    )


async def _request_ms(
    client: ServiceClient, candidate: ServedModel, sent: tuple[TextSide, str]
) -> float:
    """Send one interactive request; return its milliseconds."""
    side, text = sent
    started_s = time.perf_counter()
    await client.embed(
        [_new(text)],
        model=candidate.name,
        truncate="end",
        priority="interactive",
        **INPUT_TYPES[side],
    )
    return 1000.0 * (time.perf_counter() - started_s)


def _new(text: str) -> str:
    """Put a random number in front of the text, so that no cache has it.

    At the front, truncation of a long text does not remove it. It is not the round's number: a
    second run would then be answered from the cache of the first.
    """
    return f"{secrets.randbelow(9_000_000) + 1_000_000} {text}"


def _order(plan: AdvisePlan, number: int) -> list[ServedModel]:
    order = list(plan.candidates)
    random.Random(1000 + number).shuffle(order)
    return order


def _append(file: Path, found: Round) -> None:
    """Write a whole line to disk, after removing what a kill left of another."""
    kept = file.read_bytes() if file.exists() else b""
    if kept and not kept.endswith(b"\n"):
        file.write_bytes(kept[: kept.rfind(b"\n") + 1])
    with file.open("ab") as lines:
        lines.write(json.dumps(found._asdict()).encode() + b"\n")
        lines.flush()
        os.fsync(lines.fileno())


def _percentiles(values: Sequence[float]) -> tuple[float, float]:
    p50, p95 = np.percentile(values, (50, 95))
    return float(p50), float(p95)


def _memory(model: str) -> int | None:
    """Resident bytes of the model's largest replica on this machine."""
    return max(
        (int(process.memory_info().rss) for process in replicas(model, psutil.process_iter())),
        default=None,
    )
