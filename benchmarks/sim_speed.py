"""Simulated requests per second of one core, and the modules that take the time, found by a
sampler.
"""

import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from benchmarks.sim_runs import Simulated, at_load, way_of
from router.sim.build import PolicyVariant, World, mean_rate, run

REQUESTS = 20_000
EVERY_S = 0.001  # of processor time
# a sample belongs to the innermost of these modules; `router/feedback.py` also has the loads
MODULES = {
    "policy": "decide",
    "feedback": "learning",
    **dict.fromkeys(("admission", "dispatching", "queues", "sending"), "dispatching"),
    "outcome": "counting",
    "replicas": "replicas",
    "traffic": "arrivals",
    **dict.fromkeys(("routers", "simulation"), "routers and events"),
}


def speed() -> Iterator[Simulated]:
    """Measure the speed of the simulator."""
    world, way = at_load(1.2, REQUESTS), way_of()
    rate = mean_rate(world)
    started = time.process_time()
    outcome = run(world, way, rate)
    reached = (outcome.total.offered + outcome.warm.offered) / (time.process_time() - started)
    what = f"simulated requests per second of one processor core; {where(world, way, rate)}"
    yield Simulated("speed", what, reached, ">= 20000", reached >= 20_000)


def where(world: World, way: PolicyVariant, rate: float) -> str:
    """CPU share of each part of a run."""
    found = Counter[str]()

    def sampled(_: int, frame: FrameType | None) -> None:
        found[_part(frame)] += 1

    before = signal.signal(signal.SIGPROF, sampled)
    signal.setitimer(signal.ITIMER_PROF, EVERY_S, EVERY_S)
    try:
        run(world, way, rate)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, before)
    total = found.total()
    return ", ".join(f"{name} {100 * count / total:.0f} %" for name, count in found.most_common())


def _part(frame: FrameType | None) -> str:
    while frame is not None:
        module = Path(frame.f_code.co_filename).stem
        if module == "feedback" and frame.f_code.co_name == "load":
            return "loads"
        if module in MODULES:
            return MODULES[module]
        frame = frame.f_back
    return "rest"
