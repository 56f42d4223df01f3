"""The router as users run it, started once for all tests that only ask it something."""

from collections.abc import Generator, Iterator
from contextlib import suppress

import pytest
import yaml
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
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    """`configs/local.yaml` as it is, but for the folder of its batches."""
    folder = tmp_path_factory.mktemp("local")
    config = yaml.safe_load((ROOT / "configs" / "local.yaml").read_text())
    args = config["applications"][0]["args"]
    args["base_dir"] = str(ROOT)
    args["batches"]["folder"] = str(folder / "batches")
    path = folder / "local.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    with launched(path) as running:
        yield running


@pytest.fixture
def openai_client(local: Launched) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{local.url}/v1", api_key="unused", max_retries=0, timeout=120) as client:
        yield client
