"""A name that is nobody's gets the nearest that its key may use, and a collection is found in any
case.
"""

from typing import Any

import httpx
import pytest

from tests.support.fixtures import client_of, client_with, service_of
from tests.support.local_service import served
from tests.support.named_service import ARGS, LOCKED, bearer

open_service = service_of(ARGS)


http = client_of("open_service")


locked = client_with(LOCKED)


@pytest.mark.parametrize(
    ("key", "allowed"), [("free", {*ARGS["collections"]}), ("limited", {"shop"})]
)
def test_a_wrong_name_lists_the_collections_that_the_key_may_use(
    locked: httpx.Client, key: str, allowed: set[str]
) -> None:
    # of the form of a space, for which a key needs a model alone
    sent = {"input": "text", "model": "nothing/8"}
    for answer in (
        locked.post("/v1/embeddings", json=sent, headers=bearer(key)),
        locked.get("/v1/models/nothing/8", headers=bearer(key)),
    ):
        error = answer.json()["error"]
        assert error["code"] == "model_not_found"
        listed = error["message"].partition(" valid names are ")[2].split(", ")
        assert allowed == set(listed) & {*ARGS["collections"]}


def test_a_wrong_name_gets_the_nearest(locked: httpx.Client) -> None:
    sent = {"input": "text", "model": "docss"}
    error = locked.post("/v1/embeddings", json=sent, headers=bearer("free")).json()["error"]
    assert "did you mean 'docs'?" in error["message"]
    error = locked.post("/v1/embeddings", json=sent, headers=bearer("limited")).json()["error"]
    assert error["code"] == "collection_not_allowed"
    assert "docs'?" not in error["message"]


def test_the_list_of_models_has_every_name_that_the_key_may_use(locked: httpx.Client) -> None:
    def listed(key: str) -> dict[str, str]:
        answer = locked.get("/models", headers=bearer(key)).json()
        assert answer == locked.get("/v1/models", headers=bearer(key)).json()
        return {card["id"]: card["kind"] for card in answer["data"]}

    every = listed("free")
    assert every == {
        "small": "embedding",
        "large": "embedding",
        "auto": "tier",
        "fast": "tier",
        "best": "tier",
        "text-embedding-3-small": "alias",
        **{f"{name}{side}": "collection" for name in ARGS["collections"] for side in (
            "", "-query", "-document")},
    }  # fmt: skip
    assert listed("limited") == {
        name: kind
        for name, kind in every.items()
        if "large" not in name and "best" not in name and "docs" not in name and "faq" not in name
    }
    for name in every:
        card = locked.get(f"/v1/models/{name}", headers=bearer("free"))
        assert card.status_code == 200, name
    for name in ("small/7", "small/100000"):  # no space that has vectors
        assert locked.get(f"/v1/models/{name}", headers=bearer("free")).status_code == 404
    assert locked.get("/models/docs", headers=bearer("limited")).status_code == 404
    suffixed = locked.get("/models/fast-query@5ms", headers=bearer("limited")).json()
    assert (suffixed["id"], suffixed["model"]) == ("fast-query@5ms", "small")


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/route"])
@pytest.mark.parametrize(
    ("sent", "near"),
    [
        ({"model": "dosc"}, "docs"),
        ({"model": "DOC"}, "docs"),
        ({"model": "auto@1s"}, "auto@1000ms"),
        ({"model": "fast@0.05 S"}, "fast@50ms"),
        ({"model": "auto@50"}, "auto@50ms"),
        ({"model": "fats@0.000001ms"}, "fast@0.000001ms"),
        ({"model": "fast@999999.125s"}, "fast@999999125ms"),
        ({"model": "auto@soon"}, "auto"),
        ({"model": "auto-querry"}, "auto-query"),
        ({"model": "auto-documents@2s"}, "auto-document@2000ms"),
        ({"model": "smal-query"}, "small-query"),
        ({"model": "auto-docs"}, "auto-document"),
        ({"model": "best_query"}, "best-query"),
        ({"model": "shop queries@50"}, "shop-query@50ms"),
        ({"model": "text-embedding-3-small-quer"}, "text-embedding-3-small-query"),
        ({"model": "larg/4-query@1s"}, "large/4-query@1000ms"),
        ({"model": "docs-qury"}, "docs-query"),
        ({"model": "my fak@50ms"}, "my faq@50ms"),
        ({"model": "text-embeding-3-small"}, "text-embedding-3-small"),
        ({"model": "larg/4"}, "large/4"),
        ({"model": "bset"}, "best"),
        ({"space": "dosc"}, "docs"),
        ({"space": "My FQA"}, "my faq"),
        ({"space": "docs-query"}, "docs"),
        ({"space": "shop@50ms"}, "shop"),
        ({"space": "docs/16"}, "docs"),
        ({"space": "larg/8"}, "large/8"),
        ({"space": "larg/5"}, "large/8"),
        ({"space": "large"}, "large/8"),
        ({"space": "text-embeding-3-small/4"}, "text-embedding-3-small/4"),
        ({"space": "text-embedding-3-small"}, "text-embedding-3-small/8"),
        ({"space": "xyzzy"}, None),
        ({"model": "xyzzy/8"}, None),
    ],
    ids=str,
)
def test_the_nearest_name_may_be_a_model_an_alias_a_space_or_a_collection(
    http: httpx.Client, path: str, sent: dict[str, str], near: str | None
) -> None:
    answer = http.post(path, json={"input": "text", **sent})
    error = answer.json()["error"]
    ((param, name),) = sent.items()
    assert (answer.status_code, error["param"]) == (
        400 if param == "space" and "/" not in name else 404,
        param,
    )
    assert ("did you mean" in error["message"]) == (near is not None), error["message"]
    assert near is None or f"; did you mean {near!r}?" in error["message"]
    if "space" in sent:
        as_header = {"X-Embedding-Space": name}
        assert http.post(path, json={"input": "text"}, headers=as_header).json()["error"] == error


