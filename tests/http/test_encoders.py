"""Students, other places of the same weights, and collections of several spaces, over HTTP: which
model answers, in which space, and what is said about it.
"""

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from deployments.ingress.application import Application
from router import student
from router.encoder_check import load_encoders
from router.spaces import Catalogue
from router.strict import changed, parse_args
from tests.support.bridges import (
    with_fingerprints,
    write_adapter,
)
from tests.support.encoders import (
    ARGS,
    CHINESE,
    ENGLISH,
    QUERY,
    SEVERAL,
    SPACE,
    away,
    embed,
    refused,
    served,
)
from tests.support.local_service import LocalRouter


def vectors(answer: dict[str, Any]) -> np.ndarray:
    return np.array([row["embedding"] for row in answer["data"]], np.float32)


async def test_the_size_of_a_named_encoder_is_that_of_the_space(tmp_path: Path) -> None:
    async with served(tmp_path) as (client, _):
        named = {"model": "tiny", "space": SPACE, "input_type": "query"}
        assert (await embed(client, **named, dimensions=64))["routing"]["model"] == "tiny"
        status, code, message = await refused(client, **named, dimensions=32)
        assert (status, code) == (409, "space_conflict")
        assert "64 dimensions" in message


async def test_a_student_answers_queries_when_no_model_is_ready(tmp_path: Path) -> None:
    async with served(tmp_path) as (client, router):
        native = await embed(client, **QUERY)
        assert native["routing"]["encoder"] == "native"
        assert native["routing"]["expected_recall"] is None
        away(router)
        texts = ["some text", "another long text"]
        answer = await embed(client, **QUERY, input=texts)
        routing = answer["routing"]
        assert (routing["model"], routing["space"]) == ("tiny", SPACE)
        assert (routing["encoder"], routing["expected_recall"]) == ("student", 0.97)
        assert (routing["adapter"], routing["reason"], routing["cached"]) == (
            None,
            "unavailable",
            0,
        )
        weights = router.service.args.models["tiny"].engine.files["weights"]
        wanted = student.load(Path(weights)).encode(texts)
        np.testing.assert_allclose(vectors(answer), wanted, atol=1e-6)
        again = await embed(client, **QUERY, input=texts)
        assert again["routing"]["cached"] == 2
        np.testing.assert_array_equal(vectors(again), vectors(answer))
        assert (await client.get("/health")).status_code == 503


@pytest.mark.parametrize(
    ("input", "recall", "overall"),
    [
        (ENGLISH, 0.9, False),
        (CHINESE, 0.97, True),
        ([ENGLISH, ENGLISH], 0.9, False),
        ([ENGLISH, CHINESE], 0.935, True),
        ("a", 0.97, True),  # of no known language
    ],
    ids=["measured", "not measured", "list", "mixed list", "unknown"],
)
async def test_recall_of_a_language_that_was_not_measured_is_said_to_be_overall(
    tmp_path: Path, input: str | list[str], recall: float, overall: bool
) -> None:
    async with served(tmp_path, languages={"en": 0.9, "unknown": 0.9}) as (client, _):
        body = {"space": SPACE, "model": "tiny", "input_type": "query", "input": input}
        routing = (await embed(client, **body))["routing"]
        assert routing["expected_recall"] == recall, routing
        assert routing.get("recall_measured_for") == (["en"] if overall else None)
        route = (await client.post("/v1/route", json=body)).json()
        assert route["decision"]["expected_recall"] == recall
        assert route["decision"].get("recall_measured_for") == (["en"] if overall else None)
        route = (await client.post("/v1/route", json={**QUERY, "input": input})).json()
        rows = {one["model"]: one for one in route["models"]}
        assert rows["tiny"]["recall_measured_for"] == ["en"]
        assert "recall_measured_for" not in rows["large"]  # nothing of it was measured


async def test_a_late_answer_says_how_much_of_the_budget_was_gone(tmp_path: Path) -> None:
    async with served(tmp_path) as (client, _):
        native = {"model": "large", "latency_budget_ms": 200}
        late = (await embed(client, **native))["routing"]
        assert (late["reason"], late["elapsed_ms"] >= 0.0) == ("late", True)
        unhurried = (await embed(client, model="large", input="a text"))["routing"]
        assert (unhurried["reason"], "elapsed_ms" in unhurried) == ("pinned", False)
        for budget in (native, {"model": "large"}):
            route = (await client.post("/v1/route", json={"input": "text", **budget})).json()
            assert route["decision"]["elapsed_ms"] >= 0.0


