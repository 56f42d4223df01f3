"""What each part of a replica's start took is in its metrics."""

from deployments.replica.host import Host
from deployments.telemetry import metrics
from deployments.telemetry.metrics import OF_REPLICA, Tally
from tests.unit.replica.test_dead_card import Card


def test_each_phase_is_a_metric_of_its_own() -> None:
    tally, host = Tally(OF_REPLICA), Host(Card(), "one")
    host.sample(tally, "model")
    assert not tally.values[metrics.ENGINE_START]
    host.start_phases = {"load": 20.0, "compile": 31.5, "proof": 0.5}
    host.sample(tally, "model")
    assert tally.values[metrics.ENGINE_START] == {
        ("model", "load"): 20.0,
        ("model", "compile"): 31.5,
        ("model", "proof"): 0.5,
    }
