"""The decision: one test per reason; tests/properties/test_policy.py has the laws."""

from collections.abc import Mapping
from typing import Any

import pytest

from router.domain import Curve, Decision, Features, Load, Model, OnMiss, Reason, Request, Why, Work
from router.policy import decide, idle_tail_s, predict
from router.rules import Floor, Policy

ENGLISH = Features(characters=100, language="en", script="Latn", mixed=False, code=False)
GERMAN = Features(characters=100, language="de", script="Latn", mixed=False, code=False)
QUALITY = {"default": 60.0}


def model(name: str, rank: int, step_s: float, max_tokens: int = 32_768, **quality: float) -> Model:
    curve = Curve(
        fixed_s=step_s, base_s=0.0, s_per_token=step_s / 1024, s_per_token_sq=0.0, batch_tokens=8192
    )
    return Model(name, rank, max_tokens, curve, {"default": 60.0 + 5 * rank, **quality})


MODELS = {
    each.id: each
    for each in (model("small", 0, 0.01, 512), model("middle", 1, 0.04), model("large", 2, 0.08))
}
WORK = dict.fromkeys(MODELS, Work(100, 100, 10_000))
FLOORS = (
    Floor("not-english", "large", not_languages=frozenset({"en"})),
    Floor("long", "middle", min_tokens=200),
)
RULES = Policy("small", FLOORS)


def request(
    features: Features = ENGLISH, work: Mapping[str, Work] = WORK, **fields: Any
) -> Request:
    return Request(work, features, **fields)


def run(asked: Request, policy: Policy = RULES, **loads: Load) -> Decision:
    return decide(policy, asked, MODELS, {name: loads.get(name, Load()) for name in MODELS}, 0.0)


def long_text(tokens: int) -> dict[str, Work]:
    return dict.fromkeys(MODELS, Work(tokens, tokens, tokens**2))


@pytest.mark.parametrize(
    ("asked", "chosen", "label"),
    [
        pytest.param(request(), "small", "auto", id="no-rule-applies"),
        pytest.param(request(GERMAN), "large", "rule:not-english", id="a-rule-raises-a-floor"),
        pytest.param(
            request(GERMAN, long_text(300)),
            "large",
            "rule:not-english",
            id="the-highest-floor-wins",
        ),
        pytest.param(request(work=long_text(300)), "middle", "rule:long", id="a-long-text"),
        pytest.param(
            request(GERMAN, target="middle"), "middle", "tier", id="an-explicit-tier-beats-rules"
        ),
        pytest.param(
            request(GERMAN, target="middle", pinned=True, candidates=frozenset({"middle"})),
            "middle",
            "pinned",
            id="a-pin",
        ),
        pytest.param(
            request(pinned=True, candidates=frozenset({"large"})),
            "large",
            "pinned",
            id="a-pinned-space",
        ),
        pytest.param(
            request(GERMAN, permitted=frozenset({"small"})),
            "small",
            "rule:not-english",
            id="a-key-for-small-only",
        ),
        pytest.param(
            request(work=long_text(600), target="small"),
            "large",
            "context",
            id="too-long-for-the-target",
        ),
        pytest.param(
            request(GERMAN, deadline_s=0.05), "middle", "budget", id="too-late-by-the-target"
        ),
        pytest.param(
            request(GERMAN, deadline_s=0.005), "small", "late", id="degrade-takes-the-soonest"
        ),
        pytest.param(
            request(GERMAN, deadline_s=0.005, on_miss=OnMiss.SERVE),
            "large",
            "late",
            id="serve-takes-the-target",
        ),
        pytest.param(
            request(GERMAN, deadline_s=0.005, on_miss=OnMiss.REJECT),
            None,
            "over_budget",
            id="reject",
        ),
        pytest.param(
            request(target="large", deadline_s=0.05, strict=True),
            "large",
            "late",
            id="strict-stays-with-the-target",
        ),
        pytest.param(
            request(candidates=frozenset()), None, "no_model", id="nothing-can-make-the-space"
        ),
        pytest.param(request(work=long_text(40_000)), None, "no_model", id="too-long-for-all"),
    ],
)
def test_every_reason_has_its_choice(asked: Request, chosen: str | None, label: str) -> None:
    decision = run(asked)
    assert (decision.model, decision.label) == (chosen, label)


