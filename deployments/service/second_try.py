"""The second decision on a request whose model can no longer answer.

It follows when a model loses its last replica, when a request's replicas or server are lost twice,
or when a student reads nothing of one of its texts, as it was cut. The whole request is decided
again among its permitted models, within its budget and its space. There is one second try. A
request that no other model can serve, or has room for, keeps waiting for the first. One with
`on_budget_miss: reject` that no model can answer in time any more is refused. A request that fails
in an engine is not decided again: its text could harm the next engine too.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextvars import copy_context
from typing import Any, TypeVar

from deployments.dispatch.chunks import SENDER
from deployments.dispatch.dispatcher import ModelDispatcher
from deployments.service.plan import Plan
from router.config import Limits
from router.domain import Load, OnMiss, Reason
from router.errors import InvalidValue, ModelUnavailable
from router.policy import decide

T = TypeVar("T")
Coming = tuple[int, int]  # interactive and bulk tokens that are coming to a model
# whether a plan's model has room for its request, after the tokens that are coming there
HasRoom = Callable[[Plan, Coming], bool]


class DecidedAgain(Exception):
    """Another model answers the request, or none does and it is refused; `plan` says which."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan.decision.model)
        self.plan = plan


class _Waiting:
    """A request that waits for its model, and the waiting task."""

    __slots__ = ("again", "cancelled_before", "context", "plan", "task")

    def __init__(self, plan: Plan) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.plan, self.task, self.cancelled_before = plan, task, task.cancelling()
        self.again: Plan | None = None
        self.context = copy_context()  # has the request's key, by whose turn waits are predicted


class SecondTries:
    """The requests of one router that wait for models, by model."""

    def __init__(
        self,
        loads: Callable[[], Mapping[str, Load]],
        clock: Callable[[], float],
        has_room: HasRoom,
    ) -> None:
        self._loads, self._clock, self._has_room = loads, clock, has_room
        self._waiting: dict[str, set[_Waiting]] = {}

    def last_lost(self, model: str) -> None:
        """Schedule a second decision for the requests of a model without replicas."""
        if self._waiting.get(model):
            asyncio.get_running_loop().call_soon(self._decide_waiting, model)

    async def first(self, plan: Plan, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of `work`.

        Raises DecidedAgain where another model must answer, or the request is to be refused.
        """
        model = plan.decision.model
        if model is None or plan.tried is not None or len(plan.work) < 2:
            return await work
        waiting = _Waiting(plan)
        others = self._waiting.setdefault(model, set())
        others.add(waiting)
        try:
            return await work
        except asyncio.CancelledError:
            if waiting.again is None or waiting.task.uncancel() > waiting.cancelled_before:
                raise
            raise DecidedAgain(waiting.again) from None
        except InvalidValue:
            # a student, in this process, reads nothing of a text: no engine was harmed by it
            encoder = plan.choice.encoders.get(model)
            if encoder is None or encoder.kind != "student":
                raise
            plan.choice.nothing_read |= {model}
            read = self._decided(plan, dict(self._loads()), {})
            if read is None or read.decision.model is None:
                raise
            raise DecidedAgain(read) from None
        except ModelUnavailable as error:
            if not error.lost:
                raise
            loads = dict(self._loads())
            loads[model] = loads[model]._replace(ready_replicas=0, cold_start_s=None)
            if (again := self._decided(plan, loads, {})) is None:
                raise
            raise DecidedAgain(again) from None
        finally:
            others.discard(waiting)

    def _decide_waiting(self, model: str) -> None:
        by_sender = {SENDER.get(): self._loads()}  # waits depend on the key that sends
        if by_sender[SENDER.get()][model].ready_replicas:
            return
        coming: dict[str, Coming] = {}
        for waiting in sorted(self._waiting.get(model, ()), key=lambda one: one.plan.arrived_s):
            if waiting.again is not None:
                continue
            sender = waiting.context.get(SENDER)
            if sender not in by_sender:
                by_sender[sender] = waiting.context.run(self._loads)
            loads = loads_after(by_sender[sender], coming)
            again = waiting.context.run(self._decided, waiting.plan, loads, coming)
            if again is None:
                continue
            if (other := again.decision.model) is not None:
                tokens, (interactive, bulk) = again.work[other].tokens, coming.get(other, (0, 0))
                if again.request.priority == "bulk":
                    coming[other] = interactive, bulk + tokens
                else:
                    coming[other] = interactive + tokens, bulk
            waiting.again = again
            waiting.task.cancel()

    def _decided(
        self, plan: Plan, loads: dict[str, Load], coming: Mapping[str, Coming]
    ) -> Plan | None:
        """The plan with another model, or without one where the request is to be refused.

        None where no other model can serve it or has room.
        """
        now = self._clock()
        decision_input = plan.decision_input._replace(unfit=plan.choice.unfit())
        decision = decide(plan.context.policy, decision_input, plan.models, loads, now)
        first = plan.decision.model
        if decision.model == first or decision.reason is Reason.NO_MODEL:
            return None
        again = plan._replace(
            decision=decision,
            decision_input=decision_input,
            loads=loads,
            decided_s=now,
            tried=first,
            tried_s=now - plan.decided_s,
        )
        if decision.model is None:
            return again
        if not self._has_room(again, coming.get(decision.model, (0, 0))):
            return None
        plan.choice.decided(decision.model)
        return again


def loads_after(loads: Mapping[str, Load], coming: Mapping[str, Coming]) -> dict[str, Load]:
    """The loads with the interactive tokens that are coming counted as ahead."""
    after = dict(loads)
    for model, (interactive, _) in coming.items():
        if model in after:
            ahead_tokens = after[model].ahead_tokens + interactive
            after[model] = after[model]._replace(ahead_tokens=ahead_tokens)
    return after


def has_room(
    dispatchers: Mapping[str, ModelDispatcher], limits: Limits, plan: Plan, coming: Coming
) -> bool:
    """Whether the model of `plan` has room for its request, after the tokens coming there."""
    model = plan.decision.model
    if model is None:
        return False
    if model not in dispatchers:  # a student
        return True
    tokens, bulk = plan.work[model].tokens, plan.request.priority == "bulk"
    deadline_s = deadline_of(plan, limits)
    return not tokens or dispatchers[model].would_admit(tokens, deadline_s, bulk, coming)


def deadline_of(plan: Plan, limits: Limits) -> float:
    """The time after which the answer is worthless."""
    deadline_s = plan.arrived_s + limits.request_timeout_s
    budget_s = plan.decision_input.deadline_s
    if plan.request.on_budget_miss is OnMiss.REJECT and budget_s is not None:
        return min(deadline_s, budget_s)
    return deadline_s
