"""A text is decided by its words, whatever form it comes in."""

import unicodedata
from typing import Any

import httpx
import numpy as np
import pytest

from benchmarks import languages
from deployments.ingress.application import Application
from deployments.ingress.deployment import Router
from router.schema import EmbeddingsRequest
from router.strict import parse_args
from tests.support.local_service import ARGS, FAKE, served

PlainRouter = Router.__mro__[1]  # without what Serve puts around it
EACH = 5  # texts of a language
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


BLANK = [" ", "   ", "\n", "\t \r\n", "\u3000", "\u00a0"]


@pytest.mark.parametrize("prior", [{}, {"en": 5.0, "de": 5.0}], ids=str)
def test_white_space_is_served_and_has_no_language(prior: dict[str, float]) -> None:
    args = ARGS | {"routing": ARGS["routing"] | {"language_prior": prior}}
    with served(args) as (url, _), httpx.Client(base_url=url, timeout=60) as client:
        for text in BLANK:
            for model in ("auto", *args["models"]):
                answer = client.post("/v1/embeddings", json={"input": text, "model": model})
                assert answer.status_code == 200, answer.text
                assert answer.json()["routing"]["language"] is None
            explained = client.post("/v1/route", json={"input": text}).json()["features"]
            assert (explained["language"], explained["script"]) == (None, None)
        texts = ["Tell me more about this railway station.", *BLANK]
        several = client.post("/v1/embeddings", json={"input": texts}).json()
        assert several["routing"]["languages"] == {"en": 1, "unknown": len(BLANK)}
        assert len(several["data"]) == len(texts)
        for refused in ("", ["a", ""]):
            answer = client.post("/v1/embeddings", json={"input": refused})
            assert answer.json()["error"]["code"] == "invalid_value"


def decided(http: httpx.Client, texts: str | list[str]) -> dict[str, Any]:
    answer = http.post("/v1/route", json={"input": texts})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    features = {name: value for name, value in body["features"].items() if name != "tokens"}
    return {**features, "model": body["decision"]["model"]}


@pytest.mark.parametrize("text", ["hi", "Hi!", "hi hi", "hello", "thanks", "ok", "nope"])
def test_a_greeting_does_not_need_the_largest_model(http: httpx.Client, text: str) -> None:
    assert decided(http, text)["model"] == "wordllama-256"


def test_650_variants_of_short_queries_are_decided_as_the_queries_are(http: httpx.Client) -> None:
    plain = {query: decided(http, query) for query in languages.QUERIES}
    found = [
        decided(http, change(query)) == plain[query]
        for query in languages.QUERIES
        for change in languages.VARIANTS.values()
    ]
    assert len(found) >= 600
    assert languages.share(found) == 1.0
    assert languages.share(one["model"] == "wordllama-256" for one in plain.values()) == 1.0


def test_texts_in_42_languages_are_decided_alike_in_both_forms(http: httpx.Client) -> None:
    texts = languages.labelled(languages.DATA)
    assert len({text.language for text in texts}) == 42
    alike = []
    for language in sorted({text.language for text in texts}):
        for text in [text.text for text in texts if text.language == language][:EACH]:
            forms = [unicodedata.normalize(form, text) for form in languages.FORMS]
            composed, decomposed = (decided(http, form) for form in forms)
            alike.append(composed == decomposed)
    assert languages.share(alike) == 1.0


def test_texts_in_42_languages_have_one_vector_in_both_forms(http: httpx.Client) -> None:
    texts = {text.language: text.text for text in languages.labelled(languages.DATA)}
    cosines = []
    for form in languages.FORMS:
        body = {
            "input": [unicodedata.normalize(form, text) for text in texts.values()],
            "model": "multilingual-e5-small",
        }
        answer = http.post("/v1/embeddings", json=body).json()
        cosines.append(np.array([item["embedding"] for item in answer["data"]]))
    assert len(texts) == 42
    assert languages.share((cosines[0] * cosines[1]).sum(axis=1) > 0.99999) == 1.0


FOREIGN = "ar bg bn el fa he hi ja ko ru sr ta th uk ur zh".split()  # noqa: SIM905
LATIN = "cs de es fi fr hu it nl pl pt ro sv tr vi".split()  # noqa: SIM905
COUNTS = (1, 2, 3, 5, 7, 9)


@pytest.fixture(scope="module")
def by_language() -> dict[str, list[str]]:
    texts: dict[str, list[str]] = {}
    for text in languages.labelled(languages.DATA):
        texts.setdefault(text.language, []).append(text.text)
    return texts


@pytest.mark.parametrize(
    ("foreign", "min_right", "min_counted"),
    [
        pytest.param(FOREIGN, 1.0, 0.95, id="other-scripts"),
        pytest.param(LATIN, 0.95, 0.8, id="Latin"),
    ],
)
def test_a_list_is_decided_by_the_share_of_its_texts(
    http: httpx.Client,
    by_language: dict[str, list[str]],
    foreign: list[str],
    min_right: float,
    min_counted: float,
) -> None:
    """Of ten texts so many are not English; a floor is raised from a fifth on."""
    english = languages.questions(languages.DATA)[:10]
    right, counted = list[bool](), list[bool]()
    for language in foreign:
        others = (by_language[language] * 10)[:9]
        for count in COUNTS:
            texts = [*others[:count], *english[count:]]
            for order in (texts, texts[::-1], [*texts[5:], *texts[:5]]):
                found = decided(http, order)
                high = found["model"] == "multilingual-e5-small"
                right.append(high == (count >= 2))
                counted.append(found["languages"].get("en", 0) == 10 - count)
    assert len(right) == len(foreign) * len(COUNTS) * 3
    assert languages.share(right) >= min_right
    assert languages.share(counted) >= min_counted


