"""POST /v1/embeddings as clients see it: what was decided is said, and every format holds the same
vector.
"""

import base64
import re
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from openai import OpenAI

from tests.support.launched import ROOT
from tests.support.local_service import ARGS, LocalRouter, served

pytestmark = pytest.mark.models

CHINESE = "今天天气很好，我们去公园散步吧。"
ENGLISH = "How are you today"


def embed(http: httpx.Client, **body: Any) -> dict[str, Any]:
    answer = http.post("/v1/embeddings", json=body)
    assert answer.status_code == 200, answer.text
    parsed: dict[str, Any] = answer.json()
    return parsed


def vectors(answer: dict[str, Any]) -> np.ndarray:
    return np.array([item["embedding"] for item in answer["data"]], np.float32)


def from_base64(answer: dict[str, Any], dtype: str = "<f4") -> np.ndarray:
    return np.array(
        [np.frombuffer(base64.b64decode(item["embedding"]), dtype) for item in answer["data"]]
    )


def test_the_plain_openai_client_works_with_no_options(openai_client: OpenAI) -> None:
    answer = openai_client.embeddings.create(model="auto", input=ENGLISH)
    assert len(answer.data[0].embedding) == 256
    assert answer.model == "wordllama-256"
    assert answer.usage.prompt_tokens > 0


def test_an_answer_names_its_model_its_reason_and_its_space(http: httpx.Client) -> None:
    answer = http.post("/v1/embeddings", json={"input": CHINESE, "model": "auto"})
    routing = answer.json()["routing"]
    assert routing["model"] == "multilingual-e5-small"
    assert routing["tier"] == "best"
    assert routing["reason"] == "rule:not-english"
    assert routing["space"] == "multilingual-e5-small/384"
    assert routing["language"] == "zh"
    assert routing["degraded"] is False
    assert answer.headers["x-embedding-model"] == "multilingual-e5-small"
    assert answer.headers["x-embedding-space"] == "multilingual-e5-small/384"
    assert answer.headers["x-routing-reason"] == "rule:not-english"
    for name in ("x-request-id", "x-predicted-ms", "x-queue-ms", "x-inference-ms", "x-total-ms"):
        assert answer.headers[name]


@pytest.mark.parametrize(
    ("body", "model", "reason"),
    [
        ({"model": "auto"}, "wordllama-256", "auto"),
        ({}, "wordllama-256", "auto"),
        ({"model": "best"}, "multilingual-e5-small", "tier"),
        ({"quality": "best"}, "multilingual-e5-small", "tier"),
        ({"model": "balanced"}, "all-minilm-l6-v2", "tier"),
        ({"model": "Multilingual-E5-Small"}, "multilingual-e5-small", "pinned"),
        ({"model": "intfloat/multilingual-e5-small"}, "multilingual-e5-small", "pinned"),
        ({"space": "multilingual-e5-small/384"}, "multilingual-e5-small", "pinned"),
        ({"space": "wordllama-256/64"}, "wordllama-256", "pinned"),
        # without figures of quality the larger of those that make 384 dimensions
        ({"dimensions": 384}, "multilingual-e5-small", "auto"),
        ({"dimensions": 128, "model": "fast"}, "wordllama-256", "tier"),
        ({"input": "word " * 220}, "multilingual-e5-small", "rule:long"),
        ({"input": "word " * 2000, "model": "balanced"}, "multilingual-e5-small", "context"),
        ({"language": "zh-Hant"}, "multilingual-e5-small", "rule:not-english"),
    ],
    ids=[
        "auto",
        "no-model",
        "tier-as-model",
        "tier-as-quality",
        "balanced",
        "id-any-case",
        "hub-prefix",
        "space",
        "smaller-space",
        "free-with-dimensions",
        "tier-with-dimensions",
        "long",
        "too-long-for-its-tier",
        "language-hint",
    ],
)
def test_a_request_goes_where_it_says(
    http: httpx.Client, body: dict[str, Any], model: str, reason: str
) -> None:
    answer = embed(http, **{"input": ENGLISH, **body})
    assert (answer["routing"]["model"], answer["routing"]["reason"]) == (model, reason)
    assert answer["model"] == model


