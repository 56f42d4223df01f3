"""The switches of `embedding-router run`, cluster.yaml and configs/kuberay.yaml are the same."""

import re
import shlex
from pathlib import Path

import yaml

from deployments.launch.environment import environment
from router.limits_config import Limits
from router.switches import ALWAYS, BRINGS, ON_CLUSTERS, WITH_HAPROXY, front, missing

ROOT = Path(__file__).resolve().parents[3]
EVERYWHERE = {**ALWAYS, **WITH_HAPROXY}
# Of one machine: its processors, paths, ports and token, and what suits no load balancer in front.
OF_RUN = {
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S",  # 30 s there, for load balancers
    "RAY_SERVE_HAPROXY_NBTHREAD",
    "RAY_SERVE_HAPROXY_MAXCONN",  # follows limits.max_requests, and the files of the process
    "RAY_SERVE_HAPROXY_BINARY_PATH",
    "EMBEDDING_ROUTER_CLIENT_ADDRESS_HEADER",  # only our HAProxy writes that header
    "RAY_AUTH_MODE",
    "RAY_AUTH_TOKEN",
    "SERVE_SOCKET_REUSE_PORT_ENABLED",
    "AUTOSCALER_METRIC_PORT",
    "DASHBOARD_METRIC_PORT",
    "PYTHONPATH",
}
# Of a cluster: where its key, packages and caches are.
OF_CLUSTER = {
    "PATH",
    "RAY_AUTH_MODE",
    "RAY_AUTH_TOKEN_PATH",
    "HF_HOME",
    "VLLM_CACHE_ROOT",
    "TRITON_CACHE_DIR",
}


def of_vms() -> dict[str, str]:
    commands = yaml.safe_load((ROOT / "cluster.yaml").read_text())["setup_commands"]
    (command,) = [one for one in commands if "printf" in one]
    exports = [word for word in shlex.split(command) if word.startswith("export ")]
    return dict(shlex.split(word)[1].split("=", 1) for word in exports)


def of_pods() -> dict[str, str]:
    config = yaml.safe_load((ROOT / "configs" / "kuberay.yaml").read_text())
    head = config["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]
    return {one["name"]: one["value"] for one in head["containers"][0]["env"]}


def test_cluster_and_kuberay_set_what_run_sets() -> None:
    for given in (of_vms(), of_pods()):
        assert {name: value for name, value in given.items() if name not in OF_CLUSTER} == (
            {**EVERYWHERE, **ON_CLUSTERS}
        )


def test_haproxy_of_a_cluster_accepts_a_connection_for_every_request() -> None:
    assert int(ON_CLUSTERS["RAY_SERVE_HAPROXY_MAXCONN"]) >= Limits().max_requests


def test_run_sets_the_same_and_named_exceptions(tmp_path: Path) -> None:
    own = environment({}, 8000, tmp_path, tmp_path / "haproxy")
    assert own.items() >= EVERYWHERE.items()
    for name in own.keys() - EVERYWHERE.keys() - OF_RUN:
        assert re.fullmatch(r"RAY_TMPDIR|RAY_SERVE_\w+_(PORT|LOC|PATH|BASE|FILE)", name), name
    assert (
        environment({"RAY_worker_niceness": "5"}, 8000, tmp_path, None).get("RAY_worker_niceness")
        is None
    )  # the user's own stays


def test_a_router_started_otherwise_names_what_it_lacks_and_what_brings_it() -> None:
    said = missing({})
    assert said is not None
    assert "\n" not in said
    for name, what in BRINGS.items():
        assert f"{name}={EVERYWHERE[name]}" in said
        assert what in said
    assert missing(EVERYWHERE) is None
    assert "HAProxy" not in (missing({"RAY_SERVE_ENABLE_HA_PROXY": "0"}) or "")


def test_the_front_is_haproxy_where_it_is_switched_on() -> None:
    assert (front({}), front(EVERYWHERE)) == ("serve", "haproxy")
