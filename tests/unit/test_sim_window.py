"""The autoscaler with a longer mean of the demand, which `sim --part window` compares."""

from benchmarks.sim_window import WINDOW_S, Averaged
from router.capacity import Autoscaler, DemandReport

SETTINGS = (0.8, 60.0, 60.0, 300.0, 0.1)


def wants(policy: Autoscaler, demands: list[float]) -> list[int]:
    """The replicas of a model whose two replicas serve 100 tokens/s each, every 2 s."""
    asks = (DemandReport(demand, 0.0, 0.0, 100.0) for demand in demands)
    return [
        policy.want("m", ask, 2, 2, 1, 40, 2.0 * step).replicas for step, ask in enumerate(asks)
    ]


def test_a_steady_demand_needs_as_many_by_both_means() -> None:
    steady = [150.0] * 60
    assert wants(Averaged(*SETTINGS), steady) == wants(Autoscaler(*SETTINGS), steady)


def test_noise_starts_no_replica_and_a_lasting_step_does() -> None:
    peak = [120.0] * 60 + [250.0] * 3
    assert max(wants(Autoscaler(*SETTINGS), peak)) == 4
    assert max(wants(Averaged(*SETTINGS), peak)) == 2
    step = [120.0] * 60 + [250.0] * int(2 * WINDOW_S)
    assert max(wants(Averaged(*SETTINGS), step)) == 4


def test_a_demand_of_twice_the_replicas_is_followed_at_once() -> None:
    surge = [120.0] * 60 + [350.0]
    assert wants(Averaged(*SETTINGS), surge)[-1] == 5
