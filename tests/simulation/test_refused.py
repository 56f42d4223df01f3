"""What `embedding-router simulate` reads in another way, or refuses, and says so."""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from deployments.tools.simulate.load import load_variant, load_world, read_trace
from router.domain import Decision, Load, Model, Request
from router.keys import hash_of
from router.policy import decide
from router.rules import Policy
from router.sim.baselines import CHOOSERS
from router.sim.build import World, arrivals, logged, mean_rate
from router.strict import ConfigError
from router.usage import Use
from tests.simulation.test_simulate import CONFIG, SMALL, logged_at, simulate

pytestmark = pytest.mark.usefixtures("kept_tokenizers")

MIDDLE, LARGE = "qwen3-embedding-4b", "qwen3-embedding-8b"
ROWS = [f"2024-01-01 00:00:{second:02}.0,{second}" for second in range(20)]


def config_of(folder: Path, **changes: object) -> Path:
    """configs/qwen3.yaml with other arguments; without those that are None."""
    data = yaml.safe_load(CONFIG.read_text())
    args = data["applications"][0]["args"] | changes
    data["applications"][0]["args"] = {key: one for key, one in args.items() if one is not None}
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def world_of(folder: Path, **changes: object) -> World:
    path = folder / "scenario.yaml"
    path.write_text(yaml.safe_dump(SMALL | changes))
    return load_world(path)


def routing(**changes: object) -> dict[str, object]:
    args = yaml.safe_load(CONFIG.read_text())["applications"][0]["args"]
    return {**args["routing"], **changes}


def test_declared_classes_have_the_default_budget_of_the_config_or_the_policy(
    tmp_path: Path,
) -> None:
    traffic = {"requests_per_s": 50, "classes": {"q": {}, "slow": {"budget_ms": 900}}}
    config = config_of(tmp_path, routing=routing(default_budget_ms=70))
    world = world_of(tmp_path, config=str(config), traffic=traffic)

    def budgets(world: World) -> set[float | None]:
        return {one.shape.budget_s for one in arrivals(world, mean_rate(world))}

    assert budgets(world) == {0.07, 0.9}
    policy = tmp_path / "policy.yaml"
    policy.write_text("routing: {default_tier: best, default_budget_ms: 30}\n")
    assert budgets(world.under(load_variant(str(policy), tmp_path, world.args))) == {0.03, 0.9}
    policy.write_text("routing: {default_tier: best}\n")
    assert budgets(world.under(load_variant(str(policy), tmp_path, world.args))) == {None, 0.9}


def test_the_default_budget_makes_requests_late(tmp_path: Path) -> None:
    config = config_of(tmp_path, routing=routing(default_budget_ms=1))
    traffic = {"requests_per_s": 50}
    done = simulate(tmp_path, SMALL | {"config": str(config), "traffic": traffic}, "--json")
    assert json.loads(done.stdout)["result"]["attainment"] == 0.0


def test_requests_of_a_log_have_the_weight_of_their_key(tmp_path: Path) -> None:
    use = Use("gold", LARGE, "", 1, 20, 0.01)
    log = logged_at(tmp_path, 1000.0, 1001.0, use=use)
    keys = {"gold": {"hash": hash_of("a key"), "weight": 3}}
    path = tmp_path / "scenario.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    world = load_world(path, config=config_of(tmp_path, auth=None, keys=keys), log=log)
    assert {one.shape.sender for one in logged(world)} == {("gold", 3.0)}