def test_headers_work_like_body_keys_and_the_body_wins(http: httpx.Client) -> None:
    headers = {"X-Quality-Tier": "best", "X-Latency-Budget-Ms": "60000"}
    by_header = http.post("/v1/embeddings", json={"input": ENGLISH}, headers=headers)
    assert by_header.json()["routing"]["model"] == "multilingual-e5-small"
    both = http.post("/v1/embeddings", json={"input": ENGLISH, "quality": "fast"}, headers=headers)
    assert both.json()["routing"]["model"] == "wordllama-256"
    pinned = http.post(
        "/v1/embeddings", json={"input": ENGLISH}, headers={"X-Embedding-Space": "wordllama-256/64"}
    )
    assert pinned.json()["routing"]["space"] == "wordllama-256/64"


def test_base64_and_float_are_the_same_bits(http: httpx.Client) -> None:
    texts = [ENGLISH, CHINESE, "def f(x): return x", "a" * 5000]
    as_float = vectors(embed(http, input=texts, model="best", encoding_format="float"))
    as_bytes = from_base64(embed(http, input=texts, model="best", encoding_format="base64"))
    assert as_float.tobytes() == as_bytes.tobytes()


@pytest.mark.parametrize("size", [64, 128])
def test_a_smaller_space_is_the_cut_and_renormalised_vector(http: httpx.Client, size: int) -> None:
    whole = vectors(embed(http, input=[ENGLISH, "another text"], model="fast"))
    cut = vectors(embed(http, input=[ENGLISH, "another text"], model="fast", dimensions=size))
    expected = whole[:, :size] / np.linalg.norm(whole[:, :size], axis=1, keepdims=True)
    assert cut.shape == (2, size)
    np.testing.assert_allclose(cut, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("encoding_format", "dtype", "width"),
    [("int8", "i1", 256), ("uint8", "u1", 256), ("binary", "i1", 32), ("ubinary", "u1", 32)],
)
def test_quantised_formats_hold_the_same_direction(
    http: httpx.Client, encoding_format: str, dtype: str, width: int
) -> None:
    exact = vectors(embed(http, input=ENGLISH, model="fast"))[0]
    coarse = from_base64(
        embed(http, input=ENGLISH, model="fast", encoding_format=encoding_format), dtype
    )[0]
    assert coarse.shape == (width,)
    if encoding_format in ("int8", "uint8"):
        signed = coarse.astype(np.float32) - (128 if encoding_format == "uint8" else 0)
        assert signed @ exact / np.linalg.norm(signed) > 0.999
    else:
        bits = np.unpackbits(
            (coarse.astype(np.int16) + (128 if encoding_format == "binary" else 0)).astype(np.uint8)
        )
        assert (bits.astype(bool) == (exact > 0)).all()


def test_2048_items_come_back_in_order_with_duplicates(http: httpx.Client) -> None:
    texts = [f"item number {index % 700}" for index in range(2048)]
    answer = embed(http, input=texts, model="fast")
    assert [item["index"] for item in answer["data"]] == list(range(2048))
    made = vectors(answer)
    alone = vectors(embed(http, input="item number 699", model="fast"))[0]
    np.testing.assert_array_equal(made[699], alone)
    np.testing.assert_array_equal(made[699], made[1399])
    assert not np.array_equal(made[699], made[698])


def test_a_repeated_text_is_answered_from_the_cache_with_the_same_bits(http: httpx.Client) -> None:
    text = "a sentence that only this test sends"
    first, second = embed(http, input=text, model="best"), embed(http, input=text, model="best")
    assert (first["routing"]["cached"], second["routing"]["cached"]) == (0, 1)
    assert first["usage"] == second["usage"]
    assert first["data"] == second["data"]
    mixed = embed(http, input=["new beside it", text, "new beside it"], model="best")
    assert mixed["data"][1]["embedding"] == first["data"][0]["embedding"]
    assert (
        mixed["data"][0]["embedding"]
        == mixed["data"][2]["embedding"]
        != first["data"][0]["embedding"]
    )


