"""Learn about one model while it serves: its curve, two factors, rate and demand.

The service reports every decision, call and completion; `load` returns the result for the next
decision. Pure: times are arguments.

After bad predictions a model can look so slow that no budget fits it, and then no completion would
ever correct that. So an untested margin relaxes with time: each second without a completion counts
as one answer in time, until the margin is 1. A request that finds the model without work, and fits
by the curve of the config but not by what was learned, lowers margin and bias too (`doubted`).

Each answer includes the time that it waited and was in the engine. The rest is overhead: the
router's own time and the way to the replica. Its running median replaces the curve's `overhead_s`,
which a profile of an engine alone cannot contain. As a part of the bias it would make long texts
look slow because short ones pay it too.
"""

from collections.abc import Mapping

from router.capacity import Demand, DemandReport, ServiceRate
from router.domain import Decision, Load, Model, Reason, Why, Work
from router.fair import Sender
from router.latency import Correction, Learner, ProfileLearner, Quantile
from router.ledger import Ledger, Random
from router.policy import predict
from router.routing_config import RoutingConfig
from router.steps import ReplicaCounters, Step, Steps

RELAX_EVERY_S = 1.0
MAX_TICKS = 600  # at a time, if the clock jumped
DOUBT_EVERY_S = 0.1  # at most, because answers that correct a doubt come later
OVERHEAD_ETA = 0.1  # each answer moves the median of the overhead by e^+-0.05
OVERHEAD_NEWS = 0.1  # relative difference at which the curve is replaced
MIN_OVERHEAD_S, MAX_OVERHEAD_S = 1e-4, 10.0


NOT_SEEN = (ReplicaCounters(0, 0.0), False)


