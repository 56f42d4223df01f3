"""The comparison with static choices that answer as well, and the number of requests of a run."""

import pytest

from benchmarks.sim_runs import LARGE, at_load, way_of
from benchmarks.sim_static import answered, times_fewer, tuned
from router.sim.build import arrivals, mean_rate, run

SMALL = "qwen3-embedding-0.6b"


@pytest.mark.parametrize("replicas", [1, 4, 16])
def test_a_run_has_as_many_requests_as_it_names(replicas: int) -> None:
    world = at_load(
        0.8, 2000, replicas=dict.fromkeys((SMALL, "qwen3-embedding-4b", LARGE), replicas)
    )
    sent = sum(1 for _ in arrivals(world, mean_rate(world)))
    assert sent == pytest.approx(2000, rel=0.1)  # four standard deviations
    assert world.scenario.warm_up_s == pytest.approx(0.2 * world.scenario.seconds)


def test_a_load_follows_the_replicas_of_the_run() -> None:
    few, many = (at_load(0.8, 100, replicas={LARGE: replicas}) for replicas in (2, 8))
    assert mean_rate(many) == pytest.approx(4.0 * mean_rate(few))


@pytest.mark.parametrize("family", ["least-loaded", "by-length", "short-to-large"])
def test_a_tuned_choice_answers_as_well_and_not_much_better(family: str) -> None:
    world = at_load(1.2, 600)
    worst, best = (answered(run(world, way_of(name))) for name in ("always-small", "always-large"))
    quality = worst + 0.8 * (best - worst)
    threshold, outcome = tuned(family, world, quality)
    assert threshold > 0.0
    assert quality <= answered(outcome) < quality + 0.15 * (best - worst)


def test_fewer_violations_are_counted_with_late_and_refused_requests() -> None:
    world = at_load(1.2, 600)
    own, large = run(world, way_of()), run(world, way_of("always-large"))
    assert times_fewer(large, large) == 1.0
    assert times_fewer(own, large) > 1.0 > times_fewer(large, own)
