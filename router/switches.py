"""The environment variables of Ray and Serve that a service wants on every machine, and why.

One source: `embedding-router run` sets them, cluster.yaml and configs/kuberay.yaml hold the same (a
test compares), and a router started otherwise names those it misses.
"""

from collections.abc import Mapping

CLIENT_S = 60  # a client that neither reads nor writes, where it should (Serve: an hour)

ALWAYS: Mapping[str, str] = {
    # a full batch of 4096 float32 passes Serve's 4 MiB
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(256 * 2**20),
    "RAY_SERVE_LOG_TO_STDERR": "0",  # an access log line for every request; the files keep it
    # A request that reached a router which then died is sent to another one: to embed twice does no
    # harm. HAProxy can do so with requests that it holds whole, hence the size (Serve: 16 KiB).
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response junk-response",
    # a router that is being killed takes some before it is known to be gone (HAProxy: 3)
    "RAY_SERVE_HAPROXY_RETRIES": "10",
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(64 * 1024),
    # after three of these an HAProxy that died is replaced (Serve: 10)
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "2",
    "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": str(CLIENT_S),
    "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",  # one that hangs has nothing to finish
    "RAY_worker_niceness": "0",  # Ray's workers run at 15
    "RAY_USAGE_STATS_ENABLED": "0",
}
WITH_HAPROXY: Mapping[str, str] = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # counted by the routers instead of from a line of log for each request, which one Python
    # process reads for them all
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
}
# What a router without them lacks, by the variable that would bring it.
BRINGS: Mapping[str, str] = {
    "RAY_SERVE_ENABLE_HA_PROXY": "HAProxy in front instead of Serve's Python proxy",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "calls by value on the replica's own loop",
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": "messages of more than 4 MiB",
    "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "a hung replica's card given back at once",
    "RAY_worker_niceness": "workers at normal priority",
}


def front(environment: Mapping[str, str]) -> str:
    """What takes connections in front of the routers: `haproxy` or `serve` (its Python proxy)."""
    return "haproxy" if environment.get("RAY_SERVE_ENABLE_HA_PROXY") == "1" else "serve"


def missing(environment: Mapping[str, str]) -> str | None:
    """A sentence that names what this process lacks against `embedding-router run`; None where it
    lacks nothing.
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
