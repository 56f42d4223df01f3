"""The laws of a decision, for any input."""

import math
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from router.domain import Curve, Decision, Load, Model, OnMiss, Reason, Request, Why, Work
from router.policy import decide, idle_tail_s, predict
from router.rules import Floor, Policy
from tests.support.decision_inputs import features, loads_of, ticks

untimed = settings(deadline=None)

names = ("a", "b", "c", "d")
subsets = st.none() | st.frozensets(st.sampled_from(names))


@st.composite
def curves(draw: st.DrawFn) -> Curve:
    return Curve(
        draw(ticks),
        draw(ticks),
        draw(st.integers(0, 8)) / 1024,
        draw(st.integers(0, 4)) / 2**20,
        draw(st.sampled_from((1, 16, 64, 512))),
        draw(ticks),
        draw(st.integers(0, 8)) / 1024,
    )


@st.composite
def works(draw: st.DrawFn) -> Work:
    lengths = draw(st.lists(st.integers(1, 400), min_size=1, max_size=4))
    return Work(sum(lengths), max(lengths), sum(length**2 for length in lengths), len(lengths))


loads = loads_of(0, 1, 1, 4)
floors = st.lists(
    st.builds(
        Floor, st.sampled_from(("one", "two")), st.sampled_from(names), st.none() | st.integers(1,
        400),
        st.none() | st.integers(1, 400), st.none() | st.just(frozenset({"en"})),
        st.none() | st.just(frozenset({"en"})),
        st.none() | st.just(frozenset({"Latn"})), st.none() | st.booleans(),
        st.none() | st.booleans(),
    ),
    max_size=4,
).map(tuple)  # fmt: skip


class World(tuple[Policy, Request, dict[str, Model], dict[str, Load]]):
    """Arguments of `decide`."""

    def decide(self, now: float = 0.0, **changes: Any) -> Decision:
        policy, asked, models, at = self
        return decide(policy, asked._replace(**changes), models, at, now)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    models = {
        name: Model(
            name, rank, draw(st.sampled_from((50, 512))), draw(curves()),
            {"default": draw(st.integers(40, 90)) * 1.0, "zh": draw(st.integers(40, 90)) * 1.0},
            draw(st.sampled_from((0.5, 1.0, 4.0))),
        )
        for rank, name in enumerate(names)
    }  # fmt: skip
    target = draw(st.none() | st.sampled_from(names))
    asked = Request(
        work={name: draw(works()) for name in names}, features=draw(features), target=target,
        pinned=draw(st.booleans()),
        strict=draw(st.booleans()), candidates=draw(subsets), permitted=draw(subsets),
        on_miss=draw(st.sampled_from(OnMiss)),
        deadline_s=draw(st.none() | ticks),
    )  # fmt: skip
    policy = Policy(draw(st.sampled_from(names)), draw(floors))
    return World((policy, asked, models, {name: draw(loads) for name in names}))


def quality(world: World, decision: Decision) -> tuple[float, ...]:
    """What the rules try to get most of: the points on this text, after two things that come
    before points. A target that was named or raised is taken as it is, and where the target is out,
    the side that stands in for it comes first. An answer that comes late, or never, is worth
    nothing.
    """
    if decision.model is None or decision.reason is Reason.LATE:
        return (-math.inf,)
    return worth_by_rules(world, decision, decision.model)


def worth_by_rules(world: World, decision: Decision, name: str) -> tuple[float, ...]:
    """The worth of an answer by `name`, be it late or not."""
    _, asked, models, _ = world
    assert decision.target is not None
    why, target = decision.whys[decision.target], models[decision.target]
    points = models[name].quality_of(asked.features)
    assert points is not None
    if why in (Why.NOT_PERMITTED, Why.NOT_IN_SPACE, Why.TOO_LONG, Why.NOT_READY):
        larger = models[name].rank > target.rank
        return (float(larger == (why is Why.TOO_LONG)), points)
    named = decision.reason not in (Reason.AUTO, Reason.QUALITY, Reason.BUDGET, Reason.LATE)
    return (float(named and name == decision.target), points)


@untimed
@given(worlds(), ticks, ticks)
def test_more_budget_never_lowers_quality_on_this_text(
    world: World, budget_s: float, more_s: float
) -> None:
    less, more = world.decide(deadline_s=budget_s), world.decide(deadline_s=budget_s + more_s)
    assert (
        quality(world, less)
        <= quality(world, more)
        <= quality(world, world.decide(deadline_s=None))
    )


@untimed
@given(worlds(), ticks, ticks)
def test_more_budget_never_has_fewer_points_even_after_a_late_answer(
    world: World, budget_s: float, more_s: float
) -> None:
    policy, asked, models, at = world
    world = World(
        (Policy(policy.default, policy.floors), asked._replace(on_miss=OnMiss.DEGRADE), models, at)
    )
    less, more = world.decide(deadline_s=budget_s), world.decide(deadline_s=budget_s + more_s)
    assert (less.model is None) == (more.model is None)
    if less.model is not None and more.model is not None:
        worth = worth_by_rules(world, more, more.model)
        assert worth_by_rules(world, more, less.model) <= worth


