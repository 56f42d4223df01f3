"""One request's way, in order: features, tokens, decision, cache, dispatch, space. The ingress
speaks HTTP around it.
"""

import random
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from deployments.dispatch.dispatcher import ModelDispatcher
from deployments.dispatch.transport import Transport
from deployments.service.decision_log import DecisionLog
from deployments.service.experiments import CANARY, Answered, Comparison
from deployments.service.fingerprints import check_reading
from deployments.service.gather import Gatherer
from deployments.service.plan import ANYONE, Answer, Caller, Plan, entry_of
from deployments.service.planner import Planner
from deployments.service.prepare import Preparer
from deployments.service.reader import Reader
from deployments.service.recent import Recent
from deployments.service.refusals import refusal
from deployments.service.request_metrics import Events
from deployments.service.second_try import DecidedAgain, SecondTries, deadline_of, has_room
from deployments.service.shared_cache import open_shared
from deployments.service.spans import Dispatching, decided
from deployments.telemetry.tracing import Tracing
from router.adapters import load_adapters
from router.cache import VectorCache
from router.config import RouterArgs
from router.decision_log import ANSWERED
from router.domain import (
    Load,
    Model,
)
from router.errors import (
    DeadlineExceeded,
    InternalError,
    RouterError,
)
from router.feedback import Feedback, tell
from router.ledger import Ledger
from router.models import build_models
from router.schema import EmbeddingsRequest
from router.spaces import Catalogue

CANCELLED = "cancelled"  # the outcome of a request whose client left
RECENT = 1024  # answers per model that percentiles are made of


