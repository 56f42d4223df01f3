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
from deployments.service.prepare import Prepared, Preparer
from deployments.service.reader import Reader
from deployments.service.recent import Recent
from deployments.service.refusals import check_permitted, cut_work, refusal
from deployments.service.request_metrics import Events
from deployments.service.second_try import DecidedAgain, SecondTries, deadline_of, has_room
from deployments.service.shared_cache import open_shared
from deployments.service.spans import Dispatching, decided
from deployments.telemetry.tracing import Tracing
from router.adapters import as_ranked, load_adapters
from router.cache import VectorCache
from router.config import RouterArgs
from router.decision_log import ANSWERED, DecisionContext
from router.domain import (
    Features,
    Load,
    Model,
    Reason,
    Request,
    Tier,
    Work,
    work_of,
)
from router.errors import (
    DeadlineExceeded,
    InternalError,
    InvalidValue,
    MaxTokensPerRequest,
    RouterError,
)
from router.feedback import Feedback, tell
from router.ledger import Ledger
from router.models import build_models, build_policy
from router.policy import Policy, decide
from router.schema import EmbeddingsRequest
from router.spaces import Catalogue, Constraints

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
        self.catalogue = Catalogue(args, load_adapters(args))
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
        self.reader = Reader(self.preparer, args.routing.language_prior, args.limits)
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
        has_room_for = partial(has_room, self.dispatchers, args.limits)
        self.second_tries = SecondTries(self.loads, clock, has_room_for)
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
        self.routing = args.routing
        self.policy = build_policy(args.routing, args.tiers)
        self._setting, self._canary = self._settle()
        self.comparison = Comparison(args, self.preparer, self.dispatchers, clock)

    def reload(self, args: RouterArgs, catalogue: Catalogue) -> None:
        """Serve by these rules, tiers and collections from the next request on; running ones keep
        theirs, in their plans.

        `catalogue` is that of `args`, which differ from those at the start in RELOADABLE sections
        only.
        """
        if args.routing.language_prior != self.routing.language_prior:
            prior, pool = args.routing.language_prior, self.reader.pool
            self.reader = Reader(self.preparer, prior, args.limits, pool)
        self.args, self.catalogue, self.routing = args, catalogue, args.routing
        self.policy = build_policy(args.routing, args.tiers)
        self._setting, self._canary = self._settle()
        self.comparison.reload(args)
        if self.events is not None:
            self.events.reloaded(args)

    @property
    def models(self) -> dict[str, Model]:
        """Every model with the curve that is known now."""
        return {name: feedback.model for name, feedback in self.feedback.items()}

    def replicas_changed(self, model: str, replicas: Sequence[str]) -> None:
        """What the board says of one model's deployment."""
        if model in self.dispatchers:
            self.dispatchers[model].replicas_changed(replicas)

    async def plan(self, request: EmbeddingsRequest, caller: Caller = ANYONE) -> Plan:
        """Read the text and decide; raises RouterError when no model may serve the request."""
        permitted = caller.permitted
        arrived_s = self.clock()
        request = self.catalogue.completed(request)
        wanted = self.catalogue.resolve(request)
        candidates = [
            name
            for name in self.feedback
            if (wanted.candidates is None or name in wanted.candidates)
            and (permitted is None or name in permitted)
        ]
        if permitted is not None:  # before anything is read
            check_permitted(self.args, request, wanted, permitted, candidates)
        texts = request.texts
        if texts is None:
            assert wanted.target is not None, "the schema lets token ids pass only with a model"
            assert request.ids is not None, "a request has texts or token ids"
            if not self.args.models[wanted.target].engine.takes_token_ids:
                raise InvalidValue(
                    f"{wanted.target} takes text, not token ids; send the text", "input"
                )
            prepared = self.preparer.given(request.ids, wanted.target, caller.scope)
            features = Features(0, None, None, False, False)
        else:
            characters = self.reader.reading(texts, request.side, request.instruction, candidates)
            self.reader.check(caller.client, characters)
            if caller.meter is not None:
                caller.meter.reading(characters)
            prepared, features = await self.reader.read(
                texts,
                request.side,
                request.instruction,
                request.language,
                tuple(candidates),
                caller.scope,
                caller.client,
            )
            if len(prepared) < len(candidates):  # to the others it has too many tokens
                if wanted.target in candidates - prepared.keys():
                    raise MaxTokensPerRequest(None, self.args.limits.max_tokens_per_request)
                wanted = wanted._replace(candidates=frozenset(prepared))
        read_s = self.clock()
        loads, models = self.loads(), self.models
        work = {name: self._work(name, one) for name, one in prepared.items()}
        if wanted.adapters and wanted.space is not None:
            models = as_ranked(models, wanted.space, wanted.adapters)
        setting = self._setting
        decision_input = self._input_of(
            request, wanted, features, prepared, work, arrived_s, permitted, setting
        )
        if (arm := self.comparison.arm(request, decision_input)) == CANARY:
            setting = self._canary
            decision_input = self._input_of(
                request, wanted, features, prepared, work, arrived_s, permitted, setting
            )
        decided_s = self.clock()
        decision = decide(setting.policy, decision_input, models, loads, decided_s)
        if decision.reason is Reason.NO_MODEL and request.truncate not in (None, "none"):
            # Nothing reads the text as it is: decide on what would be left of it.
            work = cut_work(self.args, prepared)
            decision_input = decision_input._replace(work=work)
            decision = decide(setting.policy, decision_input, models, loads, decided_s)
        return Plan(
            request,
            wanted,
            features,
            prepared,
            work,
            loads,
            decision,
            arrived_s,
            decision_input,
            models,
            read_s,
            decided_s,
            setting,
            arm,
        )

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

    def loads(self) -> dict[str, Load]:
        """What is happening at each model now, as this router knows it."""
        now = self.clock()
        return {
            name: feedback.load(self.ledger, self.routing, now, self.rng)
            for name, feedback in self.feedback.items()
        }

    def _work(self, model: str, prepared: Prepared) -> Work:
        """What the request asks of one model: the texts that are not in the cache, but the longest
        of all.
        """
        counts, span = prepared.counts, self.args.models[model].attention_tokens
        if not prepared.exact:  # only the engine knows whether it can read the text
            counts = [min(count, self.args.models[model].max_tokens) for count in counts]
        unknown = self.cache.unknown(model, prepared.digests)
        rest = None if len(unknown) == len(counts) else [counts[place] for place in unknown]
        return work_of(counts, span, self.feedback[model].model.long, rest)

    def _settle(self) -> tuple[DecisionContext, DecisionContext]:
        """What this service decides by from now on: usually, and for the requests of the canary."""
        args, canary = self.args, self.args.compare.canary
        usual = DecisionContext(
            self.models,
            self.policy,
            {Tier(tier): model for tier, model in args.tiers.items()},
            args.routing.strict_tiers,
            _seconds(args.routing.default_budget_ms),
        )
        if canary is None:
            return usual, usual
        if canary.routing is None:
            return usual, usual._replace(
                policy=Policy(canary.model or self.policy.default, default_is_named=True),
                arm=CANARY,
            )
        policy, budget_s = (
            build_policy(canary.routing, args.tiers),
            _seconds(canary.routing.default_budget_ms),
        )
        return usual, usual._replace(policy=policy, default_budget_s=budget_s, arm=CANARY)

    def _input_of(
        self,
        request: EmbeddingsRequest,
        wanted: Constraints,
        features: Features,
        prepared: dict[str, Prepared],
        work: dict[str, Work],
        arrived_s: float,
        permitted: frozenset[str] | None,
        setting: DecisionContext,
    ) -> Request:
        budget_s = _seconds(request.latency_budget_ms) or setting.default_budget_s
        return Request(
            work=work,
            features=features,
            deadline_s=None if budget_s is None else arrived_s + budget_s,
            target=wanted.target,
            pinned=wanted.pinned,
            strict=wanted.strict,
            candidates=wanted.candidates,
            permitted=permitted,
            on_miss=request.on_budget_miss,
            input_type=request.side,
            unread={
                name: share
                for name, one in prepared.items()
                if one.unread and (share := one.unread_by(setting.policy.min_share))
            },
        )


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000.0
