"""Names that Ray, Serve and uvicorn do not promise: one test each, against the installed versions.

A test that fails after an upgrade names what has changed; docs/upgrading.md says where to look.
"""

import asyncio
import inspect
import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import uvicorn
from ray.serve.config import HTTPOptions
from ray.serve.request_router import ReplicaID, RequestRouter
from uvicorn.server import ServerState

from deployments import serve_internals
from deployments.launch import haproxy
from tests.support.signatures import attributes, parameters

ROOT = Path(__file__).resolve().parents[2]


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