class Service:
    """Everything one router replica knows: models, policy, ledger, lanes and cache."""

    def __init__(
        self,
        args: RouterArgs,
        transport: Transport,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.args = args
        # how long the last replica of a model took to start, by phase, where the transport is told
        self.starts: Mapping[str, Mapping[str, float]] = getattr(transport, "starts", {})
        catalogue = Catalogue(args, load_adapters(args))
        now = clock()
        self.feedback = {
            name: Feedback(
                model,
                args.models[name].profile is not None,
                args.routing,
                now,
                args.models[name].cold_start_s,
            )
            for name, model in build_models(args).items()
        }
        self.preparer = Preparer(args)
        self.fingerprints = check_reading(args, self.preparer)
        self.clock = clock
        self.rng = rng or random.Random()
        self.ledger = Ledger({name: model.calls_in_flight for name, model in args.models.items()})
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
            )
            for name, config in args.models.items()
        }
        self.comparison = Comparison(args, self.preparer, self.dispatchers, clock)
        self.planner = Planner(
            args,
            catalogue,
            self.feedback,
            self.preparer,
            self.ledger,
            self.cache,
            self.comparison,
            clock,
            self.rng,
        )
        has_room_for = partial(has_room, self.dispatchers, args.limits)
        self.second_tries = SecondTries(self.planner.loads, clock, has_room_for)
        self.ledger.on_last_lost = self.second_tries.last_lost
        self.shared = open_shared(args, self.fingerprints)
        self.gatherers = {
            name: Gatherer(
                dispatcher,
                self.cache,
                self.shared if self.shared and self.shared.shares(name) else None,
            )
            for name, dispatcher in self.dispatchers.items()
        }
        self.latencies: dict[str, deque[tuple[float, float]]] = {
            name: deque(maxlen=RECENT) for name in args.models
        }
        self.recent = Recent()
        self.log: DecisionLog | None = None
        self.tracing = tracing
        self.events: Events | None = Events(args) if args.metrics else None

    def reload(self, args: RouterArgs, catalogue: Catalogue) -> None:
        """Serve by these rules, tiers and collections from the next request on; running ones keep
        theirs, in their plans.

        `catalogue` is that of `args`, which differ from those at the start in RELOADABLE sections
        only.
        """
        self.args = args
        self.planner.reload(args, catalogue)
        self.comparison.reload(args)
        if self.events is not None:
            self.events.reloaded(args)

    @property
    def catalogue(self) -> Catalogue:
        """The names of the config that is served now."""
        return self.planner.catalogue

    @property
    def reader(self) -> Reader:
        """What reads texts now."""
        return self.planner.reader

    @property
    def models(self) -> dict[str, Model]:
        """Every model with the curve that is known now."""
        return self.planner.models

    def loads(self) -> dict[str, Load]:
        """What is happening at each model now, as this router knows it."""
        return self.planner.loads()

    async def plan(self, request: EmbeddingsRequest, caller: Caller = ANYONE) -> Plan:
        """Read the text and decide; raises RouterError when no model may serve the request."""
        return await self.planner.plan(request, caller)

    def replicas_changed(self, model: str, replicas: Sequence[str]) -> None:
        """What the board says of one model's deployment."""
        if model in self.dispatchers:
            self.dispatchers[model].replicas_changed(replicas)

    async def embed(
        self,
        request: EmbeddingsRequest,
        caller: Caller = ANYONE,
    ) -> Answer:
        """Answer one request with vectors of one space; raises RouterError with the contract's
        code.
        """
        plan, answer, outcome = None, None, CANCELLED
        try:
            plan = await self.plan(request, caller)
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
                    answer = await self._answer(plan, caller, tracing)
                except DecidedAgain as again:  # its tokens are charged already
                    plan = again.plan
                    answer = await self._answer(plan, caller._replace(meter=None), tracing)
            finally:
                self.comparison.left()
            outcome = ANSWERED
            return answer
        except RouterError as error:
            outcome, error.counted = error.code, True
            if plan is not None:
                self.comparison.failed(plan.arm, error.code)
            raise
        except Exception:
            outcome = InternalError.code
            raise
        finally:
            if self.events is not None:
                self.events.ended(request, plan, answer, outcome)
            if plan is not None:
                entry = entry_of(plan, answer, outcome)
                self.recent.add(plan.setting, entry)
                if self.log is not None:
                    self.log.add(plan.setting, entry)

    async def _answer(
        self,
        plan: Plan,
        caller: Caller,
        tracing: Tracing | None = None,
    ) -> Answer:
        request, decision, arrived_s = plan.request, plan.decision, plan.arrived_s
        missed = tell(self.feedback, decision, plan.work, arrived_s, plan.decision_input.deadline_s)
        if missed is not None:
            self.dispatchers[missed].warm()
        if decision.model is None:
            raise refusal(self.args, plan, caller.permitted)
        model = decision.model
        prepared, truncated = plan.prepared[model], list[int]()
        if request.truncate in ("end", "start"):
            prepared, truncated = await self.reader.cut(prepared, request, model, caller.client)
        if caller.meter is not None:
            await caller.meter.charge(sum(prepared.counts))
        deadline_s = deadline_of(plan, self.args.limits)
        gathering = self.second_tries.first(
            plan, self.gatherers[model].gather(prepared, deadline_s, request.priority == "bulk")
        )
        try:
            if tracing is None:
                got = await gathering
            else:
                with Dispatching(tracing, plan.decision.model or "none") as dispatching:
                    got = await gathering
                    dispatching.answered(got.known, got.queue_s, got.inference_s)
        except DeadlineExceeded:
            raise DeadlineExceeded(
                deadline_s - arrived_s
            ) from None  # what the caller gave, not what was left of it here
        now = self.clock()
        self.latencies[model].append((now, now - arrived_s))
        # Bulk waits for everybody else, so how late it was says nothing of the next interactive
        # request. What was cut may be in the cache although the whole text was not.
        unforeseen = bool(truncated and got.known)
        if (
            plan.work[model].tokens
            and not unforeseen
            and request.priority != "bulk"
            and decision.predicted_s is not None
        ):
            load = plan.loads[model]
            engine_s = got.queue_s + got.inference_s
            self.feedback[model].completed(
                now - arrived_s - plan.tried_s,
                decision.predicted_s,
                load.bias,
                now,
                load.margin,
                engine_s,
            )
        if not truncated:
            self.comparison.answered(
                Answered(
                    request,
                    plan.decision_input,
                    decision,
                    plan.models,
                    prepared.digests,
                    got.vectors,
                    arrived_s,
                    now - arrived_s,
                    plan.arm,
                )
            )
        vectors, space = self.catalogue.land(got.vectors, model, plan.wanted)
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
            now - arrived_s,
            plan.wanted.adapters.get(model),
            plan.arm == CANARY,
            prepared.mean_unread,
        )
