"""Keys in real Serve: a limit kept by two routers, keys that change under running replicas, and no
open service by accident.
"""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import ray
from ray import serve
from ray.serve._private.api import serve_start
from ray.serve.schema import ServeDeploySchema

from router.keys import hash_of, new_key
from router.quota import BucketReport, Limit
from tests.support.launched import ROOT
from tests.support.ports import free_port
from tests.support.waiting import wait_for

pytestmark = pytest.mark.serve

KEYS = {
    name: new_key(bytes([index + 1]) * 32) for index, name in enumerate(("limited", "spare", "new"))
}
PER_MINUTE = 600
MODEL: dict[str, Any] = {"engine": {"kind": "fake"}, "dimensions": 8, "max_tokens": 512}
ONE, TWO = {"num_replicas": 1}, {"num_replicas": 2}
# as the shipped configs of a cluster have it
SCALED = {"autoscaling_config": {"min_replicas": 2, "max_replicas": 2}}
# at least so long, and until so many were refused: by then what there was is used up
SECONDS, REFUSED = (
    8.0,
    200,
)
FLOOD_S = 300.0
THREADS = 4


def keys(*names: str) -> dict[str, Any]:
    limits: dict[str, dict[str, Any]] = {
        "limited": {"requests_per_minute": PER_MINUTE},
        "new": {"admin": True},
    }
    return {name: {"hash": hash_of(KEYS[name]), **limits.get(name, {})} for name in names}


class Cluster:
    """A Serve on one address, with the application deployed as `serve deploy` does."""

    def __init__(self, host: str, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._client: Any = serve_start(http_options={"host": host, "port": port})

    def deploy(
        self, args: dict[str, Any], user_config: dict[str, Any], routers: dict[str, Any]
    ) -> None:
        small = {"ray_actor_options": {"num_cpus": 0.1}}
        application = {
            "name": "router",
            "route_prefix": "/",
            "import_path": "deployments.app:build",
            "args": {"models": {"small": MODEL}, "tiers": {"fast": "small"}, **args},
            "deployments": [
                {"name": "router", "user_config": user_config, **routers, **small},
                {"name": "small", **small},
            ],
        }
        self._client.deploy_apps(
            ServeDeploySchema.model_validate({"applications": [application]}), _blocking=False
        )

    def status(self) -> Any:
        return serve.status().applications.get("router")

    def embed(self, key: str | None, client: Any = httpx) -> int:
        headers = {} if key is None else {"authorization": f"Bearer {KEYS[key]}"}
        try:
            answer: httpx.Response = client.post(
                f"{self.url}/v1/embeddings", json={"input": "text"}, headers=headers, timeout=60
            )
        except httpx.HTTPError:
            return 0
        return answer.status_code

    def tiers(self, say: str) -> str:
        tiers = httpx.get(
            f"{self.url}/v1/tiers", headers={"api-key": KEYS["new"]}, timeout=60
        ).json()
        return str(tiers.get(say))


@pytest.fixture(scope="module")
def running() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "RAY_AUTH_MODE": "disabled",
            "RAY_worker_niceness": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONPATH": str(ROOT),
            "RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT": "1",
        }.items():
            patch.setenv(name, value)
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        ray.init(
            address="local",
            namespace="serve",
            num_cpus=8,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def cluster(host: str) -> Iterator[Cluster]:
    port = free_port()
    try:
        yield Cluster(host, port)
    finally:
        serve.shutdown()  # type: ignore[no-untyped-call]


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize(
    "two",
    [
        pytest.param(TWO, id="num_replicas"),
        pytest.param(SCALED, id="autoscaling_config", marks=pytest.mark.long),
    ],
)
def test_two_routers_keep_one_limit_and_keys_change_under_them(
    two: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    with cluster("127.0.0.1") as running:
        running.deploy({}, {"keys": keys("limited", "spare")}, routers=two)
        wait_for(lambda: running.embed("spare") == 200, "the service to answer a key")
        assert (running.embed(None), running.embed("new")) == (401, 401)
        handle = serve.get_deployment_handle("router", "router")
        wait_for(
            lambda: len(handle.broadcast("exchange", "test", {}).results()) == 2, "both routers"
        )

        admitted, refused, seconds = flooded(running)
        limit = Limit("limited", "requests", PER_MINUTE)
        seen = handle.broadcast(
            "exchange", "test", {limit: BucketReport(0.0, 0.0, 0.0, PER_MINUTE, 0.0)}
        ).results()
        used = [replies[limit].used for _, replies in seen]
        ideal = PER_MINUTE * (1 + seconds / 60)
        error = sum(admitted.values()) / ideal - 1
        with capsys.disabled():
            print(
                f"\ntwo routers by {next(iter(two))}, {PER_MINUTE} requests/min, {seconds:.1f} "
                f"s: {sum(admitted.values())} of "
                f"{ideal:.0f} admitted, {error:+.2%}; {refused} refused; by router {used}"
            )
        assert sum(used) == sum(admitted.values())
        assert min(used) > 0.1 * sum(used)
        assert abs(error) < 0.05

        running.deploy({}, {"keys": keys("limited", "new")}, routers=two)
        wait_for(
            lambda: [running.embed("new") for _ in range(8)] == [200] * 8,
            "both routers to know the new key",
        )
        wait_for(
            lambda: [running.embed("spare") for _ in range(8)] == [401] * 8,
            "both routers to refuse the old one",
        )
        running.deploy({}, {}, routers=two)  # takes the last key away
        wait_for(
            lambda: "the last key cannot be taken away" in running.tiers("reload_error"),
            "the change to be refused",
        )
        assert running.embed(None) == 401
        wait_for(lambda: running.tiers("routers") == "2", "two routers to be counted")
        # tells the router that stays nothing
        running.deploy({}, {"keys": keys("limited", "new")}, routers=ONE)
        wait_for(
            lambda: [running.tiers("routers") for _ in range(8)] == ["1"] * 8,
            "the one that is left to be counted",
        )


def flooded(running: Cluster) -> tuple[dict[int, int], int, float]:
    """Ask until the limit has refused many: what was admitted of each client, how many were
    refused, and the seconds.
    """
    admitted, refused, lock, start_s = (
        dict.fromkeys(range(THREADS), 0),
        0,
        threading.Lock(),
        time.monotonic(),
    )

    def one(number: int) -> None:
        nonlocal refused
        with httpx.Client() as client:
            while (passed_s := time.monotonic() - start_s) < SECONDS or refused < REFUSED:
                assert passed_s < FLOOD_S, (
                    f"{THREADS} clients are too slow for {PER_MINUTE} requests a minute: "
                    f"{refused} refused"
                )
                status = running.embed("limited", client)
                assert status in (200, 429)
                with lock:
                    admitted[number] += status == 200
                    refused += status == 429

    threads = [threading.Thread(target=one, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused >= REFUSED
    return admitted, refused, time.monotonic() - start_s


@pytest.mark.usefixtures("running")
def test_an_open_service_on_every_address_is_refused_however_it_is_deployed() -> None:
    with cluster("0.0.0.0") as running:
        running.deploy({}, {}, routers=ONE)
        wait_for(
            lambda: (status := running.status()) is not None and status.status == "DEPLOY_FAILED",
            "the refusal",
        )
        message = " ".join(
            deployment.message for deployment in running.status().deployments.values()
        )
        assert "http_options.host is '0.0.0.0', which other machines reach" in message
        assert running.embed(None) != 200
        running.deploy({"auth": "none"}, {}, routers=ONE)
        wait_for(lambda: running.embed(None) == 200, "the open service to answer")
