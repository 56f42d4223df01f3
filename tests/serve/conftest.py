"""The router as users run it, started once for all tests that only ask it something."""

from collections.abc import Iterator

import pytest
from openai import OpenAI

from tests.support.launched import ROOT, Launched, launched


@pytest.fixture(scope="module")
def local() -> Iterator[Launched]:
    with launched(ROOT / "configs" / "local.yaml") as running:
        yield running


@pytest.fixture
def openai_client(local: Launched) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{local.url}/v1", api_key="unused", max_retries=0, timeout=120) as client:
        yield client
