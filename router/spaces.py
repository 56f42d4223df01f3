"""The models, tiers, collections and spaces of a config by the names that callers use."""

import re
from collections import Counter
from collections.abc import Collection, Iterator
from functools import lru_cache, partial
from typing import Literal, NamedTuple

from router.config import RouterArgs
from router.domain import TIERS, Tier
from router.encoders import Encoder, Encoders, native
from router.errors import InvalidValue, ModelNotFound, did_you_mean, nearest_name, shorten
from router.model_config import MatryoshkaRange, ModelConfig
from router.names import SIDES, Name, ambiguities, read_name
from router.schema import Side, Truncate
from router.space import Space

SPACE = '"space"'
OR_MODEL = ', or a model id in "model"'
KNOWN_NAMES, KNOWN_CHARACTERS = 1024, 200  # texts of `model` that stay parsed
_SUFFIXES = re.compile("[-@]")


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
    min_recall_each: float

    @property
    def measured(self) -> bool:
        """Whether it was measured what each of its encoders keeps."""
        return all(encoder.assumed is None for encoder in self.encoders)

    def narrowed(self, space: Space) -> "NamedSpace":
        """The collection with only one of its spaces."""
        encoders = tuple(encoder for encoder in self.encoders if encoder.space == space)
        return self._replace(spaces=(space,), encoders=encoders)

    def encoders_for(self, side: Side | None) -> tuple[Encoder, ...]:
        """The encoders of texts of this side; a text without a side is not a query."""
        return tuple(encoder for encoder in self.encoders if encoder.makes(side))


class Catalogue:
    """The models, tiers and spaces of a config by every name that a caller can use for them."""

    def __init__(self, args: RouterArgs, encoders: Encoders | None = None) -> None:
        """`encoders` are those that router.encoder_check.load_encoders found fit; without them
        every space has only its own model.
        """
        self.models: dict[str, ModelConfig] = dict(args.models)
        self.tiers: dict[Tier, str] = {Tier(tier): model for tier, model in args.tiers.items()}
        # a model of several tiers has the first one
        self._tier_of = {model: tier for tier, model in reversed(self.tiers.items())}
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
                config.min_recall_each,
            )
        lowered = Counter(map(str.lower, self.collections))
        self._collections = {
            name.lower(): name for name in self.collections if lowered[name.lower()] == 1
        }
        # the models for requests that name no space
        self.in_order = list(args.native)
        self.free = frozenset(self.in_order)
        self.requires_space = args.routing.require_space
        self.strict_tiers = args.routing.strict_tiers
        self._names: dict[str, str] = {}
        for id, model in self.models.items():
            for name in (id, *model.aliases):
                if name.lower() in TIERS or self._names.setdefault(name.lower(), id) != id:
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
        self.native = lru_cache(KNOWN_NAMES)(self._native)

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
        lowered = name.lower()
        if (id := self._names.get(lowered)) is not None:
            return id
        prefix, _, last = lowered.rpartition("/")
        id = self._names.get(last) if prefix else None
        return id if id is not None and self._hub_ids[id] is None else None

    def collection_named(self, text: str) -> str | None:
        """The collection that `text` means: in any case, unless another differs only by case."""
        return text if text in self.collections else self._collections.get(text.lower())

    def read_name(self, text: str) -> Name:
        """Parse a text in `model` (router/names.py); raises InvalidValue for a budget of 0 ms."""
        return self._known_name(text) if len(text) <= KNOWN_CHARACTERS else read_name(self, text)

    def means(self, name: str) -> bool:
        """Whether `name` is the name of a model, a tier or a reranker."""
        return self.lookup(name) is not None or name.lower() in (*TIERS, *self._rerankers)

    def find(self, name: str) -> str:
        """The id of the model that `name` means; raises ModelNotFound, or InvalidValue for a
        reranker.
        """
        if (id := self.lookup(name)) is not None:
            return id
        raise self.unknown_model(name, ())

    def unknown_model(
        self, text: str, collections: Collection[str]
    ) -> InvalidValue | ModelNotFound:
        """The error for a `model` that means nothing here, with the nearest name, alias or space,
        or one of `collections`.
        """
        if (error := self._is_reranker(text, "model")) is not None:
            return error
        more = (*self.aliases, *self._spaces_by_name(text))
        return ModelNotFound(text, (*self.names, *collections), more=more, suffixes=SIDES)

    def unknown_space(
        self, text: str, collections: Collection[str]
    ) -> InvalidValue | ModelNotFound:
        """The error for a `space` that means nothing here, with the nearest space or one of
        `collections`.
        """
        if (error := self._is_reranker(text, "space")) is not None:
            return error
        near = nearest_name(text, (*collections, *self._spaces_by_name(text)))
        if near is None and (name := nearest_name(text, (*self.in_order, *self.aliases))):
            near = str(self.space_of(self._names[name.lower()]))
        try:
            model = Space.parse(text).model
        except ValueError:
            known = f", or one of the collections {', '.join(collections)}" if collections else ""
            return InvalidValue(
                f"space must be MODEL/DIMENSIONS such as {self.space_of(next(iter(self.models)))}"
                f"{known}; it is {shorten(text)}{did_you_mean(near)}",
                "space",
            )
        return ModelNotFound.of_space(text, model, tuple(self.models), near)

    @property
    def aliases(self) -> tuple[str, ...]:
        """The aliases of all models."""
        return tuple(alias for model in self.models.values() for alias in model.aliases)

    def _is_reranker(self, text: str, param: str) -> InvalidValue | None:
        """The error for a reranker, whatever suffix its name has; None for any other text."""
        bare = text.lower().partition("@")[0]
        forms = (bare, *(bare.removesuffix(f"-{side}") for side in SIDES), bare.rpartition("/")[0])
        id = next((self._rerankers[form] for form in forms if form in self._rerankers), None)
        if id is None:
            return None
        return InvalidValue(
            f"{id} is a reranker and makes no vectors; send its pairs to POST /v1/rerank, or "
            f"name one of {', '.join(self.models)}",
            param,
        )

    def _spaces_by_name(self, text: str) -> Iterator[str]:
        """A space of each model by its id and aliases: of the size in `text`, or else its own."""
        size = _SUFFIXES.split(text.rpartition("/")[2], maxsplit=1)[0]
        wanted = int(size) if size.isdecimal() and len(size) < 8 else 0
        for id in self.in_order:
            model = self.models[id]
            dimensions = wanted if model.serves(wanted) else model.dimensions
            yield from (f"{name}/{dimensions}" for name in (id, *model.aliases))

    def space_named(self, name: str) -> Space | None:
        """The space that `name` is, if it is MODEL/DIMENSIONS of a configured model."""
        try:
            space = Space.parse(name)
        except ValueError:
            return None
        model = self.lookup(space.model)
        return None if model is None else Space(model, space.dimensions)

    def tier_of(self, model: str) -> Tier | None:
        """The tier that names `model`, if any."""
        return self._tier_of.get(model)

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

    def _native(self, model: str, dimensions: int | None) -> Encoder:
        """The encoder of the space of `model`'s vectors of this size."""
        return native(self.space_of(model, dimensions))


def _hub_id(model: ModelConfig) -> str | None:
    """`org/name` in lower case, from an alias or the engine's name of the model; None if neither is
    one.
    """
    for name in (*model.aliases, model.engine.served_name or ""):
        if name.count("/") == 1 and not name.startswith(("package:", ".", "~", "/")):
            return name.lower()
    return None
