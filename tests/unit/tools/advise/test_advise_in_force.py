"""What advise does with the rules in force: what was not measured stays as it is, or gets a rule of
caution, and a log of mixed texts loses nothing by it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from deployments.tools.advise import rules_yaml, slices, traffic, verdict
from deployments.tools.advise.derived import Derived
from deployments.tools.advise.in_force import derive
from deployments.tools.advise.quality import Task, Unit
from deployments.tools.advise.survey import AdvisePlan
from deployments.tools.policy_file import read_policy, text_of, with_tiers
from router.decision_log import ANSWERED, DecisionContext, LogEntry, Logged
from router.domain import Curve, Features, Load, Model, Request, Tier, Work
from router.models import build_policy
from router.policy import decide
from router.replay import Other, Summary, replay
from router.routing_config import RoutingConfig
from router.strict import ConfigError
from tests.support.advise_plan import MODELS, plan, task, timing, unit

LOCAL = Path(__file__).resolve().parents[4] / "configs" / "local.yaml"
SHIPPED = read_policy(LOCAL).routing
TIERS: dict[Any, str] = {Tier.FAST: "small", Tier.BALANCED: "middle", Tier.BEST: "large"}
FIGURES = {  # those of configs/local.yaml
    "small": {"en": 75.9, "zh": 59.8, "default": 59.8},
    "middle": {"en": 82.0, "zh": 39.7, "default": 39.7},
    "large": {"en": 84.0, "zh": 78.3, "default": 78.3},
}
TEXTS = [
    *[("en", "Latn", False, 20)] * 6,
    *[("en", "Latn", False, 300)] * 2,  # long
    ("de", "Latn", False, 20),
    ("ru", "Cyrl", False, 20),
    ("ja", "Jpan", False, 20),
    *[("zh", "Hani", False, 20)] * 2,
    (None, "Hani", False, 3),
    (None, "Arab", False, 4),
    ("en", "Latn", True, 12),  # "how to configure 路由器"
    (None, "Cher", False, 4),
]


def serving(routing: RoutingConfig | None, figures: bool = True) -> AdvisePlan:
    made = plan()
    if figures:
        candidates = tuple(each._replace(configured=FIGURES[each.name]) for each in made.candidates)
        made = replace(made, candidates=candidates)
    return replace(made, policy=None if routing is None else text_of(Other(routing, TIERS)))


def judged(
    languages: Sequence[str], chances: Mapping[str, Sequence[float]], each: int = 600
) -> Task:
    units: list[Unit] = [unit(language) for language in languages for _ in range(each)]
    own = {
        model: [chances[one.features.language or ""][place] for one in units]
        for place, model in enumerate(MODELS)
    }
    return task("t", units, own)


@cache
def english() -> Task:
    return judged(["en"], {"en": (0.6, 0.8, 0.8)})


@cache
def four() -> Task:
    others = dict.fromkeys(("zh", "ru", "ja"), (0.4, 0.3, 0.8))
    return judged(["en", "zh", "ru", "ja"], {"en": (0.6, 0.8, 0.8), **others})


def found(made: Derived) -> dict[str, tuple[dict[str, Any], str, str]]:
    return {rule.name: (dict(rule.when), rule.floor, rule.source) for rule in made.rules}


def log(in_force: RoutingConfig) -> list[Logged]:
    """Mixed requests as a service with these rules decided them."""
    models = {
        name: Model(name, rank, 8192, Curve(0.001, 0.0, 0.0, 0.0, 8192), FIGURES[name])
        for rank, name in enumerate(MODELS)
    }
    setting = DecisionContext(models, build_policy(in_force, TIERS), TIERS, False, None)
    loads, made = dict.fromkeys(models, Load()), []
    for language, script, mixed, tokens in TEXTS:
        features = Features(4 * tokens, language, script, mixed, False)
        request = Request(dict.fromkeys(models, Work(tokens, tokens, tokens**2)), features)
        decision = decide(setting.policy, request, models, loads, 0.0)
        made.append(
            Logged(
                setting,
                LogEntry(
                    0.0, 0.0, 0.0, request, None, False, models, loads, decision, ANSWERED, 0.01
                ),
            )
        )
    return made


def replayed(
    made: Derived, tmp_path: Path, of: AdvisePlan, in_force: RoutingConfig = SHIPPED
) -> Summary:
    """The log under routing.yaml as it is written."""
    file = tmp_path / "routing.yaml"
    file.write_text(rules_yaml.yaml(of, made, None, {}, 1.0))
    return replay(log(in_force), read_policy(file))


def quality(summary: Summary) -> tuple[float, float]:
    assert summary.before.quality is not None
    assert summary.after.quality is not None
    return summary.before.quality, summary.after.quality


@pytest.mark.parametrize("tiers", [None, {Tier.FAST: "small", Tier.BALANCED: "middle"}])
def test_a_policy_takes_the_services_tiers_and_names_no_other(
    tiers: dict[Tier, str] | None, tmp_path: Path
) -> None:
    """Also those of models that --model leaves out of the measurement."""
    whole = with_tiers(Other(SHIPPED), TIERS, tmp_path / "policy.yaml")
    of = replace(plan(MODELS[:2]), policy=text_of(whole))
    english = task("t", [unit("en")] * 600, {"small": [0.6] * 600, "middle": [0.8] * 600})
    made = derive(of, [english], 1.0)
    assert made.tiers == {str(tier): model for tier, model in TIERS.items()}
    assert found(made)["not-english"] == ({"not_languages": ["en"]}, "best", "kept")
    with pytest.raises(ConfigError, match=r"policy\.yaml: routing names tier 'best'; tiers are "):
        with_tiers(Other(SHIPPED, tiers), dict(list(TIERS.items())[:2]), tmp_path / "policy.yaml")


@pytest.mark.parametrize("measured", [english, four], ids=["English alone", "four languages"])
def test_a_mixed_log_loses_nothing_by_rules_made_of_some_languages(
    measured: Callable[[], Task], tmp_path: Path
) -> None:
    of = serving(SHIPPED)
    summary = replayed(derive(of, [measured()], 1.0), tmp_path, of)
    before, after = quality(summary)
    assert after >= before
    assert not [one for one in summary.slices if one.falls]


def test_what_was_not_measured_keeps_the_rules_in_force(tmp_path: Path) -> None:
    made = derive(serving(SHIPPED), [english()], 1.0)
    rules = found(made)
    assert made.default == "balanced"
    for rule in SHIPPED.rules:
        when = rule.when.model_dump(mode="json", exclude_none=True)
        assert rules[rule.name] == (when, "best", "kept")
    assert made.dropped == ()
    # what no rule in force covers: scripts that its list does not name
    assert rules["script-not-measured"][2] == "caution"
    assert "Cher" in rules["script-not-measured"][0]["scripts"]
    assert "language-not-measured" not in rules  # not-english says the same


def test_script_mixed_and_length_rules_stay_where_four_languages_were_measured() -> None:
    rules = found(derive(serving(SHIPPED), [four()], 1.0))
    assert rules["languages-best"] == ({"languages": ["ja", "ru", "zh"]}, "best", "measured")
    assert rules["not-english"][0] == {"not_languages": ["en", "ja", "ru", "zh"]}
    assert {"Arab", "Hani", "Cyrl"} <= set(rules["not-latin"][0]["scripts"])
    assert rules["mixed"] == ({"mixed": True}, "best", "kept")
    assert rules["long"] == ({"min_tokens": 200}, "best", "kept")


def test_a_rule_goes_where_the_texts_settle_that_a_smaller_model_is_enough() -> None:
    alike = judged(["en", "zh"], {"en": (0.6, 0.8, 0.8), "zh": (0.3, 0.8, 0.8)})
    made = derive(serving(SHIPPED), [alike], 1.0)
    rules = found(made)
    assert rules["not-english"][0] == {"not_languages": ["en", "zh"]}
    assert "Hani" not in rules["not-latin"][0]["scripts"]
    assert [(one.name, dict(one.when)) for one in made.dropped] == [
        ("not-english", {"languages": ["zh"]}),
        ("not-latin", {"scripts": ["Hani"]}),
    ]
    assert made.dropped[0].why.startswith("middle is enough: ")
    text = rules_yaml.yaml(serving(SHIPPED), made, None, {}, 1.0)
    assert '# not-english, {"languages": ["zh"]}: middle is enough' in text


def test_the_file_as_read_back_raises_no_script_that_is_settled(tmp_path: Path) -> None:
    """`Hira` and `Kana` of a file would be read as `Jpan`."""
    alike = judged(["en", "ja"], {"en": (0.6, 0.8, 0.8), "ja": (0.3, 0.8, 0.8)})
    of = serving(RoutingConfig.model_validate({"default_tier": "balanced"}))
    file = tmp_path / "routing.yaml"
    file.write_text(rules_yaml.yaml(of, derive(of, [alike], 1.0), None, {}, 1.0))
    rules = {rule.name: rule for rule in read_policy(file).routing.rules}
    scripts = rules["script-not-measured"].when.scripts or ()
    assert {"Arab", "Hang"} <= set(scripts)
    assert "Jpan" not in scripts


def test_a_rule_stays_where_the_texts_cannot_rule_a_gain_out() -> None:
    luck = np.random.default_rng(4).random((3, 60))
    units = tuple([unit("en")] * 600 + [unit("zh")] * 60)
    alike = english().scores
    scores = {
        model: np.concatenate([alike[model], (luck[place] < 0.7).astype(float)])
        for place, model in enumerate(MODELS)
    }
    made = derive(serving(SHIPPED), [Task("t", "labels", "accuracy", units, scores=scores)], 1.0)
    assert found(made)["not-english"][0] == {"not_languages": ["en"]}
    why = next(rule.why for rule in made.rules if rule.name == "not-english")
    assert "zh: 60 texts cannot rule out +" in why


def test_a_service_without_rules_gets_rules_of_caution(tmp_path: Path) -> None:
    bare = RoutingConfig.model_validate({"default_tier": "balanced"})
    of = serving(bare)
    made = derive(of, [english()], 1.0)
    rules = found(made)
    assert rules["language-not-measured"] == ({"not_languages": ["en"]}, "best", "caution")
    assert rules["mixed-not-measured"] == ({"mixed": True}, "best", "caution")
    assert {"Arab", "Hani"} <= set(rules["script-not-measured"][0]["scripts"])
    before, after = quality(replayed(made, tmp_path, of, bare))
    assert after > before
    why = next(rule.why for rule in made.rules if rule.name == "language-not-measured")
    assert why.startswith("caution, not evidence: ")


@pytest.mark.parametrize("figures", [True, False])
def test_rules_that_are_not_known_are_replaced_by_caution(figures: bool) -> None:
    of = serving(None, figures)
    made = derive(of, [english()], 1.0)
    assert found(made)["language-not-measured"][1:] == ("best", "caution")
    assert "The rules in force were not readable" in rules_yaml.yaml(of, made, None, {}, 1.0)


def test_where_nothing_was_measured_everything_stays_as_it_is() -> None:
    made = derive(serving(SHIPPED), [], 1.0)
    assert made.default == "balanced"
    assert [rule.name for rule in made.rules] == [rule.name for rule in SHIPPED.rules]
    assert {rule.source for rule in made.rules} == {"kept"}


def near(
    count: int, gained: int, of: str = "large", code: int = 0, language: str | None = "en"
) -> Task:
    """All models are alike but for one that is right on `gained` more of `count` texts, and on one
    fewer; after them `code` texts on which no model is wrong.
    """
    scores = {model: np.ones(count + code) for model in MODELS}
    for model in MODELS[: MODELS.index(of)]:
        scores[model][:gained] = 0.0
    scores[of][gained] = 0.0
    units = (*(unit(language),) * count, *(unit(None, code=True),) * code)
    return Task("t", "labels", "accuracy", units, scores=scores)


UNDECIDED = near(300, 4)
BEST = RoutingConfig.model_validate({"default_tier": "best"})


@pytest.mark.parametrize(
    ("in_force", "default"),
    [(BEST, "best"), (SHIPPED, "balanced"), (RoutingConfig(), "fast")],
    ids=["the largest", "the middle", "the smallest"],
)
@pytest.mark.parametrize("language", ["en", None], ids=["English", "no language"])
def test_a_default_stays_where_the_texts_cannot_rule_a_gain_out(
    in_force: RoutingConfig, default: str, language: str | None
) -> None:
    of = serving(in_force)
    made = derive(of, [near(300, 4, language=language)], 1.0)
    assert made.default == default
    assert made.default_model == TIERS[Tier(default)]
    if default == "fast":
        assert made.undecided == ""
        return
    about = "English" if language else "all texts together"
    said = f"not enough rows to tell: for {about} 300 texts cannot rule out +"
    assert made.default_why.startswith(f"kept from the rules in force: {said}")
    text = rules_yaml.yaml(of, made, None, {}, 1.0)
    assert f"# {made.default_model}: kept from the rules in force: not enough rows to tell" in text
    assert f"default_tier: {default}" in text


def test_a_default_is_lowered_where_the_texts_settle_that_less_is_enough() -> None:
    """What was not measured, and code that cannot tell, stay with the default in force."""
    made = derive(serving(BEST), [near(5_000, 10)], 1.0)
    rules = found(made)
    assert (made.default, made.undecided) == ("fast", "")
    assert rules["language-not-measured"] == ({"not_languages": ["en"]}, "best", "caution")
    assert rules["mixed-not-measured"] == ({"mixed": True}, "best", "caution")
    assert rules["code-not-settled"] == ({"code": True}, "best", "caution")
    assert "mixed-not-settled" not in rules
    measured = found(derive(serving(BEST), [near(5_000, 10, code=60)], 1.0))
    assert "code-not-settled" not in measured


def test_one_language_that_cannot_tell_keeps_the_default_for_all() -> None:
    settled, open_still = near(5_000, 10), near(60, 2, language="zh")
    units = settled.units + open_still.units
    scores = {
        model: np.concatenate([settled.scores[model], open_still.scores[model]]) for model in MODELS
    }
    both = Task("t", "labels", "accuracy", units, scores=scores)
    made = derive(serving(BEST), [both], 1.0)
    assert (made.default, made.rules) == ("best", ())
    assert "for Chinese 60 texts cannot rule out" in made.undecided
    assert "English" not in made.undecided


def test_a_default_that_was_not_measured_stays_with_all_rules() -> None:
    of = replace(serving(SHIPPED), candidates=plan(("small", "large")).candidates)
    of = replace(of, tokens={name: of.tokens[name] for name in ("small", "large")})
    few = {"small": [0.4] * 600, "large": [0.9] * 600}
    made = derive(of, [task("t", [unit("en")] * 600, few)], 1.0)
    assert (made.default, made.default_model) == ("balanced", "middle")
    assert made.default_why == "kept from the rules in force: middle was not measured"
    assert [rule.name for rule in made.rules] == [rule.name for rule in SHIPPED.rules]
    head, more = said(of, task("t", [unit("en")] * 600, few), made)
    assert head.startswith("large (balanced) is worth it: +")
    assert "By routing.yaml" not in head
    assert "The default middle is kept from the rules in force: middle was not measured." in more


def said(of: AdvisePlan, one: Task, made: Derived) -> tuple[str, list[str]]:
    """The headline and the lines of a report."""
    costs = dict(zip(MODELS, (0.001, 0.01, 0.1), strict=True))
    timings = {each.name: timing(each.name, costs[each.name]) for each in of.candidates}
    whole = slices.holm(list(slices.slices(of, one)))
    rows = traffic.outcomes(of, [one], made, timings, 1.0, None)
    head, more = verdict.verdict(of, [one], whole, made, rows, 1.0, timings)
    return head, more + verdict.about_rules(made)


def test_the_headline_speaks_of_the_file_that_is_written() -> None:
    """Halves of these texts cannot tell what the whole settles, so their rules differ from it."""
    of, one = serving(BEST), near(600, 3)
    made = derive(of, [one], 1.0)
    assert made.default == "fast"
    head, more = said(of, one, made)
    # small is wrong on 3 texts; one half gives all its texts to large
    assert ". By routing.yaml these texts have 99.5 points at 1% of the device time of " in head
    assert "; by rules made from half of them, the other half has 99." in head
    (fair,) = [line for line in more if "which can differ from routing.yaml" in line]
    assert fair.endswith("at 50% of the device time of always large.")
    undecided = derive(of, [UNDECIDED], 1.0)
    head, more = said(of, UNDECIDED, undecided)
    assert ". Not enough rows to tell: the default large (best) stays. By routing.yaml" in head
    assert " at 100% of the device time of always large" in head
    assert any(
        line.startswith("The default large is kept from the rules in force: not") for line in more
    )


def test_other_keys_of_the_routing_in_force_are_carried_over(tmp_path: Path) -> None:
    own = SHIPPED.model_copy(update={"min_share": 0.5, "strict_tiers": True})
    of = serving(own)
    text = rules_yaml.yaml(of, derive(of, [english()], 1.0), None, {}, 1.0)
    read = yaml.safe_load(text)
    assert read["routing"]["min_share"] == 0.5
    assert read["routing"]["strict_tiers"] is True
    assert read["tiers"] == {"fast": "small", "balanced": "middle", "best": "large"}
