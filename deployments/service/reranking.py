"""Rerank pairs of a query and a document with the plans, dispatchers and cache of embeddings.

A reranker with a deployment is a model whose rows are one number wide. Rescoring by similarity is
work of the embedding model that it names: it counts in that model's ledger, under its limits, and
for the keys permitted to use it. Its vectors are cached like those of any other request.
"""

from collections.abc import Collection, Coroutine, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from deployments.dispatch.chunks import Rows
from deployments.service.experiments import Comparison
from deployments.service.pairs import PairPreparer, PairReader, PreparedPairs
from deployments.service.plan import ANYONE, Caller, Plan
from deployments.service.plan_runner import PlanRunner
from deployments.service.prepare import Preparer
from deployments.service.rerank_planner import RerankPlanner, catalogue_of, view_of
from deployments.service.score_proofs import check_scores_reading
from deployments.service.scorers import Scorer, SimilarityScorer
from deployments.service.service import Service
from deployments.telemetry.tracing import Tracing
from router.arrays import Vectors
from router.domain import Decision, Features, Load, Model
from router.encoders import Encoder
from router.errors import ModelNotFound
from router.rerank_config import RerankerConfig, Score
from router.rerank_schema import RerankRequest
from router.resolving import Constraints
from router.routing_config import NamedTier
from router.spaces import Catalogue


class Ranking(NamedTuple):
    """The documents of one request in order of score, and how they were scored."""

    results: list[tuple[int, np.float32]]  # places in the request and scores, highest first
    model: str
    score: Score
    tier: str | None
    decision: Decision
    features: Features
    prompt_tokens: int
    cached: int
    truncated: list[int]
    queue_s: float
    inference_s: float
    total_s: float
    unread: float
    elapsed_s: float  # from the arrival to the decision
    encoder: Encoder | None = None  # a ranking has no vectors


