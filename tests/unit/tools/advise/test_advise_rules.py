"""What is planted in the scores is found, what is not is not, and the file that says so is one that
the router reads.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml as pyyaml

from deployments.tools.advise import rules_yaml, slices, traffic, verdict
from deployments.tools.advise.derived import Derived
from deployments.tools.advise.quality import Task, Unit
from deployments.tools.advise.rules import Search
from deployments.tools.policy_file import read_policy
from router.domain import Tier
from router.strict import changed
from tests.support.advise_plan import MODELS, plan, task, timing, unit

TIMING = {
    model: timing(model, seconds) for model, seconds in zip(MODELS, (0.001, 0.01, 0.1), strict=True)
}
SERVED = {
    "models": {
        name: {"engine": {"kind": "fake"}, "dimensions": 64, "max_tokens": 512} for name in MODELS
    },
    "tiers": {"fast": "small"},
}


def two_languages(units_each: int = 400) -> list[Unit]:
    return [unit("en")] * units_each + [unit("zh", 20)] * units_each


def chances(
    units: Sequence[Unit], english: Sequence[float], chinese: Sequence[float]
) -> dict[str, list[float]]:
    return {
        model: [
            chinese[place] if one.features.language == "zh" else english[place] for one in units
        ]
        for place, model in enumerate(MODELS)
    }


def planted(
    units: Sequence[Unit], gains: Callable[[Unit], bool], then: Sequence[float]
) -> dict[str, list[float]]:
    """Each model's chance where there is something to gain; all are alike elsewhere."""
    return {
        model: [chance if gains(one) else 0.8 for one in units]
        for model, chance in zip(MODELS, then, strict=True)
    }


def derived(*tasks: Task) -> Derived:
    return Search(plan(), tasks, 1.0).derive()


def found(made: Derived) -> dict[str, tuple[dict, str]]:
    return {rule.name: (dict(rule.when), rule.floor) for rule in made.rules}


def test_a_language_that_gains_is_raised_and_the_other_is_not() -> None:
    units = two_languages()
    made = derived(task("t", units, chances(units, (0.6, 0.8, 0.8), (0.3, 0.25, 0.8))))
    assert made.default == "balanced"
    assert found(made) == {
        "languages-best": ({"languages": ["zh"]}, "best"),
        "language-not-measured": ({"not_languages": ["en", "zh"]}, "best"),
    }
    assert "+5" in made.rules[0].why  # the planted gain over the default: 55 points
    assert "caution, not evidence" in made.rules[1].why


def test_models_that_differ_by_chance_make_no_rule_and_the_smallest_is_enough() -> None:
    units = two_languages()
    made = derived(task("t", units, chances(units, (0.7, 0.7, 0.7), (0.7, 0.7, 0.7))))
    assert (made.default, found(made)) == ("fast", {})


def test_a_gain_below_the_one_that_is_worth_it_makes_no_rule() -> None:
    units = two_languages(4000)
    one = task("t", units, chances(units, (0.7, 0.7, 0.7), (0.7, 0.7, 0.73)))
    assert found(Search(plan(), [one], 10.0).derive()) == {}
    assert "languages-best" in found(Search(plan(), [one], 1.0).derive())


def test_tasks_that_disagree_are_averaged() -> None:
    units = [unit("en")] * 600
    gains = task("gains", units, chances(units, (0.6, 0.7, 0.74), (0, 0, 0)), seed=1)
    loses = task("loses", units, chances(units, (0.6, 0.7, 0.62), (0, 0, 0)), seed=2)
    assert derived(gains).default == "best"
    assert derived(gains, loses).default == "balanced"


def test_a_rule_is_not_made_of_the_evidence_of_another() -> None:
    # Chinese texts are short here: without care `short` or `Hani` would look as good a rule as
    # `zh`.
    units = [unit("en", 200)] * 300 + [unit("zh", 20)] * 300
    made = derived(task("t", units, chances(units, (0.8, 0.8, 0.8), (0.3, 0.3, 0.8))))
    assert set(found(made)) == {"languages-best", "language-not-measured"}


