"""What was learned under full load does not keep an idle model from requests that it can answer."""

from collections.abc import Iterator
from random import Random

import pytest

from router.domain import OnMiss
from router.models import build_models, build_policy
from router.sim.outcome import Outcome
from router.sim.replicas import Noise
from router.sim.simulation import Simulation, SimulationInputs
from router.sim.traffic import Arrival, Kind, Shapes
from tests.support.simulated import args_of

LOADED_S, END_S = 20.0, 50.0
BUDGET_S = 0.195  # an idle model takes 0.06 s
CROWD = Kind("crowd", 1.0, (30, 34), {"en": 1.0}, {None: 1.0})
QUERY = Kind("query", 1.0, (30, 34), {"en": 1.0}, {BUDGET_S: 1.0})


def after_load(query: Kind, rate: float, seed: int) -> Outcome:
    """Sixteen callers at once, again and again; then `rate` queries a second with a budget."""
    args = args_of(512, s_per_token=6e-4)
    models, rng = build_models(args), Random(seed)
    drawn = [Shapes([kind], models, args.models).stream(rng) for kind in (CROWD, query)]

    def arrivals() -> Iterator[Arrival]:
        for second in range(int(LOADED_S)):
            yield from (Arrival(second + caller / 1000, next(drawn[0])) for caller in range(16))
        at_s = LOADED_S + 1.0
        while at_s < END_S:
            yield Arrival(at_s, next(drawn[1]))
            at_s += rng.expovariate(rate)

    policy = build_policy(args.routing, args.tiers)
    setup = SimulationInputs(
        args, models, policy, dict.fromkeys(models, 1), noise=Noise(0.1), warm_up_s=LOADED_S,
        seed=seed,
    )  # fmt: skip
    return Simulation(setup, arrivals(), END_S).run()


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("on_miss", [OnMiss.REJECT, OnMiss.DEGRADE])
def test_an_idle_model_answers_again_at_once_after_full_load(on_miss: OnMiss, seed: int) -> None:
    outcome = after_load(QUERY._replace(on_miss=on_miss), 5.0, seed)
    asked = outcome.total.offered
    assert asked > 100
    assert outcome.models["large"] > 0.85 * asked
    assert outcome.total.late <= 0.05 * asked


@pytest.mark.parametrize("rate", [13.0, 20.0], ids=["80 % load", "120 % load"])
def test_what_is_accepted_after_full_load_is_in_time(rate: float) -> None:
    query = QUERY._replace(on_miss=OnMiss.REJECT, model="large")
    total = after_load(query, rate, 0).total
    assert total.on_time > 0.4 * total.offered
    assert total.late <= 0.05 * (total.on_time + total.late)