async def test_a_student_answers_a_query_that_the_native_model_would_answer_late(
    tmp_path: Path,
) -> None:
    async with served(tmp_path) as (client, _):
        quick = await embed(client, **QUERY, latency_budget_ms=200)
        assert (quick["routing"]["model"], quick["routing"]["reason"]) == ("tiny", "budget")
        patient = await embed(client, **QUERY, latency_budget_ms=20_000)
        assert (patient["routing"]["model"], patient["routing"]["reason"]) == ("large", "pinned")


@pytest.mark.parametrize("side", [{"input_type": "document"}, {}], ids=["document", "none"])
async def test_a_student_makes_no_documents(tmp_path: Path, side: dict[str, str]) -> None:
    async with served(tmp_path) as (client, router):
        away(router)
        assert (await refused(client, space="docs", **side))[1] == "model_unavailable"
        status, code, message = await refused(client, model="tiny", **side)
        assert (status, code) == (400, "invalid_value")
        assert "tiny makes only queries of large/64" in message


async def test_a_student_is_no_candidate_of_a_request_that_names_no_space(tmp_path: Path) -> None:
    async with served(tmp_path) as (client, router):
        away(router)
        for body in ({"model": "auto"}, {"quality": "best"}, {"dimensions": 64}):
            answer = await refused(client, **body, input_type="query")
            assert answer[1] == "model_unavailable"
            assert "tiny" not in answer[2]
            route = (await client.post("/v1/route", json={"input": "text", **body})).json()
            assert "tiny" not in {model["model"] for model in route["models"]}
        route = (await client.post("/v1/route", json={"input": "text", **QUERY})).json()
        assert "tiny" in {model["model"] for model in route["models"]}


async def test_headers_name_the_encoder_where_the_body_cannot(tmp_path: Path) -> None:
    async with served(tmp_path, recall=0.97) as (client, router):
        body = {"model": "docs-query", "input": "some text"}
        native = await client.post("/api/embed", json=body)
        assert native.headers["x-embedding-encoder"] == "native"
        assert "x-expected-recall" not in native.headers
        away(router)
        answer = await client.post("/api/embed", json=body)
        assert "routing" not in answer.json()
        named = ("x-embedding-space", "x-embedding-encoder", "x-expected-recall")
        assert [answer.headers[name] for name in named] == [SPACE, "student", "0.97"]


async def test_a_caller_may_name_a_student(tmp_path: Path) -> None:
    async with served(tmp_path, recall=0.6) as (client, router):
        for _ in range(3):  # his own choice counts in no average
            answer = await embed(client, **QUERY, model="tiny")
            assert answer["routing"]["encoder"] == "student"
        assert router.service.planner.running["docs"].average is None
        alone = await embed(client, model="tiny", input_type="query")
        assert (alone["routing"]["space"], alone["routing"]["encoder"]) == (SPACE, "student")
        both = await embed(client, model="tiny", input_type="query", space=SPACE)
        assert both["routing"]["space"] == SPACE
        assert (await refused(client, model="tiny", input_type="query", dimensions=32))[1] == (
            "dimensions_not_supported"
        )
        status, code, message = await refused(client, space="tiny/64")
        assert (status, code) == (400, "invalid_value")
        assert "its vectors are of large/64" in message


@pytest.mark.parametrize("text", ["zebra", "🦓🦓", " "], ids=["unknown", "signs", "space"])
async def test_a_text_of_which_a_student_reads_nothing_is_not_for_it(
    tmp_path: Path, text: str
) -> None:
    async with served(tmp_path) as (client, router):
        inputs = ["some text", text]
        answer = await embed(client, **QUERY, input=inputs, latency_budget_ms=200)
        assert (answer["routing"]["model"], answer["routing"]["reason"]) == ("large", "late")
        route = (await client.post("/v1/route", json={**QUERY, "input": inputs})).json()
        whys = {one["model"]: one["why"] for one in route["models"]}
        assert whys["tiny"] == "its tokenizer does not know most of the text"
        away(router)
        assert (await refused(client, **QUERY, input=inputs))[:2] == (503, "model_unavailable")
        status, code, message = await refused(client, **QUERY, input=inputs, model="tiny")
        assert (status, code) == (400, "invalid_value")
        assert "input[1]" in message


