"""`embedding-router run` as a user meets it: in a process of its own, ended by signals."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import httpx
import psutil
import pytest
import yaml

from deployments.launch.environment import environment
from router.keys import hash_of, new_key
from tests.support.launched import launched
from tests.support.local_service import WORDLLAMA
from tests.support.ports import free_port
from tests.support.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
START_S = 120.0
STOP_S = 30.0


def unread() -> IO[str]:
    """Return the writing end of a pipe that nobody reads, as after `| head`."""
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w")


class Instance:
    """One `embedding-router run`, its output, and every process that it started.

    Without `read`, nobody reads the output.
    """

    def __init__(self, folder: Path, args: dict[str, str], port: int, *, read: bool = True) -> None:
        config = folder / f"{port}.yaml"
        application = {
            "name": "hello",
            "route_prefix": "/",
            "import_path": "tests.support.hello_app:build",
            "args": args,
        }
        config.write_text(yaml.safe_dump({"applications": [application]}))
        self.port = port
        self._output = folder / f"{port}.txt"
        with self._output.open("w") if read else unread() as output:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "router.cli",
                    "run",
                    "--config",
                    str(config),
                    "--port",
                    str(port),
                ],
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self._output.read_text()

    def wait_for(self, line: str) -> None:
        deadline = time.monotonic() + START_S
        while line not in self.output:
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.1)

    @property
    def haproxy_config(self) -> str:
        """What HAProxy was started with."""
        commands = [
            process.cmdline() for process in self.descendants() if "haproxy" in process.name()
        ]
        return next(
            Path(command[command.index("-f") + 1]).read_text()
            for command in commands
            if "-f" in command
        )

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def get(self) -> str:
        return httpx.get(f"http://127.0.0.1:{self.port}/").text

    def refuses(self) -> bool:
        try:
            return not httpx.get(f"http://127.0.0.1:{self.port}/").is_success
        except httpx.HTTPError:
            return True


Start = Callable[..., Instance]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts instances; those that a failing test left running are killed."""
    started: list[Instance] = []

    def begin(args: dict[str, str], port: int, *, read: bool = True) -> Instance:
        started.append(Instance(tmp_path, args, port, read=read))
        return started[-1]

    yield begin
    for instance in started:
        if instance.process.poll() is None:
            for process in [*instance.descendants(), instance.process]:
                process.kill()
            instance.process.wait()


@pytest.mark.serve
def test_two_instances_answer_side_by_side_and_signals_end_them_without_leftovers(
    start: Start,
) -> None:
    first, second = start({"word": "one"}, free_port()), start({"word": "two"}, free_port())
    for instance in (first, second):
        instance.wait_for("ready")
    assert (first.get(), second.get()) == ("one", "two")
    of_first, of_second = first.descendants(), second.descendants()
    config = first.haproxy_config
    assert "disconnect-disabled ?1 if { path_end /embed /embeddings /rerank }" in config
    assert "option dontlog-normal" in config
    assert {"raylet", "gcs_server"} <= {process.name() for process in of_first}

    os.killpg(first.process.pid, signal.SIGINT)  # as Ctrl-C in a terminal does
    assert first.process.wait(STOP_S) == 0, first.output
    assert psutil.wait_procs(of_first, timeout=0)[1] == []
    assert second.get() == "two"

    second.process.send_signal(signal.SIGTERM)
    assert second.process.wait(STOP_S) == 0, second.output
    assert psutil.wait_procs(of_second, timeout=0)[1] == []


@pytest.mark.serve
def test_a_request_under_way_is_answered_before_a_signal_ends_the_command(
    start: Start, tmp_path: Path
) -> None:
    instance, until = start({"word": "whole"}, free_port()), tmp_path / "until"
    instance.wait_for("ready")
    with ThreadPoolExecutor(1) as pool:
        url = f"http://127.0.0.1:{instance.port}/?until={until}"
        answer = pool.submit(httpx.get, url, timeout=60)
        wait_for(Path(f"{until}.here").exists, "the request to be under way")
        instance.process.send_signal(signal.SIGTERM)
        instance.wait_for("requests are under way")
        assert instance.refuses()
        assert not answer.done()
        until.touch()
        assert answer.result().text == "whole"
    assert instance.process.wait(STOP_S) == 0, instance.output


