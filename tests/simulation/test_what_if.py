"""What people ask `embedding-router simulate`: a card fewer, a model without replicas, a share of
the load.
"""

import json
from pathlib import Path

import pytest
import yaml

from deployments.tools.simulate.load import load_world
from router.sim.build import PolicyVariant, World, arrivals, mean_rate, run
from router.sim.scaling import Bounds
from tests.simulation.test_simulate import CONFIG, SMALL, simulate

pytestmark = pytest.mark.usefixtures("kept_tokenizers")

TINY, MIDDLE, LARGE = "qwen3-embedding-0.6b", "qwen3-embedding-4b", "qwen3-embedding-8b"
QUERIES = {"q": {"budget_ms": 100}}


def world_of(folder: Path, **changes: object) -> World:
    path = folder / "scenario.yaml"
    path.write_text(yaml.safe_dump(SMALL | changes))
    return load_world(path)


def at_load(load: float, classes: object = QUERIES) -> dict[str, object]:
    return {"traffic": {"load": load, "classes": classes}}


@pytest.mark.parametrize("plan", [False, True])
def test_the_traffic_of_a_load_is_the_same_with_a_card_fewer(plan: bool, tmp_path: Path) -> None:
    scenario = SMALL | at_load(0.05) | {"seconds": 1}
    whole = json.loads(simulate(tmp_path, scenario, "--json").stdout)
    fewer = json.loads(
        simulate(tmp_path, scenario, "--json", "--replicas", f"{LARGE}=1", plan=plan).stdout
    )
    assert fewer["requests_per_s"] == whole["requests_per_s"]
    assert fewer["result"]["offered"] == whole["result"]["offered"]
    assert fewer["replicas"][LARGE] == whole["replicas"][LARGE] - 1
    twice = world_of(tmp_path, **at_load(0.05), replicas={LARGE: 4})  # these are the scenario's own
    assert mean_rate(twice) == pytest.approx(2.0 * whole["requests_per_s"])


@pytest.mark.parametrize("where", ["option", "file"])
def test_a_load_without_the_largest_model_is_simulated(where: str, tmp_path: Path) -> None:
    scenario = SMALL | at_load(0.05) | {"seconds": 1}
    options = ["--replicas", f"{LARGE}=0"]
    if where == "file":
        scenario, options = scenario | {"replicas": {TINY: 1, MIDDLE: 2, LARGE: 0}}, []
    done = simulate(tmp_path, scenario, "--json", *options, plan=True)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["requests_per_s"] > 0.0
    assert list(report["result"]["models"]) == [MIDDLE]
    pinned = {"q": QUERIES["q"], "p": {"model": LARGE, "budget_ms": 100}}
    done = simulate(tmp_path, scenario | at_load(0.05, pinned), "--json", *options)
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)["result"]
    assert result["errors"] == {"no_model": result["offered"] - result["models"][MIDDLE]}


