"""Batches behind HAProxy in a real Ray Serve: large files pass, and kills lose nothing."""

import io
import json
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from openai import OpenAI
from openai.types import Batch

from tests.support.launched import launched
from tests.support.local_service import WORDLLAMA
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.serve, pytest.mark.models, pytest.mark.long]
LINES = 3000


def config(folder: Path) -> dict[str, Any]:
    cpus = {"ray_actor_options": {"num_cpus": 0.25}}
    return {
        "applications": [
            {
                "name": "router",
                "route_prefix": "/",
                "import_path": "deployments.app:build",
                "args": {
                    "models": {"wordllama-256": {**WORDLLAMA, "max_tokens": 512}},
                    "tiers": {"fast": "wordllama-256"},
                    "batches": {"folder": str(folder)},
                },
                "deployments": [
                    {"name": "router", "num_replicas": 2, **cpus},
                    {"name": "wordllama-256", "num_replicas": 1, **cpus},
                ],
            }
        ]
    }


def line(number: int) -> str:
    body = {"input": f"text {number}", "user": "u" * 1000, "encoding_format": "base64"}
    request = {"method": "POST", "url": "/v1/embeddings", "body": body}
    return json.dumps({"custom_id": f"c{number}", **request})


def test_every_line_is_there_once_after_routers_and_a_replica_were_killed(tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    path.write_text(yaml.safe_dump(config(tmp_path / "shared")))
    content = "\n".join(map(line, range(LINES))).encode()
    with launched(path) as running:
        openai = OpenAI(base_url=f"{running.url}/v1", api_key="none", timeout=120, max_retries=5)
        file = openai.files.create(file=("in.jsonl", io.BytesIO(content)), purpose="batch")
        assert openai.files.content(file.id).content == content
        batch = openai.batches.create(
            input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h"
        )

        def now() -> Batch:
            return openai.batches.retrieve(batch.id)

        def done() -> int:
            counts = now().request_counts
            return 0 if counts is None else counts.completed

        for name, victim in (("router", 0), ("wordllama-256", 0), ("router", 1)):
            before = done()
            wait_for(lambda before=before: done() > before + 100, "some lines", told=now)  # type: ignore[misc]
            process = running.replicas(name)[victim]
            process.kill()
            psutil.wait_procs([process])
            wait_for(lambda name=name: bool(running.replicas(name)), "another", told=now)  # type: ignore[misc]
        wait_for(lambda: now().status == "completed", "the batch to end", told=now)
        output = now().output_file_id
        assert output
        found = [json.loads(row) for row in openai.files.content(output).text.splitlines()]
        assert sorted(row["custom_id"] for row in found) == sorted(f"c{n}" for n in range(LINES))
        assert now().error_file_id is None
