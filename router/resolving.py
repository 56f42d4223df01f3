"""Resolve a request to what it leaves open: models, sizes and vector spaces.

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
from functools import partial
from typing import NamedTuple

from router.domain import TIERS, Features, Tier
from router.encoders import Encoder, best_of_each, native
from router.errors import (
    AS_QUERY,
    DimensionsNotSupported,
    InvalidValue,
    SpaceConflict,
    field,
)
from router.model_config import INSTRUCTION, Prompts
from router.schema import EmbeddingsRequest, Side
from router.space import Space
from router.spaces import OR_MODEL, SPACE, Catalogue, NamedSpace


class Constraints(NamedTuple):
    """The choices that a request leaves open: the fields of router.domain.Request of the same
    names, and the spaces that its vectors can lie in.
    """

    # the pinned model or the tier's; None: the rules choose, or in a collection recall
    target: str | None
    tier: Tier | None  # as requested; None if a model or a space was named
    pinned: bool
    candidates: frozenset[str] | None  # None: every model
    dimensions: int | None  # None: the model's own
    strict: bool
    # of the named spaces; empty: each model makes vectors of its own space
    encoders: tuple[Encoder, ...] = ()
    collection: NamedSpace | None = None  # the named one


class Named(NamedTuple):
    """All that a request's constraints depend on, besides the config: fields of a completed
    request, and whether it has texts.
    """

    model: str | None
    quality: Tier
    space: str | None
    space_within: str | None
    dimensions: int | None
    side: Side | None
    has_texts: bool


def completed(catalogue: Catalogue, request: EmbeddingsRequest) -> EmbeddingsRequest:
    """Fill in the defaults of the collection; a request with token ids is left as it is."""
    collection = catalogue.collections.get(request.space or "")
    if collection is None or request.texts is None:
        return request
    side = request.side or (collection.input_type if request.input_type is None else None)
    return request._replace(
        side=side,
        instruction=request.instruction or (None if side == "document" else collection.instruction),
        truncate=request.truncate or collection.truncate,
    )


def resolve(catalogue: Catalogue, request: EmbeddingsRequest) -> Constraints:
    """Resolve a completed request to its constraints.

    Raises ModelNotFound, SpaceConflict, DimensionsNotSupported or InvalidValue.
    """
    return resolve_names(catalogue, named(request))


def named(request: EmbeddingsRequest) -> Named:
    """The fields of a completed request that its constraints depend on."""
    return Named(
        request.model,
        request.quality,
        request.space,
        request.space_within,
        request.dimensions,
        request.side,
        request.texts is not None,
    )


def resolve_names(catalogue: Catalogue, request: Named) -> Constraints:
    """Resolve the fields of a completed request, as `resolve` does."""
    model, tier = _model_and_tier(catalogue, request)
    if request.space is not None:
        return _in_space(catalogue, request, request.space, model, tier)
    if model is not None and model not in catalogue.free:
        return _encoder_named(catalogue, request, model)
    if model is not None:
        _check_size(catalogue, request.dimensions, (model,))
        return Constraints(model, None, True, frozenset((model,)), request.dimensions, False)
    if catalogue.requires_space:
        example = catalogue.space_of(catalogue.in_order[0])
        raise InvalidValue(
            "this service answers only requests that name their vector space; send "
            f'{field(SPACE)}, for example "{example}"{field(OR_MODEL)}',
            "space",
        )
    target = catalogue.tiers.get(tier)
    _check_size(catalogue, request.dimensions, catalogue.in_order if target is None else (target,))
    able = None if request.dimensions is None else _able(catalogue, request.dimensions)
    if able is None and len(catalogue.free) < len(catalogue.models):
        able = catalogue.free
    return Constraints(
        target, tier, False, able, request.dimensions, target is not None and catalogue.strict_tiers
    )


def encoders_of(
    catalogue: Catalogue,
    request: EmbeddingsRequest,
    constraints: Constraints,
    models: Iterable[str],
    features: Features,
) -> dict[str, Encoder]:
    """The encoder of each model for these texts."""
    if constraints.encoders:
        collection = constraints.collection
        floor = 0.0 if collection is None else collection.min_recall_each
        reads = partial(reads_instruction, catalogue, request)
        return best_of_each(constraints.encoders, features, floor, reads)
    return {model: catalogue.native(model, constraints.dimensions) for model in models}


def reads_instruction(
    catalogue: Catalogue,
    request: EmbeddingsRequest,
    encoder: Encoder,
) -> bool:
    """Whether an encoder reads the instruction of a completed request as its space's own model
    does; otherwise nothing is known of what it keeps.

    A proof of the same weights in another precision holds for the instruction that it was measured
    with, and for any other that neither model reads.
    """
    if encoder.native:
        return True
    native = catalogue.models[encoder.space.model].prompts
    own = catalogue.models[encoder.model].prompts
    side = request.side or native.default
    if encoder.kind == "same" and encoder.proof is not None:
        return all(
            _read(prompts, side, request.instruction) == _read(prompts, side, encoder.instruction)
            for prompts in (native, own)
        )
    if request.instruction is None:
        return True
    if request.instruction == native.instruction or INSTRUCTION not in native.of(side):
        return True
    return INSTRUCTION in own.of(side)


def cuts_as_native(
    catalogue: Catalogue, request: EmbeddingsRequest, encoder: Encoder, longest: int
) -> bool:
    """Whether the same weights elsewhere read as many tokens of each text as the space's own model,
    where texts that are too long are cut. `longest` is the tokens of the longest text.
    """
    if encoder.kind != "same" or request.truncate in (None, "none"):
        return True
    own = catalogue.models[encoder.model].max_tokens
    native = catalogue.models[encoder.space.model].max_tokens
    return own == native or longest <= min(own, native)


def _read(prompts: Prompts, side: Side, instruction: str | None) -> str | None:
    """The instruction that a model with these prompts reads; None if it reads none."""
    return (instruction or prompts.instruction) if INSTRUCTION in prompts.of(side) else None


def _model_and_tier(catalogue: Catalogue, request: Named) -> tuple[str | None, Tier]:
    """The named model, and the tier; a tier in `model` counts as a tier."""
    tier = request.quality
    _check_tier(catalogue, tier, "quality")
    if request.model is None:
        return None, tier
    named = request.model.lower()
    if named in TIERS:
        own = Tier(named)
        _check_tier(catalogue, own, "model")
        if own is not tier and own is not Tier.AUTO and tier is not Tier.AUTO:
            raise InvalidValue(
                f"model asks for tier {named!r}, quality for {tier.value!r}; leave one of them out",
                "quality",
            )
        return None, tier if own is Tier.AUTO else own
    model = catalogue.find(request.model)
    meant = catalogue.tiers.get(tier, model)
    if meant != model:
        raise InvalidValue(
            f"model names {model}, quality {tier.value!r} means {meant}; leave one of them out",
            "quality",
        )
    return model, Tier.AUTO


def _check_tier(catalogue: Catalogue, tier: Tier, param: str) -> None:
    if tier is not Tier.AUTO and tier not in catalogue.tiers:
        raise InvalidValue(
            f"this service has no tier {tier.value!r}; it has "
            f"{', '.join((Tier.AUTO, *catalogue.tiers))}",
            param,
        )


def _encoder_named(catalogue: Catalogue, request: Named, model: str) -> Constraints:
    """The constraints of a request that names a model with `space_of` and no space."""
    encoder = catalogue.of_model[model]
    if request.dimensions not in (None, encoder.space.dimensions):
        raise DimensionsNotSupported(
            request.dimensions, [f"{model}: {encoder.space.dimensions}"], "dimensions"
        )
    _check_side(catalogue, request, encoder)
    able = frozenset((model,))
    return Constraints(model, None, True, able, request.dimensions, False, (encoder,))


def _check_side(catalogue: Catalogue, request: Named, encoder: Encoder) -> None:
    if not encoder.makes(request.side if request.has_texts else None):
        raise InvalidValue(
            f"{encoder.model} makes only queries of {encoder.space}; send "
            f"{AS_QUERY}, or name {encoder.space.model}",
            "input_type",
        )


def _in_space(
    catalogue: Catalogue, request: Named, text: str, model: str | None, tier: Tier
) -> Constraints:
    collection = catalogue.collections.get(text)
    if collection is not None and request.space_within is not None:
        one = _parse_space(catalogue, request.space_within)
        if one not in collection.spaces:  # the config changed a moment ago
            raise SpaceConflict(f"collection {text!r} has no index in {one} any more")
        collection = collection.narrowed(one)
    wished = model or catalogue.tiers.get(tier)
    what = f"model names {model}" if model else f"tier {tier.value!r} means {wished}"
    several = collection is not None and len(collection.spaces) > 1
    if collection is not None and several:
        encoders = _of_several(catalogue, request, collection, wished, what)
    else:
        encoders = _of_one(catalogue, request, text, collection, wished, what)
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
    catalogue: Catalogue,
    request: Named,
    text: str,
    collection: NamedSpace | None,
    wished: str | None,
    what: str,
) -> tuple[Encoder, ...]:
    """The encoders of the one space that `text` means."""
    space = collection.spaces[0] if collection is not None else _parse_space(catalogue, text)
    encoders: tuple[Encoder, ...] = (native(space),)
    if collection is not None and request.has_texts:
        encoders = collection.encoders_for(request.side)
    named = f"space {text!r}" if str(space) == text.lower() else f"space {text!r} is {space}: it"
    if wished is not None and all(encoder.model != wished for encoder in encoders):
        if collection is None and wished in catalogue.of_model:
            encoder = catalogue.of_model[wished]
            if encoder.space == space:
                _check_side(catalogue, request, encoder)
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
    _check_size(catalogue, space.dimensions, (space.model,), "space")
    return encoders


def _of_several(
    catalogue: Catalogue,
    request: Named,
    collection: NamedSpace,
    wished: str | None,
    what: str,
) -> tuple[Encoder, ...]:
    """The encoders of all spaces that a query can be sent to."""
    listed, send = ", ".join(map(str, collection.spaces)), field(SPACE)
    if request.side != "query" or not request.has_texts:
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


def _parse_space(catalogue: Catalogue, text: str) -> Space:
    space = catalogue.space_named(text)
    if space is None:
        raise catalogue.unknown_space(text, catalogue.collections)
    if (own := catalogue.models[space.model].space_of) is not None:
        raise InvalidValue(
            f"{space.model} has no space of its own, its vectors are of {own}: send "
            f'{field(SPACE)}: "{own}"',
            "space",
        )
    return space


def _able(catalogue: Catalogue, dimensions: int) -> frozenset[str]:
    return frozenset(id for id in catalogue.free if catalogue.models[id].serves(dimensions))


def _check_size(
    catalogue: Catalogue, dimensions: int | None, models: Collection[str], param: str = "dimensions"
) -> None:
    if dimensions is not None and not any(catalogue.models[id].serves(dimensions) for id in models):
        raise DimensionsNotSupported(
            dimensions, [f"{id}: {catalogue.sizes(id)}" for id in models], param
        )


def _hint(collection: NamedSpace | None, wished: str) -> str:
    """The advice to send what lets this model serve the collection; empty if nothing does."""
    if collection is None or all(encoder.model != wished for encoder in collection.encoders):
        return ""
    return f", or send {AS_QUERY}: {wished} may serve queries of it"