def test_rows_of_a_trace_are_sorted(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("\n".join(["TIMESTAMP,ContextTokens", *ROWS[10:], *ROWS[:10], ""]))
    assert [tokens for _, tokens in read_trace(trace)] == list(range(20))


@pytest.mark.parametrize("option", ["--trace", "--log"])
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (gzip.compress(b"TIMESTAMP,ContextTokens\n"), "it is compressed with gzip"),
        (bytes(range(256)) * 9, ""),
        (b"TIMESTAMP,ContextTokens\n\xff\xfe,1\n", ""),
        (b"TIMESTAMP,ContextTokens\n\0,1\n", ""),
    ],
    ids=["gzip", "binary", "utf-8", "nul"],
)
def test_a_binary_trace_or_log_is_a_sentence(
    option: str, content: bytes, sentence: str, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    traffic = {"requests_per_s": 10, "trace": str(file)} if option == "--trace" else {"load": 0.1}
    done = simulate(tmp_path, SMALL | {"traffic": traffic}, option, str(file))
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit), done.exception
    assert str(file) in done.output
    assert sentence in done.output


@pytest.mark.parametrize("option", ["--scale", "--gpu-hour"])
@pytest.mark.parametrize("number", ["nan", "inf"])
def test_numbers_are_finite(option: str, number: str, tmp_path: Path) -> None:
    done = simulate(tmp_path, SMALL, option, number)
    assert done.exit_code == 2
    assert f"{number} is not a finite number" in done.output


def test_a_run_that_nobody_would_wait_for_is_refused(tmp_path: Path) -> None:
    done = simulate(tmp_path, SMALL, "--scale", "1e300")
    assert done.exit_code == 1
    assert "2e+302 requests would arrive" in done.output
    assert "write fewer seconds" in done.output
    day = SMALL | {"seconds": 86400, "warm_up_s": 0}
    burst = {"at_s": 600, "seconds": 60, "times": 10}
    busy = day | {"traffic": {"requests_per_s": 300, "bursts": [burst]}}
    done = simulate(tmp_path, busy, "--no-plan")
    assert "2.61e+07 requests would arrive" in done.output  # 86,400 and 60 times nine s
    log = logged_at(tmp_path, 1000.0, 1001.0)
    done = simulate(tmp_path, SMALL, "--log", str(log), "--scale", "1e-320")
    assert done.exit_code == 1
    assert "it would simulate" in done.output