def test_a_list_is_decided_alike_in_both_forms(
    http: httpx.Client, by_language: dict[str, list[str]]
) -> None:
    english = languages.questions(languages.DATA)[:10]
    alike, changed = list[bool](), 0
    for language in (*FOREIGN, *LATIN):
        for count in COUNTS:
            texts = [*(by_language[language] * 10)[:count], *english[count:]]
            forms = [
                [unicodedata.normalize(form, text) for text in texts] for form in languages.FORMS
            ]
            changed += forms[0] != forms[1]
            composed, decomposed = (decided(http, form) for form in forms)
            alike.append(composed == decomposed)
    assert changed >= len(alike) // 2
    assert languages.share(alike) == 1.0


@pytest.mark.parametrize("long", ["english", "chinese"])
def test_one_long_text_in_a_list_outvotes_none(http: httpx.Client, long: str) -> None:
    english, chinese = "The delivery was late.", "\u9001\u8d27\u665a\u4e86"
    if long == "english":
        found = decided(http, [*[chinese] * 9, english * 8])
        assert (found["language"], found["model"]) == ("zh", "multilingual-e5-small")
    else:
        found = decided(http, [*[english] * 9, chinese * 30])
        assert (found["language"], found["model"]) == ("en", "wordllama-256")


UNREAD = {
    "emoji": ["\U0001f600", "\U0001f621"],
    "mathematical letters": ["\U0001d4d7\U0001d4ee\U0001d4f5", "\U0001d54e\U0001d560\U0001d563"],
    "circled digits": ["\u2460\u2461", "\u2462\u2463"],
    "Cherokee": ["\u13e3\u13b3\u13a9", "\u13a0\u13c2\u13f4\u13eb\u13ef"],
    "Tifinagh": ["\u2d5c\u2d30\u2d4e\u2d30\u2d63\u2d49\u2d56\u2d5c", "\u2d30\u2d63\u2d53\u2d4d"],
    "Inuktitut": ["\u1403\u14c4\u1483\u144e\u1450\u1466", "\u14c4\u14c7\u1557\u1466"],
}


@pytest.mark.parametrize("texts", UNREAD.values(), ids=UNREAD)
def test_a_text_goes_to_no_model_that_reads_nothing_of_it(texts: list[str]) -> None:
    routing = {"default_tier": "balanced"}
    with served(ARGS | {"routing": routing}) as (url, _), httpx.Client(base_url=url) as http:

        def embedded(**body: Any) -> dict[str, Any]:
            answer = http.post("/v1/embeddings", json={"input": texts, **body}, timeout=60)
            assert answer.status_code == 200, answer.text
            parsed: dict[str, Any] = answer.json()
            return parsed

        free, pinned = embedded(), embedded(model="all-minilm-l6-v2")
        assert free["model"] != "all-minilm-l6-v2"
        assert "unread" not in free["routing"]
        one, other = (np.array(item["embedding"]) for item in free["data"])
        assert one @ other < 0.999
        assert pinned["model"] == "all-minilm-l6-v2"
        assert pinned["routing"]["unread"] == 1.0


@pytest.mark.parametrize(
    ("max_unread", "model"),
    [({}, "multilingual-e5-small"), ({"max_unread": 1.0}, "all-minilm-l6-v2")],
    ids=["default", "all"],
)
def test_the_config_says_how_much_of_a_text_a_model_must_read(
    max_unread: dict[str, float], model: str
) -> None:
    routing = {"default_tier": "balanced", **max_unread}
    with served(ARGS | {"routing": routing}) as (url, _), httpx.Client(base_url=url) as http:
        body = {"input": UNREAD["emoji"]}
        routed = http.post("/v1/embeddings", json=body, timeout=60).json()["routing"]
    assert routed["model"] == model
    assert routed.get("unread") == (1.0 if max_unread else None)


def test_both_forms_of_a_text_have_one_decision_and_one_vector(http: httpx.Client) -> None:
    answers = [
        http.post("/v1/embeddings", json={"input": unicodedata.normalize(form, VIETNAMESE)}).json()
        for form in ("NFC", "NFD")
    ]
    assert [answer["routing"]["language"] for answer in answers] == ["vi", "vi"]
    assert [answer["model"] for answer in answers] == ["multilingual-e5-small"] * 2
    composed, decomposed = (np.array(answer["data"][0]["embedding"]) for answer in answers)
    assert composed @ decomposed > 0.999999


def test_codes_of_rules_are_read_as_those_of_requests() -> None:
    rules = [
        {"name": "asian", "when": {"languages": ["zho", "ja-JP"]}, "floor": "best"},
        {"name": "nordic", "when": {"languages": ["NB", "SWE"]}, "floor": "best"},
    ]
    args = {
        "models": {"a": FAKE, "b": {**FAKE, "quality": {"eng": 60, "default": 50}}},
        "tiers": {"fast": "a", "best": "b"},
        "routing": {"rules": rules, "language_prior": {"eng": 5.0}},
    }
    with served(args) as (url, _), httpx.Client(base_url=url, timeout=60) as client:
        for body, reason in (
            ({"input": "今天天气很好,我们去公园散步吧"}, "rule:asian"),
            ({"input": "text", "language": "yue-HK"}, "rule:asian"),
            ({"input": "text", "language": "jpn"}, "rule:asian"),
            ({"input": "text", "language": "nn-NO"}, "rule:nordic"),
            ({"input": "text", "language": "sv"}, "rule:nordic"),
            ({"input": "text", "language": "da"}, "auto"),
        ):
            decision = client.post("/v1/route", json=body).json()["decision"]
            assert decision["reason"] == reason, body
        assert client.get("/v1/tiers").json()["data"][1]["quality"] == {"en": 60, "default": 50}


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
