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

`FAMILIES` has static choices with a threshold, which trades quality for time: a larger one gives
better models and later answers.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from router.domain import Decision, Load, Model, Prediction, Reason, Request, Why
from router.policy import decide, predict
from router.rules import Policy
from router.sim.routers import Chooser

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


def _by_length(divisor: float) -> Rank:
    """Long texts to larger models, with thresholds that are so many times shorter."""

    def rank(fits: list[Fit], request: Request, budget_s: float) -> Fit:
        return _place(fits, _length(fits, request, 1.0 / divisor))

    return rank


def _short_to_large(times: float) -> Rank:
    """Long texts to smaller models, with thresholds that are so many times longer."""

    def rank(fits: list[Fit], request: Request, budget_s: float) -> Fit:
        return _place(fits, 2 - _length(fits, request, times))

    return rank


def _length(fits: list[Fit], request: Request, times: float) -> int:
    """0 for a short text, 1 for a middle one, 2 for a long one."""
    longest = request.work[fits[0].name].longest
    return (longest > SHORT_TOKENS * times) + (longest > LONG_TOKENS * times)


def _place(fits: list[Fit], place: int) -> Fit:
    """The smallest model for 0, one in the middle for 1, the largest for 2."""
    return fits[round(place / 2 * (len(fits) - 1))]


def _soonest(fits: list[Fit]) -> Fit:
    return min(fits, key=lambda fit: fit.tail_s)


def _largest_feasible(fits: list[Fit], request: Request, budget_s: float) -> Fit:
    in_time = [fit for fit in fits if fit.tail_s <= budget_s]
    return in_time[-1] if in_time else _soonest(fits)


def _least_headroom(fits: list[Fit], request: Request, budget_s: float) -> Fit:
    in_time = [fit for fit in fits if fit.tail_s <= budget_s]
    return max(in_time, key=lambda fit: fit.tail_s) if in_time else _soonest(fits)


def _least_loaded(more_s: float) -> Rank:
    """The largest model that waits at most `more_s` longer than the least loaded one."""

    def rank(fits: list[Fit], request: Request, budget_s: float) -> Fit:
        most_s = min(fit.predicted.wait_s for fit in fits) + more_s
        return next(fit for fit in reversed(fits) if fit.predicted.wait_s <= most_s)

    return rank


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
    "by-length": _by_length(1.0),
    "largest-feasible": _largest_feasible,
    "least-headroom": _least_headroom,
    "slack-buckets": _slack_buckets,
    "least-loaded": _least_loaded(0.0),
}


def _chooser(rank: Rank) -> Chooser:
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
FAMILIES: Mapping[str, Callable[[float], Rank]] = {
    "least-loaded": _least_loaded,
    "by-length": _by_length,
    "short-to-large": _short_to_large,
}


def chooser_of(family: str, threshold: float) -> Chooser:
    """A static choice of `FAMILIES` with a threshold above 0."""
    return _chooser(FAMILIES[family](threshold))