def test_a_floor_below_the_default_changes_nothing() -> None:
    policy = Policy("middle", (Floor("short", "small", max_tokens=500),))
    assert run(request(), policy).label == "auto"


def test_a_text_of_unknown_language_does_not_match_not_languages() -> None:
    unknown = Features(characters=2, language=None, script=None, mixed=False, code=False)
    assert run(request(unknown)).model == "small"


@pytest.mark.parametrize(
    ("floor", "features", "input_type"),
    [
        pytest.param(Floor("f", "large", languages=frozenset({"de"})), GERMAN, None, id="language"),
        pytest.param(Floor("f", "large", scripts=frozenset({"Latn"})), GERMAN, None, id="script"),
        pytest.param(
            Floor("f", "large", mixed=True),
            Features(9, "de", "Latn", True, False),
            None,
            id="mixed",
        ),
        pytest.param(
            Floor("f", "large", code=True), Features(9, "en", "Latn", False, True), None, id="code"
        ),
        pytest.param(Floor("f", "large", input_type="query"), GERMAN, "query", id="input-type"),
        pytest.param(Floor("f", "large", max_tokens=100), GERMAN, None, id="short"),
    ],
)
def test_each_condition_raises_the_floor_and_its_opposite_does_not(
    floor: Floor, features: Features, input_type: str | None
) -> None:
    policy = Policy("small", (floor,))
    assert run(request(features, input_type=input_type), policy).rule == "f"
    other = Features(9, "zh", "Hani", False, False)
    assert run(request(other, work=long_text(101), input_type="document"), policy).rule is None


def test_a_down_target_is_replaced_by_the_next_smaller_and_the_answer_says_so() -> None:
    decision = run(request(GERMAN), large=Load(ready_replicas=0))
    assert (decision.model, decision.reason, decision.degraded) == (
        "middle",
        Reason.UNAVAILABLE,
        True,
    )
    assert decision.whys == {
        "small": Why.LESS_QUALITY,
        "middle": Why.CHOSEN,
        "large": Why.NOT_READY,
    }


def test_a_down_smallest_target_is_replaced_by_the_best_of_the_larger_ones() -> None:
    decision = run(request(target="small"), small=Load(ready_replicas=0))
    assert (decision.model, decision.degraded) == ("large", False)


def test_strict_never_goes_below_a_target_that_is_down() -> None:
    assert (
        run(request(target="middle", strict=True), middle=Load(ready_replicas=0)).model == "large"
    )
    refused = run(request(target="large", strict=True), large=Load(ready_replicas=0))
    assert (refused.model, refused.reason) == (None, Reason.NO_MODEL)
    assert refused.whys == {
        "small": Why.BELOW_TARGET,
        "middle": Why.BELOW_TARGET,
        "large": Why.NOT_READY,
    }


def test_a_cold_model_counts_its_start_into_the_prediction() -> None:
    cold = Load(ready_replicas=0, cold_start_s=5.0)
    assert run(request(GERMAN), large=cold).predicted_s == pytest.approx(5.08)
    assert run(request(GERMAN, deadline_s=1.0), large=cold).model == "middle"


def test_the_margin_makes_room_for_the_tail() -> None:
    assert run(request(GERMAN, deadline_s=0.1)).model == "large"
    assert run(request(GERMAN, deadline_s=0.1), large=Load(margin=1.5)).model == "middle"


@pytest.mark.parametrize(
    ("margins", "soonest"), [((20.0, 4.0, 1.0), "large"), ((10.0, 4.0, 2.0), "small")]
)
def test_the_soonest_late_answer_is_the_one_with_the_soonest_tail(
    margins: tuple[float, ...], soonest: str
) -> None:
    at = {name: Load(margin=margin) for name, margin in zip(MODELS, margins, strict=True)}
    decision = run(request(GERMAN, deadline_s=0.001), RULES, **at)
    assert (decision.model, decision.reason) == (soonest, Reason.LATE)


