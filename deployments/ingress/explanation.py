"""The source of each setting of a request, as /v1/route shows it."""

from typing import Any

from deployments.service.plan import Plan
from router.config import RouterArgs


def settings(plan: Plan, args: RouterArgs) -> dict[str, Any]:
    """Each setting with its value and the place that decided it."""
    request, sources = plan.request, plan.request.sources or {}
    side = request.side or request.input_type
    if side is None and request.texts is not None and plan.decision.model in args.models:
        side = args.models[plan.decision.model].prompts.default
    budget_ms = request.latency_budget_ms
    if budget_ms is None and plan.context.default_budget_s is not None:
        budget_ms = plan.context.default_budget_s * 1000
    tier = request.quality if plan.constraints.tier is None else plan.constraints.tier
    values = {
        "space": request.space,
        "input_type": side,
        "quality": tier.value,
        "latency_budget_ms": budget_ms,
        "priority": request.priority,
    }
    return {
        name: {"value": value, "from": sources.get(name, "config")}
        for name, value in values.items()
    }
