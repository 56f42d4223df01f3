"""A batch whose router is killed: another one goes on, and every line is in the output once."""

import asyncio
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from openai import APIConnectionError, OpenAI
from openai.types import Batch

from benchmarks.batch_jobs import ObservedBatch
from tests.support.router_process import router_process
from tests.support.waiting import wait_for

SLOW = {"kind": "fake", "base_s": 0.02}
LINES = 400


def args(folder: Path) -> dict[str, Any]:
    model = {"engine": SLOW, "dimensions": 8, "max_tokens": 64}
    return {
        "models": {"small": model},
        "tiers": {"fast": "small"},
        "batches": {"folder": str(folder), "lines_in_flight": 8},
    }


def client(url: str) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120)


def begun(openai: OpenAI) -> Batch:
    content = "".join(
        json.dumps(
            {
                "custom_id": f"c{number}",
                "method": "POST",
                "url": "/v1/embeddings",
                "body": {"model": "fast" if number % 10 else "none", "input": f"text {number}"},
            }
        )
        + "\n"
        for number in range(LINES)
    )
    file = openai.files.create(file=("in.jsonl", io.BytesIO(content.encode())), purpose="batch")
    return openai.batches.create(
        input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h"
    )


def done(batch: Batch) -> int:
    counts = batch.request_counts
    return 0 if counts is None else counts.completed + counts.failed


def check(openai: OpenAI, batch: Batch) -> None:
    """The batch ends, and each of its lines is in one of its files once."""

    def over() -> bool:
        nonlocal batch
        batch = openai.batches.retrieve(batch.id)
        return batch.status == "completed"

    wait_for(over, "the batch to end", told=lambda: batch)
    assert batch.output_file_id
    assert batch.error_file_id
    found = [
        json.loads(line)["custom_id"]
        for id in (batch.output_file_id, batch.error_file_id)
        for line in openai.files.content(id).text.splitlines()
    ]
    assert sorted(found) == sorted(f"c{number}" for number in range(LINES))
    counts = batch.request_counts
    assert counts is not None
    assert (counts.completed, counts.failed) == (LINES - LINES // 10, LINES // 10)


def test_every_line_is_there_once_after_routers_were_killed_and_a_line_was_torn(
    tmp_path: Path,
) -> None:
    with router_process(args(tmp_path)) as (url, process):
        openai = client(url)
        batch = begun(openai)
        wait_for(
            lambda: done(openai.batches.retrieve(batch.id)) > 40, "some lines", told=lambda: batch
        )
        process.kill()
        process.wait()
    (output,) = tmp_path.glob("batches/_/*/output.jsonl")
    whole = output.read_bytes()
    output.write_bytes(whole + whole[: whole.index(b"\n") // 2])  # a write that was cut off
    with router_process(args(tmp_path)) as (url, process), router_process(args(tmp_path)) as two:
        openai, other = client(url), client(two[0])
        before = done(other.batches.retrieve(batch.id))
        assert before >= 40
        wait_for(
            lambda: done(other.batches.retrieve(batch.id)) > before + 40,
            "one of the two to go on",
            told=lambda: other.batches.retrieve(batch.id),
        )
        process.kill()  # perhaps the one that runs it
        process.wait()
        try:
            openai.batches.retrieve(batch.id)
        except APIConnectionError:
            pass
        else:
            raise AssertionError("the router was not killed")
        check(other, batch)


class Routers:
    """Routers of one folder, as the benchmark of batches sees a service."""

    def __init__(self, folder: Path, *found: tuple[str, int]) -> None:
        self._folder = folder
        self._found = {psutil.Process(id): url for url, id in found}
        self.url, _ = found[0]

    def replicas(self, deployment: str) -> list[psutil.Process]:
        dead = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        return [one for one in self._found if one.is_running() and one.status() not in dead]

    def leave(self, process: psutil.Process) -> None:
        """Send requests to another router."""
        self.url = next(url for other, url in self._found.items() if other != process)

    def running(self) -> list[psutil.Process]:
        """The routers that hold the lock of a batch."""
        (lock,) = self._folder.glob("batches/_/*/lock")
        return [
            one
            for one in self.replicas("router")
            if str(lock) in {file.path for file in one.open_files()}
        ]


@pytest.mark.long
def test_the_benchmark_of_batches_kills_the_router_that_runs_one(tmp_path: Path) -> None:
    sections = {**args(tmp_path), "tiers": {"fast": "large"}}
    slower = {**SLOW, "base_s": 0.1}
    sections["models"] = {"large": {**sections["models"]["small"], "engine": slower}}
    with router_process(sections) as one, router_process(sections) as two:
        routers = Routers(tmp_path, *((url, process.pid) for url, process in (one, two)))

        async def job() -> tuple[Counter[str], int]:
            async with aiohttp.ClientSession() as session:
                job = ObservedBatch(routers, session, LINES)
                await job.begin()
                (running,) = routers.running()
                routers.leave(running)
                assert await job.killed(1) == {"router": 1}
                assert not running.is_running() or running.status() == psutil.STATUS_ZOMBIE
                assert len(routers.replicas("router")) == 1
                return await job.found()

        found, refused = asyncio.run(job())
    assert (found, refused) == (Counter(f"c{number}" for number in range(LINES)), 0)
