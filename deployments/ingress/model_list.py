"""/v1/models: everything that a caller can write in `model`."""

from collections.abc import Iterator, Sequence
from typing import Any

from deployments.service.service import Service
from router.domain import Tier
from router.errors import ModelNotFound, RouterError
from router.keys import Grant
from router.names import SIDES
from router.spaces import NamedSpace

ModelEntry = dict[str, Any]


class ModelList:
    """Model ids, tiers, aliases and collections of one `Service` that a caller can use."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def cards(self, caller: Grant) -> list[ModelEntry]:
        """The entries of OpenAI's list."""
        models = self._service.args.models
        return [
            *(self._card(name) for name in self._names(caller)),
            *(
                self._card(name) | {"id": alias, "kind": "alias", "model": name}
                for name, model in models.items()
                if caller.may_use(name)
                for alias in dict.fromkeys(model.aliases)
                if alias != name
            ),
            *self._collections(caller),
        ]

    def card(self, given: str, caller: Grant, rerankers: Sequence[str]) -> ModelEntry:
        """One entry of that list, or the meaning of a name with a suffix. Raises ModelNotFound,
        whose message also has the names of `rerankers`.
        """
        catalogue = self._service.catalogue
        name = catalogue.read_name(given)
        if name.space in catalogue.collections:
            collection = f"{name.space}-{name.side}" if name.side else name.space
            for card in self._collections(caller):
                if card["id"] == collection:
                    return card | {"id": given}
            raise self._not_found(given, caller, rerankers)
        model = (name.model or "").lower()
        if model not in (Tier.AUTO, *self._service.args.tiers):
            try:
                model = catalogue.find(name.model or given)
            except RouterError:  # such as a reranker that the caller cannot use
                raise self._not_found(given, caller, rerankers) from None
        if model not in self._names(caller):
            raise self._not_found(given, caller, rerankers)
        card = self._card(model)
        if name.space is not None:
            size, config = int(name.space.rpartition("/")[2]), self._service.args.models.get(model)
            if config is None or config.space_of is not None or not config.serves(size):
                raise self._not_found(given, caller, rerankers)
            return card | {"id": name.space, "dimensions": size}
        return card if (name.side, name.budget_ms) == (None, None) else card | {"id": given}

    def _names(self, caller: Grant) -> list[str]:
        args = self._service.args
        return [
            *(name for name in args.models if caller.may_use(name)),
            "auto",
            *(str(tier) for tier, name in args.tiers.items() if caller.may_use(name)),
        ]

    def _not_found(self, given: str, caller: Grant, rerankers: Sequence[str]) -> ModelNotFound:
        collections = (
            name
            for name in self._service.catalogue.collections
            if caller.collections is None or name in caller.collections
        )
        more = (card["id"] for card in self.cards(caller))
        names = *self._names(caller), *collections, *rerankers
        return ModelNotFound(given, names, more=more, suffixes=SIDES)

    def _card(self, name: str) -> ModelEntry:
        tiers = {str(tier): model for tier, model in self._service.args.tiers.items()}
        served_by = tiers.get(name) or (name if name in self._service.args.models else None)
        card = _entry(name, "embedding" if name in self._service.args.models else "tier")
        if served_by is not None:
            config = self._service.args.models[served_by]
            card |= {
                "model": served_by,
                "dimensions": config.dimensions,
                "max_tokens": config.max_tokens,
            }
        return card

    def _collections(self, caller: Grant) -> Iterator[ModelEntry]:
        for name, collection in self._service.catalogue.collections.items():
            if caller.collections is not None and name not in caller.collections:
                continue
            for side in (None, *SIDES):
                if any(caller.may_use(one.model) for one in collection.encoders_for(side)):
                    yield self._collection(f"{name}-{side}" if side else name, collection)

    def _collection(self, name: str, collection: NamedSpace) -> ModelEntry:
        spaces = [str(space) for space in collection.spaces]
        if len(spaces) > 1:
            return _entry(name, "collection") | {"spaces": spaces}
        (space,) = collection.spaces
        return _entry(name, "collection") | {
            "model": space.model,
            "dimensions": space.dimensions,
            "max_tokens": self._service.args.models[space.model].max_tokens,
        }


def _entry(name: str, kind: str) -> ModelEntry:
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "embedding-router",
        "kind": kind,
    }