class Feedback:
    """One model's state; `model` has the curve as learned so far."""

    def __init__(
        self,
        model: Model,
        measured: bool,
        routing: RoutingConfig,
        now: float,
        cold_start_s: float | None = None,
    ) -> None:
        """`measured`: the curve is from a profile. Its shape is kept, and only bias and overhead
        are learned, until `elsewhere` is called because the profile is of another device.

        `cold_start_s` is the time of a model that scales to zero from its first request to a ready
        replica.
        """
        self.model = self._given = model
        self.correction = Correction(routing.miss_share)
        first_s = max(model.curve.overhead_s, MIN_OVERHEAD_S)
        self._overhead = Quantile(0.5, OVERHEAD_ETA, first_s, MIN_OVERHEAD_S, MAX_OVERHEAD_S)
        full_rate = model.curve.batch_tokens / model.curve.step(model.curve.batch_tokens)
        self.rate = ServiceRate(full_rate)
        # over the time in which a batch or more was waiting
        self.full_rate = ServiceRate(full_rate)
        self.offered, self.shadow = Demand(now), Demand(now)
        self._learner: Learner | ProfileLearner | None = None if measured else Learner(model.curve)
        self._replicas: dict[
            str, tuple[ReplicaCounters, bool]
        ] = {}  # and whether a full batch was left for it
        self._steps: dict[str, Steps] = {}  # by replica
        self._full_seen = False
        self._tested_s = self._doubted_s = now
        self._cold_start_s = cold_start_s
        self._woken_s: float | None = None

    def load(self, ledger: Ledger, now: float, rng: Random, sender: Sender | None = None) -> Load:
        """The load of this model at `now`, for the decision on a request of `sender`."""
        if now - self._tested_s >= RELAX_EVERY_S:
            self._relax(now)
        correction = self.correction
        cold_s = None if self._cold_start_s is None else self._cold_s(now)
        return ledger.load(
            self.model,
            now,
            rng,
            correction.margin,
            cold_s,
            correction.bias,
            sender,
            correction.crowding,
        )

    @property
    def tokens_per_s(self) -> float:
        """The rate of one busy replica with enough waiting work: as measured, or until then from
        the curve for full steps.
        """
        if self._full_seen:
            return max(self.rate.tokens_per_s, self.full_rate.tokens_per_s)
        curve = self.model.curve
        return max(
            self.rate.tokens_per_s,
            curve.batch_tokens / (curve.step(curve.batch_tokens) * self.correction.bias),
        )

    def wake(self, now: float) -> bool:
        """Note that work waits for a model without replicas.

        Returns whether the caller must request one, which is true the first time only.
        """
        if self._cold_start_s is None or self._woken_s is not None:
            return False
        self._woken_s = now
        return True

    def awake(self) -> None:
        """Note that a replica is ready, or that none will come: the next `wake` requests one."""
        self._woken_s = None

    def _cold_s(self, now: float) -> float | None:
        """Seconds until a model without replicas is ready, at least 1 if it is overdue."""
        if self._cold_start_s is None or self._woken_s is None:
            return self._cold_start_s
        return max(1.0, self._cold_start_s - (now - self._woken_s))

    def chosen(self, tokens: int, now: float) -> None:
        """Count a request of `tokens` tokens that is sent to this model."""
        self.offered.add(tokens, now)

    def missed(self, tokens: int, now: float) -> None:
        """Count a request of `tokens` tokens for this model that was pushed down or refused."""
        self.shadow.add(tokens, now)

    def doubted(
        self, work: Work, replicas: int, predicted_s: float, budget_s: float, now: float
    ) -> None:
        """Note that a request was not sent to this model, which has so many ready replicas, because
        it was predicted to take `predicted_s`. If only what was learned says so, that is lowered a
        little.
        """
        if now - self._doubted_s < DOUBT_EVERY_S:
            return
        idle = Load(max(1, replicas))
        idle_s = predict(self.model, idle._replace(bias=self.correction.bias), work).total_s
        if predicted_s <= idle_s and predict(self._given, idle, work).total_s <= budget_s:
            self._doubted_s = now
            self.correction.doubt()

    def elsewhere(self) -> bool:
        """Learn how the curve differs on a device that is not the profile's.

        Returns False if a curve is learned already.
        """
        if self._learner is not None:
            return False
        self._learner = ProfileLearner(self.model.curve)
        return True

    def replied(
        self, replica: str, call: Step, counters: ReplicaCounters, alone: bool, idle: bool
    ) -> None:
        """Learn from the steps that a reply completes; see `Steps.replied`."""
        if self._learner is not None:
            for step in self._steps.setdefault(replica, Steps()).replied(
                call, counters, alone, idle
            ):
                self.stepped(*step)

    def stepped(self, tokens: int, tokens_sq: int, seconds: float, texts: int = 1) -> None:
        """Learn from a step of `texts` texts with `tokens` tokens that took `seconds`."""
        if self._learner is not None:
            self._learner.observe(tokens, tokens_sq, seconds, texts)
            self.model = self.model.with_curve(
                self._learner.curve_with(self.model.curve.overhead_s)
            )

    def served(self, replica: str, counters: ReplicaCounters, full: bool = False) -> None:
        """Process the counters in a replica's reply; counters that fell mean that it restarted.

        `full`: at least a batch is left for it. The rate between two such replies is its full rate.
        """
        before, was_full = self._replicas.get(replica, NOT_SEEN)
        tokens, busy_s = (
            counters.served_tokens - before.served_tokens,
            counters.busy_s - before.busy_s,
        )
        if tokens >= 0 and busy_s >= 0.0:
            self.rate.served(tokens, busy_s)
            if full and was_full:
                self._full_seen = True
                self.full_rate.served(tokens, busy_s)
        self._replicas[replica] = counters, full

    def demand(self, backlog_tokens: int, now: float) -> DemandReport:
        """This router's demand for the model, for the autoscaler."""
        return DemandReport(
            self.offered.recent_tokens_per_s(now),
            self.shadow.recent_tokens_per_s(now),
            backlog_tokens,
            self.tokens_per_s,
            self.model.devices,
            self._cold_start_s,
        )

    def lost(self, replica: str) -> None:
        """Forget a replica that is gone."""
        self._replicas.pop(replica, None)
        self._steps.pop(replica, None)

    def completed(
        self,
        actual_s: float,
        predicted_s: float,
        bias: float,
        now: float,
        margin: float | None = None,
        engine_s: float | None = None,
        joined: bool = False,
    ) -> None:
        """Learn from a request that took `actual_s`. `predicted_s` is its prediction, made with the
        factors `bias` and `margin` (None: the current margin); texts that came later `joined` it.

        `engine_s` is the time that it waited or was in the engine. The rest is overhead, which does
        not depend on the engine's speed.
        """
        self.correction.observe(actual_s, predicted_s, bias, margin, joined)
        self._tested_s = now
        if engine_s is not None and actual_s > engine_s:
            self._overhead.observe(actual_s - engine_s)
            # Predictions multiply the overhead by the bias, so divide by it.
            curve, overhead_s = (
                self.model.curve,
                self._overhead.value / self.correction.bias,
            )
            if abs(overhead_s - curve.overhead_s) > OVERHEAD_NEWS * overhead_s:
                self.model = self.model.with_curve(curve.with_overhead(overhead_s))

    def _relax(self, now: float) -> None:
        rests = min(int((now - self._tested_s) / RELAX_EVERY_S), MAX_TICKS)
        self._tested_s = now
        self.correction.relax(rests)


def record_demand(
    feedback: Mapping[str, Feedback],
    decision: Decision,
    work: Mapping[str, Work],
    loads: Mapping[str, Load],
    now: float,
    deadline_s: float | None = None,
) -> str | None:
    """Count one decision as demand for the chosen model, and as missed demand for a target that it
    was pushed down or refused from.

    Returns that target if its demand was counted. It is not counted if the chosen model is better
    for this text; if the caller's limits exclude the target (a pinned space, the permissions of its
    key), so that it is not in `work`; or if it would miss `deadline_s` even without a queue,
    because another replica would not help.
    """
    if decision.model is not None:
        feedback[decision.model].chosen(work[decision.model].tokens, now)
    target = decision.target
    pushed = decision.pushed_down if decision.model else decision.reason is Reason.OVER_BUDGET
    if target is None or target not in work or not pushed:
        return None
    if decision.whys.get(target) in (Why.TOO_LONG, Why.UNREAD):  # another replica would not help
        return None
    predicted = decision.predictions.get(target)
    if predicted is not None and deadline_s is not None:
        replicas, budget_s = loads[target].ready_replicas, deadline_s - now
        feedback[target].doubted(work[target], replicas, predicted.total_s, budget_s, now)
        if now + predicted.total_s - predicted.wait_s > deadline_s:
            return None
    feedback[target].missed(work[target].tokens, now)
    return target
