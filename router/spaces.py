"""Resolve which model and which vector space a request means.

Contradictions are refused, never resolved silently:
- `space` against `model`, a tier or `dimensions`: SpaceConflict. A tier in either place counts,
  since it names a model.
- `quality` against a model id, or against another tier in `model`: InvalidValue.
- `dimensions` that the pinned model or the tier's model does not have, or no model at all:
  DimensionsNotSupported.

A tier is a preference, not a pin: without `strict_tiers` the router can answer it from a smaller
model. So a service that requires a space (`routing.require_space`) refuses tiers like `auto`.
"""

from collections.abc import Collection, Iterable
from functools import lru_cache, partial
from typing import Literal, NamedTuple

from router.config import RouterArgs
from router.domain import Features, Tier
from router.encoders import Encoder, Encoders, best_of_each, native
from router.errors import (
    AS_QUERY,
    DimensionsNotSupported,
    InvalidValue,
    ModelNotFound,
    SpaceConflict,
    field,
    shorten,
)
from router.model_config import MatryoshkaRange, ModelConfig
from router.names import Name, ambiguities, read_name
from router.schema import EmbeddingsRequest, Side, Truncate
from router.space import Space

SPACE = '"space"'
OR_MODEL = ', or a model id in "model"'
KNOWN_NAMES, KNOWN_CHARACTERS = 1024, 200  # texts of `model` that stay parsed
_TIERS = frozenset(tier.value for tier in Tier)


class NamedSpace(NamedTuple):
    """A collection: its spaces, the defaults of requests that name it, and the encoders that can
    serve it.
    """

    name: str
    spaces: tuple[Space, ...]
    input_type: Side | None
    instruction: str | None
    truncate: Truncate
    encoders: tuple[Encoder, ...]
    adapt: Literal["queries", "all"]
    min_recall: float

    def narrowed(self, space: Space) -> "NamedSpace":
        """The collection with only one of its spaces."""
        encoders = tuple(encoder for encoder in self.encoders if encoder.space == space)
        return self._replace(spaces=(space,), encoders=encoders)

    def encoders_for(self, side: Side | None) -> tuple[Encoder, ...]:
        """The encoders of texts of this side; a text without a side is not a query."""
        return tuple(encoder for encoder in self.encoders if encoder.makes(side))


class Constraints(NamedTuple):
    """What a request leaves open: the fields of router.domain.Request of the same names, and the
    spaces that its vectors can lie in.
    """

    # the pinned model or the tier's; None: the rules choose, or in a collection what keeps most
    target: str | None
    tier: Tier | None  # as requested; None if a model or a space was named
    pinned: bool
    candidates: frozenset[str] | None  # None: every model
    dimensions: int | None  # None: the model's own
    strict: bool
    # of the named spaces; empty: each model makes vectors of its own space
    encoders: tuple[Encoder, ...] = ()
    collection: NamedSpace | None = None  # the named one


