"""A replica's health check against a fake engine that is told what goes wrong."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from deployments import engines
from deployments.dispatch.wire import Call
from deployments.engines.base import Batch, Embedded, EngineDead, EngineError
from deployments.replica.health import CHECKS_FAILED
from deployments.replica.host import Host
from router.domain import Curve
from router.model_config import ModelConfig

SOON_S = 0.05  # for an engine that answers nothing, however long one waits
PATIENT_S = 60.0  # for one that answers: how slow this machine is decides nothing


class Replica:
    """A host whose fake engine misbehaves as told."""

    def __init__(
        self, folder: Path, health_timeout_s: float = PATIENT_S, curve: Curve | None = None
    ) -> None:
        settings = {"kind": "fake", "faults": str(folder)}
        config = ModelConfig.model_validate(
            {"engine": settings, "dimensions": 16, "max_tokens": 100}
        )
        self.engine = engines.create(config, None)
        self.host = Host(self.engine, "one", health_timeout_s=health_timeout_s, curve=curve)
        self._switch = folder / str(os.getpid())

    def fault(self, name: str | None) -> None:
        if name is None:
            self._switch.unlink()
        else:
            self._switch.write_text(name)

    async def embed(self, tokens: int = 10) -> None:
        await self.host.embed(
            Call(np.zeros(tokens, np.int32), np.array([tokens], np.int32), None, "document", [None])
        )


@pytest.fixture
async def replica(tmp_path: Path) -> AsyncIterator[Replica]:
    made = Replica(tmp_path)
    yield made
    await made.host.stop()


@pytest.fixture
async def hanging(tmp_path: Path) -> AsyncIterator[Replica]:
    made = Replica(tmp_path, SOON_S)
    made.fault("hang")
    yield made
    await made.host.stop()


async def test_an_idle_engine_that_answers_is_healthy(replica: Replica) -> None:
    for _ in range(5):
        await replica.host.check_health()


async def test_an_engine_that_hangs_is_given_up_at_the_third_check_and_its_calls_go_back(
    hanging: Replica,
) -> None:
    calls = [asyncio.create_task(hanging.embed()) for _ in range(3)]
    for _ in range(CHECKS_FAILED):
        with pytest.raises(EngineError, match="did not answer a probe"):
            await hanging.host.check_health()
    for call in calls:
        with pytest.raises(EngineDead, match="did not answer a probe"):
            await call
    with pytest.raises(EngineDead):
        await hanging.embed()


async def test_callers_that_come_and_go_do_not_make_a_hanging_engine_look_alive(
    hanging: Replica,
) -> None:
    failed = 0
    for round in range(CHECKS_FAILED + 1):
        callers = [asyncio.create_task(hanging.embed(10 + round)) for _ in range(3)]
        await asyncio.sleep(0)
        try:
            await hanging.host.check_health()
        except EngineError:
            failed += 1
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
    assert failed >= CHECKS_FAILED


@pytest.mark.parametrize("left", [False, True], ids=["waits", "has left"])
async def test_an_engine_that_reads_a_long_text_is_not_taken_for_one_that_hangs(
    tmp_path: Path, left: bool
) -> None:
    """Whether or not its caller still waits: the engine's thread cannot drop it half-way."""
    a_minute_a_token = Curve(
        fixed_s=0.0, base_s=0.0, s_per_token=60.0, s_per_token_sq=0.0, batch_tokens=100
    )
    replica = Replica(tmp_path, SOON_S, a_minute_a_token)
    replica.fault("hang")
    call = asyncio.create_task(replica.embed())
    await asyncio.sleep(0)
    if left:
        call.cancel()
    for _ in range(2 * CHECKS_FAILED):
        await replica.host.check_health()
    replica.fault(None)
    if not left:
        await call
    await replica.host.check_health()
    await replica.host.stop()


async def test_the_patience_for_a_long_text_ends_with_it(tmp_path: Path) -> None:
    replica = Replica(
        tmp_path,
        SOON_S,
        Curve(fixed_s=0.0, base_s=0.0, s_per_token=0.001, s_per_token_sq=0.0, batch_tokens=100),
    )
    replica.fault("hang")
    call = asyncio.create_task(replica.embed(10))
    failed = 0
    while failed < CHECKS_FAILED:  # the first ones pass, or not, as the time goes
        try:
            await replica.host.check_health()
        except EngineError:
            failed += 1
        await asyncio.sleep(0.01)
    with pytest.raises(EngineDead, match="did not answer a probe"):
        await call
    await replica.host.stop()


async def test_an_engine_that_comes_back_in_time_is_kept(hanging: Replica) -> None:
    call = asyncio.create_task(hanging.embed())
    for _ in range(CHECKS_FAILED - 1):
        with pytest.raises(EngineError):
            await hanging.host.check_health()
    hanging.fault(None)
    await call
    await hanging.host.check_health()
    hanging.fault("hang")
    with pytest.raises(EngineError) as first:
        await hanging.host.check_health()
    assert not isinstance(first.value, EngineDead)


async def test_a_long_queue_that_moves_on_is_healthy_and_needs_no_probe(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns, embed, probes = asyncio.Semaphore(0), replica.engine.embed, list[str]()

    async def in_turn(batch: Batch) -> Embedded:
        await turns.acquire()
        return await embed(batch)

    async def probed() -> None:
        probes.append("behind the queue")

    monkeypatch.setattr(replica.engine, "embed", in_turn)
    monkeypatch.setattr(replica.engine, "check_health", probed)
    calls = [asyncio.create_task(replica.embed()) for _ in range(10)]
    for call in calls[:-1]:
        turns.release()
        await call
        await replica.host.check_health()
    assert probes == []
    turns.release()
    await calls[-1]


async def test_a_caller_that_leaves_is_cancelled_and_not_told_of_a_dead_engine(
    hanging: Replica,
) -> None:
    call = asyncio.create_task(hanging.embed())
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_an_engine_that_dies_stays_dead(replica: Replica) -> None:
    replica.fault("die")
    with pytest.raises(EngineDead):
        await replica.embed()
    with pytest.raises(EngineDead):
        await replica.host.check_health()


async def test_nonsense_fails_its_text_and_never_leaves_as_a_vector(replica: Replica) -> None:
    replica.fault("nonsense")
    call = Call(np.zeros(4, np.int32), np.array([4], np.int32), None, "document", [None])
    reply = await replica.host.embed(call)
    assert reply.failed[0].code == "engine"
