"""Which model and which vector space a request means, and the cut that brings a vector into a
smaller space.

What contradicts itself is refused, never resolved in silence:
- `space` against `model`, a tier or `dimensions`: SpaceConflict. A tier in either place counts, for
  it names a model.
- `quality` against a model id, or against another tier in `model`: InvalidValue.
- `dimensions` that the pinned model, the tier's model, or no model at all gives:
  DimensionsNotSupported.

A tier is a wish, not a pin: unless the config says `strict_tiers` the router may answer it from a
smaller model, so a service that requires a space (`routing.require_space`) refuses tiers as it
refuses `auto`.
"""

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NamedTuple

from router.arrays import Vectors
from router.config import RouterArgs
from router.domain import Tier
from router.errors import (
    DimensionsNotSupported,
    InvalidValue,
    ModelNotFound,
    SpaceConflict,
    shorten,
)
from router.model_config import MatryoshkaRange, ModelConfig
from router.names import ambiguities
from router.schema import EmbeddingsRequest, Side, Truncate
from router.space import Space, fit

if TYPE_CHECKING:
    from router.adapters import Adapter


_TIERS = frozenset(tier.value for tier in Tier)
_NONE: "Mapping[str, Adapter]" = MappingProxyType({})


class NamedSpace(NamedTuple):
    """A collection: its space, what requests that name it mean where they say nothing, and who else
    may serve it.
    """

    space: Space
    input_type: Side | None
    instruction: str | None
    truncate: Truncate
    adapters: "Mapping[str, Adapter]"  # by the model they lead from
    adapt: Literal["queries", "all"]

    def adapters_for(self, side: Side | None) -> "Mapping[str, Adapter]":
        """Those that texts of this side may come over; a side that nobody gave is not a query."""
        return self.adapters if self.adapt == "all" or side == "query" else _NONE


class Constraints(NamedTuple):
    """What a request leaves open: the fields of router.domain.Request of the same names, and where
    its vectors shall lie.
    """

    target: str | None  # the pinned model or the tier's; None: the rules choose
    tier: Tier | None  # as asked; None when a model or a space was named
    pinned: bool
    candidates: frozenset[str] | None  # None: every model
    dimensions: int | None  # None: the model's own
    strict: bool
    space: Space | None = None  # the pinned one; None: that of the model that is chosen
    adapters: "Mapping[str, Adapter]" = _NONE  # into `space`, by the candidates that need one


