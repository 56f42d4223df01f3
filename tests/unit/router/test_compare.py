"""Who takes part in an experiment, how agreement is counted, and what a config may say of
either.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from router.compare import (
    FEWEST_TEXTS,
    CanaryReport,
    DurationHistogram,
    Mean,
    Ring,
    Seen,
    Shadowed,
    ShadowReport,
    falls_in,
    slices_of,
)
from router.domain import Features
from router.strict import ConfigError, changed, parse_args

ENGLISH = Features(characters=20, language="en", script="Latn", mixed=False, code=False)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_share_is_the_share_of_different_texts(share: float) -> None:
    within = sum(falls_in([f"text {number}"], "shadow", share) for number in range(4000))

    assert abs(within / 4000 - share) < 0.03


def test_two_experiments_take_independent_samples() -> None:
    both = sum(
        falls_in([f"{number}"], "shadow", 0.5) and falls_in([f"{number}"], "canary", 0.5)
        for number in range(4000)
    )

    assert abs(both / 4000 - 0.25) < 0.03


def test_two_lists_with_the_same_letters_are_two_requests() -> None:
    sides = {
        falls_in(texts, "shadow", share)
        for texts in (["ab", "c"], ["a", "bc"])
        for share in np.linspace(0.01, 0.99, 99)
    }
    splits = [
        [falls_in(texts, "shadow", share) for share in np.linspace(0.01, 0.99, 99)]
        for texts in (["ab", "c"], ["a", "bc"])
    ]

    assert sides == {True, False}
    assert splits[0] != splits[1]


def unit(rng: np.random.Generator, texts: int, dimensions: int) -> Any:
    vectors = rng.normal(size=(texts, dimensions)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def names(start: int, stop: int) -> list[bytes]:
    return [b"%d" % number for number in range(start, stop)]


def test_a_rotated_space_agrees_wholly_and_a_random_one_by_chance() -> None:
    rng = np.random.default_rng(0)
    first = unit(rng, 400, 32)
    rotation = np.linalg.qr(rng.normal(size=(32, 32)))[0].astype(np.float32)
    same, other = Ring(), Ring()

    agreed, by_chance, strangers = list[float](), list[float](), unit(rng, 400, 16)
    for start, stop in ((0, 300), (300, 400)):
        agreed += same.add(names(start, stop), first[start:stop], first[start:stop] @ rotation)
        by_chance += other.add(names(start, stop), first[start:stop], strangers[start:stop])

    assert (
        len(agreed) == len(by_chance) == 100
    )  # the first 300 came before there was anything to compare with
    assert np.mean(agreed) > 0.99
    assert 0.0 < np.mean(by_chance) < 0.12  # 10 of 300


def test_a_text_that_is_known_is_not_its_own_neighbour() -> None:
    vectors = unit(np.random.default_rng(0), FEWEST_TEXTS, 8)
    ring = Ring()
    ring.add(names(0, FEWEST_TEXTS), vectors, vectors)

    assert ring.add(names(0, 5), vectors[:5], vectors[:5]) == []
    assert len(ring.add([b"new", b"new"], vectors[:2], vectors[:2])) == 1


def test_a_ring_forgets_the_oldest_and_never_grows() -> None:
    vectors = unit(np.random.default_rng(0), 250, 8)
    ring = Ring(size=100)
    for start in range(0, 250, 50):
        ring.add(names(start, start + 50), vectors[start : start + 50], vectors[start : start + 50])

    assert ring.add(names(0, 1), vectors[:1], vectors[:1]) != []  # long gone, so it is new again
    assert ring.add(names(249, 250), vectors[249:], vectors[249:]) == []


def test_nothing_measured_has_no_percentile_and_no_mean() -> None:
    assert DurationHistogram().as_dict() == {"p50": None, "p95": None}
    assert Mean().as_dict()["mean"] is None


@pytest.mark.parametrize(
    ("features", "longest", "expected"),
    [
        pytest.param(ENGLISH, 16, ("language: en", "length: 1-16 tokens"), id="a-short-question"),
        pytest.param(
            Features(9, None, "Hani", False, False),
            17,
            ("language: unknown", "length: 17-64 tokens"),
            id="unknown",
        ),
        pytest.param(
            Features(9, "en", "Latn", False, True),
            1025,
            ("language: code", "length: over 1024 tokens"),
            id="code",
        ),
        pytest.param(
            Features(9, "de", "Latn", True, False),
            1024,
            ("language: mixed", "length: 257-1024 tokens"),
            id="mixed",
        ),
    ],
)
def test_a_request_is_counted_in_the_slices_it_belongs_to(
    features: Features, longest: int, expected: tuple[str, str]
) -> None:
    assert slices_of(features, longest, None) == ("all", *expected, "side: not given")


def test_reports_add_up() -> None:
    shadowed, canaried = ShadowReport(), CanaryReport()
    for number in range(4):
        seen = Seen(
            ("all", "language: en"),
            "small",
            2,
            10,
            0.01 * (number + 1),
            0.5,
            in_time=number < 3,
            quality=60.0,
        )
        shadowed.add(seen, Shadowed([0.5, 1.0], 0.02, None, 1.5))
        canaried.add("canary" if number == 0 else "control", seen)

    whole = shadowed.as_dict()["slices"][0]
    arms = canaried.as_dict()["slices"][0]
    assert (whole["answered_by"], whole["requests"], whole["texts"]) == ("small", 4, 8)
    assert (whole["device_s"], whole["shadow_device_s"]) == (2.0, 6.0)
    assert whole["overlap_at_10"]["mean"] == 0.75
    assert (arms["control"]["requests"], arms["canary"]["requests"]) == (3, 1)
    assert (arms["control"]["in_time"], arms["control"]["budgets"]) == (2, 3)


MODELS = {
    name: {"engine": {"kind": "fake"}, "dimensions": 8, "max_tokens": 256}
    for name in ("small", "large")
}


@pytest.mark.parametrize(
    ("compare", "words"),
    [
        pytest.param(
            {"shadow": {"model": "lage", "share": 0.1}},
            ["shadow.model", "lage", "small, large"],
            id="no-model",
        ),
        pytest.param(
            {"canary": {"share": 0.1}},
            ["compare.canary", "one of the two"],
            id="neither-model-nor-routing",
        ),
        pytest.param(
            {"canary": {"share": 0.1, "model": "large", "routing": {"default_tier": "fast"}}},
            ["one of the two"],
            id="both",
        ),
        pytest.param(
            {"shadow": {"model": "large", "share": 0}},
            ["compare.shadow.share", "greater than 0"],
            id="no-share",
        ),
        pytest.param(
            {"shadow": {"model": "large", "shares": 0.1}},
            ["compare.shadow.shares", "mean share?"],
            id="a-typo",
        ),
        pytest.param(
            {"canary": {"share": 0.1, "routing": {"default_tier": "best"}}},
            ["compare.canary.routing.default_tier", "best"],
            id="a-tier-that-is-not-there",
        ),
    ],
)
def test_a_wrong_experiment_is_refused_by_name(
    compare: Mapping[str, Any], words: list[str]
) -> None:
    args = {"models": MODELS, "tiers": {"fast": "small"}, "routing": {"default_tier": "fast"}}

    with pytest.raises(ConfigError) as raised:
        parse_args({**args, "compare": compare})
    with pytest.raises(ConfigError):
        changed(args, {"compare": compare})

    for word in words:
        assert word in str(raised.value)
