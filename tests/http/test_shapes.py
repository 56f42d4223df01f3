"""Other embedding APIs: unmodified clients, and what holds on every path."""

from contextlib import closing
from typing import Any

import cohere
import httpx
import numpy as np
import ollama
import pytest
from openai import APIStatusError, AzureOpenAI

from router.routes import ROUTES
from tests.support.fixtures import client_of, service_of
from tests.support.local_service import LocalRouter, served
from tests.support.shapes import ARGS, BARE, BODIES, KEY, LOCKED, SHOP, TEXTS, is_error_of

running = service_of(ARGS)


http = client_of("running")


locked = service_of(LOCKED)


def vectors(http: httpx.Client, at: str = "", **body: Any) -> list[list[float]]:
    answer = http.post(f"{at}/v1/embeddings", json={"input": TEXTS} | body)
    assert answer.status_code == 200, answer.text
    return [row["embedding"] for row in answer.json()["data"]]


def same(made: Any, plain: list[list[float]]) -> None:
    np.testing.assert_allclose(np.array(made), np.array(plain), rtol=1e-6)


def test_coheres_client(locked: tuple[str, LocalRouter], http: httpx.Client) -> None:
    own = httpx.Client(timeout=60)  # closed below: the client of Cohere closes none
    client = cohere.ClientV2(api_key=KEY, base_url=locked[0], httpx_client=own)
    answer = client.embed(
        texts=TEXTS,
        model="docs",
        input_type="search_query",
        embedding_types=["float", "int8", "uint8", "binary", "ubinary", "base64"],
    )
    plain = vectors(http, model="docs-query")
    made = answer.embeddings
    same(made.float_, plain)
    assert np.abs(np.array(made.int8)).max(axis=1).tolist() == [127, 127]
    assert (np.array(made.uint8) - 128).tolist() == made.int8
    assert (np.array(made.ubinary) - 128).tolist() == made.binary
    assert made.base64 is not None
    assert answer.texts == TEXTS
    assert answer.id
    assert answer.meta is not None
    assert answer.meta.billed_units is not None
    assert answer.meta.billed_units.input_tokens
    cut = client.embed(texts=TEXTS, model="small", input_type="search_document", output_dimension=4)
    assert cut.embeddings.float_ is not None
    assert [len(row) for row in cut.embeddings.float_] == [4, 4]
    with pytest.raises(cohere.NotFoundError) as caught:
        client.embed(texts=TEXTS, model="nothing", input_type="classification")
    assert list(caught.value.body) == ["message"]
    own.close()


def test_ollamas_client(locked: tuple[str, LocalRouter], http: httpx.Client) -> None:
    client = ollama.Client(locked[0], headers={"authorization": f"Bearer {KEY}"})
    with closing(client):
        check_ollama(client, http)


def check_ollama(client: ollama.Client, http: httpx.Client) -> None:
    answer = client.embed(model="docs-query:latest", input=TEXTS, options={"x": 1}, keep_alive=5)
    same(answer.embeddings, vectors(http, model="docs-query"))
    assert (answer.model, bool(answer.prompt_eval_count)) == ("large", True)
    assert len(client.embed(model="small", input="one", dimensions=4).embeddings[0]) == 4
    long = " ".join(map(str, range(400)))
    assert client.embed(model="reader", input=long).embeddings
    with pytest.raises(ollama.ResponseError, match="reads 256") as caught:
        client.embed(model="reader", input=long, truncate=False)
    assert caught.value.status_code == 400
    with pytest.raises(ollama.ResponseError, match="there is no model") as caught:
        client.embed(model="nothing", input="one")
    assert caught.value.status_code == 404


def test_azures_client(locked: tuple[str, LocalRouter], http: httpx.Client) -> None:
    client = AzureOpenAI(
        azure_endpoint=locked[0], api_key=KEY, api_version="2024-10-21", max_retries=0
    )
    answer = client.embeddings.create(model="docs-query", input=TEXTS)
    assert answer.model == "large"
    same([row.embedding for row in answer.data], vectors(http, model="docs-query"))
    with pytest.raises(APIStatusError) as caught:
        client.embeddings.create(model="nothing", input=TEXTS)
    assert (caught.value.status_code, caught.value.code) == (404, "model_not_found")
    other = AzureOpenAI(
        azure_endpoint=locked[0],
        azure_deployment="small",
        api_key=KEY,
        api_version="2024-10-21",
        max_retries=0,
    )
    with pytest.raises(APIStatusError) as caught:
        other.embeddings.create(model="large", input=TEXTS)
    assert (caught.value.status_code, caught.value.code) == (409, "name_conflict")
    assert other.embeddings.create(model="Small", input=TEXTS).model == "small"
    client.close()
    other.close()


