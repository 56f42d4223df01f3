"""Spans of a request inside the router: how it was read, decided and answered."""

import time
from collections.abc import Mapping

from deployments.dispatch.chunks import Rows
from deployments.service.plan import Plan
from deployments.telemetry.tracing import CurrentSpan, Tracing
from router.domain import Why
from router.stamps import CALL, Stamps


def planned(stamps: Stamps, plan: Plan, now: float) -> None:
    """Mark the stamps of a request that was decided just now."""
    stamps.mark("planned", plan.arrived_s)
    stamps.mark("read", plan.read_s)
    stamps.mark("decided", now)


def decided(tracing: Tracing, plan: Plan, now: float) -> None:
    """Record how a request was read and decided; `now` is on the clock of the plan's times."""
    # from the plan's clock to the time of day
    decision, behind_ns = (
        plan.decision,
        time.time_ns() - int(now * 1e9),
    )
    arrived_ns, read_ns, decided_ns = (
        behind_ns + int(at * 1e9) for at in (plan.arrived_s, plan.read_s, plan.decided_s)
    )
    features = plan.features
    read: dict[str, str | int | bool] = {
        "embedding.texts": plan.request.items,
        "embedding.characters": features.characters,
        "embedding.language": features.language or "unknown",
        "embedding.code": features.code,
        "embedding.mixed": features.mixed,
    }
    tracing.tracer.start_span("features", attributes=read, start_time=arrived_ns).end(read_ns)
    prepared = plan.prepared.get(decision.model or decision.target or "")
    attributes: dict[str, str | int | float | bool | list[str]] = {
        "embedding.model": decision.model or "none",
        "embedding.reason": decision.label,
        "embedding.tier": plan.constraints.tier or "none",
        "embedding.tokens": 0 if prepared is None else sum(prepared.counts),
        "embedding.degraded": decision.degraded,
        "embedding.rejected": [
            f"{model}: {why}" for model, why in decision.whys.items() if why is not Why.CHOSEN
        ],
    }
    if (encoder := plan.choice.encoders.get(decision.model or "")) is not None:
        attributes["embedding.space"] = str(encoder.space)
        attributes["embedding.encoder"] = encoder.kind
        if not encoder.native and encoder.assumed is None:
            attributes["embedding.expected_recall"] = round(plan.choice.recalls[encoder.model], 4)
    if decision.predicted_s is not None:
        attributes["embedding.predicted_ms"] = round(decision.predicted_s * 1000, 2)
    tracing.tracer.start_span("decide", attributes=attributes, start_time=read_ns).end(decided_ns)


class Dispatching(CurrentSpan):
    """The spans `dispatch` and `engine` of one request."""

    def __init__(self, tracing: Tracing, model: str) -> None:
        super().__init__(
            tracing.tracer.start_span("dispatch", attributes={"embedding.model": model})
        )
        self._tracer, self._model = tracing.tracer, model

    def answered(self, got: Rows, now: float) -> None:
        """Record what the vectors cost; the engine's span ends now, which is `now` on the clock of
        the stamps.
        """
        self._span.set_attributes(
            {
                "embedding.cached": got.known - got.known_aside,
                "embedding.queue_ms": round(got.queue_s * 1000, 2),
                "embedding.inference_ms": round(got.inference_s * 1000, 2),
            }
        )
        now_ns, inference_s = time.time_ns(), got.inference_s
        for name, at_s in zip(CALL, got.stamps, strict=False):
            self._span.add_event(name, timestamp=now_ns + int((at_s - now) * 1e9))
        if inference_s:
            attributes: Mapping[str, str] = {"embedding.model": self._model}
            self._tracer.start_span(
                "engine", attributes=attributes, start_time=now_ns - int(inference_s * 1e9)
            ).end(now_ns)
