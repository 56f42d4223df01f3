"""The rerankers' part of the lists of models and of tiers."""

from typing import Any

import numpy as np

from deployments.service.reranking import Reranking
from router.keys import Grant
from router.rerank_config import RerankerConfig

WINDOW_S = 300.0  # the time that p50 and p95 cover


def _usable(reranking: Reranking, caller: Grant) -> dict[str, RerankerConfig]:
    permitted, rerankers = reranking.permitted(caller.models), reranking.rerankers
    return {id: one for id, one in rerankers.items() if permitted is None or id in permitted}


def cards(reranking: Reranking, caller: Grant) -> list[dict[str, Any]]:
    """The entries of /v1/models for the rerankers that the caller can use, by id and by alias."""
    made = []
    for id, one in _usable(reranking, caller).items():
        card = {
            "id": id,
            "object": "model",
            "created": 0,
            "owned_by": "embedding-router",
            "kind": "rerank",
            "model": id,
            "score": one.score_kind,
            "max_tokens": reranking.max_tokens(id),
        }
        aliases = dict.fromkeys(alias for alias in one.aliases if alias != id)
        made += [card, *(card | {"id": alias} for alias in aliases)]
    return made


def tiers(reranking: Reranking, caller: Grant) -> dict[str, Any]:
    """The rerankers in /v1/tiers: the reranker of each tier, and a live row for each reranker."""
    usable, loads = _usable(reranking, caller), reranking.loads()
    named = {str(tier): id for tier, id in reranking.tiers.items() if id in usable}
    rows = []
    for id, one in usable.items():
        now, load = reranking.clock(), loads[id]
        recent = [took for at, took in reranking.latencies[id] if now - at <= WINDOW_S]
        p50, p95 = np.percentile(recent, (50, 95)) * 1000 if recent else (None, None)
        rows.append(
            {
                "model": id,
                "tier": next((tier for tier, other in named.items() if other == id), None),
                "engine": one.engine.kind,
                "served_by": one.similarity or id,
                "score": one.score_kind,
                "max_tokens": reranking.max_tokens(id),
                "quality": dict(reranking.models[id].quality),
                "p50_ms": None if p50 is None else round(float(p50), 2),
                "p95_ms": None if p95 is None else round(float(p95), 2),
                "answers": len(recent),
                "replicas_ready": load.ready_replicas,
                "load": {"ahead_tokens": load.ahead_tokens, "margin": load.margin},
                "good_for": one.good_for,
            }
        )
    return {"rerank_tiers": named, "rerankers": rows}