async def test_a_text_that_is_too_long_for_a_student_is_refused_or_cut(tmp_path: Path) -> None:
    async with served(tmp_path) as (client, _):
        long = "some text " * 300
        assert (await refused(client, **QUERY, model="tiny", input=long))[1] == (
            "context_length_exceeded"
        )
        answer = await embed(client, **QUERY, model="tiny", input=long, truncate="end")
        assert answer["routing"]["truncated"] == [0]


async def test_queries_keep_the_floor_on_average(tmp_path: Path) -> None:
    async with served(tmp_path, recall=0.9, min_recall=0.95) as (client, router):
        average, students, short = None, 0, 0.0
        for number in range(40):
            query = {**QUERY, "input": f"some text {number}"}
            away(router)
            answer = await client.post("/v1/embeddings", json=query)
            route = (await client.post("/v1/route", json=query)).json()
            if answer.status_code == 200:
                students += 1
                assert answer.json()["routing"]["model"] == "tiny"
            else:  # the native model must answer again before the student may
                assert answer.json()["error"]["code"] == "model_unavailable"
                assert "min_recall" in answer.json()["error"]["message"]
                why = {one["model"]: one["why"] for one in route["models"]}["tiny"]
                assert why.startswith("keeps less than the collection's min_recall")
                router.service.replicas_changed("large", ["large"])
                assert (await embed(client, **query))["routing"]["model"] == "large"
            short += 0.95 - (0.9 if answer.status_code == 200 else 1.0)
            assert short <= 0.05 + 1e-9  # one answer of the student
            average = router.service.planner.running["docs"].average
        assert 18 <= students <= 22
        tiers = (await client.get("/v1/tiers")).json()["collections"]["docs"]
        assert tiers["recall"] == pytest.approx(average, abs=1e-4)


async def test_what_is_not_answered_counts_in_no_average(tmp_path: Path) -> None:
    async with served(tmp_path, recall=0.9) as (client, router):
        away(router)
        await embed(client, **QUERY)
        average = router.service.planner.running["docs"].average
        for _ in range(3):
            await refused(client, **QUERY, input="another text")
        await client.post("/v1/route", json={**QUERY, "input": "text"})
        assert router.service.planner.running["docs"].average == average


async def test_what_may_make_a_space_s_vectors_is_shown(tmp_path: Path) -> None:
    async with served(
        tmp_path, adapters=lambda args, at: [write_adapter(args, at, "small", SPACE)]
    ) as (
        client,
        router,
    ):
        shown = (await client.get("/v1/tiers")).json()
        docs = shown["collections"]["docs"]
        assert [(one["model"], one["encoder"], one["sides"]) for one in docs["encoders"]] == [
            ("large", "native", "both"),
            ("small", "adapter", "queries"),
            ("tiny", "student", "queries"),
        ]
        tiny = docs["encoders"][2]
        assert (tiny["expected_recall"], tiny["recall_kept_unseen"]) == (0.97, 0.97)
        assert tiny["recall_kept_fitted"] == pytest.approx(0.98)
        assert (tiny["ndcg_kept_fitted"], tiny["ndcg_kept_unseen"]) == (0.97, 0.97)
        assert (docs["min_recall"], docs["recall"], docs["spaces"]) == (0.95, None, [SPACE])
        row = next(one for one in shown["data"] if one["model"] == "tiny")
        assert (row["tier"], row["space"], row["replicas_ready"]) == (None, SPACE, 1)
        asked = {**QUERY, "input": "some text"}
        route = (await client.post("/v1/route", json=asked)).json()
        assert (route["decision"]["encoder"], route["decision"]["expected_recall"]) == (
            "native",
            None,
        )
        tiny = next(one for one in route["models"] if one["model"] == "tiny")
        assert (tiny["space"], tiny["encoder"], tiny["expected_recall"]) == (SPACE, "student", 0.97)
        away(router)
        await embed(client, **QUERY)
        (decision,) = (await client.get("/v1/decisions")).json()["data"]
        assert (decision["space"], decision["encoder"]) == (SPACE, "student")
        assert decision["expected_recall"] == 0.97


