"""Predictions and decisions worked out by hand, in numbers that floats hold exactly."""

import math

import pytest

from router.domain import (
    Curve,
    Features,
    Load,
    LongTexts,
    Model,
    OnMiss,
    Request,
    TextKind,
    Why,
    Work,
)
from router.policy import decide, predict
from router.rules import Floor, Policy

# 1/4 s a step and 1/16 s a token, at least 1/2 s; 16 tokens fill a step and take 1 1/4 s
CURVE = Curve(
    fixed_s=0.5,
    base_s=0.25,
    s_per_token=1 / 16,
    s_per_token_sq=0.0,
    batch_tokens=16,
    overhead_s=0.125,
)
MODEL = Model("m", 0, 100, CURVE, {"default": 60.0})
FOUR = Work(4, 4, 16)  # 1/2 s of its own
ENGLISH = Features(9, "en", "Latn", False, False)


@pytest.mark.parametrize(
    ("load", "work", "wait_s", "total_s"),
    [
        pytest.param(Load(), FOUR, 0.0, 0.625, id="idle"),
        pytest.param(Load(1, 16), FOUR, 1.25, 1.875, id="one-step-ahead"),
        pytest.param(Load(1, 40), FOUR, 2.5, 3.625, id="two-and-a-half-steps-ahead"),
        pytest.param(Load(bias=2.0), FOUR, 0.0, 1.25, id="idle-twice-as-slow"),
        pytest.param(Load(1, 16, bias=2.0), FOUR, 2.5, 3.75, id="one-step-ahead-twice-as-slow"),
        pytest.param(
            Load(1, 40, bias=2.0), FOUR, 5.0, 7.25, id="two-and-a-half-steps-ahead-twice-as-slow"
        ),
        pytest.param(Load(1, 16, 0.5, bias=2.0), FOUR, 3.0, 4.25, id="what-runs-now-is-not-scaled"),
        pytest.param(Load(), Work(16, 16, 256), 0.0, 1.375, id="exactly-a-step"),
        pytest.param(Load(1, 4), Work(12, 12, 144), 0.0, 1.375, id="fills-the-running-batch"),
        pytest.param(Load(1, 4), Work(13, 13, 169), 0.0, 1.875, id="one-token-spills-over"),
        pytest.param(Load(1), Work(32, 16, 512, 2), 0.0, 2.625, id="exactly-two-steps-of-work"),
        pytest.param(Load(1), Work(40, 20, 800, 2), 0.0, 3.375, id="two-and-a-half-steps-of-work"),
        pytest.param(Load(2), Work(40, 20, 800, 2), 0.0, 1.875, id="halved-over-two-replicas"),
        pytest.param(
            Load(2, 16, bias=2.0), Work(40, 20, 800, 2), 2.5, 6.25, id="two-slow-busy-replicas"
        ),
        pytest.param(Load(0, cold_start_s=8.0), FOUR, 8.0, 8.625, id="a-cold-start"),
        pytest.param(Load(beside_s=(0.25,)), FOUR, 0.25, 0.875, id="beside-less-work"),
        pytest.param(Load(beside_s=(9.0,)), FOUR, 0.5, 1.125, id="beside-more-work"),
        pytest.param(Load(beside_s=(9.0, 0.25)), FOUR, 0.75, 1.375, id="beside-two-others"),
        pytest.param(Load(1, 16, beside_s=(9.0,)), FOUR, 3.0, 3.625, id="what-waits-shares-too"),
        pytest.param(
            Load(1, 16, 0.5, bias=2.0, beside_s=(4.5,)),
            FOUR,
            7.0,
            8.25,
            id="all-beside-more",
        ),
        pytest.param(Load(), Work(0, 4, 0, 0), 0.0, 0.0, id="nothing-left-to-do"),
        pytest.param(
            Load(1, 40, 0.5, bias=2.0), Work(0, 4, 0, 0), 0.0, 0.0, id="nothing-to-do-at-a-busy-one"
        ),
    ],
)
def test_predictions_worked_by_hand(load: Load, work: Work, wait_s: float, total_s: float) -> None:
    assert predict(MODEL, load, work) == (total_s, wait_s)


def models(*points: float | None) -> dict[str, Model]:
    """Models a, b, c of these points in English, all with the curve above."""
    return {
        name: Model(name, rank, 100, CURVE, {} if each is None else {"en": each})
        for rank, (name, each) in enumerate(zip("abc", points, strict=False))
    }


def chosen(
    known: dict[str, Model],
    policy: Policy,
    budget_s: float | None = None,
    features: Features = ENGLISH,
    on_miss: OnMiss = OnMiss.DEGRADE,
    target: str | None = None,
    works: dict[str, Work] | None = None,
    unread: dict[str, float] | None = None,
    **margins: float,
) -> tuple[str | None, str, bool]:
    """Model, label and `degraded`; a margin of 0 is a model without replicas."""
    request = Request(
        works or dict.fromkeys(known, FOUR),
        features,
        deadline_s=budget_s,
        target=target,
        on_miss=on_miss,
        unread=unread or {},
    )
    loads = {
        name: Load(margin=margin) if (margin := margins.get(name, 1.0)) else Load(0)
        for name in known
    }
    decision = decide(policy, request, known, loads, 0.0)
    turned = decide(
        policy,
        request,
        dict(reversed(known.items())),
        dict(reversed(loads.items())),
        0.0,
    )
    assert turned == decision
    return decision.model, decision.label, decision.degraded


