"""Parse a text in `model`, or an address: model or tier, space, side and latency budget.

    NAME     model id | alias | tier | collection | MODEL/DIMENSIONS
    model    NAME[-query | -document][@<n>ms]
    address  /in/{collection}[/query | /document] in front of a path

A whole name of the config takes precedence over a suffix. All names and suffixes ignore case, but
collections that differ only by case must be written as in the config. `ambiguities` finds the texts
of a config that would have two meanings.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from router.config import RouterArgs
from router.domain import TIERS
from router.error_base import SIDES as SIDES
from router.errors import InvalidValue
from router.schema import Side
from router.space import Space

PREFIX = "/in/"
_BUDGET = re.compile(r"(.+)@([0-9]{1,12}(?:\.[0-9]{1,9})?)ms", re.IGNORECASE | re.DOTALL)
_SIDE = re.compile(r"(.+)-(query|document)", re.IGNORECASE | re.DOTALL)


class Vocabulary(Protocol):
    """Look-ups of a config's names, as router.spaces.Catalogue provides them."""

    def collection_named(self, text: str) -> str | None:
        """The collection that `text` means."""

    def lookup(self, name: str) -> str | None:
        """The id of the model that `name` means."""

    def space_named(self, name: str) -> Space | None:
        """The space that `name` is, if it is MODEL/DIMENSIONS."""


class Name(NamedTuple):
    """The parsed text of `model`."""

    model: str | None = None  # a model or a tier; None if a collection is named
    space: str | None = None  # a collection or MODEL/DIMENSIONS
    side: Side | None = None
    budget_ms: float | None = None


class PathPrefix(NamedTuple):
    """The prefix of a path: a collection, and a side if given."""

    collection: str
    side: Side | None

    def __str__(self) -> str:
        return f"{PREFIX}{self.collection}" + (f"/{self.side}" if self.side else "")


def split_address(path: str) -> tuple[PathPrefix | None, str]:
    """Split `path` into its address, if it has one, and the path after it."""
    if not path.startswith(PREFIX):
        return None, path
    collection, _, rest = path.removeprefix(PREFIX).partition("/")
    first, _, behind = rest.partition("/")
    side: Side | None = "query" if first == "query" else "document" if first == "document" else None
    inner = rest if side is None else behind
    if not collection or not inner:
        return None, path
    return PathPrefix(collection, side), f"/{inner}"


def read_name(vocabulary: Vocabulary, text: str) -> Name:
    """Parse `text`; a text without a meaning becomes the name of a model, which is later not found.

    Raises InvalidValue for a budget of 0 ms.
    """
    if (name := _whole(vocabulary, text)) is not None:
        return name
    budgeted = _BUDGET.fullmatch(text)
    bare, budget_ms = (text, None) if budgeted is None else (budgeted[1], float(budgeted[2]))
    if budget_ms == 0.0:  # whatever the name means: it must not show which collections exist
        raise InvalidValue("the latency budget in model must be above 0 ms", "model")
    name = None if budgeted is None else _whole(vocabulary, bare)
    side: Side | None = None
    if name is None and (sided := _SIDE.fullmatch(bare)) is not None:
        side = "query" if sided[2].lower() == "query" else "document"
        name = _whole(vocabulary, sided[1])
    if name is None:
        return Name(model=text)
    return name._replace(side=side, budget_ms=budget_ms)


def _whole(vocabulary: Vocabulary, text: str) -> Name | None:
    """Read `text` as a name without a suffix; None if the config has no such name."""
    if text.lower() in TIERS or vocabulary.lookup(text) is not None:
        return Name(model=text)
    if (collection := vocabulary.collection_named(text)) is not None:
        return Name(space=collection)
    if (space := vocabulary.space_named(text)) is not None:
        return Name(model=space.model, space=str(space))
    return None


def ambiguities(vocabulary: Vocabulary, args: RouterArgs) -> Iterator[str]:
    """Yield a sentence for each text that has two meanings."""
    # by text: where it is written, and what it means there
    places = {name: (f"collections.{name}", f"the collection {name}") for name in args.collections}
    aliases = {alias: id for id, model in args.models.items() for alias in model.aliases}
    for alias, id in aliases.items():
        places.setdefault(alias, (f"models.{id}.aliases: {alias!r}", f"the model {id}"))
    for id in args.models:
        places.setdefault(id, (f"models.{id}", f"the model {id}"))
    for id, reranker in args.rerankers.items():
        for name in (id, *reranker.aliases):
            places[name] = f"rerankers.{id}", f"the reranker {id}"
    for text, (place, own) in places.items():
        other = next((meaning for meaning in _meanings(vocabulary, text) if meaning != own), None)
        if other is not None:
            yield f"{place}: as a request's model {text!r} also means {other}; choose another name"


def _meanings(vocabulary: Vocabulary, text: str) -> Iterator[str]:
    """Yield everything that a text means as the `model` of an embedding request, in words."""
    if text.lower() in TIERS:
        yield f"the tier {text.lower()}"
    if (model := vocabulary.lookup(text)) is not None:
        yield f"the model {model}"
    if (collection := vocabulary.collection_named(text)) is not None:
        yield f"the collection {collection}"
    if (space := vocabulary.space_named(text)) is not None:
        yield f"the space {space}"
    for pattern, what in ((_BUDGET, "within {} ms"), (_SIDE, "on the side {}")):
        found = pattern.fullmatch(text)
        if found is None:
            continue
        inner = read_name(vocabulary, found[1])
        if inner.space or inner.side or inner.budget_ms or _whole(vocabulary, found[1]):
            yield f"{found[1]} {what.format(found[2].lower())}"