def test_a_small_budget_keeps_texts_whose_vectors_are_at_hand(http: httpx.Client) -> None:
    texts = [f"{number} " + "kept by the cache " * 30 for number in range(20)]
    first = embed(http, input=texts, model="best")
    budget_ms = first["routing"]["predicted_ms"] / 3
    assert budget_ms > 200  # reading them takes a tenth of that
    again = embed(http, input=texts, model="best", latency_budget_ms=budget_ms)["routing"]
    assert (again["reason"], again["predicted_ms"], again["degraded"]) == ("tier", 0.0, False)
    others = [f"new {text}" for text in texts]
    route = {"input": others, "model": "best", "latency_budget_ms": budget_ms}
    late = http.post("/v1/route", json=route).json()["decision"]
    assert late["reason"] == "budget"


def test_a_text_that_a_list_repeats_is_predicted_once(http: httpx.Client) -> None:
    def work_ms(texts: list[str]) -> float:
        answer = http.post("/v1/route", json={"input": texts, "model": "best"}).json()
        return float(next(one["work_ms"] for one in answer["models"] if one["chosen"]))

    text = "a sentence that a list repeats " * 10
    once, twenty = work_ms([text]), work_ms([text] * 20)
    assert twenty == pytest.approx(once)
    assert work_ms([f"{number} {text}" for number in range(20)]) > 10 * once
    routing = embed(http, input=[text] * 20, model="best")["routing"]
    assert routing["cached"] == 19


def test_queries_and_documents_have_their_own_prompts(http: httpx.Client) -> None:
    query = vectors(embed(http, input="protein per day", model="best", input_type="query"))
    document = vectors(embed(http, input="protein per day", model="best", input_type="document"))
    default = vectors(embed(http, input="protein per day", model="best"))
    assert not np.allclose(query, document, atol=1e-3)
    np.testing.assert_array_equal(query, default)


def test_a_text_too_long_for_its_model_is_cut_only_when_asked_and_said(http: httpx.Client) -> None:
    text = "start " + "middle " * 400 + "end"
    refused = http.post("/v1/embeddings", json={"input": text, "model": "all-minilm-l6-v2"})
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "context_length_exceeded"
    assert "256" in refused.json()["error"]["message"]
    for where in ("end", "start"):
        cut = embed(http, input=["short", text], model="all-minilm-l6-v2", truncate=where)
        assert cut["routing"]["truncated"] == [1]
        assert 200 < cut["usage"]["prompt_tokens"] <= 256 + 3
    whole = embed(http, input=["short", text], truncate="end")
    assert whole["routing"]["truncated"] == []
    assert whole["routing"]["model"] == "multilingual-e5-small"


@pytest.mark.parametrize("model", ["auto", "best", "fast"])
def test_what_the_error_says_of_a_text_that_nothing_reads_is_what_cutting_it_then_does(
    http: httpx.Client, model: str
) -> None:
    body = {"input": "word " * 40_000, "model": model}
    error = http.post("/v1/embeddings", json=body).json()["error"]
    said = re.search(r"and (\S+) reads (\d+)[; ]", error["message"])
    assert said is not None, error
    assert (
        http.post("/v1/route", json=body | {"truncate": "end"}).json()["decision"]["model"]
        == said[1]
    )
    if model == "fast":  # the others take half a minute for this
        cut = embed(http, **body, truncate="end")
        assert (cut["routing"]["model"], cut["routing"]["truncated"]) == (said[1], [0])
        assert int(said[2]) - 3 <= cut["usage"]["prompt_tokens"] <= int(said[2])