@pytest.mark.parametrize(
    ("budget_s", "model", "label"),
    [(0.625, "b", "tier"), (math.nextafter(0.625, 0.0), "b", "late"), (0.7, "b", "tier")],
)
def test_a_tail_exactly_at_the_budget_is_in_time(budget_s: float, model: str, label: str) -> None:
    assert chosen(models(50, 60), Policy("a"), budget_s, target="b") == (model, label, False)


def test_of_equally_late_models_the_largest_answers() -> None:
    assert chosen(models(50, 60, 70), Policy("c"), 0.5) == ("c", "late", False)
    assert chosen(models(50, 60, 70), Policy("c"), 0.5, c=2.0) == ("b", "late", True)
    assert chosen(models(50, 60, 70), Policy("c"), 0.5, b=0.99, c=2.0) == ("b", "late", True)
    assert chosen(models(50, 60, 70), Policy("c"), 0.5, a=0.99) == ("a", "late", True)


@pytest.mark.parametrize(
    ("points", "answer"),
    [
        pytest.param((50, 60), ("b", "auto", False), id="the-default-is-best"),
        pytest.param((70, 60), ("a", "quality", False), id="a-smaller-one-is-better"),
        pytest.param((60, 60), ("b", "auto", False), id="equal-points-stay-with-the-default"),
        pytest.param((None, 60), ("b", "auto", False), id="no-figure-of-the-smaller"),
        pytest.param((70, None), ("b", "auto", False), id="no-figure-of-the-default"),
        pytest.param((70, 60, 90), ("a", "quality", False), id="never-above-the-default"),
    ],
)
def test_the_default_gives_way_to_a_smaller_model_that_is_better_on_this_text(
    points: tuple[float | None, ...], answer: tuple[str, str, bool]
) -> None:
    assert chosen(models(*points), Policy("b")) == answer


def test_what_is_named_or_raised_is_taken_as_it_is() -> None:
    worse = models(70, 60)
    assert chosen(worse, Policy("a"), target="b")[:2] == ("b", "tier")
    raised = Policy("a", (Floor("english", "b", languages=frozenset({"en"})),))
    assert chosen(worse, raised)[:2] == ("b", "rule:english")
    assert chosen(worse, Policy("b", default_is_named=True))[:2] == ("b", "auto")


def test_why_says_that_a_better_model_was_passed_over_for_a_named_one() -> None:
    known = models(70, 60)
    request = Request(dict.fromkeys(known, FOUR), ENGLISH, target="b")
    assert decide(Policy("a"), request, known, dict.fromkeys(known, Load()), 0.0).whys == {
        "a": Why.NOT_NAMED,
        "b": Why.CHOSEN,
    }


@pytest.mark.parametrize(
    ("points", "answer"),
    [
        pytest.param((50, 40, 70), ("a", "budget", True), id="the-best-and-not-the-largest"),
        pytest.param((50, 50, 70), ("b", "budget", True), id="equal-points-go-to-the-larger"),
        pytest.param((50, None, 70), ("b", "budget", True), id="no-figure"),
        pytest.param((80, 40, 70), ("a", "budget", False), id="better-than-the-target"),
        pytest.param((70, 40, 70), ("a", "budget", False), id="as-good-as-the-target"),
        pytest.param((70, 40, None), ("a", "budget", True), id="no-figure-of-the-target"),
    ],
)
def test_a_late_target_is_replaced_by_the_best_for_this_text(
    points: tuple[float | None, ...], answer: tuple[str, str, bool]
) -> None:
    for target in (None, "c"):
        assert chosen(models(*points), Policy("c"), 1.0, target=target, c=2.0) == answer


def test_a_target_that_is_away_is_replaced_by_the_best_of_the_smaller_ones_first() -> None:
    known = models(70, 60, 90)
    assert chosen(known, Policy("c"), c=0.0) == ("a", "unavailable", True)
    assert chosen(known, Policy("b"), b=0.0) == ("a", "unavailable", False)
    assert chosen(known, Policy("a"), a=0.0) == ("c", "unavailable", False)
    assert chosen(known, Policy("b"), 1.0, a=2.0, b=0.0) == ("c", "unavailable", False)


def test_a_text_too_long_for_the_target_goes_to_the_best_of_the_larger_ones_first() -> None:
    known = models(90, 50, 80) | {"d": Model("d", 3, 100, CURVE, {"en": 70.0})}
    works = dict.fromkeys(known, FOUR) | {"b": Work(101, 101, 0)}
    assert chosen(known, Policy("b"), works=works) == ("c", "context", False)
    assert chosen(known, Policy("b"), 1.0, works=works, c=2.0) == ("d", "context", False)
    assert chosen(known, Policy("b"), 1.0, works=works, c=2.0, d=2.0) == ("a", "context", False)
    served = chosen(known, Policy("b"), 0.1, works=works, on_miss=OnMiss.SERVE)
    assert served == ("c", "late", False)


