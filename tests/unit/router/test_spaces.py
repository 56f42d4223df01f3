from typing import Any

import numpy as np
import pytest

from router import resolving
from router.config import RouterArgs
from router.domain import Tier
from router.encoders import native
from router.errors import (
    DimensionsNotSupported,
    InvalidValue,
    ModelNotFound,
    RouterError,
    SpaceConflict,
)
from router.resolving import Constraints
from router.schema import EmbeddingsRequest
from router.space import Space, fit
from router.spaces import Catalogue

FAKE = {"kind": "fake"}


def catalogue(**changes: Any) -> Catalogue:
    """A table of sizes, a range of sizes, and one size, as the three tiers."""
    config: dict[str, Any] = {
        "models": {
            "table": {
                "engine": FAKE,
                "dimensions": 256,
                "max_tokens": 512,
                "matryoshka": [64, 128, 256],
            },
            "qwen3-embedding-0.6b": {
                "engine": {"kind": "vllm", "source": "Qwen/Qwen3-Embedding-0.6B"},
                "dimensions": 1024,
                "max_tokens": 512,
                "matryoshka": {"min": 32},
            },
            "all-minilm-l6-v2": {
                "engine": FAKE,
                "dimensions": 384,
                "max_tokens": 512,
                "aliases": ["MiniLM"],
            },
        },
        "tiers": {"fast": "table", "balanced": "qwen3-embedding-0.6b", "best": "all-minilm-l6-v2"},
        "collections": {"docs": "qwen3-embedding-0.6b/512"},
    }
    return Catalogue(RouterArgs.model_validate({**config, **changes}))


CATALOGUE = catalogue()
QWEN = "qwen3-embedding-0.6b"
MINILM = "all-minilm-l6-v2"


def resolve(where: Catalogue = CATALOGUE, **request: Any) -> Constraints:
    return resolving.resolve(where, EmbeddingsRequest(texts=("text",), ids=None, **request))


@pytest.mark.parametrize(
    ("text", "space"),
    [
        ("table/256", Space("table", 256)),
        ("Qwen/Qwen3-Embedding-0.6B/1024", Space("Qwen/Qwen3-Embedding-0.6B", 1024)),
    ],
    ids=["plain", "slash in the id"],
)
def test_a_space_reads_back_as_it_is_written(text: str, space: Space) -> None:
    assert Space.parse(text) == space
    assert str(space) == text


@pytest.mark.parametrize(
    "text",
    ["", "table", "table/", "/256", "table/0", "table/-1", "table/x", "table/²", f"t/{10**99}"],
)
def test_what_is_not_model_and_dimensions_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not MODEL/DIMENSIONS"):
        Space.parse(text)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        (QWEN, QWEN),
        ("Qwen3-Embedding-0.6B", QWEN),
        ("Qwen/Qwen3-Embedding-0.6B", QWEN),
        ("qwen/qwen3-embedding-0.6b", QWEN),
        ("sentence-transformers/all-MiniLM-L6-v2", MINILM),
        ("minilm", MINILM),
        ("hub/MiniLM", MINILM),
        ("table", "table"),
    ],
)
def test_a_model_is_found_without_case_and_with_or_without_its_hub_prefix(
    name: str, model: str
) -> None:
    assert CATALOGUE.find(name) == model


