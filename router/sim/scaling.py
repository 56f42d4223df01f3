"""The autoscaler on the virtual clock: the production policy with Serve's delays."""

from collections.abc import Mapping
from typing import NamedTuple

from router.capacity import Autoscaler, Want, combined, share_devices
from router.sim.simulation import Simulation


class Bounds(NamedTuple):
    """Limits and delays from Serve's `autoscaling_config` of one model."""

    least: int
    most: int
    up_delay_s: float
    down_delay_s: float


class ByTokensScaler:
    """Scales replicas by the demand that the routers report."""

    def __init__(
        self,
        policy: Autoscaler,
        bounds: Mapping[str, Bounds],
        start_s: float,
        every_s: float,
        devices: float | None = None,
    ) -> None:
        self._policy, self._bounds = policy, bounds
        self.every_s, self._start_s, self._devices = every_s, start_s, devices
        self._up_since: dict[str, float] = {}
        self._down_since: dict[str, float] = {}

    def decide(self, simulation: Simulation, now: float) -> None:
        """Start and stop replicas."""
        wants = dict[str, Want]()
        for model, bounds in self._bounds.items():
            asks = [router.dispatchers[model].state.demand(now) for router in simulation.routers]
            ready = len(simulation.ready[model])
            target = ready + simulation.starting[model]
            wants[model] = self._policy.want(
                model, combined(asks), ready, target, bounds.least, bounds.most, now
            )
        if self._devices is None:
            given = {model: want.replicas for model, want in wants.items()}
        else:
            given = share_devices(wants, self._devices)
        for model, replicas in given.items():
            self._apply(simulation, model, replicas, now)

    def _apply(self, simulation: Simulation, model: str, replicas: int, now: float) -> None:
        ready, starting = len(simulation.ready[model]), simulation.starting[model]
        bounds, more = self._bounds[model], replicas - ready - starting
        if more <= 0:
            self._up_since.pop(model, None)
        if more >= 0:
            self._down_since.pop(model, None)
        if more > 0 and now - self._up_since.setdefault(model, now) >= bounds.up_delay_s:
            simulation.start(model, more, now, self._start_s)
        elif more < 0 and now - self._down_since.setdefault(model, now) >= bounds.down_delay_s:
            # starting replicas are kept: they would be needed again before they are ready
            simulation.stop(model, min(-more, ready - bounds.least, ready), now)