def test_a_script_whose_language_is_unknown_gets_a_rule_of_its_own() -> None:
    units = [unit("en")] * 300 + [unit("ru")] * 300 + [unit(None, script="Cyrl")] * 300
    own = planted(units, lambda one: one.features.script != "Latn", (0.3, 0.3, 0.8))
    assert found(derived(task("t", units, own)))["script-cyrl"] == ({"scripts": ["Cyrl"]}, "best")


@pytest.mark.parametrize(("kind", "when"), [("code", {"code": True}), ("mixed", {"mixed": True})])
def test_code_and_mixed_texts_get_a_rule_where_they_gain(kind: str, when: dict[str, bool]) -> None:
    special = unit(None, code=True) if kind == "code" else unit("en", mixed=True)
    units = [unit("en")] * 600 + [special] * 200
    own = planted(units, lambda one: one is special, (0.3, 0.7, 0.7))
    made = derived(task("t", units, own))
    assert made.default == "fast"
    assert found(made)[kind] == (when, "balanced")


def test_long_texts_get_the_least_length_from_which_on_they_gain() -> None:
    units = [unit("en", characters) for characters in (20, 100, 300, 700, 1500) for _ in range(400)]
    own = planted(units, lambda one: len(one.longest) >= 600, (0.3, 0.3, 0.8))
    made = derived(task("t", units, own))
    assert made.default == "fast"
    name, floor = found(made)["long"]
    assert floor == "best"
    assert name == {"min_tokens": 512}


def test_too_few_texts_say_nothing() -> None:
    units = [unit("en")] * 300 + [unit("de")] * 12
    own = planted(units, lambda one: one.features.language != "en", (0.0, 0.0, 1.0))
    made = derived(task("t", units, own))
    assert found(made) == {}
    assert "de: 12 texts, too few to tell (30 of a task are needed)" in made.silent


def test_a_language_whose_scores_are_all_alike_is_no_reason_for_the_largest_model() -> None:
    rng = np.random.default_rng(5)
    units = [unit("en")] * 200 + [unit("zh", 20)] * 60
    chinese = np.array([one.features.language == "zh" for one in units])
    gold = np.where(chinese, 5.0, rng.random(260))  # every Chinese pair has the same score
    alike = Task(
        "p",
        "pairs",
        "Spearman",
        tuple(units),
        gold,
        {model: gold + 0.2 * rng.random(260) for model in MODELS},
    )
    made = derived(alike)
    assert (made.default, found(made), list(made.languages)) == ("fast", {}, ["en"])
    assert "zh: its scores are all alike and tell no models apart" in made.silent
    alone = Task(
        "p",
        "pairs",
        "Spearman",
        tuple(units[200:]),
        gold[200:],
        {model: rng.random(60) for model in MODELS},
    )
    assert derived(alone).languages == {}


def test_without_judged_texts_the_largest_stays_and_no_rule_is_made() -> None:
    made = derived()
    assert (made.default, made.rules, made.default_choice) == ("best", (), None)


def test_the_file_is_one_that_the_router_and_the_replay_read(tmp_path: Path) -> None:
    units = two_languages()
    made = derived(task("t", units, chances(units, (0.6, 0.8, 0.8), (0.3, 0.25, 0.8))))
    text = rules_yaml.yaml(plan(), made, 100.0, {"small": 0.0, "middle": 0.1, "large": 0.9}, 1.0)
    (tmp_path / "routing.yaml").write_text(text)
    read = read_policy(tmp_path / "routing.yaml")
    assert read.tiers == {Tier.FAST: "small", Tier.BALANCED: "middle", Tier.BEST: "large"}
    assert [rule.name for rule in read.routing.rules] == ["languages-best", "language-not-measured"]
    args = changed(SERVED, pyyaml.safe_load(text))  # as `user_config`, strictly
    assert args.routing.default_tier is Tier.BALANCED
    for line in text.splitlines():
        assert len(line) <= 130
    before = text.split("- name: languages-best")[0]
    assert "# Chinese: +5" in before  # the evidence stands above its rule
    assert "# default_budget_ms: 100" in text