@pytest.mark.parametrize(
    ("at", "body", "headers"),
    [
        ("", {"model": "My FAQ"}, {}),
        ("", {"model": "MY FAQ-Query@50MS"}, {}),
        ("", {"space": "My Faq"}, {}),
        ("", {}, {"X-Embedding-Space": "MY FAQ"}),
        ("/in/My FAQ", {}, {}),
        ("/in/MY FAQ/query", {"space": "my faq"}, {"X-Embedding-Space": "docs"}),
        ("/in/my faq", {"model": "My Faq", "space": "Small/8"}, {}),
    ],
    ids=str,
)
def test_a_collection_is_found_in_any_case(
    locked: httpx.Client, at: str, body: dict[str, Any], headers: dict[str, str]
) -> None:
    sent = {"input": "text", **body}
    answer = locked.post(f"{at}/v1/route", json=sent, headers=bearer("free") | headers)
    assert answer.status_code == 200, answer.text
    assert answer.json()["settings"]["space"]["value"] == "my faq"
    answer = locked.post(f"{at}/v1/embeddings", json=sent, headers=bearer("free") | headers)
    assert answer.json()["routing"]["space"] == "small/8"


def test_collections_that_differ_by_case_alone_are_written_as_in_the_config() -> None:
    with served(ARGS | {"collections": {"docs": "large/8", "Docs": "small/8"}}) as (url, _):
        for name, space in (("docs", "large/8"), ("Docs", "small/8"), ("DOCS", None)):
            answer = httpx.post(f"{url}/v1/embeddings", json={"input": "text", "space": name})
            assert answer.json().get("routing", {}).get("space") == space


BESIDE: list[tuple[dict[str, Any], dict[str, str]]] = [  # what else is wrong with a request
    ({}, {}),
    ({"input_type": "document"}, {}),
    ({"quality": "best"}, {}),
    ({"latency_budget_ms": 60}, {}),
    ({"instruction": "Do"}, {}),
    ({"dimensions": 3}, {}),
    ({}, {"x-latency-budget-ms": "60"}),
    ({}, {"x-latency-budget-ms": "soon"}),
    ({}, {"x-quality-tier": "best"}),
    ({}, {"x-quality-tier": "cheap"}),
    ({}, {"x-embedding-space": "shop"}),
]


@pytest.mark.parametrize(("more", "sent_headers"), BESIDE, ids=str)
@pytest.mark.parametrize("path", ["embeddings", "route"])
@pytest.mark.parametrize(
    "place", ["model", "space", "header", "address", "suffix", "query", "document"]
)
def test_a_collection_that_a_key_may_not_use_looks_like_none_in_any_case(
    locked: httpx.Client,
    place: str,
    path: str,
    more: dict[str, Any],
    sent_headers: dict[str, str],
) -> None:
    suffixes = {"model": "", "suffix": "-query@50ms", "query": "-query", "document": "-document"}

    def refused(name: str) -> str:
        sent = {"space": {"space": name}}.get(place, {})
        if place in suffixes:
            sent = {"model": f"{name}{suffixes[place]}"}
        headers = bearer("limited") | sent_headers
        if place == "header":
            headers["x-embedding-space"] = name
        at = f"/in/{name}" if place == "address" else ""
        body = {"input": "a", **more, **sent}
        answer = locked.post(f"{at}/v1/{path}", json=body, headers=headers)
        # a header that cannot be read is refused before the space that a field or header names
        malformed = {"soon", "cheap"} & {*headers.values()} and place in ("space", "header")
        assert answer.status_code == (400 if malformed else 403), answer.text
        return answer.text.replace(name, "NAME")

    assert refused("DOCS") == refused("docs") == refused("xyzq")


def test_a_collection_that_a_key_may_use_is_found_for_it_alone(locked: httpx.Client) -> None:
    allowed = locked.post("/in/SHOP/v1/embeddings", json={"input": "a"}, headers=bearer("limited"))
    assert allowed.status_code == 200, allowed.text
    assert (
        "did you mean 'shop'?"
        in locked.post(
            "/v1/embeddings", json={"input": "a", "space": "shopp"}, headers=bearer("limited")
        ).text
    )


def test_a_key_gets_no_collection_that_it_may_not_use_as_the_nearest(locked: httpx.Client) -> None:
    for sent in ({"space": "docs/8"}, {"model": "docs/8"}, {"space": "docz/8"}):
        body = {"input": "text", **sent}
        errors = [
            locked.post("/v1/embeddings", json=body, headers=bearer(key)).json()["error"]
            for key in ("limited", "free")
        ]
        assert {error["code"] for error in errors} == {"model_not_found"}
        assert ["mean 'docs'?" in error["message"] for error in errors] == [False, True]
    error = locked.get("/v1/models/text-embeding-3-small", headers=bearer("free")).json()["error"]
    assert "did you mean 'text-embedding-3-small'?" in error["message"]
