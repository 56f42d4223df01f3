"""The counters of a replica, in its replies."""

import asyncio

import numpy as np

from deployments.dispatch.wire import Call
from deployments.engines.base import Batch, Embedded
from deployments.replica.host import Host
from tests.support.failing_card import Card


class OneStep(Card):
    """An engine that embeds all waiting calls in one step, and wakes their tasks together."""

    def __init__(self) -> None:
        super().__init__()
        self.step = asyncio.Event()

    async def embed(self, batch: Batch) -> Embedded:
        await self.step.wait()
        return await super().embed(batch)


def call(*tokens: int, expired: int = 0) -> Call:
    left_s = [-1.0] * expired + [None] * (len(tokens) - expired)
    return Call(None, np.array(tokens, np.int32), ["a text"] * len(tokens), "document", left_s)


async def test_all_calls_of_a_step_are_counted_before_the_first_reply() -> None:
    engine = OneStep()
    host = Host(engine, "one")
    tasks = [asyncio.create_task(host.embed(call(tokens))) for tokens in (10, 20)]
    await asyncio.sleep(0)
    engine.step.set()
    replies = await asyncio.gather(*tasks)
    assert [reply.counters.served_tokens for reply in replies] == [30, 30]
    assert [reply.outstanding_tokens for reply in replies] == [20, 0]


async def test_texts_that_expired_are_not_counted() -> None:
    host = Host(Card(), "one")
    reply = await host.embed(call(10, 20, 30, expired=2))
    assert (list(reply.failed), reply.counters.served_tokens) == ([0, 1], 30)
    assert (await host.embed(call(10, expired=1))).counters.served_tokens == 30
