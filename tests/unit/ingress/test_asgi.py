"""Work that ends with its time or its client, and costs neither a timer nor a listener when it
never waits.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from deployments.ingress import asgi
from deployments.ingress.asgi import ClientLeft, Message

FAR_S = 60.0


class Client:
    """A client that stays until it leaves."""

    def __init__(self) -> None:
        self.listeners = 0
        self._left = asyncio.Event()

    def leave(self) -> None:
        self._left.set()

    async def receive(self) -> Message:
        self.listeners += 1
        try:
            await self._left.wait()
        finally:
            self.listeners -= 1
        return {"type": "http.disconnect"}


async def forever(ended: Callable[[type[BaseException]], Any] = lambda _: None) -> None:
    try:
        await asyncio.get_running_loop().create_future()
    except BaseException as error:
        ended(type(error))
        raise


async def test_an_answer_that_is_known_needs_no_listener() -> None:
    client = Client()
    before = len(asyncio.all_tasks())

    async def known() -> int:
        assert len(asyncio.all_tasks()) == before
        return 7

    assert await asgi.attended(known(), FAR_S, client.receive) == 7
    await asyncio.sleep(0)
    assert (client.listeners, len(asyncio.all_tasks())) == (0, before)


async def test_a_client_that_leaves_ends_the_work() -> None:
    client, ended = Client(), list[type[BaseException]]()
    asyncio.get_running_loop().call_later(0.01, client.leave)
    with pytest.raises(ClientLeft):
        await asgi.attended(forever(ended.append), FAR_S, client.receive)
    assert ended == [asyncio.CancelledError]
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0  # whoever waits next is not cancelled


async def test_a_connection_that_cannot_be_read_has_no_client() -> None:
    async def broken() -> Message:
        raise ConnectionResetError

    with pytest.raises(ClientLeft):
        await asgi.attended(forever(), FAR_S, broken)


async def test_time_that_is_over_ends_the_work() -> None:
    client = Client()
    with pytest.raises(TimeoutError):
        await asgi.attended(forever(), 0.01, client.receive)
    await asyncio.sleep(0)
    assert client.listeners == 0


async def test_a_client_who_stays_gets_the_answer_and_is_listened_to_no_longer() -> None:
    client = Client()

    async def work() -> int:
        await asyncio.sleep(0.01)
        assert client.listeners == 1
        return 7

    assert await asgi.attended(work(), FAR_S, client.receive) == 7
    client.leave()
    for _ in range(5):
        await asyncio.sleep(0)  # nothing comes after the answer
    assert client.listeners == 0


@pytest.mark.parametrize("moments", range(6))
async def test_a_client_that_leaves_as_the_answer_is_made_cancels_nothing_after_it(
    moments: int,
) -> None:
    client = Client()

    async def work() -> int:
        await asyncio.sleep(0.01)
        client.leave()
        for _ in range(moments):
            await asyncio.sleep(0)
        return 7

    with suppress(ClientLeft):
        assert await asgi.attended(work(), FAR_S, client.receive) == 7
    for _ in range(5):
        await asyncio.sleep(0)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_somebody_elses_cancellation_goes_first() -> None:
    client = Client()
    task = asyncio.ensure_future(asgi.attended(forever(), FAR_S, client.receive))
    await asyncio.sleep(0.01)
    client.leave()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_of_the_work_is_its_own() -> None:
    async def failing() -> None:
        await asyncio.sleep(0)
        raise KeyError("x")

    with pytest.raises(KeyError):
        await asgi.attended(failing(), FAR_S, Client().receive)


async def test_work_that_is_cancelled_can_wait_for_its_own_end() -> None:
    ended = []

    async def work() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(0)
            ended.append("cleaned up")

    with pytest.raises(TimeoutError):
        await asgi.attended(work(), 0.01, Client().receive)
    assert ended == ["cleaned up"]
