"""Requests that end refused, on a real socket: what they cost, and that their neighbours do not
notice.
"""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.local_service import ARGS, LocalRouter, served

WAIT_S = 60.0
MINILM: dict[str, Any] = {
    **ARGS["models"]["all-minilm-l6-v2"],
    "prompts": {"query": "Instruct: {instruction}\nQuery: {text}"},
}


def ask(url: str, path: str = "/v1/embeddings", **options: Any) -> httpx.Response:
    return httpx.post(f"{url}{path}", timeout=WAIT_S, **options)


def error(answer: httpx.Response) -> tuple[int, str, str | None]:
    told = answer.json()["error"]
    return answer.status_code, told["code"], told["param"]


@pytest.fixture(scope="module")
def prompted() -> Iterator[tuple[str, LocalRouter]]:
    with served(
        {
            "models": {"wordllama-256": ARGS["models"]["wordllama-256"], "minilm": MINILM},
            "tiers": {"fast": "wordllama-256", "best": "minilm"},
            "limits": {"max_prompt_characters": 20_000},
        }
    ) as both:
        yield both


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/route"])
@pytest.mark.parametrize("characters", [2_001, 50_000])
def test_a_long_instruction_is_refused_before_anything_is_built(
    prompted: tuple[str, LocalRouter], path: str, characters: int
) -> None:
    body = {"input": ["ab"] * 500, "input_type": "query", "instruction": "z" * characters}
    answer = ask(prompted[0], path, json=body)
    assert error(answer) == (400, "invalid_value", "instruction")
    assert "limits.max_instruction_characters" in answer.json()["error"]["message"]
    assert "may have 2000" in answer.json()["error"]["message"]


@pytest.mark.parametrize("model", ["minilm", "auto"])
def test_prompts_of_many_texts_are_refused_before_they_are_built(
    prompted: tuple[str, LocalRouter], model: str
) -> None:
    body = {"input": ["ab"] * 500, "model": model, "instruction": "z" * 100}
    answer = ask(prompted[0], json=body)
    assert error(answer) == (400, "invalid_value", "instruction")
    told = answer.json()["error"]["message"]
    assert "500 texts with a prompt of 118 characters each have 59000 characters" in told
    assert "limits.max_prompt_characters" in told
    few = ask(prompted[0], json={**body, "input": ["ab"] * 100, "model": "minilm"})
    assert few.status_code == 200


def test_an_operators_own_prompt_is_bounded_by_the_number_of_texts(
    prompted: tuple[str, LocalRouter],
) -> None:
    body = {"input": ["ab"] * 2048, "model": "minilm", "input_type": "query"}
    assert error(ask(prompted[0], json=body)) == (400, "invalid_value", "input")
    assert ask(prompted[0], json={**body, "input_type": "document"}).status_code == 200
