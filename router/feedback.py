"""What a router learns of one model while it serves: its curve, its two factors, its rate and
its demand.

The service tells of every decision, call and completion; `load` gives the next decision what
follows from them. Pure: times are arguments.

A model whose predictions were bad gets a margin so high that no budget fits it, and then no
completion would ever lower the margin again. So a margin that nothing tests relaxes with time: each
second without a completion counts as one answer that was fast enough, until it is 1. (Sending a
share of requests there to find out would make their callers pay for it.)

Of every answer it is known how long it waited and was in the engine. The rest is overhead: the
router's own time and the way to the replica. Its running median takes the place of the curve's
`overhead_s`, which no profile of an engine alone can know: as a part of the bias it would make long
texts look slow because short ones pay it too.
"""

from collections.abc import Mapping
from typing import NamedTuple

from router.capacity import Demand, DemandReport, Rate
from router.domain import Decision, Load, Model, Reason, Why, Work
from router.fair import Sender
from router.latency import Correction, Learner, ProfileLearner, Quantile
from router.ledger import Ledger, Random
from router.routing_config import Routing

RELAX_EVERY_S = 1.0
MOST_TICKS = 600  # of a clock that jumped
OVERHEAD_ETA = 0.1  # each answer moves the median of the overhead by e^+-0.05
OVERHEAD_NEWS = 0.1  # further off than this the curve is replaced
LEAST_OVERHEAD_S, MOST_OVERHEAD_S = 1e-4, 10.0


class Counters(NamedTuple):
    """What a replica has done since it started, as its replies say."""

    served_tokens: int
    busy_s: float


