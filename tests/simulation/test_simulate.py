"""`embedding-router simulate`: what it answers, and what it says of files that cannot be used."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
import yaml
from click.testing import CliRunner, Result

from deployments.launch.serve_config import application
from deployments.tools.simulate.load import load_variant, load_world
from deployments.tools.simulate.report import simulated
from router.cli import main
from router.decision_log import ANSWERED, DecisionContext, LogEntry, entry_line, setting_line
from router.domain import Features, Load, Request, Tier, Work
from router.models import build_models, build_policy
from router.policy import decide
from router.sim.build import PolicyVariant, logged, mean_rate, run
from router.usage import Use

pytestmark = pytest.mark.usefixtures("kept_tokenizers")

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "qwen3.yaml"
LOG = ROOT / "tests" / "data" / "promised" / "decisions.jsonl"
SCENARIOS = sorted(
    path
    for path in (ROOT / "configs" / "scenarios").glob("*.yaml")
    if not path.stem.endswith(".policy")
)
BURST = {"at_s": 1, "seconds": 1, "times": 3}
NONE: Mapping[float, float] = MappingProxyType({})
SMALL = {
    "config": str(CONFIG),
    "seconds": 2,
    "replicas": {"qwen3-embedding-0.6b": 1, "qwen3-embedding-4b": 2, "qwen3-embedding-8b": 2},
    "traffic": {"requests_per_s": 100, "classes": {"q": {"budget_ms": 100}}},
}


def simulate(folder: Path, scenario: object, *options: str, plan: bool = False) -> Result:
    path = folder / "scenario.yaml"
    path.write_text(scenario if isinstance(scenario, str) else yaml.safe_dump(scenario))
    options = options if plan else (*options, "--no-plan")
    return CliRunner().invoke(main, ["simulate", str(path), *options])


def test_a_scenario_gives_shares_and_times_that_say_they_are_simulated(tmp_path: Path) -> None:
    done = simulate(tmp_path, SMALL, "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["simulated"] is True
    assert str(CONFIG) in report["profile"]
    assert 100 < report["result"]["offered"] < 300
    assert report["result"]["attainment"] > 0.9
    assert report["verdict"].startswith("simulated: ")
    assert simulate(tmp_path, SMALL).stdout.startswith("simulated: ")


def test_the_first_line_is_the_fleet_its_cost_and_the_cheapest_plan(tmp_path: Path) -> None:
    done = simulate(tmp_path, SMALL | {"gpu_hour": 2.0}, "--json", plan=True)
    report = json.loads(done.stdout)
    best = report["plan"]["best"]
    assert report["cost_per_hour"] == 2.0 * (0.5 + 2 + 2)
    assert best["keeps"]
    assert best["cost"] < report["cost_per_hour"]
    assert best["attainment"] >= report["goal"]["on_time"]
    assert best["quality"] >= report["plan"]["asked_quality"]
    assert "4.5 cards, 9.00 an hour; the cheapest plan" in report["verdict"]
    assert f"{best['cost']:.2f} an hour" in report["verdict"]


def test_the_cost_of_a_device_is_an_option_and_the_first_line_says_where_it_is_missing(
    tmp_path: Path,
) -> None:
    first = simulate(tmp_path, SMALL).stdout.splitlines()[0]
    assert first.endswith(
        "4.5 cards; for its cost, give --gpu-hour or write `gpu_hour:` into the scenario"
    )
    scenario = SMALL | {"gpu_hour": {"qwen3-embedding-4b": 1.0}}
    first = simulate(tmp_path, scenario, "--gpu-hour", "2").stdout.splitlines()[0]
    assert first.endswith("4.5 cards, 9.00 an hour")


def test_the_bar_moves_while_a_plan_is_searched(tmp_path: Path) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    world = load_world(path)
    told = list[tuple[str, float]]()
    simulated(world, PolicyVariant("as configured"), True, False, lambda *one: told.append(one))
    shares = [share for what, share in told if what.startswith("plan ")]
    assert len(shares) > 1
    assert shares == sorted(set(shares))
    assert shares[0] > 0.0
    assert shares[-1] <= 1.0


@pytest.mark.parametrize("without", ["qwen3-embedding-4b", "qwen3-embedding-0.6b"])
def test_a_model_whose_times_nothing_says_is_refused(without: str, tmp_path: Path) -> None:
    data = yaml.safe_load(CONFIG.read_text())
    del data["applications"][0]["args"]["models"][without]["curve"]
    config = tmp_path / "mine.yaml"
    config.write_text(yaml.safe_dump(data))
    done = simulate(tmp_path, SMALL | {"config": str(config)})
    assert done.exit_code == 1
    assert f"{without} has neither `profile` nor `curve`" in done.output
    assert f"`embedding-router calibrate --config {config} --model {without} -o" in done.output


def test_a_student_is_no_candidate_of_requests_that_name_no_space(tmp_path: Path) -> None:
    local = CONFIG.parent / "local.yaml"
    traffic = {"requests_per_s": 20, "classes": {"q": {"budget_ms": 100}}}
    done = simulate(tmp_path, {"seconds": 1, "traffic": traffic, "config": str(local)}, "--json")
    assert done.exit_code == 0, done.output
    assert "minilm-student" not in done.stdout


def test_a_fleet_that_is_too_small_gets_a_larger_plan(tmp_path: Path) -> None:
    traffic = SMALL["traffic"] | {"requests_per_s": 9000}  # type: ignore[operator]
    done = simulate(tmp_path, SMALL | {"traffic": traffic, "seconds": 0.2}, "--json", plan=True)
    report = json.loads(done.stdout)
    best = report["plan"]["best"]
    assert best["keeps"]
    assert best["replicas"]["qwen3-embedding-4b"] > 2


def test_a_plan_is_for_the_rate_of_the_largest_burst(tmp_path: Path) -> None:
    bursts = [{"at_s": 0.1, "seconds": 0.1, "times": times} for times in (0.5, 90, 3)]
    traffic = SMALL["traffic"] | {"bursts": bursts}  # type: ignore[operator]
    done = simulate(tmp_path, SMALL | {"traffic": traffic, "seconds": 0.2}, "--json", plan=True)
    best = json.loads(done.stdout)["plan"]["best"]
    assert best["keeps"]
    assert best["replicas"]["qwen3-embedding-4b"] > 2


def test_only_models_that_the_config_or_the_scenario_scales_are_scaled(tmp_path: Path) -> None:
    data = yaml.safe_load(CONFIG.read_text())
    fixed = "qwen3-embedding-8b"
    for one in data["applications"][0]["deployments"]:
        if one["name"] == fixed:
            del one["autoscaling_config"]
            one["num_replicas"] = 1
    config = tmp_path / "mine.yaml"
    config.write_text(yaml.safe_dump(data))
    traffic = {"requests_per_s": 2000, "classes": {"q": {"budget_ms": 100}}}
    scenario = SMALL | {"config": str(config), "traffic": traffic, "replicas": {}}
    path = tmp_path / "scenario.yaml"
    path.write_text(yaml.safe_dump(scenario | {"autoscaling": {"start_s": 0.1, "every_s": 0.1}}))
    world = load_world(path).updated(seconds=8.0)
    most = Counter[str]()
    for _, model, replicas in run(world, PolicyVariant("", chooser="always-large")).replicas:
        most[model] = max(most[model], replicas)
    assert most[fixed] == 1
    path.write_text(
        yaml.safe_dump(
            scenario | {"autoscaling": {"start_s": 0.1, "every_s": 0.1, "max_replicas": 4}}
        )
    )
    named = run(load_world(path).updated(seconds=8.0), PolicyVariant("", chooser="always-large"))
    assert 1 < max(replicas for _, model, replicas in named.replicas if model == fixed) <= 4
    scaled = load_world(path, config=CONFIG).updated(seconds=8.0)
    ready = run(scaled, PolicyVariant("", chooser="always-large")).replicas
    assert max(replicas for _, model, replicas in ready if model == fixed) > 1


def test_the_page_is_whole_and_says_that_it_is_simulated(tmp_path: Path) -> None:
    faults = [{"at_s": 0.5, "model": "qwen3-embedding-4b", "replicas": 2, "restart_s": 1}]
    folder = tmp_path / "report"
    done = simulate(tmp_path, SMALL | {"faults": faults}, "-o", str(folder), "--baselines")
    assert done.exit_code == 0, done.output
    page = (folder / "index.html").read_text()
    assert page.count("<svg") == 5
    assert "every figure is simulated, by the curves of" in page
    assert "src=" not in page
    assert "fluid bound" in page
    report = json.loads((folder / "report.json").read_text())
    bound = next(row for row in report["others"] if row["name"] == "fluid bound")
    assert all(
        row["effective_quality"] <= bound["effective_quality"] + 1e-9 for row in report["others"]
    )
    assert report["result"]["degraded_by"][0]["reason"] in ("unavailable", "budget")


def test_other_rules_and_twice_the_traffic_are_options(tmp_path: Path) -> None:
    as_is = json.loads(simulate(tmp_path, SMALL, "--json").stdout)["result"]
    small = simulate(tmp_path, SMALL, "--json", "--policy", "always-small", "--scale", "2")
    other = json.loads(small.stdout)["result"]
    assert list(other["models"]) == ["qwen3-embedding-0.6b"]
    assert list(as_is["models"]) == ["qwen3-embedding-4b"]
    assert other["offered"] > 1.6 * as_is["offered"]
    rules = tmp_path / "rules.yaml"
    rules.write_text("routing: {default_tier: best}\n")
    best = json.loads(simulate(tmp_path, SMALL, "--json", "--policy", str(rules)).stdout)
    assert next(iter(best["result"]["models"])) == "qwen3-embedding-8b"


def test_one_card_fewer_is_an_option(tmp_path: Path) -> None:
    done = simulate(tmp_path, SMALL, "--json", "--replicas", "qwen3-embedding-8b=1")
    report = json.loads(done.stdout)
    assert report["replicas"] == SMALL["replicas"] | {"qwen3-embedding-8b": 1}  # type: ignore[operator]
    unknown = simulate(tmp_path, SMALL, "--replicas", "qwen3-embedding-9b=1")
    assert unknown.exit_code == 1
    assert "did you mean qwen3-embedding-8b?" in unknown.output
    for word in ("qwen3-embedding-8b", "qwen3-embedding-8b=", "=2", "qwen3-embedding-8b=-1"):
        wrong = simulate(tmp_path, SMALL, "--replicas", word)
        assert wrong.exit_code == 2
        assert "is not MODEL=N, such as qwen3-embedding-8b=3" in wrong.output


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"secnods": 3}, "secnods: unknown key; did you mean seconds?"),
        ({"traffic": {"lode": 1}}, "traffic.lode: unknown key; did you mean load?"),
        ({"traffic": {}}, "give one of requests_per_s, load and log"),
        ({"replicas": {"qwen3-embedding-9b": 1}}, "did you mean qwen3-embedding-8b?"),
        ({"profiles": "h300.json"}, "profiles: there is no file h300.json"),
        ({"profiles": "h300.json"}, f"`embedding-router calibrate --config {CONFIG} --model"),
        ({"profiles": str(ROOT / "configs/profiles/local-wordllama-256.json")}, "calibrate"),
        ({"policy": "always-smal"}, "did you mean always-small?"),
        ({"config": None}, "write `config:` or give --config"),
        ({"config": "no.yaml"}, "config: there is no file no.yaml"),
        ({"traffic": {"load": 1, "classes": {"q": {"tokens": [9, 3]}}}}, "smaller number comes"),
        ({"traffic": {"load": 1, "classes": {"q": {"languages": {"xx": 1}}}}}, "xx"),
        ({"traffic": {"requests_per_s": 1, "trace": "no.csv"}}, "traffic.trace: there is no file"),
        ({"traffic": {"requests_per_s": 1, "trace": str(CONFIG)}}, "TIMESTAMP"),
        (
            {"traffic": {"load": 1, "trace": "a.csv", "bursts": [BURST]}},
            "a trace has its own times: no bursts and no rates by hour beside it",
        ),
        ({"traffic": {"requests_per_s": {0: 1, 5: 9}, "trace": "a.csv"}}, "no rates by hour"),
        ({"faults": [{"at_s": 1, "model": "qwen3-embedding-8b", "times": 2}]}, "go together"),
        ({"warm_up_s": 2}, "nothing is counted"),
        ({"traffic": {"requests_per_s": {}}}, "needs a rate above 0"),
        ({"traffic": {"requests_per_s": {0: 0, 5: 0}}}, "needs a rate above 0"),
        ({"autoscaling": {"min_replicas": 5, "max_replicas": 2}}, "more than max_replicas"),
        ({"gpu_hour": {"qwen3-embedding-4b": 1}}, "no cost for qwen3-embedding-0.6b, qwen3-emb"),
    ],
)
def test_what_cannot_be_simulated_is_a_sentence_that_says_what_to_do(
    changes: dict[str, object], sentence: str, tmp_path: Path
) -> None:
    done = simulate(tmp_path, SMALL | changes)
    assert done.exit_code == 1
    assert sentence in done.output
    assert "Traceback" not in done.output
    assert isinstance(done.exception, SystemExit)


def test_a_log_of_another_config_is_refused_by_name(tmp_path: Path) -> None:
    done = simulate(tmp_path, SMALL, "--log", str(LOG))
    assert done.exit_code == 1
    assert "is a log of another config" in done.output
    assert "--config" in done.output


def test_a_log_without_a_model_of_the_config_is_refused_by_name(tmp_path: Path) -> None:
    log = logged_at(tmp_path, 1000.0, without="qwen3-embedding-4b")
    done = simulate(tmp_path, SMALL, "--log", str(log))
    assert done.exit_code == 1
    assert "is a log of another config: it lacks model 'qwen3-embedding-4b'" in done.output
    assert isinstance(done.exception, SystemExit)


def test_a_log_can_lack_the_models_that_a_request_could_not_use(tmp_path: Path) -> None:
    kept = frozenset({"qwen3-embedding-0.6b", "qwen3-embedding-8b"})
    log = logged_at(tmp_path, 1000.0, without="qwen3-embedding-4b", permitted=kept)
    done = simulate(tmp_path, SMALL, "--log", str(log), "--json")
    assert done.exit_code == 0, done.output


def logged_at(
    folder: Path,
    *times: float,
    took_s: Mapping[float, float] = NONE,
    priority: str = "interactive",
    use: Use | None = None,
    without: str | None = None,
    permitted: frozenset[str] | None = None,
) -> Path:
    """A decision log of configs/qwen3.yaml with a request that ends at each of these times, after
    10 ms or as `took_s` says; `without` one of its models.
    """
    args, _ = application(CONFIG)
    models = {name: one for name, one in build_models(args).items() if name in args.models}
    policy = build_policy(args.routing, args.tiers)
    setting = DecisionContext(models, policy, {Tier.BEST: max(models)}, False, None)
    request = Request(
        dict.fromkeys(models, Work(20, 20, 400)),
        Features(80, "en", "Latn", False, False),
        permitted=permitted,
    )
    loads = dict.fromkeys(models, Load())
    decision = decide(policy, request, models, loads, 0.0)
    work = {name: one for name, one in request.work.items() if name != without}
    request = request._replace(work=work)
    lines = [setting_line(setting, "one")]
    for at_s in times:
        took = took_s.get(at_s, 0.01)
        entry = LogEntry(
            at_s, 0.0, 0.0, request, None, False, models, loads, decision, ANSWERED, took
        )
        entry = entry._replace(priority=priority, use=use)
        lines.append(entry_line(entry, setting, "one"))
    path = folder / "decisions.jsonl"
    path.write_bytes(b"".join(lines))
    return path


@pytest.mark.parametrize("scale", ["0.5", "1", "2"])
def test_a_log_is_replayed_whole_at_every_scale(scale: str, tmp_path: Path) -> None:
    # routers share a log, so its first line need not be its earliest request
    log = logged_at(tmp_path, *(1000.0 + place for place in (7, *range(7), *range(8, 21))))
    done = simulate(tmp_path, SMALL, "--log", str(log), "--scale", scale, "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["result"]["offered"] == 21
    assert report["seconds"] == pytest.approx(20 / float(scale), abs=0.01)


def test_requests_of_a_log_arrive_when_they_arrived_and_not_when_they_ended(tmp_path: Path) -> None:
    log = logged_at(tmp_path, 1000.0, 1010.0, took_s={1000.0: 5.0, 1010.0: 10.0})
    done = simulate(tmp_path, SMALL, "--log", str(log), "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["seconds"] == pytest.approx(5.0, abs=0.01)


@pytest.mark.parametrize("priority", ["interactive", "bulk"])
def test_requests_of_a_log_keep_their_priority(priority: str, tmp_path: Path) -> None:
    log = logged_at(tmp_path, 1000.0, 1001.0, priority=priority)
    path = tmp_path / "scenario.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    found = list(logged(load_world(path, log=log)))
    assert [one.shape.bulk for one in found] == 2 * [priority == "bulk"]


@pytest.mark.parametrize(("key", "tenant"), [("shop", "shop"), ("", "log"), (None, "log")])
def test_requests_of_a_log_belong_to_the_tenant_that_it_names(
    key: str | None, tenant: str, tmp_path: Path
) -> None:
    use = None if key is None else Use(key, "qwen3-embedding-8b", "", 1, 20, 0.01)
    log = logged_at(tmp_path, 1000.0, 1001.0, use=use)
    done = simulate(tmp_path, SMALL, "--log", str(log), "--json")
    assert list(json.loads(done.stdout)["result"]["tenants"]) == [tenant]


def test_a_log_or_trace_that_ends_before_the_warm_up_does_is_refused(tmp_path: Path) -> None:
    log = logged_at(tmp_path, 1000.0, 1020.0)
    scenario = SMALL | {"seconds": 60, "warm_up_s": 15}
    kept = simulate(tmp_path, scenario, "--log", str(log), "--json")
    assert json.loads(kept.stdout)["result"]["offered"] == 1
    done = simulate(tmp_path, scenario, "--log", str(log), "--scale", "2")
    assert done.exit_code == 1
    assert "arrive within 10 s and warm_up_s is 15, so nothing is counted" in done.output
    trace = tmp_path / "trace.csv"
    rows = [f"2024-01-01 00:00:{second:02}.0,20" for second in range(11)]
    trace.write_text("\n".join(["TIMESTAMP,ContextTokens", *rows, ""]))
    traffic = {"requests_per_s": 1, "trace": str(trace)}
    done = simulate(tmp_path, scenario | {"traffic": traffic})
    assert done.exit_code == 1
    assert "arrive within 10 s and warm_up_s is 15" in done.output


def test_the_length_of_a_log_is_its_own_and_not_the_scenarios(tmp_path: Path) -> None:
    log = logged_at(tmp_path, *range(1000, 1101))
    traffic = {"log": str(log)}
    done = simulate(tmp_path, SMALL | {"warm_up_s": 50, "traffic": traffic}, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["result"]["offered"] == 51


@pytest.mark.parametrize("text", ["", "[]", "a: [", "traffic: 3"])
def test_a_file_that_is_no_scenario_is_a_sentence(text: str, tmp_path: Path) -> None:
    done = simulate(tmp_path, text)
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_the_scenarios_of_the_repository_run(path: Path) -> None:
    """The first moments of each."""
    world = load_world(path).updated(warm_up_s=0.0)
    rate = mean_rate(world)
    world = world.updated(seconds=min(world.scenario.seconds, 300 / rate))
    outcome = run(world, load_variant(world.scenario.policy, path, world.args))
    assert outcome.total.offered > 20