def test_a_trace_at_a_load_is_simulated_without_the_largest_model(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    rows = [f"2024-01-01 00:00:{second:02}.0,20" for second in range(11)]
    trace.write_text("\n".join(["TIMESTAMP,ContextTokens", *rows, ""]))
    traffic = {"load": 0.05, "trace": str(trace)}
    done = simulate(tmp_path, SMALL | {"traffic": traffic}, "--json", "--replicas", f"{LARGE}=0")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["result"]["offered"] == 11


def test_a_load_of_models_without_replicas_is_a_sentence(tmp_path: Path) -> None:
    pinned = {"p": {"model": LARGE}}
    scenario = SMALL | at_load(0.5, pinned) | {"replicas": {LARGE: 0}}
    done = simulate(tmp_path, scenario)
    assert done.exit_code == 1
    assert "no model that the requests need has one; write `replicas:`" in done.output
    assert isinstance(done.exception, SystemExit)


def test_pinned_requests_count_as_load_of_their_own_model(tmp_path: Path) -> None:
    def rate(classes: object) -> float:
        return mean_rate(world_of(tmp_path, **at_load(1.0, classes)))

    tokens = {"tokens": [20, 20]}
    free = rate({"q": tokens})
    assert rate({"q": tokens | {"model": LARGE}}) == free
    small = rate({"q": tokens | {"model": TINY}})
    assert small != free
    # the 8B is busy first, and then the 0.6B
    assert rate({"q": tokens, "p": tokens | {"model": TINY}}) == pytest.approx(2.0 * free, rel=0.1)
    most = rate({"q": tokens | {"share": 0.01}, "p": tokens | {"model": TINY}})
    assert most == pytest.approx(1.01 * small, rel=0.01)


def test_declared_texts_have_the_script_of_their_language(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(
        "routing: {default_tier: fast, rules: [{name: han, when: {scripts: [Hani, Jpan]}, "
        "floor: best}]}\n"
    )
    mix = {"languages": {"en": 1, "zh": 1, "ja": 1, "ru": 1}, "budget_ms": 1000}
    found = {
        shape.features.language: shape.features.script
        for _, shape in arrivals(world_of(tmp_path, **at_load(0.1, {"q": mix})), 100.0)
    }
    assert found == {"en": "Latn", "zh": "Hani", "ja": "Jpan", "ru": "Cyrl"}
    scenario = SMALL | at_load(0.1, {"q": mix})
    done = simulate(tmp_path, scenario, "--json", "--policy", str(rules))
    reasons = json.loads(done.stdout)["result"]["reasons"]
    assert reasons["rule:han"] > 0.3 * sum(reasons.values())


def test_tokens_and_device_seconds_are_of_the_time_after_the_warm_up(tmp_path: Path) -> None:
    traffic = {"requests_per_s": 200, "classes": {"q": {"tokens": [20, 20], "budget_ms": 1000}}}
    world = world_of(tmp_path, traffic=traffic, seconds=4, warm_up_s=3)
    outcome = run(world, PolicyVariant(""))
    result, devices = outcome.as_dict(), 0.5 + 2 + 2
    assert result["device_hours"] == pytest.approx(devices * outcome.end_s / 3600.0)
    assert result["attainment"] == 1.0
    assert result["on_time_tokens_per_device_s"] == pytest.approx(
        20 * result["offered"] / (devices * (outcome.end_s - 3.0))
    )


def test_automatic_replicas_are_scaled_as_serve_does(tmp_path: Path) -> None:
    data = yaml.safe_load(CONFIG.read_text())
    for one in data["applications"][0]["deployments"]:
        if one["name"] in (MIDDLE, LARGE):
            one["num_replicas"] = "auto"
        if one["name"] == MIDDLE:
            del one["autoscaling_config"]
        if one["name"] == LARGE:
            one["autoscaling_config"] = {"max_replicas": 3}
    config = tmp_path / "mine.yaml"
    config.write_text(yaml.safe_dump(data))
    world = world_of(tmp_path, config=str(config), replicas={})
    assert world.replicas[MIDDLE] == world.replicas[LARGE] == 1
    assert world.fleet.bounds[MIDDLE] == Bounds(1, 100, 30.0, 600.0)
    assert world.fleet.bounds[LARGE] == Bounds(1, 3, 30.0, 600.0)


def test_models_that_share_cards_are_named(tmp_path: Path) -> None:
    def more(config: Path) -> list[str]:
        scenario = SMALL | {"config": str(config), "replicas": {}, "seconds": 0.2}
        done = simulate(tmp_path, scenario, "--json")
        assert done.exit_code == 0, done.output
        report = json.loads(done.stdout)
        assert set(report["more"]) <= set(simulate(tmp_path, scenario).stdout.splitlines()[1:])
        found: list[str] = report["more"]
        return found

    says = "replicas that share cards are simulated as if each had its own"
    one = CONFIG.with_name("qwen3-one-gpu.yaml")
    assert f"{TINY}, {MIDDLE}, {LARGE}: {says}" in more(one)
    assert f"{TINY}: {says}" in more(CONFIG)
    assert not any(says in line for line in more(CONFIG.with_name("local.yaml")))