@pytest.mark.parametrize(
    "name",
    ["Other/Qwen3-Embedding-0.6B", "text-embedding-3-small", "tabl", "/", "best"],
)
def test_an_unknown_model_or_another_publisher_s_is_not_found(name: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        CATALOGUE.find(name)
    assert all(known in caught.value.message for known in (QWEN, MINILM, "table"))


@pytest.mark.parametrize("alias", ["BEST", "TABLE"], ids=["a tier", "another model"])
def test_a_name_with_two_meanings_is_refused_at_the_start(alias: str) -> None:
    model = {"engine": FAKE, "dimensions": 8, "max_tokens": 8}
    with pytest.raises(ValueError, match="already means something else"):
        catalogue(
            models={"table": model, "other": {**model, "aliases": [alias]}},
            tiers={"fast": "table"},
            collections={},
        )


@pytest.mark.parametrize("model", [None, "auto", "AUTO"], ids=str)
def test_auto_or_nothing_leaves_everything_open(model: str | None) -> None:
    assert resolve(model=model) == Constraints(None, Tier.AUTO, False, None, None, False)


@pytest.mark.parametrize(
    "request_",
    [
        {"model": "best"},
        {"model": "Best"},
        {"quality": Tier.BEST},
        {"model": "auto", "quality": Tier.BEST},
        {"model": "best", "quality": Tier.BEST},
    ],
    ids=str,
)
def test_a_tier_is_a_target_wherever_it_stands(request_: dict[str, Any]) -> None:
    assert resolve(**request_) == Constraints(MINILM, Tier.BEST, False, None, None, False)


def test_the_config_makes_tiers_strict() -> None:
    strict = catalogue(routing={"strict_tiers": True})
    assert resolve(strict, model="best").strict
    assert not resolve(strict).strict


def test_a_model_id_is_pinned() -> None:
    assert resolve(model="Qwen/Qwen3-Embedding-0.6B") == Constraints(
        QWEN, None, True, frozenset({QWEN}), None, False
    )


@pytest.mark.parametrize(
    "space",
    [f"{QWEN}/512", "Qwen/Qwen3-Embedding-0.6B/512", "docs"],
    ids=["id", "hub id", "collection"],
)
@pytest.mark.parametrize(
    "also",
    [
        {},
        {"model": QWEN.upper()},
        {"model": "balanced"},
        {"quality": Tier.BALANCED},
        {"dimensions": 512},
    ],
    ids=str,
)
def test_a_space_pins_model_and_dimensions(space: str, also: dict[str, Any]) -> None:
    assert resolve(space=space, **also) == Constraints(
        QWEN,
        None,
        True,
        frozenset({QWEN}),
        512,
        False,
        (native(Space(QWEN, 512)),),
        catalogue().collections.get(space),
    )


@pytest.mark.parametrize(
    ("also", "says"),
    [
        ({"model": "table"}, f"needs model {QWEN} and model names table"),
        ({"model": "best"}, f"needs model {QWEN} and tier 'best' means {MINILM}"),
        ({"quality": Tier.FAST}, f"needs model {QWEN} and tier 'fast' means table"),
        ({"dimensions": 1024}, "has 512 dimensions and dimensions is 1024"),
    ],
    ids=["model", "tier as model", "quality", "dimensions"],
)
@pytest.mark.parametrize("space", [f"{QWEN}/512", "docs"])
def test_a_space_that_contradicts_the_rest_is_a_conflict_that_names_both(
    space: str, also: dict[str, Any], says: str
) -> None:
    with pytest.raises(SpaceConflict) as caught:
        resolve(space=space, **also)
    assert says in caught.value.message
    assert repr(space) in caught.value.message


@pytest.mark.parametrize(
    ("space", "error", "says"),
    [
        (
            "nothing",
            InvalidValue,
            "MODEL/DIMENSIONS such as table/256, or one of the collections docs",
        ),
        ("nothing/64", ModelNotFound, "there is no model 'nothing'"),
        ("fast/64", ModelNotFound, "there is no model 'fast'"),
        (f"{MINILM}/64", DimensionsNotSupported, f"{MINILM}: 384"),
    ],
    ids=["no collection", "no model", "a tier is no model", "no such size"],
)
def test_a_space_that_does_not_exist_is_refused_by_what_is_missing(
    space: str, error: type[RouterError], says: str
) -> None:
    with pytest.raises(error) as caught:
        resolve(space=space)
    assert caught.value.param == "space"
    assert says in caught.value.message


@pytest.mark.parametrize(
    ("model", "quality", "says"),
    [
        ("fast", Tier.BEST, "tier 'fast', quality for 'best'"),
        ("table", Tier.BEST, f"table, quality 'best' means {MINILM}"),
    ],
    ids=["two tiers", "model and tier"],
)
def test_quality_that_contradicts_the_model_is_refused(
    model: str, quality: Tier, says: str
) -> None:
    with pytest.raises(InvalidValue) as caught:
        resolve(model=model, quality=quality)
    assert caught.value.param == "quality"
    assert says in caught.value.message


def test_quality_that_means_the_named_model_is_redundant_not_wrong() -> None:
    assert resolve(model="table", quality=Tier.FAST) == resolve(model="table")


@pytest.mark.parametrize(
    "request_", [{"model": "best"}, {"quality": Tier.BEST}], ids=["model", "quality"]
)
def test_a_tier_that_the_service_does_not_have_is_refused_where_it_stands(
    request_: dict[str, Any],
) -> None:
    with pytest.raises(InvalidValue, match="has no tier 'best'; it has auto, fast") as caught:
        resolve(catalogue(tiers={"fast": "table"}), **request_)
    assert [caught.value.param] == [*request_]


@pytest.mark.parametrize(
    ("dimensions", "able"),
    [(64, ("table", QWEN)), (100, (QWEN,)), (384, (QWEN, MINILM)), (32, (QWEN,)), (1024, (QWEN,))],
    ids=str,
)
def test_a_free_request_with_dimensions_leaves_the_models_that_give_them(
    dimensions: int, able: tuple[str, ...]
) -> None:
    assert resolve(dimensions=dimensions) == Constraints(
        None, Tier.AUTO, False, frozenset(able), dimensions, False
    )


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (
            {"dimensions": 2000},
            "table: 64, 128 or 256; qwen3-embedding-0.6b: 32 to 1024; all-minilm-l6-v2: 384",
        ),
        (
            {"dimensions": 31},
            "table: 64, 128 or 256; qwen3-embedding-0.6b: 32 to 1024; all-minilm-l6-v2: 384",
        ),
        ({"dimensions": 100, "model": "table"}, "these: table: 64, 128 or 256"),
        ({"dimensions": 1025, "model": QWEN}, "these: qwen3-embedding-0.6b: 32 to 1024"),
        ({"dimensions": 64, "model": MINILM}, "these: all-minilm-l6-v2: 384"),
        ({"dimensions": 64, "model": "best"}, "these: all-minilm-l6-v2: 384"),
    ],
    ids=[
        "above all",
        "below all",
        "between the sizes",
        "above the range",
        "not Matryoshka",
        "tier",
    ],
)
def test_dimensions_that_cannot_be_given_are_refused_with_those_that_can(
    request_: dict[str, Any], says: str
) -> None:
    with pytest.raises(DimensionsNotSupported) as caught:
        resolve(**request_)
    assert caught.value.message.endswith(says)
    assert caught.value.param == "dimensions"


