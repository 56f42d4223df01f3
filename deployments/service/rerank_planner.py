"""Decide among the rerankers of a config, as among embedding models."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from deployments.service.experiments import Comparison
from deployments.service.pairs import PairReader, PreparedPairs
from deployments.service.planner import Planner
from deployments.service.prepare import Prepared, Preparer
from deployments.service.reader import Reader
from deployments.service.service import Service
from router.config import RouterArgs
from router.decision_log import RERANK, DecisionContext
from router.domain import Model, Work, work_of
from router.errors import InvalidValue, field
from router.model_config import ModelConfig
from router.models import long_texts_of, points_of
from router.rerank_config import RerankerConfig, Score
from router.rerank_schema import OR_MODEL
from router.resolving import Constraints
from router.routing_config import Compare
from router.schema import EmbeddingsRequest
from router.spaces import Catalogue


class RerankPlanner(Planner):
    """Decides among rerankers, with the config of `view_of`."""

    def __init__(
        self,
        args: RouterArgs,
        service: Service,
        preparer: Preparer,
        dispatched_as: Mapping[str, str],
        comparison: Comparison,
    ) -> None:
        self._rerankers = args.rerankers
        self._dispatched_as = dispatched_as
        self._models: dict[str, Callable[[Model], Model]] = {
            id: partial(_as_reranker, id, rank, config)
            for rank, (id, config) in enumerate(args.rerankers.items())
        }
        super().__init__(
            view_of(args),
            catalogue_of(args),
            {id: service.feedback[name] for id, name in dispatched_as.items()},
            preparer,
            service.ledger,
            service.cache,
            comparison,
            service.clock,
            service.rng,
        )

    @property
    def models(self) -> dict[str, Model]:
        """Every reranker with the current curve of the model that computes its scores."""
        return {id: made(self.feedback[id].model) for id, made in self._models.items()}

    def _build_contexts(self) -> tuple[DecisionContext, DecisionContext]:
        usual, _ = super()._build_contexts()
        usual = usual._replace(arm=RERANK)
        return usual, usual

    def _resolve(self, request: EmbeddingsRequest, reader: Reader) -> Constraints:
        assert isinstance(reader, PairReader)
        constraints = super()._resolve(request, reader)
        if (score := reader.request.score) is None:
            return constraints
        able = frozenset(id for id, one in self._rerankers.items() if one.score_kind == score)
        if constraints.candidates is not None:
            able &= constraints.candidates
        if not able:
            raise InvalidValue(self._without(score), "score")
        return constraints._replace(candidates=able)

    def _without(self, score: Score) -> str:
        """The message where no reranker that the request leaves open has such scores."""
        kinds = {id: one.score_kind for id, one in self._rerankers.items()}
        listed = ", ".join(f"{id}: {kind}" for id, kind in kinds.items())
        if score in kinds.values():
            return (
                f"no reranker that this request leaves open has scores of kind {score!r} "
                f"({listed}); leave {field('score')} out{field(OR_MODEL)}"
            )
        return (
            f"{field('score')} needs a reranker whose scores are of kind {score!r}, and this "
            f"service has none ({listed}); leave {field('score')} out"
        )

    def _work(self, model: str, prepared: Prepared) -> Work:
        assert isinstance(prepared, PreparedPairs)
        return self._work_of(model, prepared, prepared.limit)

    def _cut_work(self, prepared: dict[str, Prepared]) -> dict[str, Work]:
        return {
            name: self._work_of(name, one, self.args.models[name].max_tokens)
            for name, one in prepared.items()
            if isinstance(one, PreparedPairs)
        }

    def _work_of(self, model: str, pairs: PreparedPairs, limit: int | None) -> Work:
        """The work of the documents, of at most `limit` tokens each, and of the query."""
        config, counts, digests = self.args.models[model], [*pairs.counts], [*pairs.digests]
        if not pairs.exact:  # only the engine knows whether it can read the text
            limit = min(limit or config.max_tokens, config.max_tokens)
        if limit is not None:
            counts = [min(count, limit) for count in counts]
        if pairs.query is not None:
            counts += pairs.query.counts
            digests += pairs.query.digests
        unknown = self._cache.unknown(self._dispatched_as[model], digests)
        rest = None if len(unknown) == len(counts) else [counts[place] for place in unknown]
        return work_of(counts, config.attention_tokens, long_texts_of(config), rest)


def view_of(args: RouterArgs) -> RouterArgs:
    """The config for decisions among rerankers. A reranker by similarity has the sizes and prompts
    of its embedding model.
    """
    models: dict[str, ModelConfig] = {}
    for id, one in args.rerankers.items():
        own = {"aliases": one.aliases, "quality": one.quality, "good_for": one.good_for}
        served = None if one.similarity is None else args.models[one.similarity]
        models[id] = one if served is None else served.model_copy(update=own)
    return args.model_copy(
        update={
            "models": models,
            "rerankers": {},
            "tiers": args.rerank_tiers,
            "routing": args.rerank_routing,
            "collections": {},
            "compare": Compare(),
        }
    )


def catalogue_of(args: RouterArgs) -> Catalogue:
    """The names that `model` of a rerank request can be."""
    return Catalogue(view_of(args).model_copy(update={"models": args.rerankers}))


def _as_reranker(id: str, rank: int, config: RerankerConfig, model: Model) -> Model:
    return replace(model, id=id, rank=rank, quality=points_of(config), long=long_texts_of(config))
