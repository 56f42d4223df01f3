"""Where steps overlap with the device, Python's threads hand the interpreter over sooner."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from deployments.engines.vllm_in_process import SWITCH_S, switch_early


class Scheduler:
    """The scheduler's part of a config."""

    def __init__(self, async_scheduling: bool) -> None:
        self.async_scheduling = async_scheduling


class Config:
    """The part of vLLM's config that is read."""

    def __init__(self, async_scheduling: bool) -> None:
        self.scheduler_config = Scheduler(async_scheduling)


@pytest.fixture
def before_s() -> Iterator[float]:
    interval_s = sys.getswitchinterval()
    yield interval_s
    sys.setswitchinterval(interval_s)


@pytest.mark.parametrize("overlaps", [True, False])
def test_the_interval_is_short_where_steps_overlap(overlaps: bool, before_s: float) -> None:
    assert before_s != pytest.approx(SWITCH_S)
    config: Any = Config(overlaps)
    switch_early(config)
    assert sys.getswitchinterval() == pytest.approx(SWITCH_S if overlaps else before_s)