@pytest.mark.parametrize(
    "request_", [{}, {"model": "auto"}, {"model": "best"}, {"dimensions": 64}], ids=str
)
def test_a_service_that_requires_a_space_refuses_free_requests(request_: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue, match='send "space", for example "table/256"') as caught:
        resolve(catalogue(routing={"require_space": True}), **request_)
    assert caught.value.param == "space"


@pytest.mark.parametrize("request_", [{"model": QWEN}, {"space": "docs"}], ids=["model", "space"])
def test_a_service_that_requires_a_space_answers_requests_that_name_one(
    request_: dict[str, Any],
) -> None:
    assert resolve(catalogue(routing={"require_space": True}), **request_).pinned


def test_the_space_of_a_model_is_its_own_size_unless_another_is_given() -> None:
    assert str(CATALOGUE.space_of(QWEN)) == f"{QWEN}/1024"
    assert str(CATALOGUE.space_of(QWEN, 64)) == f"{QWEN}/64"


def test_names_and_tiers_are_listed() -> None:
    assert CATALOGUE.names == ("table", QWEN, MINILM, "auto", "fast", "balanced", "best")
    assert CATALOGUE.tier_of(MINILM) is Tier.BEST
    assert catalogue(tiers={"fast": "table"}).tier_of(MINILM) is None


@pytest.mark.parametrize(
    "space",
    ["table/100", "table/x", "table", "other/64", "qwen3-embedding-0.6b/2048"],
    ids=["no such size", "no number", "no size", "no model", "too large"],
)
def test_a_collection_of_a_space_that_is_not_served_is_refused_at_the_start(space: str) -> None:
    with pytest.raises(ValueError, match="is not MODEL/DIMENSIONS of a model"):
        catalogue(collections={"docs": space})


def test_vectors_of_their_own_size_are_not_copied() -> None:
    rows = np.eye(4, dtype=np.float32)
    assert fit(rows, 4) is rows


def test_cutting_does_not_change_what_was_cut() -> None:
    rows = np.full((2, 4), 0.5, dtype=np.float32)
    fit(rows, 2)
    assert (rows == 0.5).all()


def test_a_row_whose_leading_part_is_zero_stays_zero() -> None:
    assert fit(np.array([[0.0, 1.0]], dtype=np.float32), 1).tolist() == [[0.0]]


def test_vectors_cannot_be_cut_to_more_than_they_have() -> None:
    with pytest.raises(ValueError, match="4 dimensions cannot be cut to 5"):
        fit(np.eye(4, dtype=np.float32), 5)
