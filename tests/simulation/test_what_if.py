"""What people ask `embedding-router simulate`: a card fewer, a model without replicas, a share of
the load.
"""

import json
from pathlib import Path

import pytest
import yaml

from deployments.tools.simulate.load import load_world
from router.sim.build import World, mean_rate
from tests.simulation.test_simulate import SMALL, simulate

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