def mixed_list(**texts: int) -> Features:
    """A list of texts in these languages, most first."""
    kinds = tuple(TextKind(name, "Latn", False, False, count) for name, count in texts.items())
    return Features(99, next(iter(texts)), "Latn", False, False, kinds)


@pytest.mark.parametrize(
    ("features", "label"),
    [
        (mixed_list(en=9, zh=1), "auto"),
        (mixed_list(en=8, zh=2), "rule:foreign"),
        (mixed_list(zh=9, en=1), "rule:foreign"),
        (mixed_list(en=8, zh=1, de=1), "rule:foreign"),
    ],
)
def test_a_share_of_the_texts_raises_the_floor(features: Features, label: str) -> None:
    policy = Policy("a", (Floor("foreign", "b", not_languages=frozenset({"en"})),))
    assert chosen(models(50, 60), policy, features=features)[1] == label


def test_all_conditions_of_a_rule_hold_for_the_same_texts() -> None:
    rule = Floor("r", "b", languages=frozenset({"de"}), code=True)
    apart = (TextKind("de", "Latn", False, False, 5), TextKind(None, "Latn", False, True, 5))
    policy = Policy("a", (rule,))
    split = Features(9, "de", "Latn", False, True, apart)
    assert chosen(models(50, 60), policy, features=split)[1] == "auto"
    one = (*apart[:1], TextKind("de", "Latn", False, True, 5))
    both = Features(9, "de", "Latn", False, True, one)
    assert chosen(models(50, 60), policy, features=both)[1] == "rule:r"


def test_the_quality_of_a_list_is_the_mean_of_its_texts() -> None:
    small = Model("a", 0, 100, CURVE, {"en": 80.0, "zh": 20.0, "code": 10.0})
    features = mixed_list(en=3, zh=1)
    assert small.quality_of(features) == 65.0
    code = TextKind(None, "Latn", False, True, 1)
    assert (
        small.quality_of(Features(9, "en", "Latn", False, False, (*features.kinds[:1], code)))
        == (80 * 3 + 10) / 4
    )
    unknown = Features(
        9, "en", "Latn", False, False, (*features.kinds, TextKind("fr", None, False, False))
    )
    assert small.quality_of(unknown) is None
    large = Model("b", 1, 100, CURVE, {"default": 64.0})
    assert chosen({"a": small, "b": large}, Policy("b"), features=features) == (
        "a",
        "quality",
        False,
    )
    assert chosen({"a": small, "b": large}, Policy("b"), features=mixed_list(en=2, zh=2))[0] == "b"


def test_long_texts_have_points_of_their_own() -> None:
    one = Model("a", 0, 100, CURVE, {"en": 80.0}, long=LongTexts(50, 20.0))
    assert one.quality_of(ENGLISH, FOUR) == 80.0
    assert one.quality_of(ENGLISH, Work(60, 60, 3600, long=1.0)) == 20.0
    assert one.quality_of(ENGLISH, Work(64, 60, 3600, 4, long=0.25)) == 65.0
    alone = Model("a", 0, 100, CURVE, {}, long=LongTexts(50, 20.0))
    assert alone.quality_of(ENGLISH, Work(60, 60, 3600, long=1.0)) == 20.0
    assert alone.quality_of(ENGLISH, FOUR) is None


@pytest.mark.parametrize(
    ("unread", "answer"),
    [
        pytest.param({}, ("b", "auto", False), id="all-is-read"),
        pytest.param({"b": 0.5}, ("b", "auto", False), id="half-is-read"),
        pytest.param({"b": 0.51}, ("c", "quality", False), id="larger-ones-first"),
        pytest.param({"b": 1.0, "c": 1.0}, ("a", "quality", True), id="then-smaller-ones"),
        pytest.param({"a": 0.9, "b": 1.0, "c": 0.8}, ("c", "quality", False), id="none-reads-most"),
        pytest.param({"a": 1.0, "b": 1.0, "c": 1.0}, ("b", "auto", False), id="none-reads-any"),
    ],
)
def test_a_model_that_does_not_know_the_text_is_not_chosen_for_auto(
    unread: dict[str, float], answer: tuple[str, str, bool]
) -> None:
    assert chosen(models(50, 60, 70), Policy("b"), unread=unread) == answer
    assert chosen(models(50, 60, 70), Policy("a"), target="b", unread=unread)[:2] == ("b", "tier")


def test_a_rule_raises_no_floor_to_a_model_that_does_not_know_the_text() -> None:
    policy = Policy("a", (Floor("all", "b"),))
    assert chosen(models(50, 60), policy, unread={"b": 1.0}) == ("a", "quality", True)
