"""Views of the router itself: models, tiers, health, explanations, documentation."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import orjson

from deployments.ingress import rerank_views
from deployments.ingress.explanation import settings
from deployments.ingress.model_list import ModelList
from deployments.ingress.what_if import WhatIf, current
from deployments.service.experiments import CANARY
from deployments.service.plan import Plan
from deployments.service.recent import milliseconds, parse_query
from deployments.service.reranking import Reranking
from deployments.service.service import Service
from router.domain import Load, Why, Work, attention
from router.encoders import Encoder
from router.keys import Grant
from router.model_config import ModelConfig
from router.models import memory_bytes
from router.openapi import document
from router.policy import predict
from router.switches import front

WINDOW_S = 300.0  # the time that p50 and p95 cover
PREDICTED_TOKENS = (32, 512)  # a query and a passage
NOT_TAKEN = "the last config change was rejected; use an admin key to see why"

# status, body, content type, headers
Response = tuple[int, bytes, str] | tuple[int, bytes, str, Mapping[str, str]]
View = Callable[[Grant], Response]


class Views:
    """Read-only routes over one `Service`."""

    def __init__(self, service: Service, reranking: Reranking) -> None:
        self._service, self._reranking = service, reranking
        self._models = ModelList(service)
        self.what_if = WhatIf(service.recent)
        self._memory_bytes = memory_bytes(service.args)
        self.reload_error: str | None = None  # why the last config change was rejected
        # by the name of a handler in router/routes.py
        self.fixed: dict[str, View] = {
            "health": lambda _: self.health(),
            "live": lambda _: _json(200, {"status": "ok"}),
            "models": self.models,
            "tiers": self.tiers,
            "compare": lambda _: _json(200, service.comparison.as_dict()),
            "policy": lambda _: (200, current(service.args), "application/yaml"),
            "reference": lambda _: _json(200, document(service.catalogue)),
        }

    def health(self) -> Response:
        """200 if every required model is ready, otherwise 503 with the names of the others."""
        optional = [
            name
            for name, model in self._away().items()
            if not model.required and model.cold_start_s is None  # one that can sleep is no failure
        ]
        more = {"unavailable": optional} if optional else {}
        if waiting := self.waiting_for():
            return _json(503, {"status": "starting", "waiting_for": waiting, **more})
        return _json(200, {"status": "ok", **more})

    def waiting_for(self) -> list[str]:
        """The models that must be ready and have no replica."""
        return [name for name, model in self._away().items() if model.required]

    def _away(self) -> dict[str, ModelConfig]:
        service = self._service
        return {
            name: model
            for name, model in service.args.deployed.items()
            if not service.dispatchers[name].replicas
        }

    def models(self, caller: Grant) -> Response:
        """OpenAI's list of everything that the caller can write in `model`."""
        cards = self._models.cards(caller) + rerank_views.cards(self._reranking, caller)
        return _json(200, {"object": "list", "data": cards})

    def model(self, name: str, caller: Grant) -> Response:
        """One entry of that list; raises ModelNotFound."""
        rerankers = {card["id"]: card for card in rerank_views.cards(self._reranking, caller)}
        for id, card in rerankers.items():
            if id.lower() == name.lower():
                return _json(200, card)
        return _json(200, self._models.card(name, caller, tuple(rerankers)))

    def tiers(self, caller: Grant) -> Response:
        """The live decision matrix, limited to what the caller can use."""
        service = self._service
        loads = service.loads()
        rows = [
            self._row(name, loads[name]) for name in service.args.models if caller.may_use(name)
        ]
        tiers = {
            str(tier): model for tier, model in service.args.tiers.items() if caller.may_use(model)
        }
        error = self.reload_error if caller.admin or self.reload_error is None else NOT_TAKEN
        return _json(
            200,
            {
                "object": "list",
                "policy": service.args.routing.policy,
                "tiers": tiers,
                "collections": self._collections(caller),
                "reload_error": error,
                "router": service.recent.router,
                "routers": service.ledger.routers,
                "front": front(os.environ),
                "data": rows,
                **rerank_views.tiers(self._reranking, caller),
            },
        )

    def decisions(self, query: Mapping[str, str]) -> bytes:
        """The last decisions of this router; raises UnknownField or InvalidValue."""
        return orjson.dumps(
            self._service.recent.view(parse_query(query), self._service.ledger.routers)
        )

    def _collections(self, caller: Grant) -> dict[str, Any]:
        return {
            name: {
                "space": str(named.spaces[0]) if len(named.spaces) == 1 else None,
                "spaces": [str(space) for space in named.spaces],
                "input_type": named.input_type,
                "instruction": named.instruction,
                "truncate": named.truncate,
                "adapt": named.adapt,
                "min_recall": named.min_recall,
                "recall": average and round(average, 4),
                "adapters": [
                    {"source": str(encoder.adapter.source), **_kept(encoder)}
                    for encoder in named.encoders
                    if encoder.adapter is not None
                ],
                "encoders": [
                    {
                        "model": encoder.model,
                        "space": str(encoder.space),
                        "encoder": encoder.kind,
                        "sides": encoder.sides,
                        **_kept(encoder),
                    }
                    for encoder in named.encoders
                ],
            }
            for name, named in self._service.catalogue.collections.items()
            if caller.collections is None or name in caller.collections
            for average in (_average(self._service, name),)
        }

    def _row(self, name: str, load: Load) -> dict[str, Any]:
        service = self._service
        config, model, now = service.args.models[name], service.models[name], service.clock()
        recent = [seconds for at, seconds in service.latencies[name] if now - at <= WINDOW_S]
        p50, p95 = (
            (float(value) * 1000 for value in np.percentile(recent, (50, 95)))
            if recent
            else (None, None)
        )
        return {
            "model": name,
            "tier": service.catalogue.tier_of(name),
            "engine": config.engine.kind,
            "dimensions": config.dimensions,
            "space": str(service.catalogue.space_of(name)),
            "sizes": service.catalogue.sizes(name),
            "max_tokens": config.max_tokens,
            "quality": dict(model.quality),
            "memory_bytes": self._memory_bytes[name],
            "matryoshka": config.model_dump(include={"matryoshka"}, mode="json")["matryoshka"],
            "devices": config.devices,
            "shares_device_with": service.cards.shared_with(name),
            "p50_ms": None if p50 is None else round(p50, 2),
            "p95_ms": None if p95 is None else round(p95, 2),
            "answers": len(recent),
            "predicted_ms": self._predicted(name, load),
            "replicas_ready": load.ready_replicas,
            "load": {
                "ahead_tokens": load.ahead_tokens,
                "queued_tokens": service.ledger.waiting_tokens(name),
                "margin": load.margin,
            },
            "good_for": config.good_for,
            "start": dict(service.starts.get(name) or {}) or None,
            "fingerprint": proof.digest if (proof := service.fingerprints.get(name)) else None,
        }

    def _predicted(self, name: str, load: Load) -> dict[str, float | None]:
        """Milliseconds that one text would take now, by its number of tokens; empty for a model
        that could not answer.
        """
        config, model = self._service.args.models[name], self._service.models[name]
        if not load.ready_replicas and load.cold_start_s is None:
            return {}
        works = (
            Work(tokens, tokens, attention((tokens,), config.attention_tokens))
            for tokens in PREDICTED_TOKENS
        )
        return {
            str(work.tokens): milliseconds(predict(model, load, work).total_s)
            for work in works
            if work.tokens <= model.max_tokens
        }

    def explanation(self, plan: Plan) -> bytes:
        """The body of /v1/route: features, the decision, and every model with its prediction and
        its reason.
        """
        decision, features = plan.decision, plan.features
        languages, unread = features.languages, round(plan.chosen.mean_unread, 4)
        catalogue, model = self._service.catalogue, decision.model
        encoder = plan.choice.encoders.get(model or "")
        recalls = plan.choice.recalls
        body = {
            "features": {
                "tokens": plan.tokens,
                "language": features.language,
                "script": features.script,
                "mixed": features.mixed,
                "code": features.code,
                **({"languages": languages} if languages else {}),
            },
            "decision": {
                "model": model,
                "tier": None if model is None else catalogue.tier_of(model),
                "reason": decision.label,
                "space": encoder and str(encoder.space),
                "encoder": encoder and encoder.kind,
                "predicted_ms": milliseconds(decision.predicted_s),
                "degraded": decision.degraded,
                "canary": plan.arm == CANARY,
                "expected_recall": None
                if encoder is None or encoder.native
                else _rounded(encoder.reported(recalls[encoder.model])),
                **({"unread": unread} if unread else {}),
                "elapsed_ms": milliseconds(plan.elapsed_s),
                **(
                    {}
                    if encoder is None
                    or encoder.native
                    or encoder.assumed is not None
                    or encoder.measured(features)
                    else {"recall_measured_for": encoder.measured_for}
                ),
            },
            "settings": settings(plan, self._service.args),
            "models": [
                {
                    "model": candidate.model,
                    "predicted_ms": milliseconds(candidate.predicted_s),
                    "wait_ms": milliseconds(candidate.wait_s),
                    "work_ms": milliseconds(
                        None
                        if candidate.predicted_s is None
                        else candidate.predicted_s - (candidate.wait_s or 0.0)
                    ),
                    "margin": round(plan.loads[candidate.model].margin, 3),
                    **_encoding(plan, candidate.model),
                    "chosen": candidate.why is Why.CHOSEN,
                    "why": str(candidate.why),
                }
                for candidate in decision.candidates
                # another encoder of a space is no choice for a request that cannot use it
                if candidate.why is not Why.NOT_IN_SPACE
                or self._service.args.models[candidate.model].space_of is None
            ],
        }
        return orjson.dumps(body)