def test_a_language_that_yaml_reads_as_false_stays_a_language(tmp_path: Path) -> None:
    units = [unit("en")] * 300 + [unit("no")] * 300
    own = planted(units, lambda one: one.features.language != "en", (0.2, 0.2, 0.9))
    made = derived(task("t", units, own))
    (tmp_path / "routing.yaml").write_text(rules_yaml.yaml(plan(), made, None, {}, 1.0))
    assert read_policy(tmp_path / "routing.yaml").routing.rules[0].when.languages == ("no",)


def test_routed_texts_have_the_quality_of_the_best_for_less() -> None:
    units = two_languages(1000)
    one = task("t", units, chances(units, (0.6, 0.8, 0.8), (0.3, 0.25, 0.8)))
    made = derived(one)
    rows = {row.name: row for row in traffic.outcomes(plan(), [one], made, TIMING, 1.0, 36.0)}
    always = [rows[f"always {model}"] for model in MODELS]
    assert [row.by_task["t"] for row in always] == [
        one.value(one.scores[model], np.arange(2000)) for model in MODELS
    ]
    routed, fair = rows["routed"], rows["routed, rules from the other half"]
    assert routed.models == {"middle": 0.5, "large": 0.5}
    assert routed.device_s == pytest.approx(1e6 * (60 * 0.01 + 20 * 0.1) / 2)
    assert routed.price == pytest.approx(routed.device_s / 100)
    assert routed.device_s < always[2].device_s / 2
    assert routed.against["always large"] == (
        0.0,
        0.0,
        0.0,
    )  # where the middle answers it is right as often, on the same texts
    assert routed.against["always small"][1] > 20
    assert fair.quality == pytest.approx(routed.quality)  # both halves support the same rules here


def test_cosines_of_two_models_are_never_ranked_against_each_other() -> None:
    # Each model orders its own language perfectly, on scales that have nothing in common.
    rng = np.random.default_rng(3)
    units = two_languages(200)
    gold = rng.random(400)
    noise = rng.random(400)
    chinese = np.array([one.features.language == "zh" for one in units])
    one = Task("p", "pairs", "Spearman", tuple(units), gold, {
        "small": np.where(chinese, noise, gold), "middle": noise, "large": np.where(chinese,
        100 + gold, noise),
    })  # fmt: skip
    made = derived(one)
    assert (made.default, found(made)["languages-best"][1]) == ("fast", "best")
    rows = {row.name: row for row in traffic.outcomes(plan(), [one], made, TIMING, 1.0, None)}
    assert rows["routed"].quality == pytest.approx(100.0)


def test_planted_differences_are_measured_and_chance_is_not() -> None:
    units = two_languages(300)
    one = task("t", units, chances(units, (0.7, 0.7, 0.7), (0.4, 0.4, 0.7)))
    made = slices.holm(list(slices.slices(plan(), one)))
    by_value = {row.value: row for row in made if row.dimension in ("all", "language")}
    large = {value: row.differences[-1] for value, row in by_value.items()}
    assert large["zh"].is_measured
    assert large["zh"].low < 30 < large["zh"].high
    assert not large["en"].is_measured
    assert large["en"].points == 0.0


def uniform(count: int, gain: float, seed: int) -> Task:
    """One language, many lengths, and a large model that is better by as much at every one."""
    units = [unit("en", (10, 24, 48, 100, 200, 400)[place % 6]) for place in range(count)]
    rng = np.random.default_rng(seed)
    scores = {
        model: (rng.random(count) < 0.6 + gain * (model == "large")).astype(float)
        for model in MODELS
    }
    return Task("t", "labels", "accuracy", tuple(units), scores=scores)


def test_a_gain_at_every_length_makes_no_rule_for_a_length() -> None:
    for seed in range(20):
        made = derived(uniform(1000, 0.12, seed))
        whole = Search(plan(), [uniform(1000, 0.12, seed)], 1.0).choose({"t": np.arange(1000)})
        assert whole.model == "large"
        assert "long" not in found(made), seed


def said_of(*tasks: Task, min_gain: float = 1.0) -> tuple[str, list[str]]:
    whole = slices.holm([one for each in tasks for one in slices.slices(plan(), each)])
    made = Search(plan(), tasks, min_gain).derive()
    return verdict.verdict(
        plan(),
        tasks,
        whole,
        made,
        traffic.outcomes(plan(), tasks, made, TIMING, min_gain, None),
        min_gain,
        TIMING,
    )


