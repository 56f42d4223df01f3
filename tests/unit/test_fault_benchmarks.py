"""What the benchmarks of faults conclude from what they saw."""

import json
import math
import random
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from benchmarks import advise_english, elsewhere, fairness, marks, outages, timing
from benchmarks.__main__ import NAMES
from benchmarks.abuse import MARKS, MIDDLE, SHORT
from benchmarks.abuse_attacks import ATTACKS
from benchmarks.live import ROOT
from benchmarks.outages import ANSWERED, Sent
from deployments.launch.serve_config import application as application_of
from tests.support.live_entries import entry


def test_a_mark_is_the_larger_of_both() -> None:
    assert MARKS[SHORT].allows(0.01) == pytest.approx(0.05)
    assert MARKS[MIDDLE].allows(0.2) == pytest.approx(1.0)


def test_every_attack_says_what_it_is() -> None:
    assert all(attack.row and attack.at_once > 0 for attack in ATTACKS.values())


def values(rows: list[marks.Row]) -> dict[str, float]:
    """By the part of the name behind the colon."""
    return {row.name.partition(": ")[2]: row.value for row in rows}


def missed(rows: list[marks.Row]) -> list[str]:
    return [row.name.partition(": ")[2] or row.name for row in rows if row.met is False]


def test_rows_are_written_and_a_missed_mark_ends_the_command(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    rows = [marks.at_most("one", 1.0, 1.0), marks.at_least("two", 1.0, 1.0), marks.Row("three", 3)]
    marks.conclude(rows, file)
    assert json.loads(file.read_text())["rows"][0] == {
        "name": "one",
        "value": 1,
        "mark": 1,
        "met": True,
    }
    for missed in (marks.at_most("four", 1.1, 1.0), marks.at_least("four", 0.9, 1.0)):
        with pytest.raises(click.ClickException, match="missed: four"):
            marks.conclude([*rows, missed], file)
    marks.conclude([marks.Row("never", math.inf)], file)
    assert json.loads(file.read_text())["rows"][0]["value"] is None


def test_every_number_of_a_table_is_a_row() -> None:
    line = {"load": 0.8, "policy": "auto", "p50": 2.5, "late": None, "models": {"small": 3}}
    found = {row.name: row.value for row in marks.flat([line | {"note": "-"}], "load", "policy")}
    assert math.isnan(found.pop("0.8, auto: late"))
    assert found == {"0.8, auto: p50": 2.5, "0.8, auto: models: small": 3}


MAKERS = ("advise", "general_texts", "mteb", "profile", "qwen3_shapes")  # of files, not of figures


@pytest.mark.parametrize("name", sorted({*NAMES} - {*MAKERS}))
def test_every_benchmark_writes_its_figures_to_a_file(name: str) -> None:
    main = import_module(f"benchmarks.{name}").main
    [option] = [one for one in main.params if "--json" in one.opts]
    assert isinstance(option.type, click.Path)
    assert option.name == "file"


def sent(*ends_s: float, took_s: float = 0.1, outcome: str = ANSWERED) -> list[Sent]:
    return [Sent(end_s, took_s, outcome) for end_s in ends_s]


STEADY = [place / 10 for place in range(101)]  # ten answers a second


def test_a_death_that_nobody_notices_meets_every_mark() -> None:
    rows = outages.judged("replica", sent(*STEADY), killed_s=5.0, ended_s=10.0, whole_s=4.0)
    assert missed(rows) == []
    assert values(rows)["seconds without answers"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("requests", "whole_s", "misses"),
    [
        (
            sent(*STEADY[:50]),  # no answer after the death
            4.0,
            ["in budget after, %", "seconds without answers"],
        ),
        (
            sent(*STEADY[:60]),  # the answers end a second after it
            4.0,
            ["seconds without answers"],
        ),
        (
            sent(*STEADY[:50], *STEADY[65:]),
            4.0,
            ["seconds without answers"],
        ),
        (
            sent(*STEADY) + sent(5.5, outcome="503 model_unavailable"),
            4.0,
            ["not answered"],
        ),
        (
            sent(*STEADY) + sent(*[6.0] * 4, took_s=0.6),
            4.0,
            ["in budget after, %"],
        ),
        (sent(*STEADY), None, ["whole again after, s"]),
    ],
    ids=["none", "ended", "pause", "refused", "late", "never whole"],
)
def test_each_mark_of_an_outage_can_be_missed(
    requests: list[Sent], whole_s: float | None, misses: list[str]
) -> None:
    rows = outages.judged("replica", requests, killed_s=5.0, ended_s=10.0, whole_s=whole_s)
    assert missed(rows) == misses


def test_a_front_may_be_away_for_a_while_but_no_longer() -> None:
    away = sent(*STEADY[:50], 14.0) + sent(6.0, outcome="ClientConnectorError")
    assert not missed(outages.judged("haproxy", away, killed_s=5.0, ended_s=14.0, whole_s=9.0))
    late = sent(*STEADY[:50], 21.0)
    rows = outages.judged("haproxy", late, killed_s=5.0, ended_s=21.0, whole_s=16.0)
    assert missed(rows) == ["seconds without answers"]


def told(lower: float, count: int = 200) -> timing.FigureTest:
    rng = random.Random(1)
    new = [rng.gauss(10.0, 1.0) for _ in range(count)]
    known = [rng.gauss(10.0 - lower, 1.0) for _ in range(count)]
    return timing.judged("time", known, new)


def test_a_figure_tells_nothing_where_known_and_new_texts_have_the_same() -> None:
    same = told(0.0)
    assert 0.4 < same.share < 0.6
    assert not missed(timing.rows("key", [same]))
    assert missed(timing.rows("shared", [same])) == ["time, by chance"], "the test finds nothing"


def test_a_figure_tells_where_known_texts_have_a_lower_or_a_higher_one() -> None:
    for lower in (0.5, -0.5):
        found = told(lower)
        assert (found.share > 0.5) == (lower > 0)
        assert missed(timing.rows("key", [found])) == ["time, by chance"]
        assert not missed(timing.rows("shared", [found]))


def test_a_figure_that_is_always_the_same_tells_nothing() -> None:
    found = timing.judged("routing.cached", [0.0] * 50, [0.0] * 50)
    assert (found.share, found.chance, found.right) == (0.5, 1.0, 0.5)
    told_all = timing.judged("routing.cached", [-1.0] * 50, [0.0] * 50)
    assert (told_all.share, told_all.right) == (1.0, 1.0)


def test_texts_of_a_probe_are_as_many_as_asked_and_none_twice() -> None:
    texts = timing.texts(300, random.Random(0))
    assert len(set(texts)) == 300


def test_the_error_after_learning_is_that_of_later_answers_of_a_model() -> None:
    answers = [entry(2.0)] * elsewhere.LEARNED + [entry(1.25)] * 60
    found = elsewhere.errors([*answers, entry(9.0, outcome="cancelled")])
    assert set(found) == {"small"}
    assert found["small"] == pytest.approx((0.5, 0.2))


def test_the_ratio_of_two_profiles_has_a_mark() -> None:
    own = elsewhere.OWN.format("small")
    good = {"small": (0.5, 0.12), own: (0.1, 0.1)}
    assert not missed(elsewhere.judged(good, ["small"]))
    assert missed(elsewhere.judged({**good, "small": (0.5, 0.13)}, ["small"])) == ["ratio"]


def profiles(folder: Path, device: str) -> None:
    for file in (ROOT / "configs" / "profiles").glob("local-*.json"):
        profile = json.loads(file.read_text()) | {"device": device}
        (folder / file.name).write_text(json.dumps(profile))


def test_each_model_serves_with_both_profiles(tmp_path: Path) -> None:
    profiles(tmp_path, "a new machine")
    config = elsewhere.side_by_side(tmp_path, "a new machine", tmp_path)
    [application] = config["applications"]
    tiers = set(application["args"]["tiers"].values())
    names = tiers | {elsewhere.OWN.format(name) for name in tiers}
    file = tmp_path / "local.yaml"
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    assert names <= application_of(file)[0].models.keys()  # what the service would start with
    assert names <= application["args"]["models"].keys()
    deployments = {one["name"]: one for one in application["deployments"]}
    assert names < deployments.keys()
    assert sum(one["ray_actor_options"]["num_cpus"] for one in deployments.values()) <= 2


def test_profiles_of_another_machine_or_shipped_ones_of_this_one_are_refused(
    tmp_path: Path,
) -> None:
    with pytest.raises(click.ClickException, match="calibrate"):
        elsewhere.side_by_side(tmp_path, "a new machine", tmp_path)
    profiles(tmp_path, "another one")
    with pytest.raises(click.ClickException, match="is of another one"):
        elsewhere.side_by_side(tmp_path, "a new machine", tmp_path)
    shipped = elsewhere.device_of(
        ROOT / "configs" / "profiles" / "local-wordllama-256.json", "wordllama-256"
    )
    profiles(tmp_path, shipped)
    with pytest.raises(click.ClickException, match="nothing to compare"):
        elsewhere.side_by_side(tmp_path, shipped, tmp_path)


def replayed(**changed: Any) -> dict[str, Any]:
    return {
        "requests": 10,
        "before": {"quality": 75.0},
        "after": {"quality": 75.0},
        "moved": [{"requests": 3}],
        "slices": [{"dimension": "language", "value": "en", "falls": True}],
        **changed,
    }


@pytest.mark.parametrize(
    ("changed", "answered", "misses"),
    [
        ({}, 10, []),
        ({"after": {"quality": 74.9}}, 10, ["mean points after"]),
        (
            {"slices": [{"dimension": "language", "value": "ar", "falls": True}]},
            10,
            ["languages not measured whose points fall"],
        ),
        ({"requests": 9}, 10, ["mixed requests replayed"]),
        ({}, 9, ["mixed requests answered"]),
    ],
)
def test_a_routing_from_english_texts_may_lower_no_points(
    changed: dict[str, Any], answered: int, misses: list[str]
) -> None:
    assert missed(advise_english.judged(replayed(**changed), 10, answered)) == misses


def test_advise_is_given_the_english_sets_alone(tmp_path: Path) -> None:
    for name in ("stsb-en.csv", "stsb-zh.csv", "banking77-test.csv"):
        (tmp_path / name).write_text("text,label\n")
    scifact: dict[str, Any] = {"corpus": {}, "queries": {}, "qrels": {}}
    (tmp_path / "scifact-mini.json").write_text(json.dumps(scifact))
    for whole in (False, True):
        given = advise_english.english(tmp_path, tmp_path / "inputs", whole)
        names = [Path(value).name for value in given[1::2]]
        assert names[-2:] == ["sts-en.csv", "banking77.csv"]
        assert given[-4::2] == ["--pairs", "--labels"]
        assert len(names) == (5 if whole else 2)


@pytest.mark.parametrize(
    ("served", "missed"),
    [
        ({"one": 100, "other": 100}, []),
        ({"one": 100, "other": 0}, ["the other to one"]),
        ({"one": 90, "other": 100}, ["one to the other"]),
    ],
)
def test_either_key_must_be_served_as_much_as_the_other(
    served: dict[str, int], missed: list[str]
) -> None:
    floods = [fairness.Flood(90.0, 10.0)]
    rows = fairness.judged(floods, [90.5], 20.0, served)
    assert [row.name.partition("served, ")[2] for row in rows if row.met is False] == missed
