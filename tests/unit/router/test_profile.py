"""Profiles: what is read of a file, and what is wrong with one."""

import json
import math
from typing import Any

import pytest

from router.domain import Curve
from router.profile import ProfileError, load_profile


def profile(**changes: Any) -> dict[str, Any]:
    """A good profile; keys with dots change a part of it."""
    data: dict[str, Any] = {
        "model": "m", "device": "cpu", "software": "vllm 0.32.0", "date": "2026-01-31",
        "curve": {
            "fixed_s": 0.01, "base_s": 0.0, "s_per_token": 1e-4, "s_per_token_sq": 0,
            "batch_tokens": 8192, "overhead_s": 0.002,
        },
        "fit": {"median_error": 0.03, "p95_error": 0.1, "points": 1},
        "points": [{"tokens": 8, "tokens_sq": 64, "seconds": 0.01}],
        "memory_bytes": 10**9,
    }  # fmt: skip
    for key, value in changes.items():
        part, _, name = key.partition("__")
        if name:
            data[part] = {**data[part], name: value}
        else:
            data[part] = value
    return data


def test_a_profile_gives_its_curve() -> None:
    read = json.loads(json.dumps(profile(curve__s_per_text=2e-4)))
    assert load_profile(read, "m") == Curve(0.01, 0.0, 1e-4, 0.0, 8192, 0.002, 2e-4)


def test_a_profile_from_before_texts_had_a_cost_is_still_read() -> None:
    assert load_profile(profile(), "m") == Curve(0.01, 0.0, 1e-4, 0.0, 8192, 0.002)


def test_a_file_of_several_profiles_has_one_for_each_model() -> None:
    several = {"profiles": [profile(model="other", curve__fixed_s=9.0), profile()]}
    assert load_profile(several, "m") == Curve(0.01, 0.0, 1e-4, 0.0, 8192, 0.002)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(
            {"profiles": [profile(model="other")]},
            "profiles of other, none of m",
            id="several-of-others",
        ),
        pytest.param({"profiles": []}, "profiles of no model, none of m", id="several-of-none"),
        pytest.param(
            {"profiles": [profile(curve__fixed_s=-1.0)]},
            "profile of m .*curve.fixed_s",
            id="bad-among-several",
        ),
        pytest.param({"profiles": ["m"]}, "none of m", id="several-that-are-no-objects"),
        pytest.param({}, "the profile of m is empty; make it with", id="empty"),
        pytest.param(profile(points=[]), "profile of m .*points", id="no-points"),
        pytest.param(
            profile(model="other"), "the profile of other, not of m", id="of-another-model"
        ),
        pytest.param(profile(curve__s_per_token=-1e-4), "curve.s_per_token", id="negative"),
        pytest.param(profile(curve__s_per_text=-1e-4), "curve.s_per_text", id="negative-text"),
        pytest.param(profile(curve__base_s=math.nan), "curve.base_s", id="nan"),
        pytest.param(profile(curve__fixed_s=math.inf), "curve.fixed_s", id="infinite"),
        pytest.param(profile(curve__batch_tokens=0), "curve.batch_tokens", id="no-batch"),
        pytest.param(
            profile(curve__s_per_token="0.1"), "curve.s_per_token", id="text-for-a-number"
        ),
        pytest.param(profile(curve__fixd_s=0.1), "curve.fixd_s", id="unknown-key"),
        pytest.param(profile(curve={}), "curve.fixed_s", id="no-curve"),
        pytest.param(
            profile(curve__fixed_s=0.0, curve__s_per_token=0.0), "takes no time", id="all-zero"
        ),
        pytest.param(["m"], "profile of m", id="not-an-object"),
    ],
)
def test_a_bad_profile_is_refused_by_name(data: Any, message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        load_profile(data, "m")
