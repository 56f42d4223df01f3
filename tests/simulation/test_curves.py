"""Curves from measured steps, by a fit and by what a model learns while it serves."""

import math
import random
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.curve_fit import Point, fit
from router.domain import Curve
from router.latency import Learner

untimed = settings(deadline=None)

SHAPES = {
    "gpu": Curve(0.008, 0.003, 1e-5, 1e-9, 16384),
    "cpu": Curve(0.006, 0.002, 1.2e-4, 1e-8, 16384),
    "no-flat-part": Curve(0.0, 0.002, 1e-4, 0.0, 16384),
    "no-base": Curve(0.01, 0.0, 2e-4, 0.0, 16384),
}


def steps(curve: Curve, seed: int, noise: float, stalls: float) -> list[Point]:
    """Steps of many lengths and batch sizes with lognormal noise, and some that take five times as
    long.
    """
    source = random.Random(seed)
    return [
        Point(
            length * texts, length * length * texts,
            curve.step(length * texts, length * length * texts) * math.exp(source.gauss(0.0, noise))
            * (5.0 if source.random() < stalls else 1.0),
        )
        for length in (8, 16, 32, 64, 128, 256, 512, 1024, 2048)
        for texts in (1, 2, 4, 8, 16, 32, 64)
        for _ in range(3)
        if length * texts <= curve.batch_tokens
    ]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_a_fit_finds_the_curve_through_noise_and_stalls(shape: str) -> None:
    truth = SHAPES[shape]
    points = steps(truth, seed=3, noise=0.05, stalls=0.05)
    found = fit(points, truth.batch_tokens, overhead_s=0.004)
    assert (
        max(
            abs(found.curve.step(p.tokens, p.tokens_sq) / truth.step(p.tokens, p.tokens_sq) - 1)
            for p in points
        )
        < 0.08
    )
    assert found.median_error < 0.05
    assert (found.points, found.curve.batch_tokens, found.curve.overhead_s) == (
        len(points),
        16384,
        0.004,
    )


def test_a_fit_without_noise_is_exact_and_finds_the_knee() -> None:
    found = fit(steps(SHAPES["gpu"], seed=1, noise=0.0, stalls=0.0), 16384)
    assert found.p95_error < 1e-3
    assert found.knee_tokens == pytest.approx(500.0, rel=0.05)


def test_a_fit_reports_the_error_of_its_worst_twentieth() -> None:
    found = fit(steps(SHAPES["cpu"], seed=2, noise=0.0, stalls=0.2), 16384)
    assert found.median_error < 0.01
    assert found.p95_error == pytest.approx(
        0.8, abs=0.01
    )  # a stall takes five times what the curve says


