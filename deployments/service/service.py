"""The path of a request, in order: features, tokens, decision, cache, dispatch, space. The
ingress handles HTTP around it.
"""

import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from deployments.dispatch.dispatcher import ModelDispatcher
from deployments.dispatch.socket_transport import DirectTransport
from deployments.dispatch.transport import Transport
from deployments.service.decision_log import DecisionLog
from deployments.service.experiments import CANARY, AnsweredRequest, Comparison
from deployments.service.fingerprints import check_reading
from deployments.service.gather import Gatherer
from deployments.service.plan import ANYONE, Answer, Answered, Caller, Plan, entry_of, use_of
from deployments.service.plan_runner import PlanRunner
from deployments.service.planner import Planner
from deployments.service.prepare import Preparer
from deployments.service.reader import Reader
from deployments.service.recent import Recent
from deployments.service.request_metrics import RequestMetrics
from deployments.service.second_try import DecidedAgain
from deployments.service.shared_cache import open_shared
from deployments.service.spans import decided, planned
from deployments.service.students import StudentGatherer
from deployments.service.use_log import UseLog
from deployments.telemetry.tracing import Tracing
from router.cache import VectorCache
from router.cards import Cards
from router.config import RouterArgs
from router.decision_log import ANSWERED
from router.domain import (
    Load,
    Model,
)
from router.encoder_check import load_encoders, load_student
from router.errors import (
    InternalError,
    Overloaded,
    RouterError,
)
from router.feedback import Feedback
from router.ledger import Ledger
from router.models import build_models, profile_device
from router.schema import EmbeddingsRequest
from router.spaces import Catalogue
from router.usage import Use

log = logging.getLogger("ray.serve")

CANCELLED = "cancelled"  # the outcome of a request whose client left

A = TypeVar("A", bound=Answered)
# runs a plan for a caller, in the trace of the request if there is one
Answering = Callable[[Plan, Caller, Tracing | None], Awaitable[A]]