@untimed
@given(worlds(), ticks, ticks)
def test_an_auto_request_that_no_rule_raises_gets_the_most_points_that_its_budget_allows(
    world: World, budget_s: float, more_s: float
) -> None:
    policy, asked, models, at = world
    free = asked._replace(target=None, pinned=False, candidates=None, permitted=None, strict=False)
    ready = {name: load._replace(ready_replicas=1) for name, load in at.items()}
    fitting = {name: replace(model, max_tokens=10_000) for name, model in models.items()}
    world = World((Policy(policy.default), free, fitting, ready))
    for budget in (budget_s, budget_s + more_s):
        decision = world.decide(deadline_s=budget)
        in_time = [
            model
            for name, model in fitting.items()
            if model.rank <= fitting[policy.default].rank
            and decision.predictions[name].total_s * ready[name].margin <= budget
        ]
        if in_time:
            assert decision.model is not None
            most = max(model.quality_of(free.features) or 0.0 for model in in_time)
            assert fitting[decision.model].quality_of(free.features) == most


@untimed
@given(worlds(), st.fixed_dictionaries(dict.fromkeys(names, st.integers(0, 2000))), ticks)
def test_more_backlog_never_raises_quality(
    world: World, added: dict[str, int], rest_s: float
) -> None:
    policy, asked, models, at = world
    more = {
        name: load._replace(
            ahead_tokens=load.ahead_tokens + added[name],
            running_rest_s=load.running_rest_s + rest_s,
        )
        for name, load in at.items()
    }
    assert quality(world, World((policy, asked, models, more)).decide()) <= quality(
        world, world.decide()
    )


@untimed
@given(curves(), works(), loads, st.integers(0, 2000))
def test_more_backlog_never_shortens_a_prediction(
    curve: Curve, work: Work, load: Load, more: int
) -> None:
    one = Model("m", 0, 512, curve, {"default": 60.0})
    shorter, longer = (
        predict(one, load, work),
        predict(one, load._replace(ahead_tokens=load.ahead_tokens + more), work),
    )
    assert shorter.total_s <= longer.total_s
    assert shorter.wait_s <= longer.wait_s


@untimed
@given(worlds())
def test_a_pinned_space_and_a_keys_models_are_never_left(world: World) -> None:
    asked, chosen = world[1], world.decide().model
    assert chosen is None or asked.candidates is None or chosen in asked.candidates
    assert chosen is None or asked.permitted is None or chosen in asked.permitted


@untimed
@given(worlds(), st.permutations(names))
def test_the_order_of_models_does_not_matter(world: World, order: list[str]) -> None:
    policy, asked, models, at = world
    shuffled = World(
        (
            policy,
            asked,
            {name: models[name] for name in order},
            {name: at[name] for name in reversed(order)},
        )
    )
    assert shuffled.decide() == world.decide()


@untimed
@given(worlds())
def test_load_never_lowers_a_rules_request_without_a_budget(world: World) -> None:
    policy, asked, models, at = world
    rules = World(
        (Policy(policy.default, policy.floors), asked._replace(deadline_s=None), models, at)
    )
    idle = {name: load._replace(ahead_tokens=0, running_rest_s=0.0) for name, load in at.items()}
    assert rules.decide().model == World((rules[0], rules[1], models, idle)).decide().model


@untimed
@given(worlds())
def test_only_a_request_that_nothing_in_reach_can_meet_is_rejected(world: World) -> None:
    _, asked, models, at = world
    decision = world.decide()
    if decision.reason is Reason.OVER_BUDGET:
        assert asked.on_miss is OnMiss.REJECT
        assert asked.deadline_s is not None
        within = {name for name, why in decision.whys.items() if why is Why.OVER_BUDGET}
        assert within == decision.predictions.keys() - {
            name
            for name, why in decision.whys.items()
            if why in (Why.ABOVE_TARGET, Why.BELOW_TARGET)
        }
        assert within
        assert all(
            predict(models[n], at[n], asked.work[n]).total_s * at[n].margin > asked.deadline_s
            for n in within
        )
        soonest_s = min(idle_tail_s(models[name], at[name], asked.work[name]) for name in within)
        assert (decision.retry_after_s is not None) == (soonest_s <= asked.deadline_s), (
            "time to come back only where it helps"
        )
        assert decision.retry_after_s is None or decision.retry_after_s > 0.0
    elif decision.reason is Reason.NO_MODEL and not asked.strict:
        assert not decision.predictions


@untimed
@given(
    worlds(),
    st.floats() | st.sampled_from((math.nan, math.inf, -math.inf, -1.0, 0.0)),
    st.booleans(),
)
def test_any_budget_gives_a_whole_decision(world: World, deadline_s: float, all_cold: bool) -> None:
    policy, asked, models, at = world
    if all_cold:
        at = {name: load._replace(ready_replicas=0, cold_start_s=None) for name, load in at.items()}
    decision = World((policy, asked, models, at)).decide(deadline_s=deadline_s)
    assert decision.whys.keys() == models.keys()
    assert [name for name, why in decision.whys.items() if why is Why.CHOSEN] == (
        [decision.model] if decision.model else []
    )
    assert (decision.model is None) == (decision.reason in (Reason.NO_MODEL, Reason.OVER_BUDGET))
    assert {
        each.model for each in decision.candidates if each.predicted_s is not None
    } == decision.predictions.keys()
    if all_cold:
        assert decision.reason is Reason.NO_MODEL


@untimed
@given(worlds(), ticks)
def test_the_same_inputs_give_the_same_decision_whatever_the_clock_shows(
    world: World, later_s: float
) -> None:
    deadline_s = world[1].deadline_s
    shifted = None if deadline_s is None else deadline_s + later_s
    assert world.decide() == world.decide() == world.decide(now=later_s, deadline_s=shifted)