@pytest.mark.serve
def test_a_request_under_way_is_answered_although_nobody_reads_the_output(
    start: Start, tmp_path: Path
) -> None:
    instance, until = start({"word": "whole"}, free_port(), read=False), tmp_path / "until"
    wait_for(lambda: not instance.refuses(), "the service to answer")
    started = instance.descendants()
    with ThreadPoolExecutor(1) as pool:
        url = f"http://127.0.0.1:{instance.port}/?until={until}"
        answer = pool.submit(httpx.get, url, timeout=60)
        wait_for(Path(f"{until}.here").exists, "the request to be under way")
        instance.process.send_signal(signal.SIGTERM)
        wait_for(instance.refuses, "new requests to be refused")
        until.touch()
        assert answer.result().text == "whole"
    assert instance.process.wait(STOP_S) == 0
    assert psutil.wait_procs(started, timeout=0)[1] == []


@pytest.mark.serve
def test_an_application_that_cannot_start_ends_the_command_with_its_message(start: Start) -> None:
    instance = start({"failure": "there are no such weights"}, free_port())
    assert instance.process.wait(START_S) == 1
    last = instance.output[instance.output.index("Error: ") :]
    assert "application 'hello' failed to start" in last
    assert "there are no such weights" in last


def test_a_port_in_use_is_one_sentence(start: Start) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        instance = start({"word": "one"}, port)
        assert instance.process.wait(START_S) == 1
    checking, message = instance.output.splitlines()
    assert "checking" in checking
    assert (
        message
        == f"Error: cannot listen on 127.0.0.1:{port} (Address already in use); choose another "
        "--port or --host"
    )


def test_what_the_user_set_wins_over_what_we_would_choose(tmp_path: Path) -> None:
    chosen = environment(
        {"RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "5"}, 8000, tmp_path, haproxy=None
    )
    assert "RAY_AUTH_MODE" not in chosen
    assert "RAY_AUTH_TOKEN" not in chosen
    assert "RAY_worker_niceness" not in chosen
    assert "RAY_SERVE_ENABLE_HA_PROXY" not in chosen


def test_instances_share_neither_a_token_nor_an_inner_port_nor_a_path(tmp_path: Path) -> None:
    first, second = (
        environment({}, port, tmp_path / str(port), tmp_path / "haproxy") for port in (8000, 8001)
    )
    own = {
        name
        for name in first
        if name.endswith(("_PORT", "_SOCKET_PATH", "_LOC", "_STATE_BASE", "_STATE_FILE", "_TOKEN"))
    }
    assert len(own) == 12
    assert not {first[name] for name in own} & {second[name] for name in own}
    assert first["RAY_AUTH_MODE"] == "token"


def test_no_log_holds_a_hash_of_a_key_or_a_password(tmp_path: Path) -> None:
    key, password = new_key(b"k" * 32), "zq9marjoram"
    application = {
        "name": "embedding-router",
        "route_prefix": "/",
        "import_path": "deployments.app:build",
        "args": {
            "models": {
                "small": {"engine": {"kind": "fake"}, "dimensions": 8, "max_tokens": 512},
                "wordllama-256": {
                    **WORDLLAMA,
                    "fingerprint": str(ROOT / "configs" / "fingerprints" / "wordllama-256.json"),
                },
            },
            "tiers": {"fast": "small"},
            "keys": {"one": {"hash": hash_of(key)}},
            "cache": {"redis_url": f"redis://:{password}@127.0.0.1:9/0"},
        },
        "deployments": [
            {"name": name, "ray_actor_options": {"num_cpus": 0.1}}
            for name in ("router", "small", "wordllama-256")
        ],
    }
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"applications": [application]}))
    with launched(config) as running:
        answer = httpx.post(
            f"{running.url}/v1/embeddings",
            json={"input": "hello", "model": "small"},
            headers={"authorization": f"Bearer {key}"},
            timeout=60,
        )
        assert answer.status_code == 200, answer.text
        logs = running.logs.parent
        (built,) = (logs / "serve").glob("controller_build_*.log")
        assert "sealed_args" in built.read_text()
        files = [path for path in logs.rglob("*") if path.is_file()]
        for secret in (hash_of(key), hash_of(key).removeprefix("sha256:"), password):
            assert not [str(path) for path in files if secret.encode() in path.read_bytes()]


