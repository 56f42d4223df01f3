"""Shared parts of simulated marks and verdicts: worlds, policies, bounds and rows.

100 % load is the rate at which the replicas of the largest model would be fully busy if it answered
everything.
"""

import functools
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deployments.tools.simulate.load import load_variant, load_world
from router.sim.build import PolicyVariant, World, mean_rate

ROOT = Path(__file__).resolve().parents[1]
SCENARIOS = ROOT / "configs" / "scenarios"
LARGE = "qwen3-embedding-8b"
REQUESTS = 12_000  # of one run
SEEDS = (0, 1, 2)
LOADS = (0.6, 0.8, 0.95, 1.2)
WARM = 0.2  # share of them that is not counted


@dataclass(frozen=True, slots=True)
class Simulated:
    """One row: its name, the simulated figure, its mark in words, and the figures of others."""

    name: str
    what: str
    value: float
    mark: str
    met: bool | None  # None: there is no mark, the figure is a verdict's
    baseline: str = ""
    oracle: str = ""
    profile: str = ""  # empty: that of the 80 % load

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        given = {key: getattr(self, key) for key in self.__slots__}
        return given | {"simulated": True, "profile": self.profile or world_of("load-80").profile}


@functools.cache
def world_of(name: str) -> World:
    """A scenario."""
    return load_world(SCENARIOS / f"{name}.yaml")


def way_of(name: str | None = None) -> PolicyVariant:
    """A policy by name, or that of the scenarios; all with the same share of misses."""
    world, path = world_of("load-80"), SCENARIOS / "load-80.yaml"
    own = load_variant(world.scenario.policy, path, world.args)
    return own if name is None else replace(load_variant(name, path, world.args), args=own.args)


def at_load(load: float, requests: int = REQUESTS, **changes: Any) -> World:
    """About so many independent arrivals at a load of the replicas, also where `changes` of the
    scenario give other ones.
    """
    traffic = world_of("load-80").scenario.traffic.model_copy(update={"load": load})
    world = world_of("load-80").updated(traffic=traffic, **changes)
    seconds = requests / mean_rate(world)
    return world.updated(seconds=seconds, warm_up_s=WARM * seconds)


def quantile(values: Iterable[float], share: float) -> float:
    """The quantile `share`."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def mean(values: Iterable[float]) -> float:
    return statistics.fmean(values)


def points(value: float) -> str:
    return f"{value:.2f}"


def percent(value: float) -> str:
    return f"{100.0 * value:.2f} %"
