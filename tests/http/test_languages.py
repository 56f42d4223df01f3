"""A text is decided by its words, whatever form it comes in."""

import unicodedata

import httpx
import numpy as np
import pytest

from deployments.ingress.application import Application
from deployments.ingress.deployment import Router
from router.schema import EmbeddingsRequest
from router.strict import parse_args
from tests.support.local_service import FAKE

PlainRouter = Router.__mro__[1]  # without what Serve puts around it
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


async def test_a_prior_is_taken_from_the_config_and_changes_without_a_restart() -> None:
    args = {"models": {"a": FAKE}, "tiers": {"fast": "a"}}
    router = PlainRouter(parse_args(args).model_dump(mode="json"), {})
    transport = httpx.ASGITransport(Application(router))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:

        async def language() -> str | None:
            service = router.service
            plan = await service.plan(EmbeddingsRequest(("reset password",), None, model="a"))
            return plan.features.language

        await router.reconfigure({})
        router.service.replicas_changed("a", ["a"])
        found = [await language()]
        for prior in ({"en": 5.0}, {"de": 20.0}, {}):
            await router.reconfigure({"routing": {"language_prior": prior}})
            found.append(await language())
        assert found == [None, "en", "de", None]
        await router.reconfigure({"routing": {"language_prior": {"english": 5.0}}})
        said = (await client.get("/v1/tiers")).json()["reload_error"]
        assert "routing.language_prior" in said
        assert "did you mean en?" in said
