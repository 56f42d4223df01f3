"""One router on a real socket for the HTTP tests, and the clients that people use."""

from collections.abc import Iterator

import httpx
import pytest
from openai import OpenAI

from tests.support.local_service import LocalRouter, served


@pytest.fixture(scope="session")
def running() -> Iterator[tuple[str, LocalRouter]]:
    with served() as both:
        yield both


@pytest.fixture(scope="session")
def url(running: tuple[str, LocalRouter]) -> str:
    return running[0]


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client


@pytest.fixture
def openai_client(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
        yield client
