"""The grammar of `model` and of addresses, and configs in which a text has two meanings."""

from typing import Any

import pytest

from router.config import RouterArgs
from router.errors import InvalidValue
from router.names import Name, PathPrefix, read_name, split_address
from router.spaces import Catalogue

MODEL = {"engine": {"kind": "fake"}, "dimensions": 8, "max_tokens": 64, "matryoshka": [4]}


def reranker(name: str, *aliases: str) -> dict[str, Any]:
    """A config's reranker and its tier."""
    one = {"engine": {"kind": "similarity", "model": "small"}, "aliases": aliases}
    return {"rerankers": {name: one}, "rerank_tiers": {"fast": name}}


CONFIG: dict[str, Any] = {
    "models": {
        "small": MODEL | {"aliases": ["org/small", "text-embedding-3-small"]},
        "large": MODEL | {"aliases": ["e5-query"]},
    },
    "tiers": {"fast": "small", "best": "large"},
    "collections": {"docs": "large/8", "Shop-2": "small/4"},
}


def catalogue(**changes: Any) -> Catalogue:
    return Catalogue(RouterArgs.model_validate({**CONFIG, **changes}))


CATALOGUE = catalogue()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("small", Name("small")),
        ("SMALL", Name("SMALL")),
        ("org/small", Name("org/small")),
        ("fast", Name("fast")),
        ("auto", Name("auto")),
        ("docs", Name(space="docs")),
        ("small/4", Name("small", "small/4")),
        ("Org/Small/4", Name("small", "small/4")),
        ("small-query", Name("small", side="query")),
        ("small-Document", Name("small", side="document")),
        ("docs-query", Name(space="docs", side="query")),
        ("Shop-2-document", Name(space="Shop-2", side="document")),
        ("small/4-document", Name("small", "small/4", "document")),
        ("auto@50ms", Name("auto", budget_ms=50.0)),
        ("best@0.5MS", Name("best", budget_ms=0.5)),
        ("docs-query@50ms", Name(space="docs", side="query", budget_ms=50.0)),
        ("org/small/4-query@12ms", Name("small", "small/4", "query", 12.0)),
        ("text-embedding-3-small-query", Name("text-embedding-3-small", side="query")),
        ("e5-query", Name("e5-query")),
        ("e5-query-query", Name("e5-query", side="query")),
        ("Docs", Name(space="docs")),
        ("shop-2-QUERY", Name(space="Shop-2", side="query")),
        # the order is fixed, and the rest means nothing
        ("docs@50ms-query", Name("docs@50ms-query")),
        ("docs-query-query", Name("docs-query-query")),
        ("small@50", Name("small@50")),
        ("small@-5ms", Name("small@-5ms")),
        ("small@1e3ms", Name("small@1e3ms")),
        ("-query", Name("-query")),
        ("@5ms", Name("@5ms")),
        ("nothing-query@5ms", Name("nothing-query@5ms")),
        ("small/0", Name("small/0")),
    ],
)
def test_a_text_says_one_thing(text: str, name: Name) -> None:
    assert read_name(CATALOGUE, text) == name
    assert CATALOGUE.read_name(text) == CATALOGUE.read_name(text) == name


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(InvalidValue, match="above 0 ms"):
        read_name(CATALOGUE, "nothing-query@0ms")
    with pytest.raises(InvalidValue, match="above 0 ms") as caught:
        read_name(CATALOGUE, "small@0ms")
    assert caught.value.param == "model"


@pytest.mark.parametrize(
    ("path", "address", "inner"),
    [
        ("/v1/embeddings", None, "/v1/embeddings"),
        ("/in/docs/v1/embeddings", PathPrefix("docs", None), "/v1/embeddings"),
        ("/in/docs/query/v1/embeddings", PathPrefix("docs", "query"), "/v1/embeddings"),
        ("/in/docs/document/v1/models/a/b", PathPrefix("docs", "document"), "/v1/models/a/b"),
        ("/in/query/v1/route", PathPrefix("query", None), "/v1/route"),
        ("/in/query/query/v1/route", PathPrefix("query", "query"), "/v1/route"),
        ("/in/my docs/v1/route", PathPrefix("my docs", None), "/v1/route"),
        ("/in", None, "/in"),
        ("/in/docs", None, "/in/docs"),
        ("/in/docs/query", None, "/in/docs/query"),
        ("/in//v1/route", None, "/in//v1/route"),
        ("/inside/v1/route", None, "/inside/v1/route"),
    ],
)
def test_an_address_stands_in_front_of_a_path(
    path: str, address: PathPrefix | None, inner: str
) -> None:
    assert split_address(path) == (address, inner)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"collections": {"fast": "large/8"}}, "collections.fast: .* also means the tier fast"),
        ({"collections": {"auto": "large/8"}}, "collections.auto: .* also means the tier auto"),
        ({"collections": {"small": "large/8"}}, "collections.small: .*also means the model small"),
        ({"collections": {"E5-query": "small/8"}}, "also means the model large"),
        ({"collections": {"docs": "large/8", "docs-query": "large/8"}}, "docs on the side query"),
        ({"collections": {"best-document": "large/8"}}, "best on the side document"),
        ({"collections": {"docs": "large/8", "docs@5ms": "large/8"}}, "docs within 5 ms"),
        ({"collections": {"docs": "large/8", "docs-query@5ms": "large/8"}}, "within 5 ms"),
        ({"models": CONFIG["models"] | {"small-query": MODEL}}, "small on the side query"),
        (reranker("docs"), "rerankers.docs: .* also means the collection docs"),
        (reranker("docs-query"), "rerankers.docs-query: .* also means docs on the side query"),
        (reranker("ranker", "Shop-2"), "rerankers.ranker: .* also means the collection Shop-2"),
        ({"models": CONFIG["models"] | {"x": MODEL | {"aliases": ["docs-query"]}}}, "models.x"),
        ({"models": CONFIG["models"] | {"x": MODEL | {"aliases": ["small/4"]}}}, "space small/4"),
        ({"models": CONFIG["models"] | {"x": MODEL | {"aliases": ["small/4-query"]}}}, "models.x"),
    ],
)
def test_a_config_in_which_a_text_has_two_meanings_is_refused(
    changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        catalogue(**changes)


def test_a_suffix_in_a_name_is_no_second_meaning_by_itself() -> None:
    assert read_name(catalogue(collections={"faq-query": "large/8"}), "faq-query") == Name(
        space="faq-query"
    )
