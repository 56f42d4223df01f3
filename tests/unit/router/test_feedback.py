"""Demand as the autoscaler and the prices see it: what goes to a model, and what was sent to a
smaller one instead.
"""

import random
import statistics
from dataclasses import replace

import pytest

from router.domain import Curve, Features, Load, Model, OnMiss, Reason, Request, Why, Work
from router.feedback import Feedback, record_demand
from router.latency import CROWD_ETA, Correction
from router.ledger import Ledger
from router.policy import decide, predict
from router.routing_config import RoutingConfig
from router.rules import Policy
from router.steps import ReplicaCounters

ENGLISH = Features(characters=100, language="en", script="Latn", mixed=False, code=False)
CURVE = Curve(fixed_s=0.01, base_s=0.0, s_per_token=0.001, s_per_token_sq=0.0, batch_tokens=8192)
MODELS = {
    name: Model(name, rank, 8192, CURVE, {"default": 60.0})
    for rank, name in enumerate(("small", "large"))
}
LOADS = {"small": Load(), "large": Load(margin=1000.0)}


@pytest.fixture
def feedback() -> dict[str, Feedback]:
    return {name: Feedback(model, True, RoutingConfig(), 0.0) for name, model in MODELS.items()}


def test_work_that_a_budget_pushed_down_counts_for_both_models(
    feedback: dict[str, Feedback],
) -> None:
    work = dict.fromkeys(MODELS, Work(100, 100, 10_000))
    decision = decide(Policy("large"), Request(work, ENGLISH, deadline_s=1.0), MODELS, LOADS, 0.0)

    record_demand(feedback, decision, work, LOADS, 0.0)

    assert decision.reason is Reason.BUDGET
    assert feedback["small"].offered.tokens_per_s(0.0) > 0
    assert feedback["large"].shadow.tokens_per_s(0.0) > 0


def test_a_target_outside_the_pinned_space_missed_nothing(feedback: dict[str, Feedback]) -> None:
    work = {"small": Work(100, 100, 10_000)}
    pinned = Request(work, ENGLISH, deadline_s=0.001, candidates=frozenset({"small"}), pinned=True)
    decision = decide(Policy("large"), pinned, MODELS, LOADS, 0.0)

    record_demand(feedback, decision, work, LOADS, 0.0)

    assert (decision.model, decision.target, decision.reason) == ("small", "large", Reason.LATE)
    assert feedback["small"].offered.tokens_per_s(0.0) > 0
    assert feedback["large"].shadow.tokens_per_s(0.0) == 0


def test_a_refused_request_counts_as_demand_for_the_model_it_wanted(
    feedback: dict[str, Feedback],
) -> None:
    work = dict.fromkeys(MODELS, Work(100, 100, 10_000))
    loads = {"small": Load(margin=1000.0), "large": Load(0, cold_start_s=20.0)}
    decision = decide(
        Policy("large"),
        Request(work, ENGLISH, deadline_s=1.0, on_miss=OnMiss.REJECT),
        MODELS,
        loads,
        0.0,
    )

    assert record_demand(feedback, decision, work, LOADS, 0.0, deadline_s=1.0) == "large"

    assert decision.reason is Reason.OVER_BUDGET
    assert feedback["large"].shadow.tokens_per_s(0.0) > 0
    assert feedback["large"].offered.tokens_per_s(0.0) == 0


def test_a_budget_that_an_idle_model_would_miss_too_asks_for_no_replicas(
    feedback: dict[str, Feedback],
) -> None:
    work = dict.fromkeys(MODELS, Work(100, 100, 10_000))  # 0.1 s on an idle model
    decision = decide(Policy("large"), Request(work, ENGLISH, deadline_s=0.05), MODELS, LOADS, 0.0)

    assert record_demand(feedback, decision, work, LOADS, 0.0, deadline_s=0.05) is None
    assert feedback["large"].shadow.tokens_per_s(0.0) == 0


def test_a_model_that_nobody_asked_for_in_three_windows_is_not_asked_for(
    feedback: dict[str, Feedback],
) -> None:
    large = feedback["large"]
    large.chosen(1000, 0.0)
    assert large.demand(7, 0.0)[:3] == (100.0, 0.0, 7)
    assert large.demand(0, 29.0).offered > 0.0
    assert large.demand(0, 31.0)[:3] == (0.0, 0.0, 0)


