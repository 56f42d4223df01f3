"""The engine with two steps in flight, as on a GPU: vLLM's real scheduler, and a device whose steps
end when a test lets them.
"""

import asyncio
import gc
import logging
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from benchmarks.device import STEP_TOKENS, DriveMode, started
from deployments.engines.base import EngineDead
from deployments.engines.vllm_backends import Encoded
from deployments.engines.vllm_in_process import SLICE, InProcess
from tests.support.gated_device import WIDTH, gated_device
from tests.support.waiting import WAIT_S, wait_for

pytestmark = [pytest.mark.vllm, pytest.mark.models, pytest.mark.long]

TEXTS = 8  # of a call that fills a step


class Engine:
    """An engine, and its device."""

    def __init__(self, engine: InProcess, device: type[Any]) -> None:
        self.engine, self.device = engine, device

    def call(self, texts: int = TEXTS, tokens: int = STEP_TOKENS // TEXTS) -> asyncio.Task[Encoded]:
        ids = {row: np.ones(tokens, np.int32) for row in range(texts)}
        vectors = np.zeros((texts, WIDTH), np.float32)

        async def embed() -> Encoded:
            encoded = await self.engine.encode(ids, vectors)
            assert vectors.all()
            return encoded

        return asyncio.get_running_loop().create_task(embed())

    async def step(self, number: int) -> Any:
        return await asyncio.to_thread(self.device.step, number)


@pytest_asyncio.fixture
async def engine(tiny_qwen3: Path) -> AsyncIterator[Engine]:
    switch_s = sys.getswitchinterval()
    made, device = started(DriveMode(), tiny_qwen3, gated_device())
    await made.start()
    device.open = False
    device.steps.clear()
    try:
        yield Engine(made, device)
    finally:
        device.open = True
        for step in device.steps:
            step.end()
        await made.stop()
        sys.setswitchinterval(switch_s)


async def answer(call: asyncio.Task[Encoded]) -> Encoded:
    async with asyncio.timeout(WAIT_S):
        return await call


async def test_a_call_is_scheduled_while_another_one_runs(engine: Engine) -> None:
    first, second = engine.call(), engine.call()
    one, two = await engine.step(0), await engine.step(1)
    assert not first.done()
    one.end()
    assert (await answer(first)).running_tokens == STEP_TOKENS
    assert not second.done()
    two.end()
    assert (await answer(second)).running_tokens == 0


@pytest.mark.parametrize("left", [0, 1], ids=["running", "queued"])
async def test_a_call_that_leaves_takes_nothing_from_the_other(engine: Engine, left: int) -> None:
    calls = [engine.call(), engine.call()]
    steps = [await engine.step(0), await engine.step(1)]
    calls[left].cancel()
    await asyncio.wait([calls[left]])
    for step in steps:
        step.end()
    await answer(calls[1 - left])
    engine.device.open = True
    await answer(engine.call())
    assert engine.engine.queued_tokens == 0


async def test_after_all_calls_have_left_no_step_stays_behind(engine: Engine) -> None:
    calls = [engine.call(), engine.call()]
    steps = [await engine.step(0), await engine.step(1)]
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    for step in steps:
        step.end()
    core: Any = engine.engine.engine.engine_core.engine_core  # type: ignore[union-attr]

    def waited_for() -> bool:
        return not any(step.tokens for step, *_ in core.batch_queue)

    await asyncio.to_thread(wait_for, waited_for, "the steps to be taken out")
    engine.device.open = True
    await answer(engine.call())


@pytest.mark.parametrize("failed", [0, 1])
async def test_a_failed_step_ends_the_engine_with_an_error_for_each_call(
    engine: Engine, failed: int
) -> None:
    calls = [engine.call(), engine.call()]
    steps = [await engine.step(0), await engine.step(1)]
    for number, step in enumerate(steps):
        step.end(RuntimeError("the device is gone") if number == failed else None)
    if failed:
        await answer(calls[0])
    for call in calls[failed:]:
        with pytest.raises(EngineDead, match="RuntimeError"):
            await answer(call)
    with pytest.raises(EngineDead):
        await answer(engine.call())


async def test_stopping_fails_both_calls_and_returns(engine: Engine) -> None:
    calls = [engine.call(), engine.call()]
    one, _ = await engine.step(0), await engine.step(1)
    stopping = asyncio.get_running_loop().create_task(engine.engine.stop())
    for call in calls:
        with pytest.raises(EngineDead, match="stopped"):
            await answer(call)
    one.end()
    async with asyncio.timeout(WAIT_S):
        await stopping


async def test_an_engine_that_dies_while_texts_are_prepared_leaves_no_unread_error(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    running = engine.call()
    step = await engine.step(0)
    preparing = engine.call(20 * SLICE, 4)
    await asyncio.sleep(0)
    step.end(RuntimeError("the device is gone"))
    caplog.set_level(logging.ERROR, logger="asyncio")
    for call in (running, preparing):
        with pytest.raises(EngineDead):
            await answer(call)
    del running, preparing, call
    gc.collect()
    assert not [one for one in caplog.records if one.name == "asyncio"]
