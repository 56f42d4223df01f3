"""Baseline policies that choose a model; the dispatchers are the same for all.

    always-small, always-large    one model, whatever the request
    by-length                     small for short texts, large for long ones
    largest-feasible              the largest model predicted to be in time (Zhang et al.,
                                  "Model-Switching", 2020)
    least-headroom                the model predicted to be in time with the least to spare (llm-d,
                                  PolyServe)
    slack-buckets                 more slack, a larger model (Khare et al., "SuperServe", 2025)
    least-loaded                  the model whose work would begin first
    static-rules                  the config's rules, whatever the budget and the load

A model that is not ready, or cannot read the text, is never chosen.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from router.domain import Decision, Load, Model, Prediction, Reason, Request, Why
from router.policy import decide, predict
from router.rules import Policy

SHORT_TOKENS, LONG_TOKENS = 64, 512  # thresholds of `by-length`


class Fit(NamedTuple):
    """A model that can serve a request, and its predicted times."""

    name: str
    rank: int
    predicted: Prediction
    tail_s: float


Rank = Callable[[list[Fit], Request, float], Fit]


def _always_small(fits: list[Fit], request: Request, budget_s: float) -> Fit:
    return fits[0]


def _always_large(fits: list[Fit], request: Request, budget_s: float) -> Fit:
    return fits[-1]


def _by_length(fits: list[Fit], request: Request, budget_s: float) -> Fit:
    longest = request.work[fits[0].name].longest
    place = (longest > SHORT_TOKENS) + (longest > LONG_TOKENS)
    return fits[round(place / 2 * (len(fits) - 1))]


def _soonest(fits: list[Fit]) -> Fit:
    return min(fits, key=lambda fit: fit.tail_s)


def _largest_feasible(fits: list[Fit], request: Request, budget_s: float) -> Fit:
    in_time = [fit for fit in fits if fit.tail_s <= budget_s]
    return in_time[-1] if in_time else _soonest(fits)


def _least_headroom(fits: list[Fit], request: Request, budget_s: float) -> Fit:
    in_time = [fit for fit in fits if fit.tail_s <= budget_s]
    return max(in_time, key=lambda fit: fit.tail_s) if in_time else _soonest(fits)


def _least_loaded(fits: list[Fit], request: Request, budget_s: float) -> Fit:
    return min(fits, key=lambda fit: (fit.predicted.wait_s, -fit.rank))


def _slack_buckets(fits: list[Fit], request: Request, budget_s: float) -> Fit:
    """Use buckets of equal width between the times of the smallest and the largest model. The slack
    is the budget less the shortest predicted wait.
    """
    own = [fit.predicted.total_s - fit.predicted.wait_s for fit in fits]
    slack_s = budget_s - min(fit.predicted.wait_s for fit in fits)
    low, high = min(own), max(own)
    if slack_s >= high or high <= low:
        return fits[-1]
    place = int((slack_s - low) / (high - low) * len(fits))
    return fits[min(max(place, 0), len(fits) - 1)]


RANKS: Mapping[str, Rank] = {
    "always-small": _always_small,
    "always-large": _always_large,
    "by-length": _by_length,
    "largest-feasible": _largest_feasible,
    "least-headroom": _least_headroom,
    "slack-buckets": _slack_buckets,
    "least-loaded": _least_loaded,
}


def _chooser(
    rank: Rank,
) -> Callable[[Policy, Request, Mapping[str, Model], Mapping[str, Load], float], Decision]:
    def choose(
        policy: Policy,
        request: Request,
        models: Mapping[str, Model],
        loads: Mapping[str, Load],
        now: float,
    ) -> Decision:
        fits = list[Fit]()
        for name, model in models.items():
            load, work = loads[name], request.work.get(name)
            if work is None or work.longest > model.max_tokens or not load.ready_replicas:
                continue
            predicted = predict(model, load, work)
            fits.append(Fit(name, model.rank, predicted, predicted.total_s * load.margin))
        if not fits:
            return _chosen(None, Reason.NO_MODEL, None, None)
        fits.sort(key=lambda fit: fit.rank)
        budget_s = float("inf") if request.deadline_s is None else request.deadline_s - now
        chosen = rank(fits, request, budget_s)
        return _chosen(chosen.name, Reason.AUTO, *chosen.predicted)

    return choose


def _chosen(
    model: str | None, reason: Reason, predicted_s: float | None, wait_s: float | None
) -> Decision:
    return Decision(
        model=model,
        target=model,
        reason=reason,
        rule=None,
        predicted_s=predicted_s,
        wait_s=wait_s,
        degraded=False,
        whys={} if model is None else {model: Why.CHOSEN},
        predictions={},
    )


def _static_rules(
    policy: Policy,
    request: Request,
    models: Mapping[str, Model],
    loads: Mapping[str, Load],
    now: float,
) -> Decision:
    return decide(policy, request._replace(deadline_s=None), models, loads, now)


CHOOSERS = {name: _chooser(rank) for name, rank in RANKS.items()} | {"static-rules": _static_rules}
