"""Long steps of large requests: one in each pass of the event loop."""

import asyncio
from functools import partial

import pytest

from deployments.service.turns import Turns


async def test_a_pass_of_the_loop_has_one_step_however_many_wait() -> None:
    turns, passes, now = Turns(), list[int](), 0

    async def large() -> None:
        await turns.next()
        passes.append(now)

    waiting = [asyncio.create_task(large()) for _ in range(30)]
    while not all(one.done() for one in waiting):
        await asyncio.sleep(0)
        now += 1
    assert len(set(passes)) == len(waiting)


async def test_they_are_first_come_first_served_and_one_that_leaves_holds_nobody_up() -> None:
    turns, served = Turns(), list[int]()

    async def large(number: int) -> None:
        await turns.next()
        served.append(number)

    waiting = [asyncio.create_task(large(number)) for number in range(5)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    waiting[2].cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert served == [1, 3, 4]


async def test_a_step_runs_in_its_turn_though_its_caller_leaves() -> None:
    turns, ran = Turns(), list[int]()
    callers = [asyncio.create_task(turns.run(partial(ran.append, number))) for number in range(5)]
    await asyncio.sleep(0)
    callers[0].cancel()
    callers[2].cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    assert ran == [0, 1, 2, 3, 4]
    assert [one.cancelled() for one in callers] == [True, False, True, False, False]


async def test_an_error_of_a_step_is_its_callers() -> None:
    def fail() -> None:
        raise ValueError("no such step")

    with pytest.raises(ValueError, match="no such step"):
        await Turns().run(fail)
