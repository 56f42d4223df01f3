"""What the service tells of each request, and what is asked of it once a second: the router's half
of the metrics.

`ended` is on every request's way and counts only; everything that the service keeps a number of
anyway is read by `sample`.
"""

from dataclasses import fields
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from deployments.dispatch.wire import FailureCode
from deployments.service.shared_cache import Counters
from deployments.telemetry import metrics
from deployments.telemetry.metrics import Buckets, Labels, Tally
from router.config import RouterArgs
from router.domain import Features
from router.errors import BudgetUnreachable
from router.schema import EmbeddingsRequest

if TYPE_CHECKING:
    from deployments.service.service import Answer, Plan, Service

NONE = "none"
RESULTS = ("kept", "missed", "refused", "failed")
_TIMES = (metrics.LATENCY, metrics.QUEUE, metrics.INFERENCE, metrics.PREDICTED, metrics.RATIO)


class _Times(NamedTuple):
    """One model's histograms, in the order of `_TIMES`."""

    latency: Buckets
    queue: Buckets
    inference: Buckets
    predicted: Buckets
    ratio: Buckets


class Events:
    """The router's tally and the rules by which labels are chosen."""

    def __init__(self, args: RouterArgs) -> None:
        self.tally = Tally(metrics.OF_ROUTER)
        self._times: dict[str, _Times] = {}  # by model
        self._languages: frozenset[str] = frozenset()
        self.reloaded(args)
        for model in args.models:
            self._begin_with_nothing(model)
        for limit in ("requests", "tokens"):
            self.tally.add(metrics.RATE_LIMITED, (limit,), 0)

    def reloaded(self, args: RouterArgs) -> None:
        """The languages that have a label of their own: those that the config tells apart."""
        named = {"en", "zh"}
        for model in args.models.values():
            named.update(model.quality)
        for rule in args.routing.rules:
            named.update(rule.when.languages or (), rule.when.not_languages or ())
        self._languages = frozenset(name for name in named if len(name) == 2)

    def language(self, features: Features) -> str:
        """`code`, `mixed`, a language that the config names, `other`, or `unknown`."""
        if features.code:
            return "code"
        if features.mixed:
            return "mixed"
        if features.language is None:
            return "unknown"
        return features.language if features.language in self._languages else metrics.OTHER

    def unread(self, outcome: str) -> None:
        """A request was refused before the service saw it; `outcome` is the code of its error."""
        self.tally.add(metrics.REQUESTS, (NONE, NONE, NONE, NONE, outcome))

    def rate_limited(self, limit: Literal["requests", "tokens"]) -> None:
        """A key had used up its requests or its tokens; to be told besides `unread`."""
        self.tally.add(metrics.RATE_LIMITED, (limit,))

    def ended(
        self, request: EmbeddingsRequest, plan: "Plan | None", answer: "Answer | None", outcome: str
    ) -> None:
        """A request is over. `outcome` is `answered`, `cancelled` or an error's code; without a
        decision `plan` is None.
        """
        tally, texts = self.tally, request.items
        if plan is None:
            labels: Labels = (NONE, NONE, NONE, NONE, outcome)
            tally.add(metrics.REQUESTS, labels)
            tally.add(metrics.TEXTS, labels, texts)
            return
        decision, model = plan.decision, plan.decision.model or NONE
        labels = (
            model,
            plan.wanted.tier or NONE,
            decision.label,
            self.language(plan.features),
            outcome,
        )
        prepared = plan.prepared.get(decision.model or decision.target or "")
        tokens = (
            answer.prompt_tokens
            if answer is not None
            else 0
            if prepared is None
            else sum(prepared.counts)
        )
        tally.add(metrics.REQUESTS, labels)
        tally.add(metrics.TEXTS, labels, texts)
        tally.add(metrics.TOKENS, labels, tokens)
        if plan.wanted.pinned:
            by = (
                "model"
                if request.space is None
                else "space"
                if "/" in request.space
                else "collection"
            )
            tally.add(metrics.PINNED, (model, by))
        if (deadline_s := plan.asked.deadline_s) is not None:
            budget_s = deadline_s - plan.arrived_s
            if answer is not None:
                result = "kept" if answer.total_s <= budget_s else "missed"
            else:
                result = "refused" if outcome == BudgetUnreachable.code else "failed"
            tally.add(metrics.BUDGETS, (model, result))
        if answer is not None and decision.model is not None:
            self._answered(plan, answer, decision.model)

    def _answered(self, plan: "Plan", answer: "Answer", model: str) -> None:
        tally, labels, predicted_s = self.tally, (model,), plan.decision.predicted_s
        times = self._times.get(model)
        if times is None:
            times = self._times[model] = _Times(*(tally.series(one, labels) for one in _TIMES))
        times.latency.observe(answer.total_s)
        if answer.adapter is not None:
            tally.add(metrics.ADAPTED, labels)
        if answer.truncated:
            tally.add(metrics.TRUNCATED, labels, len(answer.truncated))
        if not plan.work[
            model
        ].tokens:  # all from the cache: nothing waited and nothing was computed
            return
        times.queue.observe(answer.queue_s)
        times.inference.observe(answer.inference_s)
        # As in Service._answer: these are the requests of which the prediction is meant to be
        # right.
        if predicted_s and not answer.truncated and plan.request.priority != "bulk":
            times.predicted.observe(predicted_s)
            times.ratio.observe(answer.total_s / predicted_s)
            within = "yes" if answer.total_s <= predicted_s * plan.loads[model].margin else "no"
            tally.add(metrics.PREDICTIONS, (model, within))

    def sample(self, service: "Service") -> None:
        """Take over the numbers that the service keeps itself."""
        tally, now, cache = self.tally, service.clock(), service.cache
        loads = service.loads()
        for name, lane in service.lanes.items():
            labels, feedback, load, done = (
                (name,),
                service.feedback[name],
                loads[name],
                lane.counters,
            )
            tally.set(metrics.CALLS, labels, done.calls)
            tally.set(metrics.RETRIES, labels, done.retries)
            tally.set(metrics.DROPPED, labels, done.dropped)
            tally.set(metrics.CANCELLED, labels, done.cancelled_calls)
            tally.set(metrics.COLD_STARTS, labels, done.wakes)
            tally.set(metrics.COALESCED, labels, service.gatherers[name].coalesced)
            tally.set(
                metrics.OUTSTANDING,
                labels,
                sum(service.ledger.outstanding_tokens(name, now).values()),
            )
            tally.set(metrics.QUEUED, labels, service.ledger.waiting_tokens(name))
            tally.set(metrics.READY, labels, load.ready_replicas)
            tally.set(metrics.REQUIRED, labels, service.args.models[name].required)
            tally.set(metrics.OUT, labels, lane.replicas_out)
            tally.set(metrics.MARGIN, labels, load.margin)
            tally.set(metrics.BIAS, labels, load.bias)
            tally.set(metrics.PRICE, labels, load.price)
            tally.set(metrics.CAPACITY, labels, feedback.tokens_per_s)
            tally.set(metrics.OFFERED, labels, feedback.offered.tokens_per_s(now))
            tally.set(metrics.SHADOW, labels, feedback.shadow.tokens_per_s(now))
        tally.set(metrics.CACHE_HITS, (), cache.hits)
        tally.set(metrics.CACHE_MISSES, (), cache.misses)
        tally.set(metrics.CACHE_EVICTIONS, (), cache.evictions)
        shared = Counters() if service.shared is None else service.shared.counters
        for one in fields(shared):
            tally.set(metrics.SHARED_CACHE, (one.name,), getattr(shared, one.name))
        tally.set(metrics.CACHE_BYTES, (), cache.used_bytes)
        tally.set(metrics.CACHE_ENTRIES, (), len(cache))

    def _begin_with_nothing(self, model: str) -> None:
        """Series at 0, so that the first event of a kind is an increase and not a series that
        appears.
        """
        tally = self.tally
        for result in RESULTS:
            tally.add(metrics.BUDGETS, (model, result), 0)
        for within in ("yes", "no"):
            tally.add(metrics.PREDICTIONS, (model, within), 0)
        for by in ("model", "space", "collection"):
            tally.add(metrics.PINNED, (model, by), 0)
        for metric in (metrics.ADAPTED, metrics.TRUNCATED):
            tally.add(metric, (model,), 0)


def replica_tally(model: str) -> Tally:
    """The tally of one replica, at 0."""
    tally = Tally(metrics.OF_REPLICA)
    for code in get_args(FailureCode):
        tally.add(metrics.FAILED_TEXTS, (model, code), 0)
    for result in ("passed", "failed", "put_off"):
        tally.add(metrics.IDENTITY, (model, result), 0)
    return tally
