"""A service with rerankers whose scores a test can compute."""

from typing import Any

import httpx

from deployments.engines.fake_rerank import hashed

TEMPLATE = "judge {instruction} | {query} | {document} :"
DOCUMENTS = ["one", "two", "three", "four", "five"]
LONG = "word " * 100  # 125 tokens of the fake engine, and 60 or 40 are read
CURVE = {"fixed_s": 0.0, "base_s": 0.001, "s_per_token": 0.00001}


def reranker(seconds: float = 0.001, seed: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "engine": {"kind": "fake", "seed": seed, "base_s": seconds},
        "template": TEMPLATE,
        "instruction": "well",
        "max_tokens": 60,
        "curve": CURVE | {"base_s": seconds},
        **more,
    }


def model(dimensions: int) -> dict[str, Any]:
    return {"engine": {"kind": "fake"}, "dimensions": dimensions, "max_tokens": 40, "curve": CURVE}


ARGS: dict[str, Any] = {
    "models": {"small": model(8), "large": model(16)},
    "tiers": {"fast": "small", "best": "large"},
    "rerankers": {
        "quick": reranker(aliases=["Org/Quick"], quality={"default": 50}),
        "slow": reranker(0.5, seed=1, score="raw", quality={"default": 60}),
        "by-large": {"engine": {"kind": "similarity", "model": "large"}},
    },
    "rerank_tiers": {"fast": "quick", "balanced": "slow", "best": "by-large"},
}


def rerank(http: httpx.Client, path: str = "/v1/rerank", **body: Any) -> dict[str, Any]:
    answer = http.post(path, json={"query": "which?", "documents": DOCUMENTS} | body)
    assert answer.status_code == 200, answer.text
    parsed: dict[str, Any] = answer.json()
    return parsed


def expected(documents: list[str], query: str = "which?", task: str = "well", seed: int = 0) -> Any:
    texts = [
        TEMPLATE.replace("{instruction}", task).replace("{query}", query).replace("{document}", one)
        for one in documents
    ]
    return hashed([f"document:{text}".encode() for text in texts], seed)[:, 0]