def test_a_replica_is_rated_by_what_it_does_with_full_batches(
    feedback: dict[str, Feedback],
) -> None:
    small = feedback["small"]
    profile = small.demand(0, 0.0).tokens_per_s
    for second in range(1, 100):  # busy all the time, with a tenth of what fits
        small.served("r1", ReplicaCounters(100 * second, float(second)))
    assert small.demand(0, 0.0).tokens_per_s == profile
    for second in range(100, 400):
        small.served("r1", ReplicaCounters(500 * second, float(second)), full=True)
    assert small.demand(0, 0.0).tokens_per_s == pytest.approx(500.0, rel=0.01)


def test_a_replica_that_did_more_than_its_profile_says_is_believed(
    feedback: dict[str, Feedback],
) -> None:
    small = feedback["small"]
    for second in range(1, 200):
        small.served("r1", ReplicaCounters(5000 * second, float(second)))
    assert small.demand(0, 0.0).tokens_per_s == pytest.approx(5000.0, rel=0.05)


@pytest.mark.parametrize(
    "slower", [1.0, 3.0], ids=["as its profile says", "at a third of the speed"]
)
def test_what_an_answer_takes_beside_the_engine_is_learned_and_not_taken_for_slowness(
    slower: float,
) -> None:
    # overhead unknown
    curve = Curve(
        fixed_s=0.0, base_s=0.002, s_per_token=0.0001, s_per_token_sq=0.0, batch_tokens=10_000
    )
    model, rng = (
        Feedback(Model("m", 0, 10_000, curve, {}), True, RoutingConfig(), 0.0),
        random.Random(3),
    )
    book, errors = Ledger({"m": 3}), list[float]()
    book.joined("m", "r1")
    for number in range(600):
        tokens = rng.choice((10, 10, 10, 2000))
        load = model.load(book, float(number), rng)
        predicted_s = predict(model.model, load, Work(tokens, tokens, tokens * tokens)).total_s
        engine_s = slower * curve.step(tokens)
        actual_s = engine_s + 0.006 * rng.uniform(0.8, 1.25)
        model.completed(actual_s, predicted_s, load.bias, float(number), load.margin, engine_s)
        errors.append(abs(predicted_s / actual_s - 1.0))
    assert statistics.median(errors[300:]) < 0.1
    assert max(errors[300:]) < 0.3, "short and long texts alike"
    assert model.model.curve.overhead_s * model.correction.bias == pytest.approx(0.006, rel=0.25)


def test_the_overhead_stays_as_the_profile_says_where_nobody_tells_the_engines_part(
    feedback: dict[str, Feedback],
) -> None:
    small, before = feedback["small"], feedback["small"].model
    for _ in range(50):
        small.completed(0.5, 0.1, 1.0, 0.0)
        # pieces at several replicas: the longest wait, the longest step
        small.completed(0.5, 0.1, 1.0, 0.0, engine_s=0.7)
    assert small.model is before


def test_a_target_that_cannot_read_the_text_misses_nothing(feedback: dict[str, Feedback]) -> None:
    """However many replicas it had, it would not answer these texts."""
    models = MODELS | {"large": replace(MODELS["large"], max_tokens=50)}
    work = dict.fromkeys(MODELS, Work(100, 100, 10_000))
    request = Request(work, ENGLISH, deadline_s=0.001)
    for on_miss in (OnMiss.DEGRADE, OnMiss.REJECT):
        decision = decide(Policy("large"), request._replace(on_miss=on_miss), models, LOADS, 0.0)
        assert decision.whys["large"] is Why.TOO_LONG
        assert record_demand(feedback, decision, work, LOADS, 0.0) is None
    assert feedback["large"].shadow.tokens_per_s(0.0) == 0


def slow_start(slower: float = 6.0) -> tuple[Feedback, Ledger]:
    """A model whose first answers took several times as long as later ones would."""
    model, ledger = Feedback(MODELS["large"], True, RoutingConfig(), 0.0), Ledger({"large": 3})
    ledger.joined("large", "r1")
    for _ in range(20):
        bias, margin = model.correction.bias, model.correction.margin
        model.completed(0.1 * slower, 0.1 * bias, bias, 0.0, margin)
    return model, ledger


