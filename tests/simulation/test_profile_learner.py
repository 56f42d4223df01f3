"""A profile that was measured on another device: what is learned from it while it serves, on a
virtual clock.
"""

import math
import random
from collections.abc import Callable
from dataclasses import replace
from statistics import mean, median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.domain import Curve, Model, attention
from router.feedback import Feedback
from router.latency import ProfileLearner
from router.routing_config import RoutingConfig

SEEN, JUDGED = 300, 300  # requests
MARK = 1.25
STATIC = Curve(0.0, 6.6e-4, 2.7e-6, 4e-11, 65536, 0.0026, 5.1e-5)
ENCODER = Curve(0.019, 0.0172, 1.7e-4, 8.5e-8, 2048, 0.0027, 3.1e-4)
WINDOWS = Curve(0.0109, 0.0, 0.0018, 3.4e-6, 512, 0.0028)
GPU = Curve(0.008, 0.003, 1e-5, 1e-9, 16384, 0.002)
LENGTHS: dict[str, Callable[[random.Random], int]] = {
    "short": lambda source: source.randint(5, 40),
    "mixed": lambda source: int(math.exp(source.uniform(math.log(5), math.log(250)))),
    "long": lambda source: int(math.exp(source.uniform(math.log(5), math.log(2000)))),
}
# how many times as long each term takes on the device of the test: flat part and base, a token,
# attention, a text
DEVICES = {
    "slower": (2.3, 1.55, 1.5, 3.0),
    "faster": (0.5, 0.6, 0.5, 0.4),
    "slower by the token": (1.0, 3.0, 3.0, 1.0),
    "slower at long texts": (1.0, 1.0, 4.0, 4.0),
    "slower alike": (4.0, 4.0, 4.0, 4.0),
    "slower to begin": (2.0, 1.0, 1.0, 2.0),
}


def on(curve: Curve, times: tuple[float, float, float, float]) -> Curve:
    base, token, attended, text = times
    return replace(
        curve,
        fixed_s=curve.fixed_s * base,
        base_s=curve.base_s * base,
        s_per_token=curve.s_per_token * token,
        s_per_token_sq=curve.s_per_token_sq * attended,
        s_per_text=curve.s_per_text * text,
    )


def error(profile: Curve, truth: Curve, elsewhere: bool, kind: str, seed: int) -> float:
    """Median error of JUDGED predictions after SEEN others, with noise and stalls."""
    source = random.Random(seed)
    feedback = Feedback(Model("m", 0, 8192, profile, {}), True, RoutingConfig(), 0.0)
    if elsewhere:
        assert feedback.elsewhere()
    errors = []
    for index in range(SEEN + JUDGED):
        texts = source.choice((2, 8, 32)) if source.random() < 0.2 else 1
        counts = [LENGTHS[kind](source) for _ in range(texts)]
        work = sum(counts), attention(counts, 512), texts
        curve, bias = feedback.model.curve, feedback.correction.bias
        predicted_s = (curve.step(*work) + curve.overhead_s) * bias
        stall = 4.0 if source.random() < 0.03 else 1.0
        engine_s = truth.step(*work) * math.exp(source.gauss(0.0, 0.15)) * stall
        actual_s = engine_s + truth.overhead_s * math.exp(source.gauss(0.0, 0.15))
        errors.append(abs(predicted_s / actual_s - 1.0))
        feedback.stepped(work[0], work[1], engine_s, texts)
        feedback.completed(actual_s, predicted_s, bias, index * 0.05, engine_s=engine_s)
    return median(errors[SEEN:])


@pytest.mark.parametrize("kind", LENGTHS)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("profile", [STATIC, ENCODER, WINDOWS, GPU], ids=str)
def test_after_300_requests_predictions_are_nearly_those_of_a_profile_made_there(
    profile: Curve, device: str, kind: str
) -> None:
    truth = on(profile, DEVICES[device])
    there = mean(error(truth, truth, False, kind, seed) for seed in range(4))
    learned = mean(error(profile, truth, True, kind, seed) for seed in range(4))
    assert learned <= MARK * there


