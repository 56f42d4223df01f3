"""OpenAI's client for files and batches, and a service with keys for it."""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from openai.types import Batch

from router.keys import hash_of, new_key
from tests.support.local_service import LocalRouter, served
from tests.support.waiting import wait_for

MODEL: dict[str, Any] = {"engine": {"kind": "fake"}, "dimensions": 8, "max_tokens": 64}
NAMES = ("one", "other", "interactive", "slow", "tiny", "empty")
KEYS = {name: new_key(bytes([index + 40]) * 32) for index, name in enumerate(NAMES)}
OPEN: dict[str, Any] = {
    "models": {"small": MODEL, "large": MODEL},
    "tiers": {"fast": "small", "best": "large"},
    "collections": {"docs": "large/8"},
    "limits": {"max_file_bytes": 100_000, "max_body_bytes": 5_000},
}
ENDED = ("completed", "failed", "expired", "cancelled")

Service = tuple[str, LocalRouter]


@contextmanager
def locked_service(folder: Path) -> Iterator[Service]:
    """A service with these keys, some of which may do less than others."""
    keys = {name: {"hash": hash_of(key)} for name, key in KEYS.items()}
    keys["one"]["models"] = ["small"]  # type: ignore[assignment]
    keys["interactive"]["priorities"] = ["interactive"]  # type: ignore[assignment]
    for limited in ("slow", "tiny"):
        keys[limited]["requests_per_minute"] = 60  # type: ignore[assignment]
    with served({**OPEN, "keys": keys, "batches": {"folder": str(folder)}}) as both:
        yield both


def client(service: Service, key: str = "other") -> OpenAI:
    return OpenAI(base_url=f"{service[0]}/v1", api_key=KEYS[key], max_retries=0, timeout=120)


def lines(count: int, **body: Any) -> list[dict[str, Any]]:
    return [
        {
            "custom_id": f"c{number}",
            "method": "POST",
            "url": "/v1/embeddings",
            "body": {"model": "fast", "input": f"text {number}", **body},
        }
        for number in range(count)
    ]


def upload(openai: OpenAI, content: list[dict[str, Any]] | bytes) -> str:
    if isinstance(content, list):
        content = "\n".join(json.dumps(line) for line in content).encode()
    return openai.files.create(file=("in.jsonl", io.BytesIO(content)), purpose="batch").id


def begun(openai: OpenAI, content: list[dict[str, Any]] | bytes, window: Any = "24h") -> Batch:
    return openai.batches.create(
        input_file_id=upload(openai, content),
        endpoint="/v1/embeddings",
        completion_window=window,
        metadata={"name": "nightly"},
    )


def ended(openai: OpenAI, batch: Batch) -> Batch:
    def over() -> bool:
        nonlocal batch
        batch = openai.batches.retrieve(batch.id)
        return batch.status in ENDED

    wait_for(over, "the batch to end", told=lambda: batch)
    return batch


def rows(openai: OpenAI, id: str | None) -> dict[str, dict[str, Any]]:
    found = openai.files.content(id).text.splitlines() if id else []
    by_id = {row["custom_id"]: row for row in map(json.loads, found)}
    assert len(by_id) == len(found)
    return by_id


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The locked service, one for a module."""
    with locked_service(tmp_path_factory.mktemp("batches")) as both:
        yield both
