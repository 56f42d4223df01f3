"""The benchmarks that hold the simulator against services: what they send and conclude."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import click
import pytest

from benchmarks import sim_models, sim_truth
from benchmarks.live import Ask, RequestResult, Text
from benchmarks.sim_failures import with_pinned
from benchmarks.sim_runs import LARGE, Simulated, way_of, world_of
from deployments.service.prepare import Preparer
from router.decision_log import ANSWERED, DecisionContext, LogEntry, Logged
from router.domain import Decision, Features, Load, Reason, Request, Tier, Work
from router.models import build_policy
from router.policy import decide
from router.sim.build import PolicyVariant, World, arrivals, run
from router.sim.outcome import Outcome
from router.strict import parse_args
from tests.support.virtual_loop import sized_text


def test_the_router_and_the_engine_count_the_texts_as_the_simulator_does() -> None:
    preparer = Preparer(parse_args(sim_truth.config(0.004)))
    sent = sim_truth.requests(20.0, 12.0, Random(0))
    assert len(sent) > 100
    for number, ask in enumerate(sent):
        text = sized_text(number, ask.tokens)
        counted = preparer.prepare([text], None, None, ["large"])["large"].counts
        assert list(counted) == [ask.tokens]
        engine = -(-len(text) // 4)  # deployments.engines.fake
        assert engine * 4 / 3 == ask.tokens


def test_a_text_alone_takes_the_engines_time_and_the_overhead() -> None:
    sent = [sim_truth.Sent(float(number), 40, 1.0) for number in range(4)]
    outcome = sim_truth.simulate(sent, 4.0, 0.004)
    engine_s = sim_truth.TIMES * (sim_truth.BASE_S + 40 * sim_truth.S_PER_TOKEN)
    assert outcome.models == {"large": 4}
    assert outcome.latencies.mean_s == pytest.approx(engine_s + 0.004)


def logged_world(requests: Sequence[tuple[float, float]]) -> World:
    """A world with a decision log: the end of each request, and how long it took."""
    world = world_of("load-80")
    policy = build_policy(world.args.routing, world.args.tiers)
    setting = DecisionContext(world.models, policy, {Tier.BEST: max(world.models)}, False, None)
    request = Request(
        dict.fromkeys(world.models, Work(20, 20, 400)), Features(80, "en", "Latn", False, False)
    )
    loads = dict.fromkeys(world.models, Load())
    decision = decide(policy, request, world.models, loads, 0.0)
    entries = [
        LogEntry(
            ended_s, 0.0, 0.0, request, None, False, world.models, loads, decision, ANSWERED, took_s
        )
        for ended_s, took_s in requests
    ]
    return replace(world, log=[Logged(setting, one) for one in entries])


def test_the_first_run_is_what_ended_in_its_time_and_lasts_as_long_as_its_arrivals() -> None:
    world = logged_world([(90.0, 1.0), (101.0, 1.0), (130.0, 10.0), (160.0, 1.0)])
    first = sim_models.logged(world, 100.0, 140.0, 2)
    assert [one.entry.at_s for one in first.log] == [101.0, 130.0]
    assert first.scenario.seconds == pytest.approx(20.0, abs=1e-3)


@pytest.mark.parametrize(
    ("answered", "sentence"), [(3, "has 2 of the 3 requests"), (2, "after the first 10 s")]
)
def test_a_log_that_lacks_requests_is_no_ground_for_a_figure(answered: int, sentence: str) -> None:
    world = logged_world([(101.0, 1.0), (103.0, 1.0)])
    with pytest.raises(click.ClickException, match=sentence):
        sim_models.logged(world, 100.0, 140.0, answered)


def test_a_row_names_the_profile_of_its_own_world() -> None:
    usual = Simulated("T1", "attainment", 1.0, "", None).as_dict()
    assert (usual["simulated"], usual["profile"]) == (True, world_of("load-80").profile)
    day = world_of("day").profile
    assert "8 times slower" in day
    assert Simulated("T9", "hours", 1.0, "", None, profile=day).as_dict()["profile"] == day


def test_an_answer_from_outside_the_space_of_its_request_is_counted() -> None:
    outcome, small = Outcome(10.0), "qwen3-embedding-0.6b"
    shape = next(arrivals(world_of("load-80"), 100.0)).shape
    for candidates in (None, frozenset({LARGE}), frozenset({LARGE, small})):
        shape.candidates = candidates
        for chosen in (LARGE, small):
            decision = Decision(
                model=chosen,
                target=chosen,
                reason=Reason.AUTO,
                rule=None,
                predicted_s=0.01,
                wait_s=0.0,
                degraded=False,
                whys={},
                predictions={},
            )
            outcome.answered(shape, decision, 0.0, 0.01)
    outcome.settle()
    assert outcome.space_violations == outcome.as_dict()["space_violations"] == 1


def test_requests_that_name_the_largest_stay_with_it_while_its_replicas_die() -> None:
    world = with_pinned(world_of("failures")).updated(seconds=1.0, warm_up_s=0.0)
    faults = [world.scenario.faults[0].model_copy(update={"at_s": 0.2, "replicas": 4})]
    outcome = run(world.updated(faults=faults), way_of(), 150.0)
    pinned = outcome.kinds["pinned"]
    assert pinned.on_time + pinned.late > 0
    assert outcome.space_violations == 0
    assert len(outcome.models) > 1


def test_a_service_that_was_never_on_time_is_compared_too() -> None:
    world = logged_world([(0.0, 0.0)])
    outcome = run(world.updated(seconds=20.0), PolicyVariant("as configured"))
    ask = Ask(Text("text", "en", "query"), {}, 0.1)
    sent = [sim_models.Sent(sim_models.WARM_S + number, ask) for number in range(3)]
    late = [RequestResult(ask, 200, "a", None, 1.0) for _ in sent]
    rows = {row["name"]: row for row in sim_models.compared(outcome, [late, late], sent)}
    assert set(rows) == {"models p50, s", "models p99, s", "models on time"}
    assert rows["models on time"]["measured"] == [0.0, 0.0]
    assert not rows["models on time"]["met"]
