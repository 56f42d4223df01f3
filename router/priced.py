"""The choice under `priced`: the model whose points exceed its price by most."""

from collections.abc import Mapping

from router.domain import Load, Model, Reason, Request, Why
from router.rules import BUDGET, INSTEAD, LESS_QUALITY, LOAD, OVER_BUDGET, Policy


def by_price(
    policy: Policy,
    request: Request,
    models: Mapping[str, Model],
    loads: Mapping[str, Load],
    in_time: list[str],
    whys: dict[str, Why],
    target: str,
    reason: Reason,
) -> tuple[str, Reason]:
    """As `router.rules.by_rules`, for `priced`."""
    chosen = max(
        in_time,
        key=lambda name: (_worth(policy, request, models[name], loads[name]), models[name].rank),
    )
    for name in in_time:
        if models[name].rank > models[chosen].rank:
            whys[name] = Why.PRICE
    if chosen == target or whys[target] not in (LESS_QUALITY, OVER_BUDGET, Why.PRICE):
        return chosen, INSTEAD.get(whys[target], reason)
    if models[chosen].rank > models[target].rank:
        instead = Reason.IDLE
    else:
        instead = BUDGET if whys[target] is OVER_BUDGET else LOAD
    return chosen, instead


def _worth(policy: Policy, request: Request, model: Model, load: Load) -> float:
    """Points of quality on this text, less the price of the device seconds it takes."""
    worth = policy.quality_weight * (
        model.quality_of(request.features, request.work[model.id]) or 0.0
    )
    if not load.price:
        return worth
    work = request.work[model.id]
    step_s = model.curve.step(work.tokens, work.tokens_sq, work.texts)
    return worth - load.price * step_s * model.devices