def test_few_texts_that_show_no_gain_do_not_show_that_there_is_none() -> None:
    scores = np.ones(50)
    worse = scores.copy()
    worse[:4], scores[4:6] = 0.0, 0.0  # +4 points, and an interval on both sides of 0
    one = Task(
        "t",
        "labels",
        "accuracy",
        (unit("en"),) * 50,
        scores={"small": worse, "middle": worse, "large": scores},
    )
    head, _ = said_of(one)
    assert head.startswith(
        "large (best) is not shown to be worth its cost here: for English 50 texts cannot rule "
        "out +"
    )
    assert "points of large (best) over small (fast)" in head


def test_what_is_ruled_out_is_said_to_be_enough() -> None:
    units = [unit("en")] * 400
    alike = task("t", units, dict.fromkeys(MODELS, [0.7] * 400))
    assert said_of(alike)[0].startswith(
        "large (best) is not worth its cost here: for English small (fast) is enough. By "
        "routing.yaml these texts have "
    )


def test_halves_that_are_too_small_to_make_rules_judge_nothing() -> None:
    units = [unit("en")] * 50
    _, more = said_of(task("t", units, dict.fromkeys(MODELS, [0.7] * 50)))
    assert "too few texts here to judge them fairly: that takes 60 of a task" in more[-1]
    one = task("t", units, dict.fromkeys(MODELS, [0.7] * 50))
    rows = traffic.outcomes(plan(), [one], derived(one), TIMING, 1.0, None)
    assert "routed, rules from the other half" not in {row.name for row in rows}


def test_what_is_said_of_a_task_is_corrected_and_large_enough() -> None:
    units = [unit("en")] * 400
    one = task(
        "t", units, {"small": [0.7] * 400, "middle": [0.7] * 400, "large": [0.73] * 400}, seed=4
    )
    raw = slices.differences(one, MODELS, np.arange(400))
    assert raw[-1].p < 0.05 < raw[-1].points
    _, more = said_of(one, min_gain=10.0)  # measurable, and not worth it
    assert "measurably better" not in more[0]


def test_the_verdict_has_points_cost_and_the_fair_figure() -> None:
    units = two_languages(600)
    one = task("t", units, chances(units, (0.6, 0.8, 0.8), (0.3, 0.25, 0.8)))
    head, more = said_of(one)
    # 0.1 device seconds against 0.01 a token; each Timing says 1.0 s a million
    assert re.match(
        r"large \(best\) is worth it: \+5\d\.\d points for Chinese over middle at 1\.0 times the "
        r"device time; for English middle \(balanced\) is enough\. By routing\.yaml these texts "
        r"have \d\d\.\d points at 3\d% of the device time of always large \(\d\d\.\d\); by rules "
        r"made from half of them, the other half has \d\d\.\d, not measurably other than always ",
        head,
    ), head
    assert "which can differ from routing.yaml" in more[-1]


def test_the_verdict_says_where_a_larger_model_is_worse() -> None:
    units = two_languages(600)
    one = task("t", units, chances(units, (0.6, 0.8, 0.8), (0.5, 0.25, 0.8)))
    _, more = said_of(one)
    (worse,) = [line for line in more if "measurably worse than the smaller" in line]
    assert re.match(r"middle is .* small: Chinese in t -2\d\.\d \[", worse), worse
    alike = task("t", units, dict.fromkeys(MODELS, [0.7] * len(units)))
    assert not [line for line in said_of(alike)[1] if "measurably worse" in line]


def test_a_mixture_of_languages_is_called_one() -> None:
    units = [unit("zh")] * 300 + [unit("en")] * 100
    one = task("t", units, dict.fromkeys(MODELS, [0.7] * 400))
    assert said_of(one)[1][0].startswith("t (Chinese 75%, English 25%, 400 texts)")
    mostly = task("t", [unit("zh")] * 390 + [unit("en")] * 10, dict.fromkeys(MODELS, [0.7] * 400))
    assert said_of(mostly)[1][0].startswith("t (Chinese, 400 texts)")