def _average(service: Service, collection: str) -> float | None:
    """The average recall of a collection's last queries, relative to its best search; None if a
    part of it was not measured.
    """
    running = service.planner.running.get(collection)
    measured = service.catalogue.collections[collection].measured
    return running.average if running is not None and measured else None


def _kept(encoder: Encoder) -> dict[str, Any]:
    """The measured quality that an encoder keeps; for a native one, that of its space."""
    proof = encoder.space_proof if encoder.native else encoder.proof
    return {
        "expected_recall": encoder.reported(encoder.expected_recall()),
        "recall_kept_fitted": proof and proof.fitted.recall,
        "recall_kept_unseen": proof and proof.unseen.recall,
        "ndcg_kept_fitted": proof and proof.fitted.ndcg,
        "ndcg_kept_unseen": proof and proof.unseen.ndcg,
        "judged_by": proof and proof.judged_by,
        "by_language": {}
        if proof is None
        else {name: kept.recall for name, kept in proof.by_language(encoder.documents).items()},
    }


def _encoding(plan: Plan, model: str) -> dict[str, Any]:
    """The space of a model's vectors, if a request can go to several encoders."""
    encoder, recall = plan.choice.encoders.get(model), plan.choice.recalls.get(model)
    if encoder is None or recall is None:
        return {}
    return {
        "space": str(encoder.space),
        "encoder": encoder.kind,
        "expected_recall": _rounded(encoder.reported(recall)),
        **(
            {}
            if encoder.proofs == () or encoder.assumed is not None
            else {"recall_measured_for": encoder.measured_for}
        ),
    }


def _rounded(recall: float | None) -> float | None:
    return None if recall is None else round(recall, 4)


def _json(status: int, body: object) -> Response:
    return status, orjson.dumps(body), "application/json"
