"""Ray clusters of several nodes on this machine, with Serve on them; everything is stopped
afterwards.

`nodes` starts a raylet per node, which tests add and remove. `autoscaled` starts only a head, and
Ray's own autoscaler adds nodes of declared types where replicas wait for resources and removes them
when they are idle. GPUs are numbers that Ray books: nothing here has one, so only engines of kind
`fake` or `static` belong on them.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import ray
import yaml
from ray import serve
from ray.cluster_utils import Cluster
from ray.serve._private.api import serve_start
from ray.serve._private.common import ReplicaState
from ray.serve.schema import ServeDeploySchema, ServeStatus

from tests.support.launched import ROOT
from tests.support.ports import free_port
from tests.support.waiting import WAIT_S, wait_for

HEAD_ID = "f" * 51 + "00000"  # what the fake node provider calls its head


class Service:
    """Serve on a cluster; the applications of `deploy` answer at `url`."""

    def __init__(self, address: str, proxies: str = "HeadOnly") -> None:
        self.address, self.port = address, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._client = serve_start(
            http_options={"host": "127.0.0.1", "port": self.port},
            grpc_options={"port": free_port()},
            proxy_location=proxies,
        )

    def submit(self, config: Mapping[str, Any]) -> None:
        """Deploy a Serve config without waiting."""
        self._client.deploy_apps(ServeDeploySchema.model_validate(config), _blocking=False)

    def deploy(self, config: Mapping[str, Any], wait_s: float = WAIT_S) -> None:
        """Deploy a Serve config, as `serve deploy` does, and wait until its applications run and
        answer.
        """
        self.submit(config)
        wanted = {application["name"] for application in config["applications"]}

        def running() -> bool:
            applications = self.status().applications
            for name in wanted & applications.keys():
                assert applications[name].status != "DEPLOY_FAILED", applications[name]
            return all(
                name in applications and applications[name].status == "RUNNING" for name in wanted
            )

        wait_for(running, f"{', '.join(wanted)} to run", wait_s, self.status)
        wait_for(self.healthy, "/health to answer 200", wait_s)

    def healthy(self) -> bool:
        """Whether the router says that every model it needs is ready."""
        with suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/health", timeout=5).status_code == httpx.codes.OK
        return False

    def status(self) -> ServeStatus:
        """Serve's own view."""
        return serve.status()

    def replicas(self, deployment: str, application: str = "embedding-router") -> int:
        """Running replicas of a deployment, as Serve counts them."""
        states = self.status().applications[application].deployments[deployment].replica_states
        return states.get(ReplicaState.RUNNING, 0)

    def nodes_of(self, deployment: str, application: str = "embedding-router") -> list[str]:
        """Ids of the nodes that running replicas of a deployment are on, one for each."""
        details = self._client.get_serve_details()["applications"][application]["deployments"][
            deployment
        ]
        return [
            replica["node_id"]
            for replica in details["replicas"]
            if replica["state"] == ReplicaState.RUNNING
        ]

    def nodes(self, resource: str = "CPU") -> int:
        """Live nodes that have some of `resource`, for example `accelerator_type:L4`."""
        return sum(node["Alive"] and resource in node["Resources"] for node in ray.nodes())  # type: ignore[no-untyped-call]


@contextmanager
def nodes(
    each: Sequence[Mapping[str, Any]], proxies: str = "HeadOnly"
) -> Iterator[tuple[Service, Cluster]]:
    """A head and one more node for each of `each`: `num_cpus`, `num_gpus`, `resources`, ... as
    Ray's Cluster.add_node takes them.

    Remove a node with `cluster.remove_node(node, allow_graceful=False)`; a raylet alone that is
    killed lives on in its workers.
    """
    with _scratch() as scratch, ExitStack() as stack:
        cluster = Cluster()
        stack.callback(cluster.shutdown)
        cluster.add_node(
            num_cpus=4,
            temp_dir=str(scratch),
            include_dashboard=False,
            dashboard_agent_listen_port=0,
            metrics_export_port=0,
        )
        for node in each:
            cluster.add_node(**node)
        yield stack.enter_context(_service(cluster.address, proxies)), cluster


@contextmanager
def autoscaled(
    node_types: Mapping[str, Mapping[str, Any]], proxies: str = "HeadOnly", idle_s: float = 6.0
) -> Iterator[Service]:
    """A head without GPUs and an autoscaler that adds nodes of `node_types`: by name their
    `resources`, `max_workers`, ...

    A node without work is removed after `idle_s`.
    """
    gcs_port = free_port()
    config = {
        "cluster_name": "embedding-router-test",
        "max_workers": 8,
        "idle_timeout_minutes": idle_s / 60,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "gcs_address": f"127.0.0.1:{gcs_port}",
            "head_node_id": HEAD_ID,
            "launch_multiple": True,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "head_node_type": "ray.head.default",
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 4}, "node_config": {}, "max_workers": 0},
            **{name: {"node_config": {}, **given} for name, given in node_types.items()},
        },
    }
    with _scratch() as scratch, ExitStack() as stack:
        path = scratch / "autoscaler.yaml"
        path.write_text(yaml.safe_dump(config))
        environment = {
            **os.environ,
            "RAY_FAKE_CLUSTER": "1",
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
            "AUTOSCALER_METRIC_PORT": str(free_port()),
            "DASHBOARD_METRIC_PORT": str(free_port()),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        }
        log = stack.enter_context((scratch / "head.log").open("w+"))
        head = subprocess.Popen(
            [
                str(Path(sys.executable).with_name("ray")),
                "start",
                "--head",
                "--block",
                f"--autoscaling-config={path}",
                "--num-cpus=4",
                "--num-gpus=0",
                "--node-ip-address=127.0.0.1",
                f"--port={gcs_port}",
                f"--temp-dir={scratch}",
                "--include-dashboard=false",
                "--dashboard-agent-listen-port=0",
                "--metrics-export-port=0",
                f"--ray-client-server-port={free_port()}",
                f"--object-store-memory={150 * 2**20}",
                "--disable-usage-stats",
            ],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        stack.callback(head.wait, 30)
        stack.callback(_end, head.pid, scratch)

        def started() -> bool:
            assert head.poll() is None, (scratch / "head.log").read_text()
            return "Ray runtime started" in (scratch / "head.log").read_text()

        wait_for(started, "Ray's head to start")
        yield stack.enter_context(_service(f"127.0.0.1:{gcs_port}", proxies))


@contextmanager
def _service(address: str, proxies: str) -> Iterator[Service]:
    ray.init(address=address, namespace="serve", log_to_driver=False)
    try:
        yield Service(address, proxies)
    finally:
        with suppress(Exception):  # a cluster that lost its head has nothing to shut down
            serve.shutdown()  # type: ignore[no-untyped-call]
        ray.shutdown()


@contextmanager
def _scratch() -> Iterator[Path]:
    """A folder with a short name, for sockets."""
    path = Path(tempfile.mkdtemp(prefix="er-", dir="/tmp"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _end(pid: int, scratch: Path) -> None:
    """Stop the head, its descendants, and the nodes that the autoscaler started, which name the
    cluster's folder.
    """
    found = {pid: psutil.Process(pid)} if psutil.pid_exists(pid) else {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if any(str(scratch) in word for word in process.cmdline()):
                found[process.pid] = process
    for process in list(found.values()):
        with suppress(psutil.Error):
            found |= {child.pid: child for child in process.children(recursive=True)}
    for process in found.values():
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(list(found.values()), timeout=10)
