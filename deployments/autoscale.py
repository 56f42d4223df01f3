"""A Serve autoscaling policy for the whole application: replicas by tokens.

A config file names it under `autoscaling_policy`.

Requests for a model wait in the routers, which give a replica only a few calls at a time. Requests
that were sent to a smaller model do not wait at all. Serve's own count of requests includes
neither. Every router therefore reports its demand for every model, and its own use of a processor
core, with `record_autoscaling_stats`. Serve's controller runs this policy on the sum, then applies
the factors, delays and bounds of each deployment's `autoscaling_config` to the result.

The controller gets this module and router/capacity.py as copies inside a pickle, so both import
next to nothing.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from deployments.serve_internals import pickle_by_value
from router import capacity
from router.capacity import (
    Autoscaler,
    DemandReport,
    Want,
    combined,
    share_devices,
)

pickle_by_value(capacity)

ROUTER = "router"
EVERY_S = 0.5  # the controller calls ten times a second
REPORT_LIFE_S = 30.0  # after so long without a report, a router has no demand

Decisions = dict[Any, float]


class ScalingContext(Protocol):
    """The part of Serve's AutoscalingContext that is used here."""

    raw_metrics: Any  # by name and replica, a list of points with `timestamp` and `value`
    current_num_replicas: int
    target_num_replicas: int
    capacity_adjusted_min_replicas: int
    capacity_adjusted_max_replicas: int
    current_time: float | None


class ByTokens:
    """The policy; its arguments are `policy_kwargs`.

    docs/configuration.md explains them with their defaults.
    """

    def __init__(
        self,
        utilisation: float = 0.8,
        drain_s: float = 60.0,
        start_s: float = 60.0,
        hold_s: float = 300.0,
        slack: float = 0.1,
        devices: float | None = None,
    ) -> None:
        self._policy = Autoscaler(utilisation, drain_s, start_s, hold_s, slack)
        self._devices = devices
        self._decided_s = 0.0
        self._decisions: Decisions = {}

    def __call__(
        self, contexts: Mapping[Any, ScalingContext]
    ) -> tuple[Decisions, dict[Any, dict[str, Any]]]:
        """Return the number of replicas for every deployment that scales.

        A deployment that no router has reported yet keeps its number.
        """
        now = max((context.current_time or 0.0 for context in contexts.values()), default=0.0)
        if not 0.0 <= now - self._decided_s < EVERY_S:
            self._decided_s, self._decisions = now, self._decide(contexts, now)
        return {
            deployment: count
            for deployment, count in self._decisions.items()
            if deployment in contexts
        }, {}

    def _decide(self, contexts: Mapping[Any, ScalingContext], now: float) -> Decisions:
        asks, decisions, wants = reports(contexts, now), Decisions(), dict[Any, Want]()
        for deployment, context in contexts.items():
            if (ask := asks.get(deployment.name)) is None:
                continue
            want = self._want(deployment.name, ask, context, now)
            if deployment.name == ROUTER:  # by processor time; it takes no card of the budget
                decisions[deployment] = want.replicas
            else:
                wants[deployment] = want
        if self._devices is not None:
            return decisions | share_devices(wants, self._devices)
        return decisions | {deployment: want.replicas for deployment, want in wants.items()}

    def _want(self, name: str, ask: DemandReport, context: ScalingContext, now: float) -> Want:
        return self._policy.want(
            name,
            ask,
            context.current_num_replicas,
            context.target_num_replicas,
            context.capacity_adjusted_min_replicas,
            context.capacity_adjusted_max_replicas,
            now,
        )


def flat(asks: Mapping[str, DemandReport]) -> dict[str, float]:
    """Return a router's report: one number per field and model, as Serve accepts nothing else."""
    return {
        f"{model}/{field}": float(value)
        for model, ask in asks.items()
        for field, value in ask._asdict().items()
        if value is not None
    }


def reports(contexts: Mapping[Any, ScalingContext], now: float) -> dict[str, DemandReport]:
    """Return the demand for each model, summed over the last reports of all routers."""
    fields: dict[tuple[str, Any], dict[str, float]] = {}
    for context in contexts.values():
        for metric, replicas in (context.raw_metrics or {}).items():
            model, _, field = metric.rpartition("/")
            for replica, points in replicas.items():
                if (
                    field in DemandReport._fields
                    and points
                    and points[-1].timestamp > now - REPORT_LIFE_S
                ):
                    fields.setdefault((model, replica), {})[field] = points[-1].value
    asks: dict[str, list[DemandReport]] = {}
    for (model, _), given in fields.items():
        asks.setdefault(model, []).append(DemandReport(**given))
    return {model: combined(each) for model, each in asks.items()}
