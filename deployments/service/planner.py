"""Turn a request into a plan: read its texts, and decide which model answers."""

import random
from collections.abc import Callable, Mapping
from functools import lru_cache, partial

from deployments.dispatch.chunks import SENDER
from deployments.service.experiments import CANARY, Comparison
from deployments.service.plan import ANYONE, Caller, Plan
from deployments.service.prepare import Prepared, Preparer
from deployments.service.reader import Reader
from deployments.service.refusals import check_permitted, cut_work
from router.cache import VectorCache
from router.config import RouterArgs
from router.decision_log import DecisionContext
from router.domain import Features, Load, Model, Reason, Request, Tier, Work, work_of
from router.encoders import EncoderChoice, as_ranked, by_recall
from router.errors import InvalidValue, MaxTokensPerRequest
from router.fair import Sender
from router.feedback import Feedback
from router.ledger import Ledger
from router.models import build_policy
from router.policy import decide
from router.resolving import (
    Constraints,
    Named,
    completed,
    cuts_as_native,
    encoders_of,
    named,
    reads_instruction,
    resolve_names,
)
from router.rules import Policy
from router.running_recall import RunningRecall
from router.schema import EmbeddingsRequest
from router.spaces import KNOWN_CHARACTERS, Catalogue

KNOWN_NAMES = 256  # combinations of the fields that name a model or a space