class Service:
    """Everything one router replica has: models, policy, ledger, dispatchers and cache."""

    def __init__(
        self,
        args: RouterArgs,
        transport: Transport,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.args = args
        # seconds that each model's last replica took to start, by phase, if the transport has them
        self.starts: Mapping[str, Mapping[str, float]] = getattr(transport, "starts", {})
        self.cards: Cards = getattr(transport, "cards", Cards())
        catalogue = Catalogue(args, load_encoders(args))
        now = clock()
        self.feedback = {
            name: Feedback(
                model,
                args.served[name].profile is not None,
                args.routing,
                now,
                args.served[name].cold_start_s,
            )
            for name, model in build_models(args).items()
        }
        self._profiled_on = {
            name: profile_device(name, model, args.base_dir) for name, model in args.served.items()
        }
        if isinstance(transport, DirectTransport):
            transport.on_device = self.runs_on
        self.preparer = Preparer(args)
        self.fingerprints = check_reading(args, self.preparer)
        # of the fingerprint or student of each model that has one, as they were loaded here
        self.digests = {name: proof.digest for name, proof in self.fingerprints.items()}
        self.clock = clock
        self.rng = rng or random.Random()
        self.ledger = Ledger(
            {name: model.calls_in_flight for name, model in args.served.items()}, cards=self.cards
        )
        self.cache = VectorCache(args.cache.max_bytes)
        self.dispatchers = {
            name: ModelDispatcher(
                model=name,
                dimensions=config.dimensions,
                batch_tokens=self.feedback[name].model.curve.batch_tokens,
                calls_in_flight=config.calls_in_flight,
                max_queued_tokens=args.limits.max_queued_tokens,
                max_queue_s=args.limits.max_queue_s,
                replica_timeout_s=args.limits.replica_timeout_s,
                transport=transport,
                ledger=self.ledger,
                feedback=self.feedback[name],
                clock=clock,
                rng=self.rng,
                tracing=tracing,
                attention_tokens=config.attention_tokens,
                steps=not config.engine.runs_elsewhere,
                bulk_call_s=args.limits.bulk_call_ms / 1000.0,
                bulk_share=args.limits.bulk_share,
                stamps=args.stamps,
            )
            for name, config in args.deployed.items()
        }
        self.comparison = Comparison(args, self.preparer, self.dispatchers, clock)
        self.planner = Planner(
            args,
            catalogue,
            {name: self.feedback[name] for name in args.models},
            self.preparer,
            self.ledger,
            self.cache,
            self.comparison,
            clock,
            self.rng,
        )
        self.runner = PlanRunner(self.planner, self.dispatchers, args.limits, clock, args.models)
        self.second_tries, self.latencies = self.runner.second_tries, self.runner.latencies
        self.ledger.on_last_lost = self.second_tries.last_lost
        self.shared = open_shared(args, self.fingerprints)
        self.gatherers: dict[str, Gatherer | StudentGatherer] = {
            name: Gatherer(
                dispatcher,
                self.cache,
                self.shared if self.shared and self.shared.shares(name) else None,
                self.reader.pool.turns,
            )
            for name, dispatcher in self.dispatchers.items()
        }
        for name, config in args.models.items():
            if config.engine.in_router:
                self.ledger.joined(name, "router")
                student = load_student(config, args.base_dir)
                self.digests[name] = student.fingerprint
                self.gatherers[name] = StudentGatherer(
                    name, student, self.cache, self.reader.pool.turns
                )
        self.recent = Recent()
        self.log: DecisionLog | None = None
        self.use_log: UseLog | None = None
        self.tracing = tracing
        self.request_metrics: RequestMetrics | None = RequestMetrics(args) if args.metrics else None

    def reload(self, args: RouterArgs, catalogue: Catalogue) -> None:
        """Use these rules, tiers and collections from the next request on; running requests keep
        theirs, in their plans.

        `catalogue` is that of `args`, which can differ from the ones at the start only in
        RELOADABLE sections.
        """
        self.args = args
        self.planner.reload(args, catalogue)
        self.comparison.reload(args)
        if self.request_metrics is not None:
            self.request_metrics.reloaded(args)

    @property
    def catalogue(self) -> Catalogue:
        """The names of the current config."""
        return self.planner.catalogue

    @property
    def reader(self) -> Reader:
        """The current reader of texts."""
        return self.planner.reader

    @property
    def models(self) -> dict[str, Model]:
        """Every model with its current curve."""
        return self.planner.models

    def loads(self) -> dict[str, Load]:
        """The current load of each model as seen by this router."""
        return self.planner.loads()

    def deployed_loads(self) -> dict[str, Load]:
        """The same for all models with a deployment, rerankers included."""
        now = self.clock()
        return {
            name: feedback.load(self.ledger, now, self.rng)
            for name, feedback in self.feedback.items()
        }

    async def plan(self, request: EmbeddingsRequest, caller: Caller = ANYONE) -> Plan:
        """Read the texts and decide. Raises RouterError when the request cannot be planned."""
        return await self.planner.plan(request, caller)

    def runs_on(self, model: str, device: str) -> None:
        """Note that a replica of this model runs on `device`; a profile of another device is only
        where learning starts.
        """
        known = self._profiled_on.get(model)
        if known not in (None, device) and self.feedback[model].elsewhere():
            log.info(
                "%s runs on %s and its profile was measured on %s: predictions learn from here on",
                model,
                device,
                known,
            )

    def replicas_changed(self, model: str, replicas: Sequence[str]) -> None:
        """Pass on the current replicas of one model's deployment."""
        if model in self.dispatchers:
            self.dispatchers[model].replicas_changed(replicas)

    async def embed(
        self,
        request: EmbeddingsRequest,
        caller: Caller = ANYONE,
    ) -> Answer:
        """Answer one request with vectors of one space. Raises RouterError with the contract's
        code.
        """
        return await self.recorded(request, self.plan(request, caller), self._answer, caller)

    async def recorded(
        self,
        request: EmbeddingsRequest,
        planning: Coroutine[Any, Any, Plan],
        answering: Answering[A],
        caller: Caller,
    ) -> A:
        """Return the answer to a request, from another model if the first was lost, and write its
        metrics, spans and log entries.
        """
        plan, answer, outcome = None, None, CANCELLED
        try:
            plan = await planning
            if caller.stamps is not None:
                planned(caller.stamps, plan, self.clock())
            tracing = (
                self.tracing
                if self.tracing is not None and self.tracing.current() is not None
                else None
            )
            if tracing is not None:
                decided(tracing, plan, self.clock())
            self.comparison.entered()
            try:
                try:
                    answer = await answering(plan, caller, tracing)
                except DecidedAgain as again:  # its tokens are charged already
                    plan = again.plan
                    answer = await answering(plan, caller._replace(charge=None), tracing)
            finally:
                self.comparison.left()
            outcome = ANSWERED
            if caller.stamps is not None:
                caller.stamps.mark("answered", self.clock())
            return answer
        except RouterError as error:
            outcome, error.counted = error.code, True
            if plan is not None:
                self.comparison.failed(plan.arm, error.code)
            if isinstance(error, Overloaded):
                error.has_faster = plan is not None and plan.has_faster
            raise
        except Exception:
            outcome = InternalError.code
            raise
        finally:
            if self.request_metrics is not None:
                self.request_metrics.ended(request, plan, answer, outcome)
            if plan is not None:
                plan.choice.ended(answer is not None)
                use = None if answer is None else self._used(plan, answer, caller)
                entry = entry_of(plan, answer, outcome, use, caller.stamps)
                self.recent.add(plan.context, entry)
                if self.log is not None:
                    self.log.add(plan.context, entry)

    def _used(self, plan: Plan, answer: Answered, caller: Caller) -> Use:
        """Count what an answer used."""
        use = use_of(plan, answer, caller, self.catalogue.collections)
        if self.use_log is not None:
            self.use_log.add(use)
        return use

    async def _answer(
        self,
        plan: Plan,
        caller: Caller,
        tracing: Tracing | None = None,
    ) -> Answer:
        request, decision, arrived_s = plan.request, plan.decision, plan.arrived_s
        model = self.runner.begin(plan, caller.permitted)
        prepared = plan.prepared[model]
        truncated: list[int] = []
        if caller.room is not None:
            caller.room(len(prepared.counts), plan.choice.encoders[model].space.dimensions)
        if request.truncate in ("end", "start"):
            prepared, truncated = await self.reader.cut(prepared, request, model, caller.client)
        if caller.charge is not None:
            await caller.charge.take(sum(prepared.counts))
        bulk, deadline_s = request.priority == "bulk", self.runner.deadline_of(plan)
        work = self.gatherers[model].gather(prepared, deadline_s, bulk)
        got = await self.runner.send(plan, work, tracing, caller.stamps)
        total_s = self.runner.learn(plan, model, got)
        if not truncated and (plan.arm is not None or self.comparison.shadow is not None):
            self.comparison.answered(
                AnsweredRequest(
                    request,
                    plan.decision_input,
                    decision,
                    plan.models,
                    prepared.digests,
                    got.vectors,
                    arrived_s,
                    total_s,
                    plan.arm,
                )
            )
        vectors, space = plan.choice.project(got.vectors, model)
        encoder = plan.choice.encoders[model]
        return Answer(
            vectors,
            space,
            decision,
            plan.features,
            sum(got.tokens),
            got.known,
            truncated,
            got.queue_s + plan.tried_s,
            got.inference_s,
            total_s,
            encoder,
            None if encoder.native else encoder.reported(plan.choice.recalls[model]),
            plan.arm == CANARY,
            prepared.mean_unread,
            plan.elapsed_s,
        )
