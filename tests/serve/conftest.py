"""The router as users run it, started once for all tests that only ask it something."""

from collections.abc import Generator, Iterator
from contextlib import suppress

import pytest
from openai import OpenAI

from tests.support.launched import ROOT, Launched, launched


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where a test fails, what the router's processes complained of is a part of the report."""
    report = yield
    if report.failed:
        for name, value in item.funcargs.items():
            with suppress(
                LookupError, OSError
            ):  # a log may go while it is read, and the failure is what matters
                if isinstance(value, Launched):
                    report.sections.append(
                        (f"complaints in the logs of {name}", "\n".join(value.complaints()))
                    )
    return report


@pytest.fixture(scope="module")
def local() -> Iterator[Launched]:
    with launched(ROOT / "configs" / "local.yaml") as running:
        yield running


@pytest.fixture
def openai_client(local: Launched) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{local.url}/v1", api_key="unused", max_retries=0, timeout=120) as client:
        yield client