class Catalogue:
    """The models, tiers and spaces of a config by every name that a caller may use for them."""

    def __init__(
        self,
        args: RouterArgs,
        adapters: "Mapping[str, Mapping[str, Adapter]]" = MappingProxyType({}),
    ) -> None:
        """`adapters` are those that router.adapters.load_adapters found fit; without them every
        space has only its own model.
        """
        self.models: dict[str, ModelConfig] = dict(args.models)
        self.tiers: dict[Tier, str] = {Tier(tier): model for tier, model in args.tiers.items()}
        self.collections: dict[str, NamedSpace] = {
            name: NamedSpace(
                Space.parse(config.space),
                config.input_type,
                config.instruction,
                config.truncate,
                adapters.get(name, _NONE),
                config.adapt,
            )
            for name, config in args.collections.items()
        }
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
        self._hub_ids = {id: _hub_id(model) for id, model in self.models.items()}
        for id, hub_id in self._hub_ids.items():
            if hub_id is not None:
                self._names.setdefault(hub_id, id)
        if problems := list(ambiguities(self, args)):
            raise ValueError("; ".join(problems))

    @property
    def names(self) -> tuple[str, ...]:
        """What may stand in `model`, as errors and the list of models say it: ids and tiers."""
        return *self.models, Tier.AUTO.value, *(tier.value for tier in self.tiers)

    def lookup(self, name: str) -> str | None:
        """The id of the model that `name` means: its id or an alias, without case, with or without
        its hub prefix; None where it means none.

        Where the config tells the hub id of a model only that prefix is right: `Other/x` is not
        `Org/x`.
        """
        asked = name.lower()
        if (id := self._names.get(asked)) is not None:
            return id
        prefix, _, last = asked.rpartition("/")
        id = self._names.get(last) if prefix else None
        return id if id is not None and self._hub_ids[id] is None else None

    def find(self, name: str, param: str = "model") -> str:
        """The same; raises ModelNotFound where it means none."""
        if (id := self.lookup(name)) is not None:
            return id
        raise ModelNotFound(name, self.names if param == "model" else tuple(self.models), param)

    def space_named(self, name: str) -> Space | None:
        """The space that `name` is, if it is MODEL/DIMENSIONS of a model that is here."""
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
        return Space(model, self.models[model].dimensions if dimensions is None else dimensions)

    def completed(self, request: EmbeddingsRequest) -> EmbeddingsRequest:
        """The request with what its collection says, where it says nothing itself; token ids are
        embedded as they stand.
        """
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
        """What a completed request leaves open.

        Raises ModelNotFound, SpaceConflict, DimensionsNotSupported or InvalidValue.
        """
        model, tier = self._model_and_tier(request)
        if request.space is not None:
            return self._in_space(request, request.space, model, tier)
        if model is not None:
            self._check_size(request.dimensions, (model,))
            return Constraints(model, None, True, frozenset((model,)), request.dimensions, False)
        if self.requires_space:
            example = self.space_of(next(iter(self.models)))
            raise InvalidValue(
                'this service answers only requests that name their vector space; send "space", '
                f'for example "{example}", '
                'or a model id in "model"',
                "space",
            )
        target = self.tiers.get(tier)
        self._check_size(request.dimensions, self.models if target is None else (target,))
        able = None if request.dimensions is None else self._able(request.dimensions)
        return Constraints(
            target, tier, False, able, request.dimensions, target is not None and self._strict_tiers
        )

    def land(self, vectors: Vectors, model: str, wanted: Constraints) -> tuple[Vectors, Space]:
        """(n, own size) vectors of `model` in the space that was wanted, and which that is: every
        answer comes through here.

        A model that is neither the space's own nor the source of one of its adapters is a KeyError,
        never an answer.
        """
        space = wanted.space or self.space_of(model, wanted.dimensions)
        if model != space.model:
            vectors = wanted.adapters[model].map(vectors)
        return fit(vectors, space.dimensions), space

    def _model_and_tier(self, request: EmbeddingsRequest) -> tuple[str | None, Tier]:
        """The model that is named, and the tier; a tier in `model` is a tier."""
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

    def _in_space(
        self, request: EmbeddingsRequest, text: str, model: str | None, tier: Tier
    ) -> Constraints:
        collection = self.collections.get(text)
        space = collection.space if collection is not None else self._parse_space(text)
        adapters = (
            collection.adapters_for(request.side)
            if collection is not None and request.texts is not None
            else _NONE
        )
        named = (
            f"space {text!r}" if str(space) == text.lower() else f"space {text!r} is {space}: it"
        )
        wished = self.tiers.get(tier)
        for asked, what in (
            (model, f"model names {model}"),
            (wished, f"tier {tier.value!r} means {wished}"),
        ):
            if asked is not None and asked != space.model and asked not in adapters:
                hint = (
                    f', or send "input_type": "query": {asked} may serve queries of it'
                    if collection is not None and asked in collection.adapters
                    else ""
                )
                raise SpaceConflict(
                    f"{named} needs model {space.model} and {what}; leave one of them out{hint}"
                )
        if request.dimensions is not None and request.dimensions != space.dimensions:
            raise SpaceConflict(
                f"{named} has {space.dimensions} dimensions and dimensions is "
                f"{request.dimensions}; leave one of them out"
            )
        self._check_size(space.dimensions, (space.model,), "space")
        able = frozenset((model,)) if model is not None else frozenset((space.model, *adapters))
        crossing = {source: adapters[source] for source in able - {space.model}}
        return Constraints(
            model or wished or space.model,
            None,
            True,
            able,
            space.dimensions,
            False,
            space,
            crossing,
        )

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
        return Space(self.find(space.model, "space"), space.dimensions)

    def _able(self, dimensions: int) -> frozenset[str]:
        return frozenset(id for id, model in self.models.items() if model.serves(dimensions))

    def _check_size(
        self, dimensions: int | None, models: Collection[str], param: str = "dimensions"
    ) -> None:
        if dimensions is not None and not any(self.models[id].serves(dimensions) for id in models):
            raise DimensionsNotSupported(
                dimensions, [f"{id}: {self.sizes(id)}" for id in models], param
            )


def _hub_id(model: ModelConfig) -> str | None:
    """`org/name` in lower case where an alias, or the engine's name of the model, is one."""
    for name in (*model.aliases, model.engine.served_name or ""):
        if name.count("/") == 1 and not name.startswith(("package:", ".", "~", "/")):
            return name.lower()
    return None
