"""Merge the settings of a request from all their sources: the key's defaults, headers, the address,
the name in `model`, and the body.

    config < key's defaults < header < body

The name, the address, and the body (or else the header) have the same precedence. If they disagree
about the space, the side, the tier or the budget, the request is refused and the message names
both. A header that the body overrides is not checked. All of them silently override a key's
defaults. The permissions of the key are checked afterwards, on the result.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple, get_args

from router.config import Limits
from router.domain import Tier
from router.errors import (
    CollectionNotAllowed,
    NameConflict,
    RouterError,
    SpaceConflict,
    field,
    shorten,
)
from router.key_config import KeyDefaults
from router.names import Name, PathPrefix
from router.resolving import completed, resolve
from router.schema import (
    SIDES,
    EmbeddingsRequest,
    Given,
    InputType,
    Priority,
    Settings,
    Source,
    budget_header,
    leaves_tier_open,
    quality_header,
    request_of,
    space_header,
)
from router.spaces import Catalogue

Value = str | float | None
# all headers that are settings, in lower case
SETTING_HEADERS = ("x-quality-tier", "x-latency-budget-ms", "x-embedding-space")
_NO_NAME = Name()
_PRECEDENCE: Sequence[Source] = get_args(Source)
_NAMED_TIERS = {tier.value: tier for tier in Tier if tier is not Tier.AUTO}


class GivenValue(NamedTuple):
    """A value, its source, and a description of that place for messages."""

    value: Value
    source: Source
    words: str


class Context(NamedTuple):
    """The context in which a body is read."""

    catalogue: Catalogue
    headers: Mapping[str, str]
    limits: Limits
    address: PathPrefix | None = None
    defaults: KeyDefaults = KeyDefaults()
    priority: Priority = "interactive"  # of requests that give none
    # raises CollectionNotAllowed for names that the key may not use as a space
    check_space: Callable[[str], None] = lambda name: None
    embeddings: Catalogue | None = None  # names that rank nothing, for a ranking's `model`


def settled(given: Given, context: Context) -> EmbeddingsRequest:
    """Resolve a body in its context to a request; raises SpaceConflict, NameConflict, and the
    errors of the name, of the headers and of `request_of`.
    """
    fields, catalogue, defaults = given.body, context.catalogue, context.defaults
    sources: dict[str, Source] = {}
    name = _NO_NAME if fields.model is None else catalogue.read_name(fields.model)
    if name.model is not None and not catalogue.means(name.model):
        context.check_space(name.model)  # an unknown name is refused like a forbidden collection
        raise catalogue.unknown_model(name.model, [*_allowed(context)])
    if name.space is not None:  # before its suffixes are used: they would show that it exists
        _permitted(context, name.space, fields.model)
    tier = _tier(given, name, context, sources)
    input_type = _input_type(given, name, context, sources)
    budget_ms = _budget_ms(given, name, context, sources)
    space, within = _space(given, name, context, sources)
    priority = fields.priority or defaults.priority or context.priority
    if fields.priority is not None:
        sources["priority"] = "body"
    elif defaults.priority is not None or context.priority != "interactive":
        sources["priority"] = "key"
    settings = Settings(name.model, tier, budget_ms, space, within, input_type, priority, sources)
    request = request_of(given, context.limits, settings)
    if defaults.space is None and defaults.quality is None:
        return request
    return _with_defaults(request, context, sources)


def _allowed(context: Context) -> Iterator[str]:
    """The collections that the key is allowed to use."""
    for name in context.catalogue.collections:
        with suppress(CollectionNotAllowed):
            context.check_space(name)
            yield name


def _named(given: Given) -> str:
    return f"model {shorten(given.body.model or '')}"


def _tier(given: Given, name: Name, context: Context, sources: dict[str, Source]) -> Tier | None:
    """The tier of the body, else of the header; raises NameConflict if the name means another."""
    value = None
    if (tier := given.body.quality) is not None:
        value = GivenValue(tier, "body", f"quality {tier.value!r}")
    elif (header := context.headers.get("x-quality-tier")) is not None:
        tier = quality_header(header)
        value = GivenValue(tier, "header", f"the header X-Quality-Tier {tier.value!r}")
    own = (name.model or "").lower()
    own_tier = _NAMED_TIERS.get(own)
    if own_tier is not None and tier in (None, Tier.AUTO, own_tier):
        sources["quality"] = "body" if value and value[:2] == (own_tier, "body") else "name"
        return tier
    if value is None or tier is None:
        return None
    model = context.catalogue.lookup(own)
    meant = context.catalogue.tiers.get(tier, model)
    if own_tier is not None:
        raise NameConflict(
            f"{_named(given)} means the tier {own_tier.value} and {value.words} is another; leave "
            "one of them out",
            "model",
        )
    if model is not None and meant != model:
        raise NameConflict(
            f"{_named(given)} names {model} and {value.words} means {meant}; leave one of them out",
            "model",
        )
    sources["quality"] = value.source
    return tier


def _input_type(
    given: Given, name: Name, context: Context, sources: dict[str, Source]
) -> InputType | None:
    """The side of the name, the address and the body, else the key's default; raises NameConflict
    if they disagree.
    """
    fields, address = given.body, context.address
    values = []
    if address is not None and address.side is not None:
        values.append(GivenValue(address.side, "address", f"the address {address}"))
    if name.side is not None:
        values.append(GivenValue(name.side, "name", _named(given)))
    if fields.input_type is not None:
        side = SIDES[fields.input_type]
        words = f"{field('input_type')} {fields.input_type!r}"
        values.append(GivenValue(side or fields.input_type, "body", words))
    agreed = _agreed("input_type", values, sources)
    if fields.input_type is not None:
        return fields.input_type
    if agreed is not None:
        if fields.instruction is not None and agreed == "document":
            raise NameConflict(
                f"{values[0].words} says document and instruction belongs to queries; leave one of "
                "them out",
                "instruction",
            )
        return "query" if agreed == "query" else "document"
    default = context.defaults.input_type
    if default is None or given.texts is None or fields.instruction is not None:
        return None
    sources["input_type"] = "key"
    return default


def _budget_ms(
    given: Given, name: Name, context: Context, sources: dict[str, Source]
) -> float | None:
    """The budget of the name, and of the body or else the header; else the key's default. Raises
    NameConflict if they disagree.
    """
    values = []
    if name.budget_ms is not None:
        values.append(GivenValue(name.budget_ms, "name", _named(given)))
    if (budget_ms := given.body.latency_budget_ms) is not None:
        values.append(GivenValue(budget_ms, "body", f"latency_budget_ms {budget_ms:g}"))
    elif (budget_ms := budget_header(context.headers.get("x-latency-budget-ms"))) is not None:
        words = f"the header X-Latency-Budget-Ms {budget_ms:g}"
        values.append(GivenValue(budget_ms, "header", words))
    agreed = _agreed("latency_budget_ms", values, sources)
    if isinstance(agreed, float):
        return agreed
    default = context.defaults.latency_budget_ms
    if default is not None:
        sources["latency_budget_ms"] = "key"
    return default


def _space(
    given: Given, name: Name, context: Context, sources: dict[str, Source]
) -> tuple[str | None, str | None]:
    """The space or collection, and the named one of several spaces of that collection."""
    fields, address = given.body, context.address
    values = []  # checked before the comparison, whose error would reveal what a collection is;
    # the name was checked first of all
    if address is not None:
        space = _permitted(context, address.collection)
        values.append(GivenValue(space, "address", f"the address {address}"))
    if name.space is not None:
        values.append(GivenValue(name.space, "name", _named(given)))
    if fields.space is not None:
        space = _permitted(context, fields.space)
        values.append(GivenValue(space, "body", f"space {shorten(fields.space)}"))
    elif (header := space_header(context.headers.get("x-embedding-space"))) is not None:
        space = _permitted(context, header)
        values.append(
            GivenValue(space, "header", f"the header X-Embedding-Space {shorten(header)}")
        )
    if not values:
        return None, None
    final = values[0]
    for place, item in enumerate(values[1:], 1):
        for earlier in values[:place]:
            wider = _same_space(earlier, item, context.catalogue)
            final = wider if final in (earlier, item) else final
    sources["space"] = max((value.source for value in values), key=_PRECEDENCE.index)
    collection = context.catalogue.collections.get(str(final.value))
    if collection is None and context.catalogue.space_named(str(final.value)) is None:
        raise context.catalogue.unknown_space(str(final.value), [*_allowed(context)])
    if collection is None or len(collection.spaces) == 1:
        return str(final.value), None
    spaces = (
        context.catalogue.space_named(str(value.value)) for value in values if value is not final
    )
    return str(final.value), next((str(space) for space in spaces if space is not None), None)


def _permitted(context: Context, name: str, text: str | None = None) -> str:
    """The collection or space that `name` means, which the caller wrote as `text`."""
    return permitted_collection(context.catalogue, context.check_space, name, text)


def permitted_collection(
    catalogue: Catalogue, check: Callable[[str], None], name: str, text: str | None = None
) -> str:
    """The collection that `name` means, or `name`. Raises CollectionNotAllowed with the caller's
    own `text`: it must not show which collections exist.
    """
    meant = catalogue.collection_named(name) or name
    try:
        check(meant)
    except CollectionNotAllowed as error:
        raise CollectionNotAllowed(text or name, error.allowed) from None
    return meant


def _same_space(first: GivenValue, second: GivenValue, catalogue: Catalogue) -> GivenValue:
    """The more specific one: a collection rather than one of its spaces. Raises SpaceConflict if
    they differ.
    """
    if first.value == second.value:
        return first
    for one, other in ((first, second), (second, first)):
        collection = catalogue.collections.get(str(one.value))
        space = catalogue.space_named(str(one.value))
        own = (space,) if collection is None else collection.spaces
        if (meant := catalogue.space_named(str(other.value))) is not None and meant in own:
            return one
    raise SpaceConflict(
        f"{first.words} and {second.words} are different vector spaces; leave one of them out"
    )


def _agreed(setting: str, values: Sequence[GivenValue], sources: dict[str, Source]) -> Value:
    """The value that all sources agree on; raises NameConflict if two differ."""
    if not values:
        return None
    first = values[0]
    for other in values[1:]:
        if other.value != first.value:
            raise NameConflict(
                f"{first.words} and {other.words} disagree about {setting}; leave one of them out",
                "model" if "name" in (first.source, other.source) else setting,
            )
    sources[setting] = max((value.source for value in values), key=_PRECEDENCE.index)
    return first.value


def _with_defaults(
    request: EmbeddingsRequest, context: Context, sources: dict[str, Source]
) -> EmbeddingsRequest:
    """Fill in the space and the tier of the key where the request gives none."""
    defaults = context.defaults
    space = defaults.space if request.space is None else None
    free = "quality" not in sources and leaves_tier_open(request.model)
    quality = defaults.quality if free else None
    # a request without a tier or dimensions contradicts no default: it gets that space's error
    open_ = free and request.dimensions is None
    without = () if open_ and space is not None else ((None, quality),)
    for some in dict.fromkeys(((space, quality), (space, None), *without)):
        if some != (None, None) and (fit := _fits(request, some, context.catalogue)) is not None:
            if some[0] is not None:
                sources["space"] = "key"
            if some[1] is not None:
                sources["quality"] = "key"
            return fit
    if open_ and space is not None:
        sources["space"] = "key"
        return request._replace(space=space)
    return request


def _fits(
    request: EmbeddingsRequest, some: tuple[str | None, Tier | None], catalogue: Catalogue
) -> EmbeddingsRequest | None:
    """The request with these defaults; None if the result contradicts itself."""
    space, quality = some
    filled = request._replace(space=request.space or space, quality=quality or request.quality)
    try:
        resolve(catalogue, completed(catalogue, filled))
    except RouterError:
        return None
    return filled