async def test_the_same_weights_in_another_place_make_documents_too(tmp_path: Path) -> None:
    args = await with_fingerprints(ARGS, tmp_path)
    args["models"]["copy"] = {**args["models"]["large"], "space_of": SPACE}
    args["collections"] = {"docs": {"space": SPACE, "encoders": ["copy"]}}
    router = LocalRouter(parse_args(args))
    await router.start()
    asgi = httpx.ASGITransport(Application(router))  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=asgi, base_url="http://localhost") as client:
        native = await embed(client, space="docs", input_type="document")
        away(router, "large")
        copied = await embed(client, space="docs", input_type="document")
        assert (copied["routing"]["model"], copied["routing"]["encoder"]) == ("copy", "same")
        assert (copied["routing"]["space"], copied["routing"]["expected_recall"]) == (SPACE, 1.0)
        assert "recall_measured_for" not in copied["routing"]  # nothing had to be measured
        np.testing.assert_allclose(vectors(copied), vectors(native), atol=1e-6)
        assert (await refused(client, space=SPACE))[1] == "model_unavailable"
    await router.stop()


async def test_a_query_of_several_spaces_goes_to_any_and_says_which(tmp_path: Path) -> None:
    async with served(tmp_path, recall=0.96, **SEVERAL) as (client, router):
        # the first request of a process loads language identification
        await client.post("/v1/route", json={**QUERY, "input": "another"})
        quick = await embed(client, **QUERY, latency_budget_ms=300)
        assert (quick["routing"]["space"], quick["routing"]["encoder"]) == ("small/32", "native")
        assert quick["routing"]["expected_recall"] is None
        assert vectors(quick).shape == (1, 32)
        best = await embed(client, **QUERY)
        assert (best["routing"]["space"], best["routing"]["encoder"]) == (SPACE, "native")
        away(router)
        last = await embed(client, **QUERY)
        assert (last["routing"]["space"], last["routing"]["encoder"]) == (SPACE, "student")


@pytest.mark.parametrize("side", [{"input_type": "document"}, {}], ids=["document", "none"])
async def test_a_document_of_several_spaces_says_which(
    tmp_path: Path, side: dict[str, str]
) -> None:
    async with served(tmp_path, **SEVERAL) as (client, _):
        status, code, message = await refused(client, space="docs", **side)
        assert (status, code) == (409, "space_conflict")
        assert "small/32, large/64" in message
        for space in ("small/32", SPACE):
            answer = await embed(client, space=space, **side)
            assert answer["routing"]["space"] == space


@pytest.mark.parametrize("space", ["small/32", SPACE])
async def test_a_collection_of_several_spaces_is_named_with_one_of_them(
    tmp_path: Path, space: str
) -> None:
    async with served(tmp_path, instruction="find it", **SEVERAL) as (client, _):
        for path in ("/in/docs/v1/embeddings", "/in/docs/document/v1/embeddings"):
            answer = await client.post(path, json={"input": "some text", "space": space})
            assert answer.status_code == 200, answer.text
            assert answer.json()["routing"]["space"] == space
        for model in ("docs", "docs-document"):
            named = await embed(client, model=model, space=space)
            assert named["routing"]["space"] == space
        query = await embed(client, model="docs-query", space=space, latency_budget_ms=200)
        assert query["routing"]["space"] == space
        status, code, _ = await refused(client, model="docs", space="large/32")
        assert (status, code) == (409, "space_conflict")
        cards = (await client.get("/v1/models")).json()["data"]
        card = next(one for one in cards if one["id"] == "docs-query")
        assert card["spaces"] == ["small/32", SPACE]


async def test_dimensions_and_models_narrow_several_spaces(tmp_path: Path) -> None:
    async with served(tmp_path, **SEVERAL) as (client, router):
        for body, space in (({"dimensions": 32}, "small/32"), ({"model": "small"}, "small/32")):
            for _ in range(3):
                answer = await embed(client, **QUERY, **body)
                assert answer["routing"]["space"] == space
        assert router.service.planner.running["docs"].average is None
        assert (await refused(client, **QUERY, dimensions=48))[:2] == (
            400,
            "dimensions_not_supported",
        )
        assert (await refused(client, **QUERY, input=[1, 2, 3]))[0] in (400, 409)


async def test_a_reload_keeps_the_average_of_a_collection_that_did_not_change(
    tmp_path: Path,
) -> None:
    async with served(tmp_path) as (client, router):
        await embed(client, **QUERY)
        service = router.service
        before = service.planner.running["docs"]
        for changes, same in (
            ({"tiers": {"fast": "large"}}, True),
            ({"collections": {"docs": {"space": SPACE, "encoders": ["tiny"]}}}, True),
            ({"collections": {"docs": SPACE, "new": SPACE}}, False),
        ):
            args = changed(service.args.model_dump(mode="json"), changes)
            service.reload(args, Catalogue(args, load_encoders(args)))
            assert (service.planner.running.get("docs") is before) is same