def test_a_refusal_says_when_to_come_back() -> None:
    decision = run(
        request(target="small", deadline_s=0.02, on_miss=OnMiss.REJECT),
        small=Load(running_rest_s=0.03),
    )
    assert decision.retry_after_s == pytest.approx(0.02)
    assert decision.candidates[0].predicted_s == pytest.approx(0.04)


def test_a_refusal_that_waiting_does_not_help_gives_no_time() -> None:
    decision = run(
        request(target="small", deadline_s=0.005, on_miss=OnMiss.REJECT),
        small=Load(running_rest_s=0.03),
    )
    assert (decision.reason, decision.retry_after_s) == (Reason.OVER_BUDGET, None)


def test_crowding_ends_with_the_work_that_it_waits_for() -> None:
    """Also in what an idle model is said to take."""
    crowded = Load(running_rest_s=0.03, margin=6.0, crowding=4.0)
    refused = request(target="small", deadline_s=0.02, on_miss=OnMiss.REJECT)
    assert idle_tail_s(MODELS["small"], crowded, refused.work["small"]) == pytest.approx(0.015)
    assert run(refused, small=crowded).retry_after_s == pytest.approx(0.04 - 0.02 / 6.0)


def test_tokens_of_models_that_may_not_serve_are_not_asked_for() -> None:
    only = {"small": Work(10, 10, 100)}
    assert run(request(GERMAN, only, candidates=frozenset({"small"}), pinned=True)).model == "small"


def test_predicts_the_rest_of_the_step_then_full_steps_then_the_last_one() -> None:
    curve = Curve(
        fixed_s=1.0,
        base_s=0.0,
        s_per_token=0.125,
        s_per_token_sq=0.0,
        batch_tokens=16,
        overhead_s=0.25,
    )
    one = Model("m", 0, 100, curve, QUALITY)
    assert predict(one, Load(1, 35, 0.5), Work(4, 4, 16)) == (
        0.5 + 2 * 2.0 + 1.0 + 0.25,
        4.5,
    )  # 35 = 2 full steps and 3
    assert predict(one, Load(1, 30, 0.5), Work(4, 4, 16)) == (
        0.5 + 2 * 2.0 + 1.0 + 0.25,
        2.5,
    )  # the last 2 tokens spill over


def test_work_larger_than_a_step_is_spread_over_the_replicas() -> None:
    curve = Curve(fixed_s=0.0, base_s=1.0, s_per_token=0.0, s_per_token_sq=0.0, batch_tokens=10)
    one = Model("m", 0, 100, curve, QUALITY)
    work = Work(80, 10, 800)
    assert [predict(one, Load(ready), work).total_s for ready in (1, 2, 4, 8, 100)] == [
        8.0,
        4.0,
        2.0,
        1.0,
        1.0,
    ]


def test_every_text_of_a_request_adds_its_cost() -> None:
    curve = Curve(
        fixed_s=0.0,
        base_s=1.0,
        s_per_token=0.0,
        s_per_token_sq=0.0,
        batch_tokens=10,
        s_per_text=0.25,
    )
    one = Model("m", 0, 100, curve, QUALITY)
    assert [predict(one, Load(), Work(8, 8, 64, texts)).total_s for texts in (1, 2, 8)] == [
        1.25,
        1.5,
        3.0,
    ]
    assert predict(one, Load(2), Work(20, 5, 100, 4)).total_s == 1.5, (
        "of two replicas each has half of the texts"
    )


def test_bias_scales_the_curve_and_not_what_is_known_of_the_running_step() -> None:
    assert predict(
        MODELS["large"], Load(running_rest_s=1.0, bias=2.0), WORK["large"]
    ) == pytest.approx((1.16, 1.0))
