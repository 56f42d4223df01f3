"""The token policy in a Serve config file."""

from pathlib import Path
from typing import Any

import yaml

from deployments.launch.serve_config import check
from tests.support.serve_file import APP, LARGE, serve_file

BY_TOKENS = {"policy_function": "deployments.autoscale:ByTokens"}
SCALED = {"name": "router", "autoscaling_config": {"min_replicas": 2, "max_replicas": 2}}


def with_policy(folder: Path, router: dict[str, Any], policy: dict[str, Any]) -> Path:
    path = serve_file(folder)
    data = yaml.safe_load(path.read_text())
    data["applications"][0] |= {"autoscaling_policy": policy}
    data["applications"][0]["deployments"][0] = router
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


def test_a_config_with_the_token_policy_is_good(tmp_path: Path) -> None:
    assert (
        check(
            with_policy(
                tmp_path, SCALED, BY_TOKENS | {"policy_kwargs": {"devices": 8, "hold_s": 60}}
            )
        )
        == []
    )


def test_arguments_of_the_token_policy_are_checked_by_name_and_value(tmp_path: Path) -> None:
    kwargs = f"{APP}.autoscaling_policy.policy_kwargs"
    assert check(with_policy(tmp_path, SCALED, BY_TOKENS | {"policy_kwargs": {"device": 8}})) == [
        f"{kwargs}.device: unknown key; did you mean devices?"
    ]
    (problem,) = check(
        with_policy(tmp_path, SCALED, BY_TOKENS | {"policy_kwargs": {"utilisation": 2}})
    )
    assert problem.startswith(f"{kwargs}.utilisation: ")


def test_the_token_policy_without_reports_of_routers_is_refused(tmp_path: Path) -> None:
    (problem,) = check(with_policy(tmp_path, {"name": "router", "num_replicas": 2}, BY_TOKENS))
    assert problem.startswith(
        f"{APP}.deployments: the autoscaling policy needs what routers report"
    )


def test_the_token_policy_of_a_single_model_is_refused(tmp_path: Path) -> None:
    (problem,) = check(serve_file(tmp_path, "large.autoscaling_config.policy", BY_TOKENS))
    at = f"{LARGE}.autoscaling_config.policy"
    assert (
        problem == f"{at}: this one scales all models at once; name it in {APP}.autoscaling_policy"
    )
