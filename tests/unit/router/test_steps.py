"""What a router learns of a replica's steps from its replies, beside calls that wait for others."""

import random
from collections import deque
from dataclasses import dataclass, field
from statistics import median

import pytest

from router.domain import Curve, Model, attention
from router.feedback import Feedback
from router.routing_config import RoutingConfig
from router.steps import MAX_MIXED, ReplicaCounters, Step, Steps

TRUTH = Curve(0.0095, 0.0069, 2.9e-5, 5e-10, 8192, 0.0, 4e-5)
LENGTHS = (12, 40, 120, 400, 1200)
WRITTEN_S = 0.0002  # between the replies of one step


@dataclass
class Call:
    """One call to the replica below."""

    tokens: int
    tokens_sq: int
    arrived_s: float
    alone: bool
    own: bool  # of the router that learns
    texts: int = 1


@dataclass
class Replica:
    """An engine that puts so many waiting calls into each step; `feedback` learns from its replies
    to its router.
    """

    feedback: Feedback
    most: int
    now: float = 0.0
    busy_s: float = 0.0
    served: int = 0
    waiting: deque[Call] = field(default_factory=deque)

    def arrive(self, length: int, at_s: float, held: bool, own: bool = True) -> None:
        """A call arrives; `held`: the replica holds others."""
        self.waiting.append(Call(length, length * length, at_s, not held, own))

    def step(self, source: random.Random, between: int, own_share: float = 1.0) -> None:
        """Run a step in which so many calls arrive."""
        begun_s = self.now
        calls = [self.waiting.popleft() for _ in range(min(self.most, len(self.waiting)))]
        tokens = sum(call.tokens for call in calls)
        seconds = TRUTH.step(tokens, sum(call.tokens_sq for call in calls), len(calls))
        for at_s in sorted(begun_s + seconds * source.random() for _ in range(between)):
            self.arrive(source.choice(LENGTHS), at_s, True, source.random() < own_share)
        self.now += seconds
        self.busy_s += seconds
        self.served += tokens
        for index, call in enumerate(calls):
            late_s = index * WRITTEN_S
            if call.own:
                at_replica_s = begun_s + seconds + late_s - call.arrived_s
                self.feedback.replied(
                    "r",
                    Step(call.tokens, call.tokens_sq, at_replica_s, call.texts),
                    ReplicaCounters(self.served, self.busy_s + late_s),
                    alone=call.alone,
                    idle=not self.waiting and index + 1 == len(calls),
                )


def error(curve: Curve) -> float:
    """Median relative error of steps with one text."""
    return median(
        abs(curve.step(size, attention((size,), None), 1) / TRUTH.step(size, size * size, 1) - 1.0)
        for size in LENGTHS
    )


def served(most: int, steps: int, between: int, own_share: float = 1.0) -> Feedback:
    """Serve so many steps with waiting calls, from a curve that is half of the true one."""
    source = random.Random(3)
    prior = Curve(0.0, 0.004, 1.5e-5, 5e-10, 8192, 0.0, 4e-5)
    feedback = Feedback(Model("m", 0, 8192, prior, {}), False, RoutingConfig(), 0.0)
    replica = Replica(feedback, most)
    replica.arrive(40, 0.0, held=False)
    for _ in range(steps):
        if not replica.waiting:
            replica.now += 0.01
            replica.arrive(source.choice(LENGTHS), replica.now, held=False)
        replica.step(source, between, own_share)
    return feedback


@pytest.mark.parametrize(
    ("most", "between"), [(1, 0), (1, 1), (8, 2), (8, 6)], ids=["alone", "queue", "few", "many"]
)
def test_the_time_that_calls_wait_for_the_step_before_is_not_learned(
    most: int, between: int
) -> None:
    assert error(served(most, 200, between).model.curve) < 0.06


def test_steps_that_all_have_calls_of_other_routers_are_learned_roughly() -> None:
    curve = served(8, 400, 4, own_share=0.5).model.curve
    usual = 1400, 600_000, 4
    assert curve.step(*usual) == pytest.approx(TRUTH.step(*usual), rel=0.25)


def one(tokens: int, seconds: float) -> Step:
    return Step(tokens, tokens * tokens, seconds, 1)


def test_a_step_is_complete_once_its_replica_is_idle_or_answers_the_next() -> None:
    steps = Steps()
    assert steps.replied(one(10, 1.0), ReplicaCounters(10, 1.0), True, True) == [one(10, 1.0)]
    assert steps.replied(one(10, 2.5), ReplicaCounters(20, 2.0), False, False) == []
    assert steps.replied(one(30, 2.5), ReplicaCounters(50, 2.01), False, False) == []
    assert steps.replied(one(20, 3.0), ReplicaCounters(70, 5.0), False, True) == [
        Step(40, 1000, 1.0, 2),
        one(20, 3.0),
    ]


def test_what_a_replica_served_before_this_router_met_it_is_no_step() -> None:
    steps = Steps()
    assert steps.replied(one(10, 9.0), ReplicaCounters(999, 99.0), False, False) == []
    assert steps.replied(one(10, 2.0), ReplicaCounters(1009, 101.0), False, False) == []
    assert steps.replied(one(10, 2.0), ReplicaCounters(1019, 103.0), False, False) == [one(10, 2.0)]


def test_a_replica_that_started_again_begins_anew() -> None:
    steps = Steps()
    steps.replied(one(10, 9.0), ReplicaCounters(500, 9.0), True, True)
    assert steps.replied(one(10, 2.0), ReplicaCounters(10, 2.0), True, True) == [one(10, 2.0)]


def test_the_time_of_a_cancelled_call_is_not_that_of_the_next_step() -> None:
    steps = Steps()
    steps.replied(one(10, 1.0), ReplicaCounters(10, 1.0), True, True)
    assert steps.replied(one(10, 1.0), ReplicaCounters(20, 7.0), True, True) == [one(10, 1.0)]


def test_calls_of_other_routers_are_left_out_unless_every_step_has_some() -> None:
    steps, found = Steps(), list[Step]()
    for number in range(1, MAX_MIXED + 3):
        counters = ReplicaCounters(30 * number, 2.0 * number)
        found += steps.replied(one(10, 2.0), counters, False, True)
    assert found == [Step(30, 300, 2.0, 3)]


def test_a_mixed_step_has_its_share_of_what_was_served_since_the_reply_before() -> None:
    """Another router sends 99 calls between two of this one."""
    steps, found = Steps(), list[Step]()
    for number in range(1, MAX_MIXED + 4):
        counters = ReplicaCounters(1000 * number, 100.0 * number)
        found += steps.replied(one(10, 1.0), counters, False, True)
    assert found == [one(10, 1.0), one(10, 1.0)]


def test_calls_of_one_step_that_were_all_counted_before_the_first_reply_are_one_step() -> None:
    steps = Steps()
    assert steps.replied(one(10, 1.0), ReplicaCounters(10, 1.0), True, True) == [one(10, 1.0)]
    assert steps.replied(one(10, 1.0), ReplicaCounters(50, 2.0), False, False) == []
    found = steps.replied(one(30, 1.0), ReplicaCounters(50, 2.001), False, True)
    assert found == [Step(40, 1000, 1.0, 2)]


def test_a_step_whose_call_of_another_router_is_answered_last_is_mixed() -> None:
    steps = Steps()
    assert steps.replied(one(10, 1.0), ReplicaCounters(10, 1.0), True, True) == [one(10, 1.0)]
    assert steps.replied(one(10, 1.0), ReplicaCounters(50, 2.0), False, True) == []
