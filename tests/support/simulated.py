"""Simulations of two models, the larger three times slower."""

from dataclasses import replace
from random import Random

from router.config import RouterArgs
from router.models import build_models, build_policy
from router.sim.simulation import Simulation, SimulationInputs
from router.sim.traffic import Kind, Rate, Shapes, poisson


def args_of(batch_tokens: int = 1000, calls_in_flight: int = 2, **curve: float) -> RouterArgs:
    """Two models, the larger three times slower."""

    def model(times: float, points: float) -> dict[str, object]:
        own = {"s_per_token": 1e-5, "base_s": 0.002, "fixed_s": 0.0, "overhead_s": 0.001} | curve
        slow = {key: value * times for key, value in own.items()}
        return {
            "engine": {"kind": "fake"},
            "dimensions": 64,
            "max_tokens": 8192,
            "calls_in_flight": calls_in_flight,
            "quality": {"default": points},
            "curve": {**slow, "batch_tokens": batch_tokens},
        }

    return RouterArgs.model_validate(
        {
            "models": {"small": model(1.0, 60.0), "large": model(3.0, 70.0)},
            "tiers": {"fast": "small", "best": "large"},
            "routing": {"default_tier": "best"},
            "limits": {"max_queue_s": 1e6, "request_timeout_s": 1e6, "max_queued_tokens": 10**9},
        }
    )


def simulation(
    args: RouterArgs, rate: float, seconds: float, kind: Kind, seed: int = 0, **changes: object
) -> Simulation:
    models = build_models(args)
    setup = SimulationInputs(
        args,
        models,
        build_policy(args.routing, args.tiers),
        {"small": 2, "large": 2},
        dict.fromkeys(models, True),
        seed=seed,
    )
    setup = replace(setup, **changes)  # type: ignore[arg-type]
    shapes = Shapes([kind], models, args.models)
    return Simulation(setup, poisson(Rate([(0.0, rate)]), seconds, shapes, Random(seed)), seconds)


QUERY = Kind("query", 1.0, (20, 80), {"en": 1.0}, {0.05: 1.0})