def test_a_profile_that_is_taken_as_measured_here_misses_the_mark() -> None:
    truth = on(ENCODER, DEVICES["slower by the token"])
    assert error(ENCODER, truth, False, "mixed", 0) > 2 * error(truth, truth, False, "mixed", 0)


def test_what_is_seen_of_short_texts_says_something_of_long_ones() -> None:
    truth = on(STATIC, (4.0, 4.0, 4.0, 4.0))
    learner = ProfileLearner(STATIC)
    for index in range(20):
        learner.observe(10 + index, 100, truth.step(10 + index, 100, 1))
    assert learner.curve.step(8000, 0, 1) == pytest.approx(truth.step(8000, 0, 1), rel=0.3)


def test_the_profile_stands_until_something_was_seen() -> None:
    for curve in (STATIC, ENCODER, WINDOWS, GPU):
        learned = ProfileLearner(curve).curve
        for size in ((8, 64, 1), (400, 400, 8), (2000, 100_000, 1)):
            assert learned.step(*size) == pytest.approx(curve.step(*size))


def test_a_device_is_news_once_and_a_model_without_a_profile_learns_anyway() -> None:
    profiled = Feedback(Model("m", 0, 8192, STATIC, {}), True, RoutingConfig(), 0.0)
    assert [profiled.elsewhere(), profiled.elsewhere()] == [True, False]
    assert not Feedback(Model("m", 0, 8192, STATIC, {}), False, RoutingConfig(), 0.0).elsewhere()


@settings(deadline=None)
@given(
    st.sampled_from([STATIC, ENCODER, WINDOWS, GPU]),
    st.lists(
        st.tuples(st.integers(-5, 10**6), st.integers(0, 10**9), st.floats(), st.integers(1, 2048)),
        max_size=60,
    ),
)
def test_what_is_learned_is_never_negative_nor_infinite(
    profile: Curve, seen: list[tuple[int, int, float, int]]
) -> None:
    learner = ProfileLearner(profile)
    for tokens, tokens_sq, seconds, texts in seen:
        learner.observe(tokens, tokens_sq, seconds, texts)
    curve = learner.curve
    times = [curve.step(size) for size in (0, 1, 100, 16384)]
    assert all(math.isfinite(value) for value in times)
    assert times == sorted(times)
    assert times[0] >= 0.0


def test_one_size_seen_for_long_does_not_make_what_was_learned_overflow() -> None:
    truth = on(ENCODER, DEVICES["slower"])
    learner = ProfileLearner(ENCODER)
    for _ in range(100_000):
        learner.observe(40, 1600, truth.step(40, 1600, 1))
    for _ in range(20):
        learner.observe(1000, 250_000, truth.step(1000, 250_000, 1))
    assert learner.curve.step(1000, 250_000, 1) == pytest.approx(
        truth.step(1000, 250_000, 1), rel=0.1
    )


def test_many_steps_of_one_size_leave_the_rest_of_a_profile_as_it_was() -> None:
    """A long list of like texts, then single ones: what the list did not show must not run away."""
    rng, prior = random.Random(0), Curve(0.019, 0.017, 1.7e-4, 8.5e-8, 2048, 0.003, 3.1e-4)

    def true_s(texts: int) -> float:
        tokens = 14 * texts
        return 0.028 + 1.4e-4 * tokens + 8.5e-8 * 14 * tokens + 4.4e-4 * texts

    learner = ProfileLearner(prior)

    def step(texts: int) -> None:
        stall = 3.0 if rng.random() < 0.03 else 1.0
        seconds = stall * true_s(texts) * rng.lognormvariate(0.0, 0.25)
        learner.observe(14 * texts, 14 * 14 * texts, seconds, texts)

    for turn in range(6000):
        step(16 if turn < 4000 or turn % 10 else 1)
        if turn > 500:
            for texts in (1, 64, 256):
                found = learner.curve.step(14 * texts, 14 * 14 * texts, texts) / true_s(texts)
                assert 0.6 < found < 1.6, (turn, texts)
