"""What is surveyed: models that a rule can choose from, each with its own space."""

from pathlib import Path
from typing import Any

import pytest

from deployments.tools.advise.inputs import Inputs
from deployments.tools.advise.survey import AdviseError, plan
from tests.support.advise_plan import MODELS


async def test_models_that_no_rule_could_choose_are_not_measured(tmp_path: Path) -> None:
    class Service:
        async def tiers(self) -> dict[str, Any]:
            rows = [{"model": name, "space": f"{name}/4", "replicas_ready": 1} for name in MODELS]
            return {"data": rows, "tiers": {"fast": "small", "best": "small"}, "collections": {}}

    with pytest.raises(AdviseError, match="of small, middle, large fewer than two have a tier"):
        await plan(Service(), Inputs(), tmp_path, [])  # type: ignore[arg-type]
    assert not (tmp_path / "run.json").exists()


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ([], r"the service has one model \(small\)"),
        (["student"], "student makes vectors of the space of small.*measure small"),
    ],
)
async def test_a_student_is_not_measured_as_a_model(
    tmp_path: Path, wanted: list[str], said: str
) -> None:
    class Service:
        async def tiers(self) -> dict[str, Any]:
            rows = [
                {"model": name, "space": "small/4", "replicas_ready": 1}
                for name in ("small", "student")
            ]
            return {"data": rows, "tiers": {"fast": "small"}, "collections": {}}

    with pytest.raises(AdviseError, match=said):
        await plan(Service(), Inputs(), tmp_path, wanted)  # type: ignore[arg-type]
