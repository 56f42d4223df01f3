"""Errors of other embedding APIs, each in the form and the words of its own."""

import json
from typing import Any

import httpx
import pytest

from router.routes import ROUTES
from router.shapes.table import FORMS
from tests.support.fixtures import client_of, service_of
from tests.support.local_service import LocalRouter, served
from tests.support.shapes import ARGS, BODIES, LOCKED, is_error_of

LONG = " ".join(map(str, range(400)))


running = service_of(ARGS)


http = client_of("running")


locked = service_of(LOCKED)


REFUSED: list[tuple[str, dict[str, Any], int, str]] = [
    ("cohere_embed", {"texts": []}, 400, "texts is an empty array"),
    ("cohere_embed", {"texts": ["a", ""]}, 400, "texts[1] is an empty string"),
    ("cohere_embed", {"texts": "a"}, 400, "texts must be an array"),
    ("cohere_embed", {}, 400, "texts must be an array"),
    ("cohere_embed", {"texts": ["a"], "images": ["b"]}, 400,
     "images needs a model that reads images, and the models of this service read text; send text "
     "in texts, and leave images out"),
    ("cohere_embed", {"images": ["b"], "model": "small"}, 400, "images needs a model"),
    ("cohere_embed", {"inputs": [{"content": []}]}, 400,
     "inputs needs a model that reads texts and images together"),
    ("cohere_embed", {"texts": ["a"], "embedding_types": ["half"]}, 400, "embedding_types"),
    ("cohere_embed", {"texts": ["a"], "output_dimension": 5}, 400, "5 dimensions"),
    ("cohere_embed", {"texts": ["a"], "quality": "best"}, 400, "unknown field 'quality'"),
    ("cohere_embed", {"texts": ["a"], "model": "docs-query", "input_type": "search_document"},
     409, "docs-query"),
    ("ollama_embed", {"model": "small"}, 400, "input is missing"),
    ("ollama_embed", {"model": "small", "input": [1]}, 400, "token ids"),
    ("ollama_embed", {"model": "small@5", "input": "a"}, 404, "there is no model"),
    ("ollama_embed", {"model": "small", "input": "a", "dimension": 4}, 400, "did you mean"),
    ("tei_embed", {"inputs": ""}, 400, "inputs is an empty string"),
    ("tei_embed", {"inputs": {"a": 1}}, 400, "inputs must be a string"),
    ("tei_embed", {"inputs": "a", "prompt_name": "sts"}, 400, "prompt_name"),
    ("azure_embed", {"input": "a", "model": "large"}, 409, "deployment"),
    # in the words of each API, also where the service itself finds it
    ("cohere_embed", {"texts": ["a", LONG], "model": "reader", "truncate": "NONE"},
     400, "texts[1] has 441 tokens"),
    ("cohere_embed", {"texts": ["a", LONG], "model": "reader", "truncate": "NONE"},
     400, 'send "truncate": "end" so'),
    ("cohere_embed", {"texts": [1, 2]}, 400, 'send text instead."'),
    ("cohere_embed", {"texts": ["a"], "model": "small/4", "output_dimension": 8},
     409, "and output_dimension is 8"),
    ("ollama_embed", {"model": "reader", "input": LONG, "truncate": False},
     400, 'send "truncate": true so'),
    ("ollama_embed", {"model": "reader", "input": [1, 2]}, 400, 'send text instead."'),
    ("tei_embed", {"inputs": [1, 2]}, 400, "inputs holds token ids"),
    ("tei_embed", {"inputs": [1, 2]}, 400, 'send text instead."'),
    ("tei_embed", {"inputs": ["a", ""]}, 400, "inputs[1] is an empty string"),
    ("embed", {"input": ["a", LONG], "model": "reader"}, 400, "input[1] has 441 tokens"),
    ("embed", {"input": [1, 2]}, 400, 'add "token_ids": "model"'),
    ("azure_embed", {"input": ["a", ""]}, 400, "input[1] is an empty string"),
]  # fmt: skip
EXAMPLES: dict[str, dict[str, Any]] = {
    "embed": {"input": "text"},
    "azure_embed": {"input": "text"},
    "cohere_embed": {"texts": ["text"]},
    "ollama_embed": {"model": "auto", "input": "text"},
    "tei_embed": {"inputs": "text"},
}