class Planner:
    """Decides by the config's tables, which can change, and the feedback of each model."""

    def __init__(
        self,
        args: RouterArgs,
        catalogue: Catalogue,
        feedback: Mapping[str, Feedback],
        preparer: Preparer,
        ledger: Ledger,
        cache: VectorCache,
        comparison: Comparison,
        clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self.args, self.catalogue, self.routing = args, catalogue, args.routing
        self._constraints = _remembered(catalogue)
        self.feedback, self.comparison = feedback, comparison
        self.reader = Reader(preparer, args.routing.language_prior, args.limits)
        self._preparer, self._ledger, self._cache = preparer, ledger, cache
        self._clock, self._rng = clock, rng
        self.policy = build_policy(args.routing, args.tiers)
        self._context, self._canary = self._build_contexts()
        # mean recall of the queries of each collection with several encoders
        self.running: dict[str, RunningRecall] = _averages(catalogue)

    def reload(self, args: RouterArgs, catalogue: Catalogue) -> None:
        """Plan by this config from the next request on."""
        if args.routing.language_prior != self.routing.language_prior:
            prior, pool = args.routing.language_prior, self.reader.pool
            self.reader = Reader(self._preparer, prior, args.limits, pool)
        self.running = _averages(catalogue) | {
            name: running
            for name, running in self.running.items()
            if args.collections.get(name) == self.args.collections[name]
        }
        self.args, self.catalogue, self.routing = args, catalogue, args.routing
        self._constraints = _remembered(catalogue)
        self.policy = build_policy(args.routing, args.tiers)
        self._context, self._canary = self._build_contexts()

    @property
    def models(self) -> dict[str, Model]:
        """Every model with its current curve."""
        return {name: feedback.model for name, feedback in self.feedback.items()}

    async def plan(
        self, request: EmbeddingsRequest, caller: Caller = ANYONE, reader: Reader | None = None
    ) -> Plan:
        """Read the texts and decide. Raises RouterError when the request cannot be planned.

        `reader` replaces the planner's own for this request.
        """
        SENDER.set(Sender(caller.key, caller.weight))
        reader = reader or self.reader
        permitted = caller.permitted
        arrived_s = self._clock()
        request = completed(self.catalogue, request)
        constraints = self._resolve(request, reader)
        candidates = [
            name
            for name in self.feedback
            if (constraints.candidates is None or name in constraints.candidates)
            and (permitted is None or name in permitted)
        ]
        if permitted is not None:  # before anything is read
            check_permitted(self.args, request, constraints, permitted, candidates)
        texts = request.texts
        if texts is None:
            prepared = self._given(request, constraints, caller.scope)
            features = Features(0, None, None, False, False)
        else:
            is_short = reader.is_short(texts, request.instruction)
            if caller.charge is not None or not is_short:
                characters = reader.reading(texts, request.side, request.instruction, candidates)
                reader.check(caller.client, characters)
                if caller.charge is not None:
                    caller.charge.reading(characters)
            side, instruction, language = request.side, request.instruction, request.language
            able, scope = tuple(candidates), caller.scope
            if is_short:
                prepared, features = reader.known(
                    texts[0], side, instruction, language, able, scope
                )
            else:
                prepared, features = await reader.read(
                    texts, side, instruction, language, able, scope, caller.client
                )
            if len(prepared) < len(candidates):  # it has too many tokens for the others
                if constraints.target in candidates - prepared.keys():
                    raise MaxTokensPerRequest(None, self.args.limits.max_tokens_per_request)
                constraints = constraints._replace(candidates=frozenset(prepared))
        read_s = self._clock()
        loads, models = self.loads(), self.models
        work = {name: self._work(name, one) for name, one in prepared.items()}
        choice = self._choice(request, constraints, prepared, features, permitted)
        if len(choice.recalls) > 1:
            models = as_ranked(models, choice.encoders, choice.recalls, features, work)
            if constraints.target is None:
                constraints = constraints._replace(
                    target=by_recall(choice.encoders, choice.recalls)[0]
                )
        context = self._context
        decision_input = self._input_of(
            request, constraints, features, prepared, work, arrived_s, permitted, context, choice
        )
        if (arm := self.comparison.arm(request, decision_input)) == CANARY:
            context = self._canary
            decision_input = self._input_of(
                request,
                constraints,
                features,
                prepared,
                work,
                arrived_s,
                permitted,
                context,
                choice,
            )
        decided_s = self._clock()
        decision = decide(context.policy, decision_input, models, loads, decided_s)
        if decision.reason is Reason.NO_MODEL and request.truncate not in (None, "none"):
            # No model reads the whole text: decide on the cut text.
            work = self._cut_work(prepared)
            decision_input = decision_input._replace(work=work)
            decision = decide(context.policy, decision_input, models, loads, decided_s)
        return Plan(
            request,
            constraints,
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
            context,
            arm,
            choice=choice,
        )

    def _given(
        self, request: EmbeddingsRequest, constraints: Constraints, scope: str
    ) -> dict[str, Prepared]:
        """The token ids of a request, for the model that it names; raises InvalidValue."""
        model = constraints.target
        assert model is not None, "the schema lets token ids pass only with a model"
        assert request.ids is not None, "a request has texts or token ids"
        if not self.args.models[model].engine.takes_token_ids:
            raise InvalidValue(f"{model} takes text, not token ids; send the text", "input")
        return self._preparer.given(request.ids, model, scope)

    def _choice(
        self,
        request: EmbeddingsRequest,
        constraints: Constraints,
        prepared: Mapping[str, Prepared],
        features: Features,
        permitted: frozenset[str] | None,
    ) -> EncoderChoice:
        """The encoders that can make the vectors of these texts, and the recall of each.

        The average of a collection counts only requests for which the router has a choice, not
        those that the caller or the key's permissions have fixed.
        """
        encoders = encoders_of(self.catalogue, request, constraints, prepared, features)
        if not constraints.encoders or (
            len(encoders) == 1 and next(iter(encoders.values())).native
        ):
            return EncoderChoice(encoders)
        recalls = {name: encoder.recall_of(features) for name, encoder in encoders.items()}
        blind = (name for name, one in prepared.items() if name in encoders and one.unreadable)
        choice = EncoderChoice(
            encoders, recalls, frozenset(blind), queries=request.items, permitted=permitted
        )
        collection = constraints.collection
        choice.too_long = frozenset(encoders) - prepared.keys()
        choice.other_instruction = frozenset(
            name
            for name, encoder in encoders.items()
            if not reads_instruction(self.catalogue, request, encoder)
        )
        choice.other_cut = frozenset(
            name
            for name, encoder in encoders.items()
            if name in prepared
            and not cuts_as_native(
                self.catalogue, request, encoder, max(prepared[name].counts, default=0)
            )
        )
        if collection is None or len(encoders) == 1:
            return choice
        choice.below_each = frozenset(
            name
            for name, encoder in encoders.items()
            if not encoder.keeps(features, collection.min_recall_each)
        )
        running = self.running.get(collection.name)
        left = choice.fit - choice.dropped
        best = max((recalls[name] for name in left), default=0.0)
        if running is not None and best >= running.floor:
            choice.running = running
        return choice

    def loads(self) -> dict[str, Load]:
        """The current load of each model as seen by this router, for the current sender."""
        now, sender = self._clock(), SENDER.get()
        return {
            name: feedback.load(self._ledger, now, self._rng, sender)
            for name, feedback in self.feedback.items()
        }

    def _resolve(self, request: EmbeddingsRequest, reader: Reader) -> Constraints:
        """The constraints of a completed request."""
        names = named(request)
        long = sum(map(len, filter(None, (names.model, names.space, names.space_within))))
        if long > KNOWN_CHARACTERS:  # a caller's text of any length is not kept
            return resolve_names(self.catalogue, names)
        return self._constraints(names)

    def _work(self, model: str, prepared: Prepared) -> Work:
        """The work of the request at one model: each uncached text counts once, and
        `longest` is that of all texts.
        """
        counts, span = prepared.counts, self.args.models[model].attention_tokens
        if not prepared.exact:  # only the engine knows whether it can read the text
            counts = [min(count, self.args.models[model].max_tokens) for count in counts]
        unknown = self._cache.unknown(model, prepared.digests)
        rest = None if len(unknown) == len(counts) else [counts[place] for place in unknown]
        return work_of(counts, span, self.feedback[model].model.long, rest)

    def _build_contexts(self) -> tuple[DecisionContext, DecisionContext]:
        """Build the decision contexts of the current config: the usual one and the canary's."""
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

    def _cut_work(self, prepared: dict[str, Prepared]) -> dict[str, Work]:
        """The work at each model if every text is cut to what that model reads."""
        return cut_work(self.args, prepared)

    def _input_of(
        self,
        request: EmbeddingsRequest,
        constraints: Constraints,
        features: Features,
        prepared: dict[str, Prepared],
        work: dict[str, Work],
        arrived_s: float,
        permitted: frozenset[str] | None,
        context: DecisionContext,
        choice: EncoderChoice,
    ) -> Request:
        budget_s = _seconds(request.latency_budget_ms) or context.default_budget_s
        return Request(
            work=work,
            features=features,
            deadline_s=None if budget_s is None else arrived_s + budget_s,
            target=constraints.target,
            pinned=constraints.pinned,
            strict=constraints.strict,
            candidates=constraints.candidates,
            permitted=permitted,
            on_miss=request.on_budget_miss,
            input_type=request.side,
            unread={
                name: share
                for name, one in prepared.items()
                if one.unread and (share := one.unread_by(context.policy.min_share))
            },
            recalls=choice.recalls,
            unfit=choice.unfit(),
        )


def _remembered(catalogue: Catalogue) -> Callable[[Named], Constraints]:
    """`resolve_names`, which keeps the last results: most requests name the same few things."""
    return lru_cache(KNOWN_NAMES)(partial(resolve_names, catalogue))


def _averages(catalogue: Catalogue) -> dict[str, RunningRecall]:
    """A new average for each collection whose queries several encoders can answer."""
    return {
        name: RunningRecall(collection.min_recall)
        for name, collection in catalogue.collections.items()
        if len(collection.encoders) > 1
    }


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000.0