def test_nothing_arrived_is_a_sentence_and_no_report(tmp_path: Path) -> None:
    for plan in (False, True):
        done = simulate(tmp_path, SMALL, "--scale", "1e-320", plan=plan)
        assert done.exit_code == 1
        assert "nothing arrived in 2 s" in done.output


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"faults": [{"at_s": 2, "model": LARGE}]}, "faults[0].at_s is 2, and the last request"),
        ({"faults": [{"at_s": 1, "model": LARGE, "replicas": 3}]}, f"is 3, and {LARGE} has 2"),
        (
            {"traffic": {"load": 1, "bursts": [{"at_s": 5, "seconds": 1, "times": 2}]}},
            "traffic.bursts[0].at_s is 5",
        ),
    ],
)
def test_a_fault_or_a_burst_that_cannot_happen_is_refused(
    changes: dict[str, object], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        world_of(tmp_path, **changes)
    assert sentence in str(caught.value)


def test_a_fleet_that_scales_can_lose_more_than_it_starts_with(tmp_path: Path) -> None:
    faults = [{"at_s": 1, "model": LARGE, "replicas": 3}]
    world_of(tmp_path, faults=faults, autoscaling={"max_replicas": 4})


@pytest.mark.parametrize(
    ("scaling", "first"),
    [
        ({"min_replicas": 0}, 0),
        ({"min_replicas": 0, "initial_replicas": 2}, 2),
        ({"min_replicas": 1, "initial_replicas": 3}, 3),
        ({"min_replicas": 2}, 2),
    ],
)
def test_a_fleet_starts_with_the_replicas_that_serve_starts(
    scaling: dict[str, int], first: int, tmp_path: Path
) -> None:
    data = yaml.safe_load(CONFIG.read_text())
    for one in data["applications"][0]["deployments"]:
        if one["name"] == MIDDLE:
            one["autoscaling_config"] = {"max_replicas": 4} | scaling
    config = tmp_path / "mine.yaml"
    config.write_text(yaml.safe_dump(data))
    assert world_of(tmp_path, config=str(config), replicas={}).replicas[MIDDLE] == first


def test_the_printed_rate_is_of_the_requests_that_arrived(tmp_path: Path) -> None:
    traffic = {"requests_per_s": {0: 50, 12: 50, 13: 5000}}
    done = simulate(tmp_path, SMALL | {"traffic": traffic}, "--json")
    report = json.loads(done.stdout)
    assert report["requests_per_s"] == report["result"]["offered"] / 2.0
    assert 20 < report["requests_per_s"] < 100


def test_bursts_that_overlap_multiply(tmp_path: Path) -> None:
    bursts = [{"at_s": 0, "seconds": 2, "times": 3}, {"at_s": 0, "seconds": 2, "times": 4}]
    world = world_of(tmp_path, traffic={"requests_per_s": 100, "bursts": bursts})
    assert 2200 < sum(1 for _ in arrivals(world, 100.0)) < 2600


def test_the_cost_of_a_fleet_that_scales_is_its_mean(tmp_path: Path) -> None:
    scales = {"start_s": 0.5, "every_s": 0.5, "upscale_delay_s": 0, "min_replicas": 3}
    scenario = SMALL | {"replicas": {}, "gpu_hour": 2, "autoscaling": scales | {"max_replicas": 3}}
    report = json.loads(simulate(tmp_path, scenario, "--json").stdout)
    # 2.5 cards for the first half second, and 7.5 from then on, as starting ones cost too
    assert report["cost_per_hour"] == pytest.approx(2.0 * (2.5 + 5.0 * 0.75), rel=0.02)
    assert "8b 1 (1 card): 2.5 cards; 6.2" in report["verdict"]
    assert report["verdict"].startswith("simulated: starts with qwen3-embedding-0.6b 1")
    assert f"{report['cost_per_hour']:.2f} an hour" in report["verdict"]


def test_a_quality_that_is_unknown_is_said_and_left_out_of_means(tmp_path: Path) -> None:
    data = yaml.safe_load(CONFIG.read_text())
    for name in (MIDDLE, LARGE):
        del data["applications"][0]["args"]["models"][name]["quality"]
    config = tmp_path / "mine.yaml"
    config.write_text(yaml.safe_dump(data))
    tiny = {"tokens": [20, 20], "model": "qwen3-embedding-0.6b"}
    traffic = {"requests_per_s": 50, "classes": {"q": tiny, "p": tiny | {"model": LARGE}}}
    done = simulate(tmp_path, SMALL | {"config": str(config), "traffic": traffic}, "--json")
    report = json.loads(done.stdout)
    kinds = report["result"]["kinds"]
    assert kinds["p"]["quality"] is None
    assert report["result"]["quality"] == kinds["q"]["quality"] > 60.0
    assert report["result"]["effective_quality"] == kinds["q"]["quality"]
    assert f"the quality of {MIDDLE}, {LARGE} is unknown" in "\n".join(report["more"])


def test_answers_from_outside_a_space_are_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def outside(
        policy: Policy,
        request: Request,
        models: Mapping[str, Model],
        loads: Mapping[str, Load],
        now: float,
    ) -> Decision:
        return decide(policy, request._replace(candidates=None), models, loads, now)

    log = logged_at(tmp_path, 1000.0, 1001.0)
    log.write_text(log.read_text().replace('"candidates":null', f'"candidates":["{LARGE}"]'))
    done = simulate(tmp_path, SMALL, "--log", str(log))
    assert done.exit_code == 0, done.output
    assert "space" not in done.stdout
    monkeypatch.setitem(CHOOSERS, "outside", outside)
    done = simulate(tmp_path, SMALL, "--log", str(log), "--policy", "outside")
    assert "2 answers came from outside the space of their request" in done.stdout
