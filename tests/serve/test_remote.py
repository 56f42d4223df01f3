"""Models behind servers that are down when the service starts: `configs/remote.yaml` with two of
them, one that the service waits for and one that it starts without.
"""

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.launched import ROOT, Launched, launched
from tests.support.ports import free_port
from tests.support.upstream import WIDTH, upstream
from tests.support.waiting import WAIT_S, wait_for

pytestmark = [pytest.mark.serve, pytest.mark.models, pytest.mark.long]

LOCAL, WAITED_FOR, OPTIONAL = "wordllama-256", "waited-for", "all-minilm-l6-v2"


class Away:
    """A service whose remote models have no server yet; `comes` starts one."""

    def __init__(self, folder: Path, servers: ExitStack) -> None:
        config = yaml.safe_load((ROOT / "configs" / "remote.yaml").read_text())
        (application,) = config["applications"]
        args = application["args"]
        args["base_dir"] = str(ROOT)
        shipped = args["models"].pop(OPTIONAL)
        del shipped["fingerprint"]  # the server here has other weights
        self.ports = {OPTIONAL: free_port(), WAITED_FOR: free_port()}
        for name, port in self.ports.items():
            engine = shipped["engine"] | {"base_url": f"http://127.0.0.1:{port}/v1"}
            required = {"required": name == WAITED_FOR}
            args["models"][name] = shipped | {"engine": engine, "dimensions": WIDTH} | required
        few = {"ray_actor_options": {"num_cpus": 0.1}}
        application["deployments"].append({"name": WAITED_FOR, **few})
        self.config = folder / "remote.yaml"
        self.config.write_text(yaml.safe_dump(config, sort_keys=False))
        self._servers = servers
        self.health_while_starting: dict[str, Any] = {}

    def comes(self, model: str) -> None:
        self._servers.enter_context(upstream(self.ports[model]))

    def before_ready(self, url: str) -> None:
        """Wait until only the servers are missing, then start the one that is waited for."""

        def only_servers() -> bool:
            with suppress(httpx.HTTPError, ValueError):
                self.health_while_starting = httpx.get(f"{url}/health", timeout=60).json()
            return self.health_while_starting.get("waiting_for") == [WAITED_FOR]

        wait_for(only_servers, "the local model", told=lambda: self.health_while_starting)
        self.comes(WAITED_FOR)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Launched, Away]]:
    with ExitStack() as servers:
        away = Away(tmp_path_factory.mktemp("remote"), servers)
        with launched(away.config, before_ready=away.before_ready) as running:
            yield running, away


def test_servers_that_are_down_at_the_start_are_named_and_serve_once_they_are_up(
    both: tuple[Launched, Away],
) -> None:
    running, away = both
    assert f"{WAITED_FOR} updating" in running.output
    assert away.health_while_starting == {
        "status": "starting",
        "waiting_for": [WAITED_FOR],
        "unavailable": [OPTIONAL],
    }
    with httpx.Client(base_url=running.url, timeout=WAIT_S) as client:

        def ready() -> dict[str, int]:
            rows = client.get("/v1/tiers").json()["data"]
            return {row["model"]: row["replicas_ready"] for row in rows}

        def embed(model: str) -> httpx.Response:
            return client.post("/v1/embeddings", json={"input": "hello there", "model": model})

        health = client.get("/health")
        assert (health.status_code, health.json()) == (
            200,
            {"status": "ok", "unavailable": [OPTIONAL]},
        )
        assert ready() == {LOCAL: 1, WAITED_FOR: 1, OPTIONAL: 0}
        for model, answers in (
            (LOCAL, LOCAL),
            (WAITED_FOR, WAITED_FOR),
            ("auto", LOCAL),  # English would go to the model that is away
            ("best", LOCAL),
        ):
            answer = embed(model)
            assert (answer.status_code, answer.json()["model"]) == (200, answers), model
        refused = embed(OPTIONAL)
        error = refused.json()["error"]
        assert (refused.status_code, error["code"]) == (503, "model_unavailable")
        assert OPTIONAL in error["message"]
        assert str(away.ports[OPTIONAL]) not in refused.text
        assert int(refused.headers["retry-after"]) >= 1

        before = {one.pid for one in running.processes("ray::ServeReplica:")}
        away.comes(OPTIONAL)
        wait_for(lambda: ready()[OPTIONAL] == 1, "the model to serve")
        assert client.get("/health").json() == {"status": "ok"}
        answer = embed("auto")
        assert (answer.status_code, answer.json()["model"]) == (200, OPTIONAL)
        assert len(answer.json()["data"][0]["embedding"]) == WIDTH
        assert {one.pid for one in running.processes("ray::ServeReplica:")} == before