def test_a_list_of_types_is_bounded(http: httpx.Client) -> None:
    body = {"texts": TEXTS, "model": "small", "embedding_types": ["x"] * 50_000}
    answer = http.post("/v2/embed", json=body)
    assert answer.status_code == 400
    assert "embedding_types" in answer.json()["message"]


def test_a_text_is_not_cut_where_a_request_of_tei_says_so() -> None:
    collections = {"docs": {"space": "reader/384", "truncate": "end"}}
    long = " ".join(map(str, range(400)))
    with (
        served(ARGS | {"collections": collections}) as (url, _),
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        assert client.post("/in/docs/embed", json={"inputs": long}).status_code == 200
        body = {"inputs": long, "truncate": False}
        refused = client.post("/in/docs/embed", json=body)
        assert refused.status_code in (400, 413)
        assert refused.json()["error_type"] == "validation"


def test_a_request_of_text_embeddings_inference(http: httpx.Client) -> None:
    answer = http.post(
        "/in/docs/embed",
        json={"inputs": TEXTS, "prompt_name": "query", "truncate": True, "normalize": True},
    )
    same(answer.json(), vectors(http, model="docs-query"))
    assert answer.headers["x-embedding-space"] == "large/8"
    one = http.post("/in/shop/embed", json={"inputs": "one text", "truncation_direction": "Left"})
    assert [len(row) for row in one.json()] == [4]
    refused = http.post("/embed", json={"inputs": "a", "normalize": False})
    assert (refused.status_code, refused.json()["error_type"]) == (400, "validation")
    assert "normalize" in refused.json()["error"]


def test_a_keys_defaults_make_a_plain_request_what_it_means(
    locked: tuple[str, LocalRouter], http: httpx.Client
) -> None:
    answer = httpx.post(
        f"{locked[0]}/embed",
        json={"inputs": TEXTS},
        headers={"authorization": f"Bearer {BARE}"},
    )
    same(answer.json(), vectors(http, model="docs-query"))


@pytest.mark.parametrize("prefix", ["", "/in/docs", "/in/docs/query"])
@pytest.mark.parametrize("handler", BODIES)
def test_keys_limits_and_metrics_hold_on_every_path(
    locked: tuple[str, LocalRouter], handler: str, prefix: str
) -> None:
    path, body = BODIES[handler]
    body = {name: value for name, value in body.items() if name != "model"}
    if handler == "azure_embed":
        path = path.replace("small", "docs")
    url = f"{locked[0]}{prefix}{path}"
    refused = httpx.post(url, json=body)
    assert (refused.status_code, is_error_of(handler, refused)) == (401, True)
    assert httpx.get(url, headers={"api-key": KEY}).status_code == 405
    request_metrics = locked[1].service.request_metrics
    assert request_metrics is not None
    answer = httpx.post(url, json=body, headers={"api-key": KEY})
    assert answer.status_code == 200, answer.text
    assert {"x-embedding-space", "x-routing-reason", "x-total-ms", "x-request-id"} <= {
        *answer.headers
    }
    shop = {"authorization": f"Bearer {SHOP}"}
    if prefix or handler == "azure_embed":
        forbidden = httpx.post(url, json=body, headers=shop)
        assert forbidden.status_code in (403, 429)
        assert is_error_of(handler, forbidden)


def test_a_limit_counts_all_paths_together(locked: tuple[str, LocalRouter]) -> None:
    headers = {"authorization": f"Bearer {SHOP}"}
    statuses = []
    for handler in ("tei_embed", "cohere_embed", "ollama_embed", "embed", "tei_embed"):
        path, body = BODIES[handler]
        answer = httpx.post(f"{locked[0]}{path}", json=body, headers=headers)
        statuses.append(answer.status_code)
        if answer.status_code == 429:
            assert is_error_of(handler, answer)
            assert "retry-after" in answer.headers
    assert statuses[-1] == 429


def test_every_route_that_a_key_may_call_needs_one(locked: tuple[str, LocalRouter]) -> None:
    for route in ROUTES:
        path = route.path.replace("{id}", "x").replace("{model}", "x")
        for prefix in ("", "/in/docs", "/in/docs/document"):
            answer = httpx.request(route.methods[0], f"{locked[0]}{prefix}{path}")
            if route.caller == "anyone":
                assert answer.status_code in ((404, 401) if prefix else (200,)), path
            else:
                assert answer.status_code == 401, (prefix, path)
