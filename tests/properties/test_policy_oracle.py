"""The decision against one by enumeration, and what it gives up in points with the figures and
profiles of configs/local.yaml.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from router.config import RouterArgs
from router.domain import Curve, Features, Load, Model, OnMiss, Request, Work, attention
from router.models import build_models, build_policy
from router.policy import decide
from router.rules import Floor, Policy
from tests.support import decision_oracle
from tests.support.decision_inputs import features, loads_of, ticks

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("a", "b", "c", "d")
subsets = st.none() | st.frozensets(st.sampled_from(NAMES), min_size=1)
curves = st.builds(
    Curve,
    fixed_s=ticks,
    base_s=ticks,
    s_per_token=st.integers(0, 8).map(lambda count: count / 1024),
    s_per_token_sq=st.just(0.0),
    batch_tokens=st.sampled_from((16, 64, 512)),
    overhead_s=ticks,
    s_per_text=st.integers(0, 8).map(lambda count: count / 1024),
)
qualities = st.dictionaries(
    st.sampled_from(("en", "zh", "code", "mixed", "default")), st.sampled_from((40.0, 50.0, 60.0))
)
loads = loads_of(0, 1, 1, 1)  # the oracle divides no work among replicas
sets = st.none() | st.frozensets(st.sampled_from(("en", "zh")))
floors = st.builds(
    Floor,
    name=st.sampled_from(("one", "two")),
    model=st.sampled_from(NAMES),
    min_tokens=st.none() | st.integers(1, 400),
    max_tokens=st.none() | st.integers(1, 400),
    languages=sets,
    not_languages=sets,
    scripts=st.none() | st.just(frozenset({"Latn"})),
    mixed=st.none() | st.booleans(),
    code=st.none() | st.booleans(),
    input_type=st.sampled_from((None, "query")),
)


@st.composite
def works(draw: st.DrawFn) -> Work:
    lengths = draw(st.lists(st.integers(1, 400), min_size=1, max_size=3))
    if draw(st.integers(0, 4)) == 0:  # every vector is in the cache
        return Work(0, max(lengths), 0, 0)
    return Work(sum(lengths), max(lengths), attention(lengths, None), len(lengths))


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Policy, Request, dict[str, Model], dict[str, Load]]:
    figures = draw(st.sampled_from(("all", "some")))
    whole = {"default": 45.0}
    models = {
        name: Model(
            name,
            rank,
            draw(st.sampled_from((50, 512))),
            draw(curves),
            (whole if figures == "all" else {}) | draw(qualities),
        )
        for rank, name in enumerate(NAMES)
    }
    request = Request(
        work={name: draw(works()) for name in NAMES},
        features=draw(features),
        deadline_s=draw(st.none() | ticks),
        target=draw(st.none() | st.sampled_from(NAMES)),
        pinned=draw(st.booleans()),
        strict=draw(st.booleans()),
        candidates=draw(subsets),
        permitted=draw(subsets),
        on_miss=draw(st.sampled_from(OnMiss)),
        input_type=draw(st.sampled_from((None, "query", "document"))),
        unread=draw(st.dictionaries(st.sampled_from(NAMES), st.sampled_from((0.4, 0.6, 1.0)))),
    )
    policy = Policy(draw(st.sampled_from(NAMES)), tuple(draw(st.lists(floors, max_size=3))))
    return policy, request, models, {name: draw(loads) for name in NAMES}


@settings(deadline=None, max_examples=400)
@given(worlds())
def test_the_decision_is_the_one_that_enumeration_finds(
    world: tuple[Policy, Request, dict[str, Model], dict[str, Load]],
) -> None:
    policy, request, models, at = world
    decision = decide(policy, request, models, at, 0.0)
    found = (decision.model, decision.label, decision.degraded)
    assert found == tuple(decision_oracle.verdict(policy, request, models, at, 0.0))


LANGUAGES = ("en", "zh", "ja", "ko", "ru", "ar", "hi", "th", "de", "fr", "es", "tr")
SCRIPTS = {"zh": "Hani", "ja": "Jpan", "ko": "Hang", "ru": "Cyrl", "ar": "Arab", "hi": "Deva",
           "th": "Thai"}  # fmt: skip
KINDS = {
    **{
        language: Features(60, language, SCRIPTS.get(language, "Latn"), False, False)
        for language in LANGUAGES
    },
    "code": Features(60, None, "Latn", False, True),
    "mixed": Features(60, "zh", "Hani", True, False),
}


@pytest.fixture(scope="module")
def local() -> RouterArgs:
    config: dict[str, Any] = yaml.safe_load((ROOT / "configs" / "local.yaml").read_text())
    return RouterArgs.model_validate(config["applications"][0]["args"] | {"base_dir": str(ROOT)})


def native(args: RouterArgs) -> dict[str, Model]:
    """The models that a request without a space can go to."""
    return {name: one for name, one in build_models(args).items() if name in args.native}


@pytest.mark.parametrize("budget_ms", [None, 60.0, 30.0, 15.0, 6.0], ids=lambda ms: f"{ms} ms")
@pytest.mark.parametrize("rules", [True, False], ids=["the shipped rules", "no rules"])
@pytest.mark.parametrize("kind", KINDS)
def test_with_the_figures_of_local_yaml_no_feasible_model_has_more_points(
    local: RouterArgs, kind: str, rules: bool, budget_ms: float | None
) -> None:
    models, text = native(local), KINDS[kind]
    policy = build_policy(local.routing, local.tiers)
    if not rules:
        policy = Policy(policy.default)
    for tokens in (12, 120, 400):
        request = Request(
            dict.fromkeys(models, Work(tokens, tokens, tokens * min(tokens, 512))),
            text,
            None if budget_ms is None else budget_ms / 1000,
        )
        at = dict.fromkeys(models, Load())
        decision = decide(policy, request, models, at, 0.0)
        assert decision.model is not None
        assert decision.target is not None
        assert decision[:1] == decision_oracle.verdict(policy, request, models, at, 0.0)[:1]
        limit = models[decision.target].rank
        in_reach = [
            name
            for name in decision.predictions
            if models[name].rank <= limit or decision.target not in decision.predictions
        ]
        feasible = [
            decision_oracle.points(models[name], text)
            for name in in_reach
            if request.deadline_s is None
            or decision.predictions[name].total_s <= request.deadline_s
        ]
        if feasible:
            points = decision_oracle.points(models[decision.model], text)
            assert points == max(each for each in feasible if each is not None)


def test_chinese_under_a_budget_that_e5_misses_goes_to_the_model_that_is_better_at_it(
    local: RouterArgs,
) -> None:
    models, tokens = native(local), 120
    request = Request(
        dict.fromkeys(models, Work(tokens, tokens, tokens * tokens)), KINDS["zh"], deadline_s=0.06
    )
    policy = build_policy(local.routing, local.tiers)
    decision = decide(policy, request, models, dict.fromkeys(models, Load()), 0.0)
    assert decision.predictions["all-minilm-l6-v2"].total_s <= 0.06
    assert decision.predictions["multilingual-e5-small"].total_s > 0.06
    assert (decision.model, decision.label, decision.degraded) == ("wordllama-256", "budget", True)
