"""The second decision on a request whose model cannot answer any more.

A model loses its last replica, or fails twice: the whole request is decided again among the models
that it may use, within its budget and its space, and vectors already made are thrown away. There is
one second try. A request that no other model may serve goes on waiting for the first.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

from deployments.service.plan import Plan
from router.domain import Load
from router.errors import ModelUnavailable
from router.policy import decide

T = TypeVar("T")


class DecidedAgain(Exception):
    """Another model answers the request; `plan` says which."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan.decision.model)
        self.plan = plan


class _Waiting:
    """A request that waits for its model, in the task that waits."""

    __slots__ = ("again", "cancelled_before", "plan", "task")

    def __init__(self, plan: Plan) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.plan, self.task, self.cancelled_before = plan, task, task.cancelling()
        self.again: Plan | None = None


class SecondTries:
    """The requests of one router that wait for models, by model."""

    def __init__(self, loads: Callable[[], Mapping[str, Load]], clock: Callable[[], float]) -> None:
        self._loads, self._clock = loads, clock
        self._waiting: dict[str, set[_Waiting]] = {}

    def last_lost(self, model: str) -> None:
        """A model has no replica left; those that wait for it are decided again soon."""
        if self._waiting.get(model):
            asyncio.get_running_loop().call_soon(self._decide_waiting, model)

    async def first(self, plan: Plan, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`; raises DecidedAgain where another model shall answer instead."""
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
        except ModelUnavailable:
            if (again := self._decided(plan, failed=model)) is None:
                raise
            raise DecidedAgain(again) from None
        finally:
            others.discard(waiting)

    def _decide_waiting(self, model: str) -> None:
        if self._loads()[model].ready_replicas:
            return
        for waiting in list(self._waiting.get(model, ())):
            if waiting.again is None and (again := self._decided(waiting.plan)) is not None:
                waiting.again = again
                waiting.task.cancel()

    def _decided(self, plan: Plan, failed: str | None = None) -> Plan | None:
        """The plan with another model; None where no other may serve the request."""
        now, loads = self._clock(), dict(self._loads())
        if failed is not None:
            loads[failed] = loads[failed]._replace(ready_replicas=0, cold_start_s=None)
        decision = decide(plan.setting.policy, plan.decision_input, plan.models, loads, now)
        first = plan.decision.model
        if decision.model is None or decision.model == first:
            return None
        return plan._replace(
            decision=decision,
            loads=loads,
            decided_s=now,
            tried=first,
            tried_s=now - plan.decided_s,
        )