class Reranking:
    """The rerankers of one router replica, on top of its service."""

    def __init__(self, service: Service) -> None:
        args = self._args = service.args
        self._service = service
        # the model whose deployment computes a reranker's scores
        dispatched_as = {id: one.similarity or id for id, one in args.rerankers.items()}
        self._dispatched_as = dispatched_as
        dispatchers = {id: service.dispatchers[name] for id, name in dispatched_as.items()}
        view = view_of(args)
        self._preparer = Preparer(view, service.preparer)
        check_scores_reading(args, self._preparer)
        comparison = Comparison(view, self._preparer, dispatchers, service.clock)
        self._scorers: dict[str, Scorer] = {
            id: service.gatherers[id]
            if one.similarity is None
            else SimilarityScorer(service.gatherers[one.similarity])
            for id, one in args.rerankers.items()
        }
        self._planner: RerankPlanner | None = None
        self.latencies: Mapping[str, Collection[tuple[float, float]]] = {}
        self.clock = service.clock
        if args.rerankers:
            self._planner = RerankPlanner(args, service, self._preparer, dispatched_as, comparison)
            self._runner = PlanRunner(
                self._planner, dispatchers, args.limits, service.clock, args.rerankers
            )
            self.latencies = self._runner.latencies
            self._follow_losses()

    @property
    def planner(self) -> RerankPlanner:
        """The planner of the current config. Raises ModelNotFound if it has no rerankers."""
        service = self._service
        if self._planner is None:
            error = ModelNotFound("auto", ())
            error.message = (
                "this service has no rerankers; write some under `rerankers:` in its config"
            )
            raise error
        if service.args is not self._args:  # it was reloaded
            self._args = service.args
            self._planner.reload(view_of(service.args), catalogue_of(service.args))
        return self._planner

    @property
    def catalogue(self) -> Catalogue:
        """The names that `model` can be. Raises ModelNotFound if there are no rerankers."""
        return self.planner.catalogue

    @property
    def rerankers(self) -> Mapping[str, RerankerConfig]:
        """The rerankers by id, from small to large."""
        return self._args.rerankers

    @property
    def tiers(self) -> Mapping[NamedTier, str]:
        """The current reranker of each tier."""
        return self._service.args.rerank_tiers

    @property
    def models(self) -> Mapping[str, Model]:
        """Every reranker with its current curve."""
        return {} if self._planner is None else self._planner.models

    def loads(self) -> Mapping[str, Load]:
        """The current load of the model that computes each reranker's scores."""
        return {} if self._planner is None else self._planner.loads()

    def max_tokens(self, id: str) -> int:
        """The most tokens that a reranker reads: of a pair, or of one text by similarity."""
        return self._args.models.get(self._dispatched_as[id], self._args.rerankers[id]).max_tokens

    async def rerank(self, request: RerankRequest, caller: Caller = ANYONE) -> Ranking:
        """Rank the documents of one request; raises RouterError with the contract's code."""
        service, planner = self._service, self.planner
        preparer = PairPreparer(self._preparer, self._args.rerankers, request)
        reader = PairReader(
            preparer,
            request,
            service.args.routing.language_prior,
            service.args.limits,
            service.reader.pool,
        )
        caller = caller._replace(permitted=self.permitted(caller.permitted))
        return await service.recorded(
            request.common,
            planner.plan(request.common, caller, reader),
            partial(self._answer, reader),
            caller,
        )

    def permitted(self, models: frozenset[str] | None) -> frozenset[str] | None:
        """The rerankers that a key can use if it can use these models."""
        if models is None:
            return None
        return frozenset(id for id, name in self._dispatched_as.items() if name in models)

    async def _answer(
        self, reader: PairReader, plan: Plan, caller: Caller, tracing: Tracing | None
    ) -> Ranking:
        model, request = self._runner.begin(plan, caller.permitted), plan.request
        prepared, truncated = plan.prepared[model], list[int]()
        assert isinstance(prepared, PreparedPairs)
        if prepared.limit is not None and request.truncate in (None, "none"):
            request = request._replace(truncate="end")
        if request.truncate in ("end", "start"):
            prepared, truncated = await reader.cut(prepared, request, model, caller.client)
        assert isinstance(prepared, PreparedPairs)
        if caller.charge is not None:
            query = () if prepared.query is None else prepared.query.counts
            await caller.charge.take(sum(prepared.counts) + sum(query))
        bulk, deadline_s = request.priority == "bulk", self._runner.deadline_of(plan)
        work: Coroutine[Any, Any, Rows] = self._scorers[model].gather(prepared, deadline_s, bulk)
        got = await self._runner.send(plan, work, tracing, caller.stamps)
        total_s = self._runner.learn(plan, model, got)
        return Ranking(
            ranked(got.vectors[:, 0], reader.request.top_n),
            model,
            self._args.rerankers[model].score_kind,
            self._tier_of(model, plan.constraints),
            plan.decision,
            reader.documents or plan.features,
            sum(got.tokens),
            got.known - got.known_aside,
            truncated,
            got.queue_s + plan.tried_s,
            got.inference_s,
            total_s,
            prepared.mean_unread,
            plan.elapsed_s,
        )

    def _tier_of(self, model: str, constraints: Constraints) -> str | None:
        """The tier of a reranker: the request's or the default one, if it has that, otherwise its
        first.
        """
        tiers = [tier for tier, id in self._args.rerank_tiers.items() if id == model]
        likely = (constraints.tier, self._args.rerank_routing.default_tier)
        return next((tier for tier in likely if tier in tiers), next(iter(tiers), None))

    def _follow_losses(self) -> None:
        """Decide waiting requests again when their model loses its last replica."""
        ledger, tries = self._service.ledger, self._runner.second_tries
        first = ledger.on_last_lost

        def lost(model: str) -> None:
            if first is not None:
                first(model)
            for id, name in self._dispatched_as.items():
                if name == model:
                    tries.last_lost(id)

        ledger.on_last_lost = lost


def ranked(scores: Vectors, top_n: int | None) -> list[tuple[int, np.float32]]:
    """The `top_n` places with the highest scores, in order; equal scores by place."""
    order = np.argsort(-scores, kind="stable")[:top_n]
    return [(int(place), scores[place]) for place in order]
