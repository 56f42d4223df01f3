"""How many replicas a demand needs: enough, no more, and no back and forth."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.capacity import (
    DemandReport,
    Peak,
    Want,
    needed_replicas,
    next_replicas,
    share_devices,
)

untimed = settings(deadline=None)


positive = st.floats(1e-3, 1e6)


demands = st.floats(0.0, 1e6, allow_subnormal=False)  # half of the smallest subnormal number is 0


def demand(offered: float, shadow: float, rate: float) -> DemandReport:
    return DemandReport(offered, shadow, backlog_tokens=0.0, tokens_per_s=rate)


@untimed
@given(demands, demands, positive, st.floats(0.1, 1.0))
def test_replicas_carry_offered_and_shadow_demand_and_one_fewer_would_not(
    offered: float, shadow: float, rate: float, rho: float
) -> None:
    replicas = math.ceil(needed_replicas(demand(offered, shadow, rate), 0, rho, 1.0, 0.0))
    assert replicas * rate * rho >= (offered + shadow) * (1 - 1e-9)
    assert replicas == 0 or (replicas - 1) * rate * rho < (offered + shadow) * (1 + 1e-9)


def test_demand_that_was_pushed_down_still_asks_for_replicas() -> None:
    assert needed_replicas(demand(0.0, 1000.0, 500.0), 0, 0.8, 1.0, 0.0) == 2.5


@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan])
def test_a_rate_that_cannot_be_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        needed_replicas(demand(1.0, 0.0, rate), 0, 0.8, 1.0, 0.0)


asks = st.builds(
    DemandReport,
    offered=demands,
    shadow=demands,
    backlog_tokens=st.floats(0.0, 1e8),
    tokens_per_s=positive,
)


ready_replicas = st.integers(0, 50)


def needed(ask: DemandReport, ready: int = 1, start_s: float = 30.0) -> float:
    return needed_replicas(ask, ready, rho=0.8, drain_s=60.0, start_s=start_s)


@untimed
@given(
    asks,
    ready_replicas,
    st.floats(1.0, 10.0),
    st.sampled_from(["offered", "shadow", "backlog_tokens"]),
)
def test_more_to_do_never_needs_fewer_replicas(
    ask: DemandReport, ready: int, factor: float, field: str
) -> None:
    more = ask._replace(**{field: getattr(ask, field) * factor})
    assert needed(more, ready) >= needed(ask, ready) * (1 - 1e-9)


@untimed
@given(asks, ready_replicas)
def test_what_is_offered_and_pushed_down_is_always_carried(ask: DemandReport, ready: int) -> None:
    assert (
        needed(ask, ready) * ask.tokens_per_s * 0.8
        >= (ask.offered + ask.shadow) * (1 - 1e-9) - 1e-9
    )


def test_a_backlog_that_is_gone_before_help_could_come_needs_none() -> None:
    assert needed(
        DemandReport(500.0, 0.0, 10_000.0, 1000.0), ready=1, start_s=30.0
    ) == pytest.approx(0.625)


def test_a_backlog_that_stays_is_drained_in_time() -> None:
    ask = DemandReport(1000.0, 0.0, 120_000.0, 1000.0)
    replicas = needed(ask, ready=1)
    assert (replicas * ask.tokens_per_s - ask.offered) * 60.0 == pytest.approx(ask.backlog_tokens)


def test_a_model_nobody_asks_for_needs_no_replica_and_a_single_token_needs_one() -> None:
    assert next_replicas(needed(DemandReport(0.0, 0.0, 0.0, 1000.0)), now=1, slack=0.1) == 0
    assert (
        next_replicas(needed(DemandReport(0.0, 0.0, 1.0, 1000.0), ready=0), now=0, slack=0.1) == 1
    )


@untimed
@given(st.floats(0.0, 100.0), st.integers(0, 100), st.floats(0.0, 0.5))
def test_a_constant_need_settles_at_once_on_replicas_that_carry_it(
    need: float, now: int, slack: float
) -> None:
    first = next_replicas(need, now, slack)
    assert first >= need
    assert next_replicas(need, first, slack) == first
    assert first <= max(now, math.ceil(need))


@untimed
@given(st.integers(1, 50), st.lists(st.floats(-0.04, 0.04), max_size=40))
def test_noise_around_a_whole_number_starts_a_replica_once_and_stops_none(
    count: int, noise: list[float]
) -> None:
    targets, now = list[int](), count
    for part in noise:
        now = next_replicas(count * (1 + part), now, slack=0.1)
        targets.append(now)
    assert targets == sorted(targets)
    assert now <= count + math.ceil(0.04 * count)


@untimed
@given(
    st.lists(st.tuples(st.floats(0.0, 5.0), st.floats(0.0, 100.0)), min_size=1, max_size=50),
    st.floats(0.0, 20.0),
)
def test_a_peak_is_the_highest_value_of_its_window(
    steps: list[tuple[float, float]], window_s: float
) -> None:
    peak, now, seen = Peak(window_s), 0.0, list[tuple[float, float]]()
    for step_s, value in steps:
        now += step_s
        seen.append((now, value))
        assert peak.seen(value, now) == max(value for at, value in seen if at >= now - window_s)


@st.composite
def wants(draw: st.DrawFn) -> dict[str, Want]:
    made = {}
    for name in draw(st.lists(st.sampled_from("abcd"), unique=True, min_size=1)):
        least, need = draw(st.integers(0, 3)), draw(st.floats(0.0, 20.0))
        devices = draw(st.sampled_from([0.25, 0.5, 1.0, 2.0]))
        made[name] = Want(
            max(least, math.ceil(need)), need, least, devices, draw(st.integers(0, 8))
        )
    return made


@untimed
@given(wants(), st.floats(0.0, 40.0))
def test_a_budget_is_kept_and_nobody_gets_less_than_its_least_or_more_than_it_wants(
    models: dict[str, Want], devices: float
) -> None:
    given_out = share_devices(models, devices)
    assert all(want.least <= given_out[name] <= want.replicas for name, want in models.items())
    used = sum(given_out[name] * want.devices for name, want in models.items())
    assert used <= max(devices, sum(want.least * want.devices for want in models.values())) + 1e-6


@untimed
@given(wants(), st.floats(0.0, 40.0))
def test_what_still_runs_is_not_given_out_twice(models: dict[str, Want], devices: float) -> None:
    given_out = share_devices(models, devices)
    occupied = sum(max(given_out[name], want.held) * want.devices for name, want in models.items())
    assert (
        occupied
        <= max(devices, sum(max(want.held, want.least) * want.devices for want in models.values()))
        + 1e-6
    )


def fluid(loads: list[float], start_ticks: int, replicas: int = 1) -> tuple[list[int], list[float]]:
    """Targets and backlogs, second by second, of a service that serves 1000 tokens/s a replica and
    starts them with delay.
    """
    coming, backlog, targets, backlogs = list[tuple[int, int]](), 0.0, list[int](), list[float]()
    peak, ready = Peak(60.0), replicas
    target = replicas
    for second, offered in enumerate(loads):
        ready = min(target, ready + sum(count for at, count in coming if at == second))
        backlog = max(0.0, backlog + offered - 1000.0 * ready)
        need = peak.seen(
            needed(DemandReport(offered, 0.0, backlog, 1000.0), ready, float(start_ticks)),
            float(second),
        )
        wanted = next_replicas(need, target, 0.1)
        if wanted > target:
            coming.append((second + start_ticks, wanted - target))
        target = wanted
        targets.append(target)
        backlogs.append(backlog)
    return targets, backlogs


@untimed
@given(st.floats(0.0, 20_000.0), st.integers(1, 25), st.integers(1, 60))
def test_constant_demand_ends_in_a_constant_number_without_a_backlog(
    load: float, replicas: int, start_ticks: int
) -> None:
    targets, backlogs = fluid([load] * 600, start_ticks, replicas)
    assert len(set(targets[-200:])) == 1, targets
    assert backlogs[-1] < 1e-6  # tokens: what underflows is no backlog
    moves = [b - a for a, b in itertools.pairwise(targets) if b != a]
    turns = sum(a * b < 0 for a, b in itertools.pairwise(moves))
    assert turns <= 1, targets
    assert max(targets) <= max(replicas, 2 * math.ceil(load / 800.0))


def test_steps_up_and_down_are_followed_once_each() -> None:
    targets, backlogs = fluid([500.0] * 60 + [4000.0] * 200 + [500.0] * 300, start_ticks=30)
    moves = [b - a for a, b in itertools.pairwise(targets) if b != a]
    assert targets[59] == 1
    assert max(targets) <= 6
    assert targets[-1] == 1
    assert sum(a * b < 0 for a, b in itertools.pairwise(moves)) == 1, targets
    assert backlogs[259] == 0.0
