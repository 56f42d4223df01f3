"""Requests that a service refuses, and a tokenizer that waits until a test lets it go on."""

import threading
from collections.abc import Sequence
from typing import Any

import httpx

from router.tokenised_texts import TokenisedTexts
from router.tokenizer import Tokenizer
from tests.support.counted_tokenizer import Counted

WAIT_S = 60.0


def ask(url: str, path: str = "/v1/embeddings", **options: Any) -> httpx.Response:
    return httpx.post(f"{url}{path}", timeout=WAIT_S, **options)


def error(answer: httpx.Response) -> tuple[int, str, str | None]:
    told = answer.json()["error"]
    return answer.status_code, told["code"], told["param"]


class Gated(Counted):
    """Long texts wait for `go`."""

    def __init__(self, inner: Tokenizer) -> None:
        super().__init__(inner)
        self.go, self.waiting = threading.Event(), 0

    def __call__(self, texts: Sequence[str], input_type: str) -> TokenisedTexts:
        if len(texts[0]) > 60_000:
            self.waiting += 1
            self.go.wait()
        return super().__call__(texts, input_type)