@pytest.mark.parametrize("handler", EXAMPLES)
def test_a_body_that_is_no_object_is_answered_with_an_example_of_this_api(
    http: httpx.Client, handler: str
) -> None:
    for content in (b"", b"[]"):
        answer = http.post(BODIES[handler][0], content=content)
        assert json.dumps(EXAMPLES[handler]) in answer.text.replace("\\", "")
    assert http.post(BODIES[handler][0], json=EXAMPLES[handler]).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/embeddings"),
        ("GET", "/api/tags"),
        ("POST", "/api/show"),
        ("POST", "/api/generate"),
        ("GET", "/api/version"),
        ("GET", "/api/"),
        ("POST", "/in/docs/api/embeddings"),
    ],
)
def test_what_is_not_served_of_ollama_is_answered_in_its_form(
    locked: tuple[str, LocalRouter], http: httpx.Client, method: str, path: str
) -> None:
    sent = {"model": "small", "prompt": "a"}
    answer = http.request(method, path, json=None if method == "GET" else sent)
    assert (answer.status_code, list(answer.json())) == (404, ["error"])
    message = answer.json()["error"]
    assert "this service has POST /api/embed of Ollama's API, with the texts in input" in message
    refused = httpx.request(method, f"{locked[0]}{path}")
    assert (refused.status_code, list(refused.json())) == (401, ["error"])
    assert isinstance(refused.json()["error"], str)


