"""The environment variables of Ray and Serve that a service needs on every machine, and why.

This is the only source: `embedding-router run` sets them, cluster.yaml and configs/kuberay.yaml
repeat them (a test compares), and a router started in another way reports those that are missing.
"""

from collections.abc import Mapping

CLIENT_S = 60  # limit for a client that should read or write and does not (Serve: an hour)

ALWAYS: Mapping[str, str] = {
    # a full batch of 4096 float32 passes Serve's 4 MiB
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(256 * 2**20),
    "RAY_SERVE_LOG_TO_STDERR": "0",  # no access log line per request; the files keep them
    # A request whose router died is sent to another one: embedding twice does no harm. HAProxy can
    # resend only requests that it holds whole, hence the size (Serve: 16 KiB).
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response junk-response",
    # a dying router uses up some retries before its death is detected (HAProxy: 3)
    "RAY_SERVE_HAPROXY_RETRIES": "10",
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(64 * 1024),
    # a dead HAProxy is replaced after three of these (Serve: 10)
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "2",
    "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": str(CLIENT_S),
    "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",  # a hanging replica has nothing to finish
    "RAY_worker_niceness": "0",  # Ray's workers run at 15
    "RAY_USAGE_STATS_ENABLED": "0",
}
WITH_HAPROXY: Mapping[str, str] = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # the routers count requests; HAProxy's metrics need a log line per request, and one Python
    # process reads them all
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
}
# Of a cluster alone: `embedding-router run` computes its own from limits.max_requests and the files
# that it may open.
ON_CLUSTERS: Mapping[str, str] = {
    # connections that HAProxy accepts (Serve: 4,096): twice the default of limits.max_requests
    "RAY_SERVE_HAPROXY_MAXCONN": "20000",
}
# What a router lacks without each variable.
BRINGS: Mapping[str, str] = {
    "RAY_SERVE_ENABLE_HA_PROXY": "HAProxy in front instead of Serve's Python proxy",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "calls by value on the replica's own loop",
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": "messages of more than 4 MiB",
    "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "a hung replica's card given back at once",
    "RAY_worker_niceness": "workers at normal priority",
}


def front(environment: Mapping[str, str]) -> str:
    """The proxy in front of the routers: `haproxy` or `serve` (its Python proxy)."""
    return "haproxy" if environment.get("RAY_SERVE_ENABLE_HA_PROXY") == "1" else "serve"


def missing(environment: Mapping[str, str]) -> str | None:
    """A sentence that names what this process lacks compared with `embedding-router run`; None if
    it lacks nothing.
    """
    wanted = {**ALWAYS, **WITH_HAPROXY}
    lacking = {name: what for name, what in BRINGS.items() if name not in environment}
    if not lacking:
        return None
    exports = " ".join(f"{name}={wanted[name]}" for name in lacking)
    return (
        f"against `embedding-router run` this service lacks {'; '.join(lacking.values())}: set "
        f"{exports} where Ray is started (`ray start`, or `serve run` where it starts Ray)"
    )
