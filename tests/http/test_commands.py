"""The commands that talk to a running router, against a real one."""

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from deployments.tools import calibrate_cli, route_cli
from router.profile import load_profile
from tests.support.local_service import ARGS

pytestmark = pytest.mark.models

FRENCH = "Où est la gare la plus proche de notre hôtel ?"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "local.yaml"
    one = {"name": "a", "import_path": "deployments.app:build", "args": ARGS}
    path.write_text(yaml.safe_dump({"applications": [one]}, sort_keys=False))
    return path


@pytest.mark.parametrize("live", [True, False], ids=["a router", "a config"])
def test_route_shows_the_choice_and_why_the_others_were_not_chosen(
    url: str, config: Path, live: bool
) -> None:
    where = ["--base-url", url] if live else ["--config", str(config)]
    told = CliRunner().invoke(route_cli.main, [FRENCH, *where])
    assert told.exit_code == 0, told.output
    assert "fr, Latn" in told.output
    assert (
        "multilingual-e5-small (best) by rule:not-english; space multilingual-e5-small/384"
        in told.output
    )
    rows = {line.split()[-1]: line for line in told.output.splitlines() if line.startswith(">")}
    assert list(rows) == ["chosen"]
    assert told.output.count("fits, but a better model fits too") == 2
    answer = json.loads(CliRunner().invoke(route_cli.main, [FRENCH, *where, "--json"]).output)
    for model in answer["models"]:
        assert model["wait_ms"] + model["work_ms"] == pytest.approx(model["predicted_ms"], abs=0.02)
        assert model["margin"] > 0


def test_route_passes_the_options_of_the_api_on(config: Path) -> None:
    options = ["--latency-budget-ms", "0.001", "--on-budget-miss", "reject", "--json"]
    told = CliRunner().invoke(route_cli.main, ["one", "two", "--config", str(config), *options])
    assert told.exit_code == 0, told.output
    answer = json.loads(told.output)
    assert answer["decision"]["model"] is None
    assert answer["decision"]["reason"] == "over_budget"
    shown = CliRunner().invoke(
        route_cli.main, ["one", "two", "--config", str(config), *options[:-1]]
    )
    assert "refused: over_budget" in shown.output
    assert "predicted to miss the latency budget" in shown.output


@pytest.mark.parametrize("live", [True, False], ids=["a router", "a config"])
def test_route_repeats_what_the_api_says_is_wrong(url: str, config: Path, live: bool) -> None:
    where = ["--base-url", url] if live else ["--config", str(config)]
    told = CliRunner().invoke(route_cli.main, ["text", *where, "--model", "bset"])
    assert told.exit_code == 1
    assert "there is no model 'bset'" in told.output


def test_route_says_how_to_go_on_where_no_router_answers() -> None:
    told = CliRunner().invoke(route_cli.main, ["text", "--base-url", "http://127.0.0.1:9"])
    assert told.exit_code == 1
    assert "start one with `embedding-router run`" in told.output


def test_calibrate_measures_through_a_running_router(
    url: str, config: Path, tmp_path: Path
) -> None:
    wanted = [
        "--model",
        "wordllama-256",
        "--max-tokens",
        "256",
        "--batch-tokens",
        "512",
        "--repeats",
        "2",
    ]
    output = tmp_path / "profile.json"
    told = CliRunner().invoke(
        calibrate_cli.main, ["--config", str(config), "--base-url", url, *wanted, "-o", str(output)]
    )
    assert told.exit_code == 0, told.output
    assert "ms (measured)" in told.output
    curve = load_profile(json.loads(output.read_text()), "wordllama-256")
    assert curve.overhead_s > 0