def test_token_ids_of_the_pinned_model_are_embedded_as_they_are(
    http: httpx.Client, running: tuple[str, LocalRouter]
) -> None:
    prepared = running[1].service.preparer.prepare([ENGLISH], None, None, ["wordllama-256"])[
        "wordllama-256"
    ]
    assert prepared.ids is not None
    ids = prepared.ids[0].tolist()
    by_text = vectors(embed(http, input=ENGLISH, model="wordllama-256"))
    by_ids = vectors(embed(http, input=ids, model="wordllama-256", token_ids="model"))
    by_list = vectors(embed(http, input=[ids, ids[:2]], model="wordllama-256", token_ids="model"))
    np.testing.assert_array_equal(by_text, by_ids)
    np.testing.assert_array_equal(by_list[0], by_ids[0])


def test_related_sentences_are_closer_in_english_and_in_chinese(http: httpx.Client) -> None:
    for texts in (
        [
            "A man is playing a guitar.",
            "Someone plays an instrument.",
            "The stock market fell sharply.",
        ],
        ["一个男人在弹吉他。", "有人在演奏乐器。", "股市大幅下跌。"],
    ):
        made = vectors(embed(http, input=texts))
        assert made[0] @ made[1] > made[0] @ made[2]


FOREIGN = {
    "zh": "包裹送到的时候箱子已经坏了，我想要退货。",
    "ru": "Посылка пришла разбитой, и я хочу вернуть деньги.",
    "ja": "荷物が届いたとき、箱がこわれていました。返品したいです。",
}


@pytest.fixture(scope="module")
def shipped() -> dict[str, Any]:
    """The rules and points of configs/local.yaml, which alone decide what stands in for the largest
    model: it misses every budget, and no model is left out for what it does not read.
    """
    config = yaml.safe_load((ROOT / "configs" / "local.yaml").read_text())
    own = config["applications"][0]["args"]
    models = {
        name: one | {"quality": own["models"][name]["quality"]}
        for name, one in ARGS["models"].items()
    }
    largest = models["multilingual-e5-small"]
    largest["curve"] = largest["curve"] | {"fixed_s": 600.0}
    return ARGS | {"models": models, "routing": own["routing"] | {"max_unread": 1.0}}


@pytest.mark.parametrize("better", ["wordllama-256", "all-minilm-l6-v2"])
def test_a_budget_lowers_a_text_to_the_model_with_the_most_points_for_its_language(
    shipped: dict[str, Any], better: str
) -> None:
    models = shipped["models"]
    if better != "wordllama-256":
        points = {"en": 82.0, "default": 70.0}
        models = models | {better: models[better] | {"quality": points}}
    with served(shipped | {"models": models}) as (url, _), httpx.Client(base_url=url) as http:
        for language, text in FOREIGN.items():
            answer = http.post(
                "/v1/embeddings", json={"input": text, "latency_budget_ms": 60_000}, timeout=60
            )
            assert answer.status_code == 200, answer.text
            routing = answer.json()["routing"]
            assert routing["language"] == language
            assert (routing["model"], routing["degraded"]) == (better, True)
            assert routing["reason"] == "budget"


def test_a_budget_that_the_target_cannot_meet_lowers_it_and_says_so(http: httpx.Client) -> None:
    text = CHINESE * 60
    free = embed(http, input=text)
    assert free["routing"]["model"] == "multilingual-e5-small"
    tight = embed(http, input=text + "。", latency_budget_ms=20)
    assert tight["routing"]["degraded"] is True
    assert tight["routing"]["reason"] in (
        "budget",
        "late",
    )  # on a slow machine the small model is late too
    pinned = http.post(
        "/v1/embeddings",
        json={
            "input": text + "！",
            "model": "multilingual-e5-small",
            "latency_budget_ms": 1,
            "on_budget_miss": "reject",
        },
    )
    assert pinned.status_code == 503
    assert pinned.json()["error"]["code"] == "budget_unreachable"
    assert int(pinned.headers["retry-after"]) >= 1
