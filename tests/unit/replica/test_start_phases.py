"""A replica reports its start: a log line a minute, and a metric for each phase."""

import asyncio

import pytest

from deployments.replica.host import STILL_S, Host, log_progress
from deployments.telemetry import metrics
from deployments.telemetry.metrics import OF_REPLICA, ProcessMetrics
from tests.support.failing_card import Card


def test_each_phase_is_a_metric_of_its_own() -> None:
    tally, host = ProcessMetrics(OF_REPLICA), Host(Card(), "one")
    host.sample(tally, "model")
    assert not tally.values[metrics.ENGINE_START]
    host.start_phases = {"load": 20.0, "compile": 31.5, "proof": 0.5}
    host.sample(tally, "model")
    assert tally.values[metrics.ENGINE_START] == {
        ("model", "load"): 20.0,
        ("model", "compile"): 31.5,
        ("model", "proof"): 0.5,
    }


class StartLog:
    """What vLLM's log says that the engine is doing."""

    def __init__(self, doing: str) -> None:
        self.doing = doing


class Starting:
    """An engine that is still starting, and has a log of its start."""

    def __init__(self) -> None:
        self.start_log = StartLog("download")


class Sleeps:
    """Lets the first sleeps end at once, and never the one after them."""

    def __init__(self, count: int) -> None:
        self.left, self.lengths = count, list[float]()
        self.over = asyncio.Event()

    async def __call__(self, seconds: float) -> None:
        self.lengths.append(seconds)
        if not self.left:
            self.over.set()
            await asyncio.Event().wait()
        self.left -= 1


@pytest.mark.parametrize(("engine", "doing"), [(Starting(), "download"), (object(), "loading")])
async def test_what_a_starting_engine_does_is_logged_once_a_minute(
    engine: object, doing: str, caplog: pytest.LogCaptureFixture
) -> None:
    sleeps = Sleeps(2)
    with caplog.at_level("INFO", "ray.serve"):
        saying = asyncio.create_task(log_progress("large", engine, sleeps))
        await sleeps.over.wait()
        saying.cancel()
    assert sleeps.lengths == [STILL_S] * 3
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    for line in lines:
        assert line.startswith("large still starts after ")
        assert line.endswith(f" s: {doing}")
