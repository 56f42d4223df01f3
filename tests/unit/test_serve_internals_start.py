"""Names that Ray and Serve do not promise, and that are needed to start and to stop: one test each,
against the installed versions.
"""

import inspect
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray._common.utils import get_ray_address_file
from ray._private import process_watcher

from deployments import serve_internals
from deployments.launch import haproxy
from deployments.launch.environment import environment
from tests.support.signatures import parameters

ROOT = Path(__file__).resolve().parents[2]
RAY = Path(ray.__file__).parent


def test_ray_names_types_of_cards() -> None:
    assert serve_internals.card_type("NVIDIA H100 80GB HBM3") == "H100"


def test_ray_counts_processors() -> None:
    assert serve_internals.counted_cpus() >= 1


def test_ray_takes_a_port_for_its_metrics() -> None:
    assert "_metrics_export_port" in inspect.getsource(ray.init)


def test_ray_lists_the_port_of_a_nodes_metrics() -> None:
    assert '["MetricsExportPort"]' in (RAY / "_private" / "metrics_agent.py").read_text()


def test_serve_starts_with_the_options_of_a_config() -> None:
    from ray.serve._private.api import serve_start
    from ray.serve.schema import ServeDeploySchema

    taken = {"http_options", "grpc_options", "proxy_location", "controller_options"}
    assert taken <= parameters(serve_start) & ServeDeploySchema.model_fields.keys()


def test_serves_client_deploys_without_waiting_and_shuts_down_in_time() -> None:
    client = serve_internals.ServeControllerClient
    assert {"config", "_blocking"} <= parameters(client.deploy_apps)
    assert "timeout_s" in parameters(client.shutdown)


def test_serve_deletes_an_application_without_waiting() -> None:
    assert {"name", "_blocking"} <= parameters(ray.serve.delete)


@pytest.mark.parametrize("name", sorted(serve_internals.VITAL_PROCESSES))
def test_ray_has_a_program(name: str) -> None:
    (program,) = (RAY / "core" / "src" / "ray").glob(f"*/{name}")
    assert program.is_file()


def test_the_session_folder_is_in_rays_context() -> None:
    assert '"session_dir"' in (RAY / "_private" / "node.py").read_text()


def test_serve_brings_a_haproxy_that_runs() -> None:
    done = subprocess.run(
        [serve_internals.haproxy_binary(), "-v"], capture_output=True, text=True, check=True
    )
    assert "HAProxy version" in done.stdout


def test_ray_up_refuses_a_wrong_cluster() -> None:
    from yaml import safe_load

    shipped = safe_load((ROOT / "cluster.yaml").read_text())
    serve_internals.validate_cluster(json.loads(json.dumps(shipped)))
    with pytest.raises(Exception, match="no_such_key"):
        serve_internals.validate_cluster(json.loads(json.dumps(shipped)) | {"no_such_key": 1})


def test_ray_up_has_images_of_its_own() -> None:
    found = serve_internals.ray_images()
    assert len(found) > 5
    assert all(re.fullmatch(r"ami-[0-9a-f]{17}", image) for image in found)
    source = (RAY / "autoscaler" / "_private" / "aws" / "config.py").read_text()
    assert f'"{serve_internals.RAY_IMAGE}"' in source


def test_ray_writes_why_its_node_ended_into_a_log_of_this_name() -> None:
    assert f'"{serve_internals.RAYLET_LOG}"' in inspect.getsource(process_watcher)
    (program,) = (RAY / "core" / "src" / "ray").glob("*/raylet")
    assert re.search(serve_internals.RAYLET_ENDS.encode(), program.read_bytes())


def test_ray_writes_the_address_of_its_cluster_into_a_file_of_this_name() -> None:
    file = Path(get_ray_address_file("/tmp/ray"))
    assert file == Path("/tmp/ray", serve_internals.CURRENT_CLUSTER)


@pytest.fixture(scope="module")
def rays_source() -> bytes:
    """Where Ray reads its variables: Python, and the compiled core."""
    python = [
        path
        for folder in ("serve", "_private", "_common", "dashboard", "autoscaler/_private")
        for path in (RAY / folder).rglob("*.py")
    ]
    return b"\n".join(path.read_bytes() for path in [*python, RAY / "_raylet.so"])


def variables() -> Iterator[str]:
    for name in environment({}, 8000, Path("/scratch"), Path("/haproxy")):
        if name not in ("PYTHONPATH", "EMBEDDING_ROUTER_CLIENT_ADDRESS_HEADER"):
            yield name


@pytest.mark.parametrize("name", variables())
def test_ray_reads_the_variable(name: str, rays_source: bytes) -> None:
    # the core has its switches without the prefix
    core = name.removeprefix("RAY_")
    assert name.encode() in rays_source or (core.islower() and core.encode() in rays_source)


@pytest.mark.parametrize("started", [True, False], ids=["applications", "none yet"])
def test_serves_haproxy_config_has_every_line_that_is_changed(
    started: bool, tmp_path: Path
) -> None:
    from ray.serve._private.haproxy import (
        BackendConfig,
        HAProxyApi,
        HAProxyConfig,
        ServerConfig,
    )

    settings = HAProxyConfig(socket_path=str(tmp_path / "admin.sock"))
    routers = [ServerConfig(name="router-1", host="127.0.0.1", port=9999)]
    backend = BackendConfig(
        name="http-app", path_prefix="/", app_name="app", servers=routers, fallback_server=None
    )
    api = HAProxyApi(
        settings, {"http-app": backend} if started else {}, str(tmp_path / "haproxy.cfg")
    )
    api._generate_config_file_internal()
    given = (tmp_path / "haproxy.cfg").read_text()
    program = haproxy.starter(tmp_path, "haproxy", 15.0, 45.0).read_text()
    endings = "/embed /embeddings /rerank"
    assert f"{endings!r}]" in program
    changed = haproxy.hardened(given, tmp_path, 15.0, 45.0, endings)
    assert settings.error_file_path
    assert settings.error_file_path in given
    assert f"errorfile 500 {settings.error_file_path}" not in changed
    for line in (
        f"bind 127.0.0.1:{settings.stats_port}",
        f"bind 127.0.0.1:{settings.metrics_port}",
        "option forwardfor",
        "timeout http-request 15000ms",
        "http-request wait-for-body time 45000ms if METH_POST",
        f"http-request set-header x-request-disconnect-disabled ?1 if {{ path_end {endings} }}",
        *(f"errorfile {status} {tmp_path / f'{status}.http'}" for status in haproxy.ERRORS),
    ):
        assert changed.count(line) == 1, line
        assert line not in given
    assert ("status 503 default-errorfiles" in changed) is not started
    (tmp_path / "changed.cfg").write_text(changed)
    subprocess.run(
        [serve_internals.haproxy_binary(), "-c", "-f", str(tmp_path / "changed.cfg")],
        check=True,
        capture_output=True,
    )
