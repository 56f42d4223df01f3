"""A text is decided by its words, whatever form it comes in."""

import unicodedata

import httpx
import numpy as np
import pytest

from router.strict import parse_args
from deployments.service.catalogue import Catalogue
from tests.support.local_service import ARGS, served

VIETNAMESE = "Tôi muốn trả lại sản phẩm này vì nó bị hỏng"


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Reset password \u2014 urgent", "en"),
        ("Reset your password\u3002", "en"),
        ("reset your password", "en"),
        ("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", None),
        ("passwort vergessen", "de"),
    ],
)
def test_short_texts_are_decided_by_their_words(
    http: httpx.Client, text: str, language: str | None
) -> None:
    answer = http.post("/v1/route", json={"input": text}).json()
    assert answer["features"]["language"] == language
    model = "multilingual-e5-small" if language == "de" else "wordllama-256"
    assert answer["decision"]["model"] == model


def test_both_forms_of_a_text_have_one_decision_and_one_vector(http: httpx.Client) -> None:
    answers = [
        http.post("/v1/embeddings", json={"input": unicodedata.normalize(form, VIETNAMESE)}).json()
        for form in ("NFC", "NFD")
    ]
    assert [answer["routing"]["language"] for answer in answers] == ["vi", "vi"]
    assert [answer["model"] for answer in answers] == ["multilingual-e5-small"] * 2
    composed, decomposed = (np.array(answer["data"][0]["embedding"]) for answer in answers)
    assert composed @ decomposed > 0.999999


def test_a_prior_is_taken_from_the_config_and_changes_without_a_restart() -> None:
    with served() as (url, router), httpx.Client(base_url=url, timeout=60) as client:

        def language() -> str | None:
            answer = client.post("/v1/route", json={"input": "reset password"})
            found: str | None = answer.json()["features"]["language"]
            return found

        assert language() is None
        args = parse_args(ARGS | {"routing": {**ARGS["routing"], "language_prior": {"en": 5.0}}})
        router.service.reload(args, Catalogue(args, {}))
        assert language() == "en"
