"""A replica whose card failed ends its process once its callers know, so that the card is free."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.engines.base import EngineDead, EngineError
from deployments.replica import health
from deployments.replica.host import Host
from tests.support.failing_card import CALL, DEAD, Card


class Exit:
    """In the place of os._exit."""

    def __init__(self) -> None:
        self.codes: list[int] = []
        self.called = asyncio.Event()

    def __call__(self, code: int) -> None:
        self.codes.append(code)
        self.called.set()


async def test_all_callers_hear_of_it_before_the_process_ends() -> None:
    left = Exit()
    replica = Host(Card(DEAD, slow_s=0.05), "one", leave=left)
    heard = await asyncio.gather(*(replica.embed(CALL) for _ in range(3)), return_exceptions=True)
    assert [type(one) for one in heard] == [EngineDead] * 3
    assert left.codes == []  # their answers are still being written
    await left.called.wait()
    assert left.codes == [1]
    with pytest.raises(EngineDead):
        await replica.embed(CALL)


async def test_a_health_check_that_finds_the_card_dead_ends_the_process_too() -> None:
    left = Exit()
    replica = Host(Card(DEAD), "one", leave=left)
    with pytest.raises(EngineDead):
        await replica.check_health()
    await left.called.wait()
    assert left.codes == [1]


async def test_what_is_wrong_with_one_text_or_one_call_ends_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health, "WRITTEN_S", 0.0)
    left, card = Exit(), Card(EngineError("this batch failed"))
    replica = Host(card, "one", leave=left)
    with pytest.raises(EngineError):
        await replica.embed(CALL)
    card.error = None
    assert (await replica.embed(CALL)).vectors.shape == (1, 8)
    await asyncio.sleep(0)
    assert left.codes == []


async def test_without_a_card_serve_replaces_the_replica() -> None:
    replica = Host(Card(DEAD), "one")
    with pytest.raises(EngineDead):
        await replica.embed(CALL)
    with pytest.raises(EngineDead):
        await replica.check_health()


def test_the_process_is_really_gone() -> None:
    """Threads that hang, as in a driver, do not hold it."""
    root = Path(__file__).resolve().parents[3]
    code = """
import asyncio, os, threading, time
from tests.support.failing_card import CALL, DEAD, Card
from deployments.replica.host import Host
threading.Thread(target=time.sleep, args=(600,)).start()
async def main():
    replica = Host(Card(DEAD), "one", leave=os._exit)
    try:
        await replica.embed(CALL)
    except Exception as error:
        print(type(error).__name__, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout.split()) == (1, ["EngineDead"])