@pytest.mark.parametrize(
    ("points", "message"),
    [
        pytest.param([], "three different sizes", id="none"),
        pytest.param([Point(8, 64, 0.1)] * 9, "three different sizes, these have 1", id="one-size"),
        pytest.param([Point(8, 64, math.nan)], "finite and above 0", id="nan"),
        pytest.param([Point(8, 64, -0.1)], "finite and above 0", id="negative"),
    ],
)
def test_points_that_make_no_curve_are_refused(points: list[Point], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(points, 8192)


def test_what_a_text_costs_beside_its_tokens_is_found_by_a_fit() -> None:
    truth = Curve(0.0, 0.002, 1e-4, 1e-8, 16384, s_per_text=3e-4)
    points = [
        Point(length * texts, length * length * texts, truth.step(length * texts,
        length * length * texts, texts), texts)
        for length in (4, 16, 64, 256, 1024) for texts in (1, 2, 8, 32,
        128) if length * texts <= 16384
    ]  # fmt: skip
    assert fit(points, 16384).curve.s_per_text == pytest.approx(3e-4, rel=0.02)
    alone = fit([point for point in points if point.texts == 1], 16384).curve
    assert alone.s_per_text == 0.0, "which is which cannot be told"
    assert alone.base_s == pytest.approx(0.0023, rel=0.02)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_model_without_a_profile_is_learned_from_its_steps(shape: str) -> None:
    truth, source = SHAPES[shape], random.Random(5)
    learner = Learner(Curve(0.005, 0.003, 1e-4, truth.s_per_token_sq, 16384, 0.004))
    for _ in range(100):
        length = int(math.exp(source.uniform(math.log(20), math.log(2000))))
        tokens, tokens_sq = 8 * length, 8 * length * length
        stall = 5.0 if source.random() < 0.03 else 1.0
        learner.observe(
            tokens,
            tokens_sq,
            truth.step(tokens, tokens_sq) * math.exp(source.gauss(0.0, 0.05)) * stall,
        )
    sizes = (200, 500, 1000, 3000, 8000, 16000)
    assert median(abs(learner.curve.step(size) / truth.step(size) - 1.0) for size in sizes) < 0.12
    assert learner.curve.overhead_s == 0.004


def test_short_texts_in_the_flat_part_do_not_make_a_long_one_look_short() -> None:
    prior = Curve(0.005, 0.002, 0.001, 0.0, 512)
    learner, source = Learner(prior), random.Random(1)
    for _ in range(50):
        learner.observe(source.randint(8, 40), 0, 0.012 * math.exp(source.gauss(0.0, 0.1)))
    assert learner.curve.step(20) == pytest.approx(0.012, rel=0.2)
    assert learner.curve.step(512) > 0.4


def test_a_slope_below_the_priors_does_not_make_short_steps_as_long_as_the_largest() -> None:
    for slope in (4.6e-6, 4.2e-6, 3e-6, 1e-6):
        truth = Curve(0.0, 0.005, slope, 0.0, 8192)
        learner, source = Learner(Curve(0.0044, 0.005, 4.64e-6, 0.0, 8192)), random.Random(2)
        for _ in range(100):
            tokens = source.choice((36, 60, 120, 360, 1200))
            learner.observe(tokens, 0, truth.step(tokens) * math.exp(source.gauss(0.0, 0.02)))
        for tokens in (36, 60, 120, 360, 1200):
            assert learner.curve.step(tokens) == pytest.approx(truth.step(tokens), rel=0.15)


@pytest.mark.parametrize(
    "truth",
    [Curve(0.01, 0.004, 6e-6, 0.0, 16384), Curve(0.0, 0.003, 3e-4, 0.0, 2048)],
    ids=["gpu", "cpu"],
)
@pytest.mark.parametrize("slope", [1e-4, 1e-3])
@pytest.mark.parametrize("count", [12, 100])
def test_short_requests_leave_the_budgets_of_long_ones_where_prior_or_truth_has_them(
    truth: Curve, slope: float, count: int
) -> None:
    prior = Curve(0.005, 0.003, slope, 0.0, truth.batch_tokens)
    full = sorted((prior.step(prior.batch_tokens), truth.step(truth.batch_tokens)))
    for seed in range(20):
        learner, source = Learner(prior), random.Random(seed)
        for _ in range(count):
            tokens = source.randint(8, 40)
            stall = 4.0 if source.random() < 0.03 else 1.0
            learner.observe(
                tokens, 0, truth.step(tokens) * math.exp(source.gauss(0.0, 0.15)) * stall
            )
        assert truth.step(8) / 1.5 < learner.curve.step(24) < truth.step(40) * 1.5
        assert full[0] / 1.5 < learner.curve.step(prior.batch_tokens) < full[1] * 2.0


def test_a_learner_that_saw_one_size_for_long_still_learns_another() -> None:
    truth = SHAPES["cpu"]
    learner = Learner(Curve(0.005, 0.003, 1e-4, 0.0, 16384))
    for _ in range(100_000):  # enough to overflow what forgetting blows up
        learner.observe(40, 0, truth.step(40))
    for _ in range(5):
        learner.observe(8000, 0, truth.step(8000))
    assert learner.curve.step(8000) == pytest.approx(truth.step(8000), rel=0.05)
    assert learner.curve.step(40) == pytest.approx(truth.step(40), rel=0.05)


@untimed
@given(st.lists(st.tuples(st.integers(-5, 10**6), st.floats()), max_size=60))
def test_a_learned_curve_is_never_negative_nor_infinite(seen: list[tuple[int, float]]) -> None:
    learner = Learner(SHAPES["cpu"])
    for tokens, seconds in seen:
        learner.observe(tokens, 0, seconds)
    curve = learner.curve
    assert all(math.isfinite(value) for value in (curve.fixed_s, curve.base_s, curve.s_per_token))
    times = [curve.step(size) for size in (0, 1, 100, 16384)]
    assert times == sorted(times)
    assert times[0] >= 0.0


def test_a_learner_gives_its_prior_until_it_has_seen_a_step() -> None:
    assert Learner(SHAPES["gpu"]).curve is SHAPES["gpu"]
