"""Metrics of requests: what the router counts when one ends.

`ended` runs for every request and only counts. Numbers that the service already keeps are read
once a second by deployments/service/gauges.py.
"""

from typing import Literal, NamedTuple

from deployments.service.plan import Answered, Plan
from deployments.telemetry import metrics
from deployments.telemetry.metrics import Buckets, Labels, ProcessMetrics
from router.config import RouterArgs
from router.domain import Features
from router.errors import BudgetUnreachable
from router.schema import EmbeddingsRequest

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


class RequestMetrics:
    """The router's tally, and the rules that choose its labels."""

    def __init__(self, args: RouterArgs) -> None:
        self.tally = ProcessMetrics(metrics.OF_ROUTER)
        self._times: dict[str, _Times] = {}  # by model
        self._languages: frozenset[str] = frozenset()
        self.reloaded(args)
        for model in (*args.models, *args.rerankers):
            self._begin_with_nothing(model)
        for limit in ("requests", "tokens"):
            self.tally.add(metrics.RATE_LIMITED, (limit,), 0)

    def reloaded(self, args: RouterArgs) -> None:
        """Update the languages with their own label: those that the config distinguishes."""
        named = {"en", "zh"}
        for model in (*args.models.values(), *args.rerankers.values()):
            named.update(model.quality)
        for rule in (*args.routing.rules, *args.rerank_routing.rules):
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
        """Count a request that was refused before the service; `outcome` is its error's code."""
        self.tally.add(metrics.REQUESTS, (NONE, NONE, NONE, NONE, outcome))

    def rate_limited(self, limit: Literal["requests", "tokens"]) -> None:
        """Count a request over its key's request or token limit, in addition to `unread`."""
        self.tally.add(metrics.RATE_LIMITED, (limit,))

    def ended(
        self, request: EmbeddingsRequest, plan: Plan | None, answer: Answered | None, outcome: str
    ) -> None:
        """Count a request that ended. `outcome` is `answered`, `cancelled` or an error's code;
        without a decision `plan` is None.
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
            plan.constraints.tier or NONE,
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
        if plan.constraints.pinned:
            by = (
                "model"
                if request.space is None
                else "space"
                if "/" in request.space
                else "collection"
            )
            tally.add(metrics.PINNED, (model, by))
        if (deadline_s := plan.decision_input.deadline_s) is not None:
            budget_s = deadline_s - plan.arrived_s
            if answer is not None:
                result = "kept" if answer.total_s <= budget_s else "missed"
            else:
                result = "refused" if outcome == BudgetUnreachable.code else "failed"
            tally.add(metrics.BUDGETS, (model, result))
        if answer is not None and decision.model is not None:
            self._answered(plan, answer, decision.model)

    def _answered(self, plan: Plan, answer: Answered, model: str) -> None:
        tally, labels, predicted_s = self.tally, (model,), plan.decision.predicted_s
        times = self._times.get(model)
        if times is None:
            times = self._times[model] = _Times(*(tally.series(one, labels) for one in _TIMES))
        times.latency.observe(answer.total_s)
        if answer.encoder is not None:
            if answer.encoder.kind == "adapter":
                tally.add(metrics.ADAPTED, labels)
            if not answer.encoder.native:
                tally.add(metrics.ENCODED, (model, answer.encoder.kind))
        if answer.truncated:
            tally.add(metrics.TRUNCATED, labels, len(answer.truncated))
        if not plan.work[
            model
        ].tokens:  # all from the cache: nothing waited and nothing was computed
            return
        times.queue.observe(answer.queue_s)
        times.inference.observe(answer.inference_s)
        # As in PlanRunner.learn: predictions are meant to be right for these requests.
        if predicted_s and not answer.truncated and plan.request.priority != "bulk":
            times.predicted.observe(predicted_s)
            times.ratio.observe(answer.total_s / predicted_s)
            within = "yes" if answer.total_s <= predicted_s * plan.loads[model].margin else "no"
            tally.add(metrics.PREDICTIONS, (model, within))

    def _begin_with_nothing(self, model: str) -> None:
        """Start series at 0, so that the first event of a kind is an increase, not a new series."""
        tally = self.tally
        for result in RESULTS:
            tally.add(metrics.BUDGETS, (model, result), 0)
        for within in ("yes", "no"):
            tally.add(metrics.PREDICTIONS, (model, within), 0)
        for by in ("model", "space", "collection"):
            tally.add(metrics.PINNED, (model, by), 0)
        for metric in (metrics.ADAPTED, metrics.TRUNCATED):
            tally.add(metric, (model,), 0)
        for kind in ("same", "adapter", "student"):
            tally.add(metrics.ENCODED, (model, kind), 0)