@pytest.mark.parametrize("path", ["/apiary", "/v2/x", "/v1/embed", "/embed/x", "/info"])
def test_other_paths_are_answered_in_the_form_of_openai(http: httpx.Client, path: str) -> None:
    answer = http.get(path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert "Ollama" not in answer.text


def test_what_limits_and_collections_refuse_is_in_the_words_of_each_api() -> None:
    collections = {"long": "reader/384", "two": {"spaces": ["small/8", "large/8"]}}
    limits = {"max_tokens_per_request": 500}
    with (
        served(ARGS | {"collections": collections, "limits": limits}) as (url, _),
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        for path, body, says in (
            ("/in/long/embed", {"inputs": ["a", LONG]}, "inputs[1] has 441 tokens"),
            ("/in/long/embed", {"inputs": [LONG, LONG]}, "inputs has more than 500 tokens"),
            (
                "/v2/embed",
                {"texts": [LONG] * 2, "model": "reader"},
                "texts has more than 500 tokens",
            ),
            ("/in/two/embed", {"inputs": "a"}, 'X-Embedding-Space: "small/8"'),
            ("/in/two/embed", {"inputs": "a"}, '("prompt_name": "query")'),
            ("/in/two/v2/embed", {"texts": ["a"]}, '"model": "small/8"'),
            ("/in/two/api/embed", {"input": "a"}, "a name that ends in -query"),
            ("/in/two/query/embed", {"inputs": "a", "prompt_name": "document"}, "prompt_name"),
        ):
            answer = client.post(path, json=body)
            error = answer.json().get("message") or answer.json().get("error")
            assert answer.status_code in (400, 409), (path, answer.text)
            assert says in error, error


def message(answer: httpx.Response) -> str:
    error = answer.json().get("error", answer.json())
    return error if isinstance(error, str) else str(error["message"])


LARGE: list[tuple[str, str]] = [
    ("embed", "encoding_format base64 or fewer dimensions"),
    ("azure_embed", "encoding_format base64 or fewer dimensions"),
    ("cohere_embed", '"embedding_types": ["base64"] or a smaller output_dimension'),
    ("ollama_embed", "fewer dimensions"),
    ("tei_embed", "fewer dimensions"),
]


IMAGE = "data:image/png;base64,iVBORw0KGgo="


@pytest.mark.parametrize(
    ("body", "first"),
    [
        ({"images": [IMAGE], "input_type": "image"}, "images needs a model that reads images"),
        ({"images": [IMAGE], "input_type": "nonsense"}, "images needs a model"),
        ({"images": [IMAGE], "texts": 3, "truncate": 1}, "images needs a model"),
        ({"texts": ["a"], "input_type": "image"}, 'input_type "image" needs a model'),
        ({"texts": ["a"], "input_type": "IMAGE", "model": 1}, 'input_type "image" needs a model'),
        ({"inputs": [{"content": []}], "input_type": "image"}, "inputs needs a model that reads"),
    ],
    ids=str,
)
def test_coheres_images_are_refused_before_anything_else(
    http: httpx.Client, body: dict[str, Any], first: str
) -> None:
    answer = http.post("/v2/embed", json={"model": "small", **body})
    assert answer.status_code == 400
    assert message(answer).startswith(first)


def test_what_makes_an_answer_smaller_is_a_field_of_each_api() -> None:
    assert {handler for handler, _ in LARGE} == FORMS.keys()
    with (
        served(ARGS | {"limits": {"max_answer_bytes": 100}}) as (url, _),
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        for handler, says in LARGE:
            path, body = BODIES[handler]
            answer = client.post(path, json=body)
            assert answer.status_code == 413, answer.text
            assert is_error_of(handler, answer)
            assert message(answer).endswith(f"in several requests, or ask for {says}")


def test_a_space_that_is_required_is_sent_in_a_field_of_each_api() -> None:
    sent = {
        "embed": '"space", for example "{}", or a model id in "model"',
        "cohere_embed": '"model", for example "{}"',
        "ollama_embed": '"model", for example "{}"',
        "tei_embed": 'the header X-Embedding-Space, for example "{}"',
    }
    with (
        served(ARGS | {"routing": {"require_space": True}}) as (url, _),
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        for handler, says in sent.items():
            path, body = BODIES[handler]
            body = {name: value for name, value in body.items() if name != "model"}
            answer = client.post(path, json=body)
            assert answer.status_code == 400, answer.text
            said = message(answer)
            space = said.split('example "')[1].split('"')[0]
            assert said.endswith(f"send {says.format(space)}"), said
            # what it says is answered
            if handler == "tei_embed":
                answer = client.post(path, json=body, headers={"x-embedding-space": space})
            else:
                name = "space" if handler == "embed" else "model"
                answer = client.post(path, json=body | {name: space})
            assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(("handler", "body", "status", "says"), REFUSED)
def test_an_error_has_the_form_of_its_api(
    http: httpx.Client, handler: str, body: dict[str, Any], status: int, says: str
) -> None:
    answer = http.post(BODIES[handler][0], json=body)
    said = answer.text.replace("\\", "")
    assert (answer.status_code, says in said) == (status, True), said
    assert is_error_of(handler, answer)


@pytest.mark.parametrize("handler", BODIES)
@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"", {}, 400),
        (b"[]", {}, 400),
        (b"{", {}, 400),
        (b"\xff", {}, 400),
        (b'"\\ud800"', {}, 400),
        (b"{}", {"content-encoding": "gzip"}, 400),
        (b"{}", {"x-latency-budget-ms": "soon"}, 400),
        (b" " * (9 * 2**20), {}, 413),
        (b"{}", {f"x-{number}": "1" for number in range(120)}, 431),
    ],
    ids=["empty", "array", "cut", "bytes", "surrogate", "gzip", "header", "large", "headers"],
)
def test_what_is_refused_before_it_is_read_has_the_form_too(
    http: httpx.Client, handler: str, content: bytes, headers: dict[str, str], status: int
) -> None:
    path, body = BODIES[handler]
    if "x-latency-budget-ms" in headers:
        content = json.dumps(body).encode()
    answer = http.post(path, content=content, headers=headers)
    assert answer.status_code == status, answer.text
    assert is_error_of(handler, answer)


def test_every_form_is_tried_here() -> None:
    assert BODIES.keys() == FORMS.keys()
    assert FORMS.keys() <= {route.handler for route in ROUTES if route.model_serves}