class Catalogue:
    """The models, tiers and spaces of a config by every name that a caller can use for them."""

    def __init__(self, args: RouterArgs, encoders: Encoders | None = None) -> None:
        """`encoders` are those that router.encoder_check.load_encoders found fit; without them
        every space has only its own model.
        """
        self.models: dict[str, ModelConfig] = dict(args.models)
        self.tiers: dict[Tier, str] = {Tier(tier): model for tier, model in args.tiers.items()}
        encoders = encoders or Encoders()
        self.of_model = encoders.of_model  # encoders of the models with `space_of`, by model
        self.collections: dict[str, NamedSpace] = {}
        for name, config in args.collections.items():
            spaces = tuple(map(Space.parse, config.all_spaces))
            self.collections[name] = NamedSpace(
                name,
                spaces,
                config.input_type,
                config.instruction,
                config.truncate,
                encoders.of_collection.get(name) or tuple(map(native, spaces)),
                config.adapt,
                config.min_recall,
            )
        # the models for requests that name no space
        self._in_order = list(args.native)
        self._free = frozenset(self._in_order)
        self.requires_space = args.routing.require_space
        self._strict_tiers = args.routing.strict_tiers
        self._names: dict[str, str] = {}
        for id, model in self.models.items():
            for name in (id, *model.aliases):
                if name.lower() in _TIERS or self._names.setdefault(name.lower(), id) != id:
                    raise ValueError(
                        f"models.{id}: the name {name!r} already means something else; choose "
                        "another"
                    )
        self.rerankers = dict(args.rerankers)
        self._rerankers = {
            name.lower(): id
            for id, model in args.rerankers.items()
            for name in (id, *model.aliases)
        }
        self._hub_ids = {id: _hub_id(model) for id, model in self.models.items()}
        for id, hub_id in self._hub_ids.items():
            if hub_id is not None:
                self._names.setdefault(hub_id, id)
        if problems := list(ambiguities(self, args)):
            raise ValueError("; ".join(problems))
        self._known_name = lru_cache(KNOWN_NAMES)(partial(read_name, self))

    @property
    def names(self) -> tuple[str, ...]:
        """The values of `model` as errors and the list of models show them: ids and tiers."""
        return *self.models, Tier.AUTO.value, *(tier.value for tier in self.tiers)

    def lookup(self, name: str) -> str | None:
        """The id of the model that `name` means: its id or an alias in any case, with or without
        its hub prefix; None if it means none.

        If the config gives the hub id of a model, only that prefix is right: `Other/x` is not
        `Org/x`.
        """
        asked = name.lower()
        if (id := self._names.get(asked)) is not None:
            return id
        prefix, _, last = asked.rpartition("/")
        id = self._names.get(last) if prefix else None
        return id if id is not None and self._hub_ids[id] is None else None

    def read_name(self, text: str) -> Name:
        """Parse a text in `model` (router/names.py); raises InvalidValue for a budget of 0 ms."""
        return self._known_name(text) if len(text) <= KNOWN_CHARACTERS else read_name(self, text)

    def means(self, name: str) -> bool:
        """Whether it is the name of a model, a tier or a reranker."""
        return self.lookup(name) is not None or name.lower() in (*_TIERS, *self._rerankers)

    def find(self, name: str, param: str = "model") -> str:
        """The id of the model that `name` means; raises ModelNotFound, or InvalidValue for a
        reranker.
        """
        if (id := self.lookup(name)) is not None:
            return id
        if (id := self._rerankers.get(name.lower())) is not None:
            raise InvalidValue(
                f"{id} is a reranker and makes no vectors; send its pairs to POST /v1/rerank, or "
                f"name one of {', '.join(self.models)}",
                param,
            )
        raise ModelNotFound(name, self.names if param == "model" else tuple(self.models), param)

    def space_named(self, name: str) -> Space | None:
        """The space that `name` is, if it is MODEL/DIMENSIONS of a configured model."""
        try:
            space = Space.parse(name)
        except ValueError:
            return None
        model = self.lookup(space.model)
        return None if model is None else Space(model, space.dimensions)

    def tier_of(self, model: str) -> Tier | None:
        """The tier that `model` stands for, if any."""
        return next((tier for tier, id in self.tiers.items() if id == model), None)

    def sizes(self, model: str) -> str:
        """The sizes of `model`'s vectors in words, e.g. `64, 128 or 256`, `32 to 1024`, `384`."""
        config = self.models[model]
        if isinstance(config.matryoshka, MatryoshkaRange):
            return f"{config.matryoshka.min} to {config.dimensions}"
        *smaller, own = sorted({*(config.matryoshka or ()), config.dimensions})
        return f"{', '.join(map(str, smaller))} or {own}" if smaller else str(own)

    def space_of(self, model: str, dimensions: int | None = None) -> Space:
        """The space of `model`'s vectors of this size; None is the model's own size."""
        if (space := self.models[model].space_of) is not None:
            return Space.parse(space)
        return Space(model, self.models[model].dimensions if dimensions is None else dimensions)

    def completed(self, request: EmbeddingsRequest) -> EmbeddingsRequest:
        """Fill in the defaults of the collection; a request with token ids is left as it is."""
        collection = self.collections.get(request.space or "")
        if collection is None or request.texts is None:
            return request
        side = request.side or (collection.input_type if request.input_type is None else None)
        return request._replace(
            side=side,
            instruction=request.instruction
            or (None if side == "document" else collection.instruction),
            truncate=request.truncate or collection.truncate,
        )

    def resolve(self, request: EmbeddingsRequest) -> Constraints:
        """Resolve a completed request to its constraints.

        Raises ModelNotFound, SpaceConflict, DimensionsNotSupported or InvalidValue.
        """
        model, tier = self._model_and_tier(request)
        if request.space is not None:
            return self._in_space(request, request.space, model, tier)
        if model is not None and model not in self._free:
            return self._encoder_named(request, model)
        if model is not None:
            self._check_size(request.dimensions, (model,))
            return Constraints(model, None, True, frozenset((model,)), request.dimensions, False)
        if self.requires_space:
            example = self.space_of(self._in_order[0])
            raise InvalidValue(
                "this service answers only requests that name their vector space; send "
                f'{field(SPACE)}, for example "{example}"{field(OR_MODEL)}',
                "space",
            )
        target = self.tiers.get(tier)
        self._check_size(request.dimensions, self._in_order if target is None else (target,))
        able = None if request.dimensions is None else self._able(request.dimensions)
        if able is None and len(self._free) < len(self.models):
            able = self._free
        return Constraints(
            target, tier, False, able, request.dimensions, target is not None and self._strict_tiers
        )

    def encoders(
        self, wanted: Constraints, models: Iterable[str], features: Features
    ) -> dict[str, Encoder]:
        """The encoder of each model for these texts."""
        if wanted.encoders:
            return best_of_each(wanted.encoders, features)
        return {model: native(self.space_of(model, wanted.dimensions)) for model in models}

    def _model_and_tier(self, request: EmbeddingsRequest) -> tuple[str | None, Tier]:
        """The named model, and the tier; a tier in `model` counts as a tier."""
        tier = request.quality
        self._check_tier(tier, "quality")
        if request.model is None:
            return None, tier
        named = request.model.lower()
        if named in _TIERS:
            own = Tier(named)
            self._check_tier(own, "model")
            if own is not tier and own is not Tier.AUTO and tier is not Tier.AUTO:
                raise InvalidValue(
                    f"model asks for tier {named!r}, quality for {tier.value!r}; leave one of "
                    "them out",
                    "quality",
                )
            return None, tier if own is Tier.AUTO else own
        model = self.find(request.model)
        meant = self.tiers.get(tier, model)
        if meant != model:
            raise InvalidValue(
                f"model names {model}, quality {tier.value!r} means {meant}; leave one of them out",
                "quality",
            )
        return model, Tier.AUTO

    def _check_tier(self, tier: Tier, param: str) -> None:
        if tier is not Tier.AUTO and tier not in self.tiers:
            raise InvalidValue(
                f"this service has no tier {tier.value!r}; it has "
                f"{', '.join((Tier.AUTO, *self.tiers))}",
                param,
            )

    def _encoder_named(self, request: EmbeddingsRequest, model: str) -> Constraints:
        """The constraints of a request that names a model with `space_of` and no space."""
        encoder = self.of_model[model]
        if request.dimensions not in (None, encoder.space.dimensions):
            raise DimensionsNotSupported(
                request.dimensions, [f"{model}: {encoder.space.dimensions}"], "dimensions"
            )
        self._check_side(request, encoder)
        able = frozenset((model,))
        return Constraints(model, None, True, able, request.dimensions, False, (encoder,))

    def _check_side(self, request: EmbeddingsRequest, encoder: Encoder) -> None:
        if not encoder.makes(request.side if request.texts is not None else None):
            raise InvalidValue(
                f"{encoder.model} makes only queries of {encoder.space}; send "
                f"{AS_QUERY}, or name {encoder.space.model}",
                "input_type",
            )

    def _in_space(
        self, request: EmbeddingsRequest, text: str, model: str | None, tier: Tier
    ) -> Constraints:
        collection = self.collections.get(text)
        if collection is not None and request.space_within is not None:
            one = self._parse_space(request.space_within)
            if one not in collection.spaces:  # the config changed a moment ago
                raise SpaceConflict(f"collection {text!r} has no index in {one} any more")
            collection = collection.narrowed(one)
        wished = model or self.tiers.get(tier)
        what = f"model names {model}" if model else f"tier {tier.value!r} means {wished}"
        several = collection is not None and len(collection.spaces) > 1
        if collection is not None and several:
            encoders = self._of_several(request, collection, wished, what)
        else:
            encoders = self._of_one(request, text, collection, wished, what)
        if model is not None:
            encoders = tuple(encoder for encoder in encoders if encoder.model == model)
        able = frozenset(encoder.model for encoder in encoders)
        only = encoders[0].space if len(encoders) == 1 else None
        return Constraints(
            wished or (None if several else encoders[0].model),
            None,
            True,
            able,
            only.dimensions if only else request.dimensions,
            False,
            encoders,
            collection,
        )

    def _of_one(
        self,
        request: EmbeddingsRequest,
        text: str,
        collection: NamedSpace | None,
        wished: str | None,
        what: str,
    ) -> tuple[Encoder, ...]:
        """The encoders of the one space that `text` means."""
        space = collection.spaces[0] if collection is not None else self._parse_space(text)
        encoders: tuple[Encoder, ...] = (native(space),)
        if collection is not None and request.texts is not None:
            encoders = collection.encoders_for(request.side)
        named = (
            f"space {text!r}" if str(space) == text.lower() else f"space {text!r} is {space}: it"
        )
        if wished is not None and all(encoder.model != wished for encoder in encoders):
            if collection is None and wished in self.of_model:
                encoder = self.of_model[wished]
                if encoder.space == space:
                    self._check_side(request, encoder)
                    encoders = (*encoders, encoder)
            if encoders[-1].model != wished:
                raise SpaceConflict(
                    f"{named} needs model {space.model} and {what}; leave one of them out"
                    + _hint(collection, wished)
                )
        if request.dimensions is not None and request.dimensions != space.dimensions:
            raise SpaceConflict(
                f"{named} has {space.dimensions} dimensions and {field('dimensions')} is "
                f"{request.dimensions}; leave one of them out"
            )
        self._check_size(space.dimensions, (space.model,), "space")
        return encoders

    def _of_several(
        self, request: EmbeddingsRequest, collection: NamedSpace, wished: str | None, what: str
    ) -> tuple[Encoder, ...]:
        """The encoders of all spaces that a query can be sent to."""
        listed, send = ", ".join(map(str, collection.spaces)), field(SPACE)
        if request.side != "query" or request.texts is None:
            raise SpaceConflict(
                f"collection {collection.name!r} has an index in each of {listed}: send "
                f'{send}: "{collection.spaces[0]}", or the other one that this text is for; only '
                f"a query of text ({AS_QUERY}) may be sent to any of them"
            )
        encoders = collection.encoders
        if request.dimensions is not None:
            encoders = tuple(
                encoder for encoder in encoders if encoder.space.dimensions == request.dimensions
            )
            if not encoders:
                raise DimensionsNotSupported(
                    request.dimensions, [str(space) for space in collection.spaces], "dimensions"
                )
        if wished is not None and all(encoder.model != wished for encoder in encoders):
            raise SpaceConflict(
                f"collection {collection.name!r} has the spaces {listed}, and {what}, which makes "
                "vectors of none of them; leave one of them out"
            )
        return encoders

    def _parse_space(self, text: str) -> Space:
        try:
            space = Space.parse(text)
        except ValueError:
            known = (
                f", or one of the collections {', '.join(self.collections)}"
                if self.collections
                else ""
            )
            example = self.space_of(next(iter(self.models)))
            raise InvalidValue(
                f"space must be MODEL/DIMENSIONS such as {example}{known}; it is {shorten(text)}",
                "space",
            ) from None
        model = self.find(space.model, "space")
        if (own := self.models[model].space_of) is not None:
            raise InvalidValue(
                f"{model} has no space of its own, its vectors are of {own}: send "
                f'{field(SPACE)}: "{own}"',
                "space",
            )
        return Space(model, space.dimensions)

    def _able(self, dimensions: int) -> frozenset[str]:
        return frozenset(id for id in self._free if self.models[id].serves(dimensions))

    def _check_size(
        self, dimensions: int | None, models: Collection[str], param: str = "dimensions"
    ) -> None:
        if dimensions is not None and not any(self.models[id].serves(dimensions) for id in models):
            raise DimensionsNotSupported(
                dimensions, [f"{id}: {self.sizes(id)}" for id in models], param
            )


def _hint(collection: NamedSpace | None, wished: str) -> str:
    """What to send so that this model can serve the collection; empty if it cannot."""
    if collection is None or all(one.model != wished for one in collection.encoders):
        return ""
    return f", or send {AS_QUERY}: {wished} may serve queries of it"


def _hub_id(model: ModelConfig) -> str | None:
    """`org/name` in lower case, from an alias or the engine's name of the model; None if neither is
    one.
    """
    for name in (*model.aliases, model.engine.served_name or ""):
        if name.count("/") == 1 and not name.startswith(("package:", ".", "~", "/")):
            return name.lower()
    return None
