"""Run the plan of a request: record its demand, send it, and learn from its duration."""

from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping
from functools import partial
from typing import Any

from deployments.dispatch.chunks import Rows
from deployments.dispatch.dispatcher import ModelDispatcher
from deployments.service.plan import Plan
from deployments.service.planner import Planner
from deployments.service.refusals import refusal
from deployments.service.second_try import SecondTries, deadline_of, has_room
from deployments.service.spans import Dispatching
from deployments.telemetry.tracing import Tracing
from router.config import Limits
from router.errors import DeadlineExceeded
from router.feedback import record_demand
from router.stamps import Stamps

RECENT = 1024  # answers per model from which percentiles are computed


class PlanRunner:
    """Runs the plans of one planner; `dispatchers` are keyed by the names that it decides on."""

    def __init__(
        self,
        planner: Planner,
        dispatchers: Mapping[str, ModelDispatcher],
        limits: Limits,
        clock: Callable[[], float],
        names: Iterable[str],
    ) -> None:
        self._planner, self._dispatchers = planner, dispatchers
        self._limits, self._clock = limits, clock
        has_room_for = partial(has_room, dispatchers, limits)
        self.second_tries = SecondTries(planner.loads, clock, has_room_for)
        self.latencies: dict[str, deque[tuple[float, float]]] = {
            name: deque(maxlen=RECENT) for name in names
        }

    def begin(self, plan: Plan, permitted: frozenset[str] | None) -> str:
        """Record the decision as demand, and return the chosen model. Raises RouterError if no
        model can serve the request.
        """
        deadline_s = plan.decision_input.deadline_s
        feedback = self._planner.feedback
        missed = record_demand(
            feedback, plan.decision, plan.work, plan.loads, plan.arrived_s, deadline_s
        )
        if missed is not None and missed in self._dispatchers:  # a student needs no replica
            self._dispatchers[missed].warm()
        if plan.decision.model is None:
            raise refusal(self._planner.args, plan, permitted)
        plan.choice.decided(plan.decision.model)
        return plan.decision.model

    def deadline_of(self, plan: Plan) -> float:
        """The time after which the answer is worthless."""
        return deadline_of(plan, self._limits)

    async def send(
        self,
        plan: Plan,
        work: Coroutine[Any, Any, Rows],
        tracing: Tracing | None,
        stamps: Stamps | None = None,
    ) -> Rows:
        """Return the rows of `work`. Raises DecidedAgain as `SecondTries.first` does."""
        gathering = self.second_tries.first(plan, work)
        try:
            if tracing is None:
                got = await gathering
            else:
                with Dispatching(tracing, plan.decision.model or "none") as dispatching:
                    got = await gathering
                    dispatching.answered(got, self._clock())
            if stamps is not None:
                stamps.called(got.stamps, got.call_texts)
            return got
        except DeadlineExceeded:
            raise DeadlineExceeded(
                self.deadline_of(plan) - plan.arrived_s
            ) from None  # the caller's limit, not the time left here

    def learn(self, plan: Plan, model: str, got: Rows) -> float:
        """Learn from the actual time against the predicted one, and return the actual one."""
        now, decision = self._clock(), plan.decision
        total_s = now - plan.arrived_s
        # Bulk waits for all other work, so its delay says nothing about the next interactive
        # request. Texts can turn out to be known that were not when the request was planned: in
        # the shared cache, in flight for another request, or once they are cut.
        sent = len(got.tokens) - got.known
        unforeseen, bulk = sent < plan.work[model].texts, plan.request.priority == "bulk"
        if not bulk:
            self.latencies[model].append((now, total_s))
        if (
            plan.work[model].tokens
            and not unforeseen
            and not bulk
            and decision.predicted_s is not None
        ):
            load = plan.loads[model]
            engine_s = got.queue_s + got.inference_s
            self._planner.feedback[model].completed(
                total_s - plan.tried_s,
                decision.predicted_s,
                load.bias,
                now,
                load.margin / load.crowding,
                engine_s,
                got.joined,
            )
        return total_s