def config_of(folder: Path, **args: object) -> Path:
    """One fake model, and more of `args:`."""
    application = {
        "name": "fake",
        "route_prefix": "/",
        "import_path": "deployments.app:build",
        "args": {
            "models": {"small": {"engine": {"kind": "fake"}, "dimensions": 8, "max_tokens": 512}},
            "tiers": {"fast": "small"},
            **args,
        },
        "deployments": [
            {"name": name, "ray_actor_options": {"num_cpus": 0.1}} for name in ("router", "small")
        ],
    }
    path = folder / "fake.yaml"
    path.write_text(yaml.safe_dump({"applications": [application]}))
    return path


@pytest.mark.serve
def test_a_config_that_no_machine_has_room_for_ends_the_command_with_what_is_short(
    tmp_path: Path,
) -> None:
    path = config_of(tmp_path)
    config = yaml.safe_load(path.read_text())
    config["applications"][0]["deployments"][1]["ray_actor_options"]["num_cpus"] = 4000
    path.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "router.cli", "run", "--port", str(free_port())]
    command += ["--config", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=START_S)
    assert done.returncode == 1
    assert re.fullmatch(
        r"Error: small waits for 4000 CPUs: the config books 4000\.1 CPUs, there are \d+; lower "
        r"num_cpus under deployments \(Ray books CPUs and does not enforce them\)\n",
        done.stderr,
    )


@pytest.mark.long
@pytest.mark.serve
def test_a_container_answers_other_machines_where_the_command_says_so(tmp_path: Path) -> None:
    """As both images start it; a name other than localhost is how others reach it."""
    with launched(config_of(tmp_path), ["--host", "0.0.0.0", "--auth", "none"]) as running:
        answer = httpx.post(
            f"{running.url}/v1/embeddings",
            json={"input": "hello"},
            headers={"host": "container.example:8000"},
            timeout=60,
        )
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("options", "args", "sentence"),
    [
        (["--host", "0.0.0.0"], {}, "without keys the service answers only its own machine"),
        (
            ["--auth", "none"],
            {"keys": {"one": {"hash": hash_of("er-x")}}},
            "has `keys:`, so its callers need one: remove --auth none",
        ),
    ],
    ids=["no-keys", "keys"],
)
def test_neither_all_nor_nobody_is_let_in_by_accident(
    tmp_path: Path, options: list[str], args: dict[str, object], sentence: str
) -> None:
    command = [sys.executable, "-m", "router.cli", "run", "--port", str(free_port()), *options]
    command += ["--config", str(config_of(tmp_path, **args))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=START_S)
    assert done.returncode == 1
    assert sentence in done.stderr


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"args": "x"}, "applications[0]"),
        ({"args": ["x"]}, "applications[0]"),
        ("x", "applications[0]"),
        (None, "`applications` must be a list"),
    ],
    ids=["text", "list", "no-application", "no-list"],
)
def test_what_is_no_config_is_named_where_keys_are_left_out(
    tmp_path: Path, config: object, sentence: str
) -> None:
    if isinstance(config, dict):
        config = {"name": "embeddings", "import_path": "deployments.app:build_app"} | config
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump({"applications": [config] if config else 5}))
    command = [sys.executable, "-m", "router.cli", "run", "--port", str(free_port())]
    command += ["--auth", "none", "--config", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=START_S)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
    assert sentence in done.stderr


def test_a_section_of_ours_alone_is_no_config_and_says_where_it_belongs(tmp_path: Path) -> None:
    path = tmp_path / "routing.yaml"
    path.write_text("routing: {default_tier: fast}\n")
    command = [sys.executable, "-m", "router.cli", "run", "--config", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=START_S)
    assert done.returncode == 1
    assert "is no Serve config: it has no `applications:`" in done.stderr
    assert "routing: it belongs under the `args:` of an application" in done.stderr


@pytest.mark.serve
@pytest.mark.long
def test_a_service_whose_ray_dies_starts_again_and_says_why(start: Start) -> None:
    instance = start({"word": "again"}, free_port())
    instance.wait_for("ready on")
    before = {process.pid for process in instance.descendants()}
    agents = [one for one in instance.descendants() if "DashboardAgent" in " ".join(one.cmdline())]
    assert agents
    for agent in agents:
        agent.kill()
    wait_for(lambda: instance.output.count("ready on") == 2, "the second start", START_S)
    assert "raylet died" in instance.output
    assert "starting again" in instance.output
    assert instance.get() == "again"
    assert not before & {process.pid for process in instance.descendants()}
    instance.process.send_signal(signal.SIGTERM)
    assert instance.process.wait(STOP_S) == 0, instance.output