def refusals(
    model: Feedback, ledger: Ledger, budget_s: float, every_s: float, count: int
) -> int | None:
    """How many requests are refused before one is accepted; None if all are."""
    work, rng = {"large": Work(100, 100, 10_000)}, random.Random(1)
    for number in range(count):
        now = every_s * number
        request = Request(work, ENGLISH, now + budget_s, "large", on_miss=OnMiss.REJECT)
        loads = {"large": model.load(ledger, now, rng)}
        decision = decide(Policy("large"), request, {"large": model.model}, loads, now)
        record_demand({"large": model}, decision, work, loads, now, now + budget_s)
        if decision.model is not None:
            return number
    return None


def test_a_model_that_started_slowly_is_tried_again_though_all_requests_are_refused() -> None:
    model, ledger = slow_start()
    tail_s = 0.1 * model.correction.bias * model.correction.margin
    assert tail_s > 0.6
    assert (refused := refusals(model, ledger, 0.15, 0.125, 1000)) is not None
    assert refused > 20, "no more than the declared share is tried"


def test_a_budget_that_the_configs_curve_misses_too_is_no_reason_to_doubt() -> None:
    model, ledger = slow_start()
    before = model.correction.bias
    assert refusals(model, ledger, 0.09, 0.125, 3000) is None
    assert model.correction.bias == before


def test_a_refusal_because_of_other_work_is_no_reason_to_doubt() -> None:
    model, ledger = slow_start()
    before = model.correction.bias
    ledger.dispatched("large", "r1", 2000, 0.0)
    assert refusals(model, ledger, 0.15, 0.001, 900) is None
    assert model.correction.bias == before


def test_many_refusals_at_once_are_one_doubt() -> None:
    """The answer that shows that the model is slow comes later."""
    model, ledger = slow_start()
    bias = model.correction.bias
    assert refusals(model, ledger, 0.15, 0.0001, 5000) is None
    assert model.correction.bias > 0.95 * bias


def test_a_request_that_finds_other_work_is_promised_what_crowding_says() -> None:
    model, ledger = Feedback(MODELS["large"], True, RoutingConfig(), 0.0), Ledger({"large": 3})
    rng = random.Random(1)
    ledger.joined("large", "r1")
    for _ in range(20):
        model.completed(0.5, 0.1, 1.0, 0.0, 1.0, joined=True)
    assert model.load(ledger, 0.0, rng).margin == 1.0
    ledger.dispatched("large", "r1", 100, 0.0)
    load = model.load(ledger, 0.0, rng)
    assert load.margin == load.crowding == pytest.approx(5.0, rel=CROWD_ETA)


def test_one_answer_after_a_replica_that_hung_does_not_stop_all_traffic() -> None:
    correction = Correction(0.01)
    correction.observe(60.0, 0.01, 1.0, joined=True)
    assert 1.0 < correction.crowding < 2.0
    for _ in range(100):
        correction.observe(60.0, 0.01, 1.0, joined=True)
    assert correction.crowding == Correction.MAX_CROWDING


@pytest.mark.parametrize("replicas", [1, 4])
def test_work_that_replicas_share_is_doubted_as_it_is_predicted(replicas: int) -> None:
    """Ten batches: they take as long on four replicas as two and a half on one."""
    model, ledger = slow_start()
    for name in range(1, replicas):
        ledger.joined("large", f"other{name}")
    tokens = 10 * model.model.curve.batch_tokens
    work = Work(tokens, tokens, 0, 100)
    given = MODELS["large"]
    budget_s = 1.5 * predict(given, Load(replicas), work).total_s
    idle = model.load(ledger, 0.0, random.Random(1))
    before = model.correction.bias
    busy_s = 2.0 * predict(model.model, idle, work).total_s
    model.doubted(work, replicas, busy_s, budget_s, 1.0)
    assert model.correction.bias == before, "other work is why"
    model.doubted(work, replicas, predict(model.model, idle, work).total_s, budget_s, 2.0)
    assert model.correction.bias < before