class Feedback:
    """One model's state; `model` carries the curve as learned so far."""

    def __init__(
        self,
        model: Model,
        measured: bool,
        routing: Routing,
        now: float,
        cold_start_s: float | None = None,
    ) -> None:
        """`measured` says that the curve comes from a profile: its shape stays, bias and overhead
        are learned, until `elsewhere` says that the profile is of another device.

        `cold_start_s` is what a model that scales to zero takes from its first request to a ready
        replica.
        """
        self.model = model
        self.correction = Correction(routing.miss_share)
        first_s = max(model.curve.overhead_s, LEAST_OVERHEAD_S)
        self._overhead = Quantile(0.5, OVERHEAD_ETA, first_s, LEAST_OVERHEAD_S, MOST_OVERHEAD_S)
        full_rate = model.curve.batch_tokens / model.curve.step(model.curve.batch_tokens)
        self.rate = Rate(full_rate)
        self.full_rate = Rate(full_rate)  # over the time in which a batch or more was waiting
        self.offered, self.shadow = Demand(now), Demand(now)
        self._learner: Learner | ProfileLearner | None = None if measured else Learner(model.curve)
        self._replicas: dict[
            str, tuple[Counters, bool]
        ] = {}  # with whether it had a full batch to do
        self._full_seen = False
        self._tested_s = now
        self._cold_start_s = cold_start_s
        self._woken_s: float | None = None

    def load(self, ledger: Ledger, now: float, rng: Random, sender: Sender | None = None) -> Load:
        """What `decide` needs to know of this model at `now`, for a request of `sender`."""
        self._relax(now)
        return ledger.load(
            self.model,
            now,
            rng,
            margin=self.correction.margin,
            cold_start_s=self._cold_s(now),
            bias=self.correction.bias,
            sender=sender,
        )

    @property
    def tokens_per_s(self) -> float:
        """What one busy replica serves when enough waits: as seen, or until then as its curve says
        of full steps.
        """
        if self._full_seen:
            return max(self.rate.tokens_per_s, self.full_rate.tokens_per_s)
        curve = self.model.curve
        return max(
            self.rate.tokens_per_s,
            curve.batch_tokens / (curve.step(curve.batch_tokens) * self.correction.bias),
        )

    def wake(self, now: float) -> bool:
        """Work waits for a model without replicas: whether somebody must ask for one (the first
        time only).
        """
        if self._cold_start_s is None or self._woken_s is not None:
            return False
        self._woken_s = now
        return True

    def awake(self) -> None:
        """A replica is there."""
        self._woken_s = None

    def _cold_s(self, now: float) -> float | None:
        """Seconds until a model without replicas is ready; one that is overdue is expected any
        moment.
        """
        if self._cold_start_s is None or self._woken_s is None:
            return self._cold_start_s
        return max(1.0, self._cold_start_s - (now - self._woken_s))

    def chosen(self, tokens: int, now: float) -> None:
        """A request of `tokens` tokens goes to this model."""
        self.offered.add(tokens, now)

    def missed(self, tokens: int, now: float) -> None:
        """A request of `tokens` tokens would have gone to this model and was sent to a
        smaller one.
        """
        self.shadow.add(tokens, now)

    def elsewhere(self) -> bool:
        """The model runs on another device than its profile is of: learn how its curve differs
        there. Whether that is news.
        """
        if self._learner is not None:
            return False
        self._learner = ProfileLearner(self.model.curve)
        return True

    def stepped(self, tokens: int, tokens_sq: int, seconds: float, texts: int = 1) -> None:
        """A call was `seconds` at its replica; `tokens` counts what was ahead of it, `tokens_sq`
        and `texts` its own texts.
        """
        if self._learner is not None:
            self._learner.observe(tokens, tokens_sq, seconds, texts)
            self.model = self.model.with_curve(
                self._learner.curve_with(self.model.curve.overhead_s)
            )

    def served(self, replica: str, counters: Counters, full: bool = False) -> None:
        """A reply told what its replica has done so far; counters that fell are those of a replica
        that started again.

        `full` says that a batch or more is left for it: what it does between two such replies is
        what it can do.
        """
        before, was_full = self._replicas.get(replica, (Counters(0, 0.0), False))
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

    def ask(self, backlog_tokens: int, now: float) -> DemandReport:
        """What this router asks of the model, for the autoscaler."""
        return DemandReport(
            self.offered.asked(now),
            self.shadow.asked(now),
            backlog_tokens,
            self.tokens_per_s,
            self.model.devices,
            self._cold_start_s,
        )

    def lost(self, replica: str) -> None:
        """A replica is gone."""
        self._replicas.pop(replica, None)

    def completed(
        self,
        actual_s: float,
        predicted_s: float,
        bias: float,
        now: float,
        margin: float | None = None,
        engine_s: float | None = None,
    ) -> None:
        """A request took `actual_s`; `predicted_s` was said when the factors were `bias` and
        `margin` (None: as they are now).

        `engine_s` of that it waited or was in the engine; the rest is overhead, which a slower
        engine does not change.
        """
        self.correction.observe(actual_s, predicted_s, bias, margin)
        self._tested_s = now
        if engine_s is not None and actual_s > engine_s:
            self._overhead.observe(actual_s - engine_s)
            # by which it is multiplied
            curve, overhead_s = (
                self.model.curve,
                self._overhead.value / self.correction.bias,
            )
            if abs(overhead_s - curve.overhead_s) > OVERHEAD_NEWS * overhead_s:
                self.model = self.model.with_curve(curve.with_overhead(overhead_s))

    def _relax(self, now: float) -> None:
        rests = min(int((now - self._tested_s) / RELAX_EVERY_S), MOST_TICKS)
        if rests > 0:
            self._tested_s = now
            self.correction.relax(rests)


def tell(
    feedback: Mapping[str, Feedback],
    decision: Decision,
    work: Mapping[str, Work],
    now: float,
    deadline_s: float | None = None,
) -> str | None:
    """Book one decision as demand: for the model it chose, and for the target that it was pushed
    down or refused from. A target that another model is better than for this text missed nothing.

    Returns that target where it was booked. One that the caller's own limits exclude (a pinned
    space, what its key may use) is not in `work` and missed nothing; nor did one that would miss
    `deadline_s` with nobody in front: no replica would help.
    """
    if decision.model is not None:
        feedback[decision.model].chosen(work[decision.model].tokens, now)
    target = decision.target
    pushed = decision.pushed_down if decision.model else decision.reason is Reason.OVER_BUDGET
    if target is None or target not in work or not pushed:
        return None
    if decision.whys.get(target) in (Why.TOO_LONG, Why.UNREAD):  # no replica would read it
        return None
    predicted = decision.predictions.get(target)
    if (
        predicted is not None
        and deadline_s is not None
        and now + predicted.total_s - predicted.wait_s > deadline_s
    ):
        return None
    feedback[target].missed(work[target].tokens, now)
    return target
